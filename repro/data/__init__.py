"""Real data sets by name: `repro.data.catalogue` finds them, one file a data set in `sets`."""
