"""What the coordinator tells those who watch."""
