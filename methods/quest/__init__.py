"""QuEST: selective fine-tuning of a quantised diffusion model."""
