"""Which layers go to which machine, what that costs, and how fast it will be; no MLX."""
