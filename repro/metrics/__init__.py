"""Measurements of samples (images, text) and of networks (cost); each module has one kind."""
