"""Official data that a user brings, in its published layout: one module a data set."""
