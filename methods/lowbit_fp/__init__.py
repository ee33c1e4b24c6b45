"""Low-bit floating-point post-training quantisation of diffusion models."""
