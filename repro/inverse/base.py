"""Linear forward operators of image reconstruction, with exact adjoints: what all of them share.

Every operator maps a stack of slices ``x`` of shape (Z, 1, H, W) to measurements whose first axis
is again the slice, and has

``forward(x)``   the measurements y = A x
``adjoint(y)``   the transpose for the weighted inner product ⟨u, v⟩ = ``scale`` · Σ u v of the
                 measurements, i.e. ``scale`` · Aᵀ y; ``scale`` is 1 unless the operator says so
``normal(x)``    ``adjoint(forward(x))``, symmetric and positive semi-definite
``counts``       applications so far, see :class:`Counts`

Shape, kind and place of both sides are checked before they are used, their values are not: NaN
stays NaN through a linear map.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.errors import ReproError


@dataclass
class Counts:
    """How often an operator was applied to a whole stack of slices."""

    forward: int = 0
    adjoint: int = 0

    @property
    def total(self) -> int:
        """Forward and adjoint applications together."""
        return self.forward + self.adjoint


class LinearOperator(abc.ABC):
    """A real linear map from a stack of slices to measurements.

    Sub-classes write ``_forward`` and ``_adjoint``; the public methods check what they are given
    and count the applications. Those raise ReproError for another shape, type or device.

    ``image_shape``, ``data_shape``: the last two axes of images and of measurements; None is any.
    ``complex_data``: measurements are complex. ``typed``: takes ``dtype`` alone.
    """

    scale: float = 1.0
    image_shape: tuple[int, int] | None = None
    data_shape: tuple[int, int] | None = None
    complex_data = False
    typed = False

    def __init__(self) -> None:
        self.counts = Counts()

    @abc.abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        """y = A x, for x of shape (Z, 1, H, W)."""
        self.check_image(x)
        self.counts.forward += 1
        return self._forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """``scale`` · Aᵀ y, of shape (Z, 1, H, W)."""
        self.check_data(y)
        self.counts.adjoint += 1
        return self._adjoint(y)

    def normal(self, x: Tensor) -> Tensor:
        """``scale`` · AᵀA x, of the shape of x."""
        return self.adjoint(self.forward(x))

    def check_image(self, x: Tensor) -> None:
        """Raises ReproError unless ``x`` is a stack of images for this operator."""
        self._check(x, "images", self.image_shape)
        if x.is_complex():
            raise ReproError(f"{type(self).__name__} takes real images; give the real part")

    def check_data(self, y: Tensor) -> None:
        """Raises ReproError unless ``y`` are measurements of this operator."""
        self._check(y, "measurements", self.data_shape)
        if y.is_complex() != self.complex_data:
            kind = "complex" if self.complex_data else "real"
            raise ReproError(f"measurements of {type(self).__name__} are {kind}; these are not")

    def _check(self, v: Tensor, what: str, shape: tuple[int, int] | None) -> None:
        if v.ndim != 4 or v.shape[1] != 1 or shape not in (None, (v.shape[2], v.shape[3])):
            due = "height x width" if shape is None else f"{shape[0]} x {shape[1]}"
            raise ReproError(
                f"{type(self).__name__} takes {what} of shape (slices, 1, {due}) and was given "
                f"{tuple(v.shape)}; crop, pad or transpose them"
            )
        if not (v.is_floating_point() or v.is_complex()) or (self.typed and v.dtype != self.dtype):
            due = str(self.dtype) if self.typed else "floats"
            raise ReproError(f"{type(self).__name__} takes {what} of {due}, not {v.dtype}")
        if v.device.type != self.device.type and self.typed:
            raise ReproError(
                f"{type(self).__name__} is on {self.device} and the {what} on {v.device}; move them"
            )

    def norm(self, shape: tuple[int, int], *, iterations: int = 30) -> float:
        """Largest eigenvalue of :meth:`normal` by power iteration on one H × W slice.

        Starts at the constant image, so the result does not depend on a random stream. The
        applications are not counted. Raises ReproError where that image is mapped to nothing.
        """
        x = torch.ones(1, 1, *shape, dtype=self.dtype, device=self.device)
        self.check_image(x)
        value = 0.0
        for _ in range(iterations):
            x = x / x.norm()
            x = self._adjoint(self._forward(x))
            value = float(x.norm())
            if not 0 < value < float("inf"):
                raise ReproError(
                    f"{type(self).__name__} maps a constant image to norm {value:g}; the power "
                    "iteration cannot start, check the mask or the angles"
                )
        return value

    @property
    def dtype(self) -> torch.dtype:
        """Real floating type of the images."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Where the operator's tensors are."""
        return torch.device("cpu")


class Identity(LinearOperator):
    """A = I: denoising. With it the reconstruction problems have closed-form solutions."""

    def _forward(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        return y
