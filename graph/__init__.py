"""The workflow language, its compiler and its executor. Knows nothing of diffusion."""
