"""Post-training quantisation: grids, range searches, quantised networks, calibration sets.

Import from the modules: `affine` (grids), `ranges` and `scores` (from a tensor to its grid),
`rounding` (learned rounding), `layers` (quantised copies of networks), `calibration` (the inputs
they are calibrated on), `study` (how they are compared with full precision). Nothing is imported
here, so that a result depends on no more of the package than it uses.
"""
