"""Products of packed matrices with a few vectors."""
