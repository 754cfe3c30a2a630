"""A stage of a model in MLX: weights, layers, state and sampling."""
