"""How the suite runs, judges and shows; no number depends on it."""
