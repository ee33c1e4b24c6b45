"""PTQ4DM: post-training quantisation on diffusion models."""
