"""Noise schedules and samplers of diffusion models."""
