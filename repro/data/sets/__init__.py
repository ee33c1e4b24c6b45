"""Data sets that the suite fetches: one module a data set, of its name, with one `DATASET`."""
