"""Linear forward operators of image reconstruction, with exact adjoints.

Every operator maps a stack of slices ``x`` of shape (Z, 1, H, W) to measurements whose first axis
is again the slice, and has

``forward(x)``   the measurements y = A x
``adjoint(y)``   the transpose for the weighted inner product ⟨u, v⟩ = ``scale`` · Σ u v of the
                 measurements, i.e. ``scale`` · Aᵀ y; ``scale`` is 1 unless the operator says so
``normal(x)``    ``adjoint(forward(x))``, symmetric and positive semi-definite
``counts``       applications so far, see :class:`repro.inverse.base.Counts`
"""

from repro.inverse.base import Counts, Identity, LinearOperator
from repro.inverse.fourier import MaskedFourier, uniform1d_mask
from repro.inverse.radon import (
    CompatRadon,
    ParallelBeam,
    limited_angles,
    ramp_filter,
    sparse_view_angles,
)

__all__ = [
    "CompatRadon",
    "Counts",
    "Identity",
    "LinearOperator",
    "MaskedFourier",
    "ParallelBeam",
    "limited_angles",
    "ramp_filter",
    "sparse_view_angles",
    "uniform1d_mask",
]
