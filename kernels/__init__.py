"""Operations of the Nemotron-H layers, each with a reference in plain MLX that defines it."""
