"""Multi-student diffusion distillation: one one-step student for each part of the conditions."""
