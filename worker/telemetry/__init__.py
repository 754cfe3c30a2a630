"""What a worker knows and tells of itself: where its time goes, what it holds, and the series that show it."""
