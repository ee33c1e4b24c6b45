"""Q-Diffusion: quantizing diffusion models."""
