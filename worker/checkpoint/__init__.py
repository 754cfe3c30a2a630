"""Checkpoints on disk and on the hub: what they hold, and whether that can be served. No MLX."""
