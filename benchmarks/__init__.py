"""Speed ratios, both sides measured in turns within one run: `python -m benchmarks`."""
