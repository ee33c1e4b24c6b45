"""Linear forward operators of image reconstruction, with exact adjoints: what all of them share.

Every operator maps a stack of slices ``x`` of shape (Z, 1, H, W) to measurements whose first axis
is again the slice, and has

``forward(x)``   the measurements y = A x
``adjoint(y)``   the transpose for the weighted inner product ⟨u, v⟩ = ``scale`` · Σ u v of the
                 measurements, i.e. ``scale`` · Aᵀ y; ``scale`` is 1 unless the operator says so
``normal(x)``    ``adjoint(forward(x))``, symmetric and positive semi-definite
``counts``       applications so far, see :class:`Counts`
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor


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

    Sub-classes write ``_forward`` and ``_adjoint``; the public methods count the applications.
    """

    scale: float = 1.0

    def __init__(self) -> None:
        self.counts = Counts()

    @abc.abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        """y = A x, for x of shape (Z, 1, H, W)."""
        self.counts.forward += 1
        return self._forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """``scale`` · Aᵀ y, of shape (Z, 1, H, W)."""
        self.counts.adjoint += 1
        return self._adjoint(y)

    def normal(self, x: Tensor) -> Tensor:
        """``scale`` · AᵀA x, of the shape of x."""
        return self.adjoint(self.forward(x))

    def norm(self, shape: tuple[int, int], *, iterations: int = 30) -> float:
        """Largest eigenvalue of :meth:`normal` by power iteration on one H × W slice.

        Starts at the constant image, so the result does not depend on a random stream. The
        applications are not counted.
        """
        x = torch.ones(1, 1, *shape, dtype=self.dtype, device=self.device)
        value = 0.0
        for _ in range(iterations):
            x = x / x.norm()
            x = self._adjoint(self._forward(x))
            value = float(x.norm())
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
