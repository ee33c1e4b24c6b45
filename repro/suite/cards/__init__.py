"""Cards: what a paper says, what we run, what must come out. Imports no torch."""
