"""AutoDiffusion: search for time steps and blocks."""
