"""Sockets between processes and hosts: who may come in, and that no row is lost, repeated or crossed. No MLX."""
