"""Post-training quantisation: grids, range searches, quantised networks, calibration sets."""

from repro.quant.affine import Grid, Rounding, code_span, grid_from_range, nearest
from repro.quant.calibration import CalibrationSet, Trajectory, record, uniform_grid
from repro.quant.layers import (
    ActivationQuantiser,
    Observer,
    QuantisedAttention,
    QuantisedLayer,
    Recipe,
    activation_quantisers,
    calibrate,
    quantise,
    quantised_layers,
    shortcut_splits,
    use,
)
from repro.quant.ranges import RunningRange, best_candidate, minmax_grid, pick, shrink_grid
from repro.quant.scores import COSINE, KL, L1, L24, SCORES, Score, lp

__all__ = [
    "ActivationQuantiser",
    "COSINE",
    "CalibrationSet",
    "Grid",
    "KL",
    "L1",
    "L24",
    "Observer",
    "QuantisedAttention",
    "QuantisedLayer",
    "Recipe",
    "Rounding",
    "RunningRange",
    "SCORES",
    "Score",
    "Trajectory",
    "activation_quantisers",
    "best_candidate",
    "calibrate",
    "code_span",
    "grid_from_range",
    "lp",
    "minmax_grid",
    "nearest",
    "pick",
    "quantise",
    "quantised_layers",
    "record",
    "shortcut_splits",
    "shrink_grid",
    "uniform_grid",
    "use",
]
