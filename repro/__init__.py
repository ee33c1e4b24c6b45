"""Benchmarking and reproduction suite for diffusion-model papers."""

__version__ = "0.1.0"
