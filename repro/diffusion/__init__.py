"""Schedules, parameterisations and samplers of diffusion models."""
