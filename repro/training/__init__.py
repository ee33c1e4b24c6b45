"""Training of every network in the suite."""
