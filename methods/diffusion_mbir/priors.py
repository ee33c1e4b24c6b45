r"""Priors of axial slices whose score is known in closed form.

``StationaryGaussian``: slices x ~ N(μ, FᴴSF) with the image μ and a power spectrum S, so that

    ∇ log p_σ(x) = −Fᴴ (S + σ²)⁻¹ F (x − μ),    x̂₀ = μ + Fᴴ S/(S + σ²) F (x − μ)  (Wiener filter).

The score is exact at every σ: what goes wrong with it is not the network's fault.
"""

from __future__ import annotations

import torch
from torch import Tensor


class StationaryGaussian:
    """Score of the stationary Gaussian prior.

    Parameters
    ----------
    mean : μ, (H, W)
    spectrum : S, (H, W // 2 + 1), the real-FFT half-plane of the orthonormal transform
    """

    def __init__(self, mean: Tensor, spectrum: Tensor) -> None:
        self.mean, self.spectrum = mean, spectrum

    @classmethod
    def fit(cls, slices: Tensor, floor: float = 1e-8) -> StationaryGaussian:
        """Mean image and spectrum of training slices (N, 1, H, W); S is at least ``floor``."""
        slices = slices.double()
        mean = slices.mean(dim=(0, 1))
        power = torch.fft.rfft2(slices - mean, norm="ortho").abs().square().mean(dim=(0, 1))
        return cls(mean.float(), power.clamp_min(floor).float())

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """s(x, σ): x (B, 1, H, W), σ (B,)."""
        k = torch.fft.rfft2(x - self.mean)
        k = k / (self.spectrum + sigma[:, None, None, None].square())
        return -torch.fft.irfft2(k, s=x.shape[-2:])

    def state_dict(self) -> dict[str, Tensor]:
        """``mean`` and ``spectrum``."""
        return {"mean": self.mean, "spectrum": self.spectrum}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], device: torch.device | str = "cpu"):
        """The prior of :meth:`state_dict`, on ``device``."""
        return cls(state["mean"].to(device), state["spectrum"].to(device))


class IsotropicGaussian:
    """Score (μ − x) / (S + σ²) of N(μ, S·I), scalars μ and S: the prior of the parity test."""

    def __init__(self, mean: float, variance: float) -> None:
        self.mean, self.variance = mean, variance

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """s(x, σ): x (B, 1, H, W), σ (B,)."""
        return (self.mean - x) / (self.variance + sigma[:, None, None, None].square())
