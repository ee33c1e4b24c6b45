"""Gaussian data N(mu, diag(S)): every quantity of a diffusion on it has a closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Gaussian:
    """Data x0 ~ N(mu, diag(S)), mu and S of shape (D,), float64."""

    mu: Tensor
    S: Tensor

    def eps(self, abar: Tensor):
        """The exact eps(x (B, D), t (B,)) of the table abar (T,)."""

        def eps_model(x: Tensor, t: Tensor) -> Tensor:
            a, v = abar[t].sqrt()[:, None], (1 - abar[t])[:, None]
            return v.sqrt() * (x - a * self.mu) / (a**2 * self.S + v)

        return eps_model

    def denoiser(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The exact D(x (B, D); sigma (B,))."""
        return self.mu + self.S / (self.S + sigma[:, None] ** 2) * (x - self.mu)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The exact score s(x (B, D); sigma (B,)) of the variance-exploding process."""
        return -(x - self.mu) / (self.S + sigma[:, None] ** 2)

    def vp_flow(self, x: Tensor, abar_from: Tensor, abar_to: Tensor) -> Tensor:
        """The exact probability-flow map from one noise level to another, x (B, D)."""
        spread = (abar_to * self.S + 1 - abar_to) / (abar_from * self.S + 1 - abar_from)
        return abar_to.sqrt() * self.mu + spread.sqrt() * (x - abar_from.sqrt() * self.mu)

    def ve_flow(self, x: Tensor, sigma_from: Tensor, sigma_to: Tensor) -> Tensor:
        spread = (self.S + sigma_to**2) / (self.S + sigma_from**2)
        return self.mu + spread.sqrt() * (x - self.mu)


DATA = Gaussian(
    mu=torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64),
    S=torch.tensor([0.25, 1.0, 0.04], dtype=torch.float64),
)


def slope(errors: list[float], factor: float = 2.0) -> float:
    """The order seen between the last two errors, when each has `factor` times more steps."""
    return float(torch.tensor(errors[-2] / errors[-1]).log() / torch.tensor(factor).log())
