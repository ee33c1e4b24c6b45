r"""A denoiser for any noise level, built on a U-Net as Karras et al. 2022 (arXiv 2206.00364) do.

For x = x_0 + σ n with n standard normal, the denoiser is

    D(x; σ) = c_skip(σ) x + c_out(σ) F(c_in(σ) x; c_noise(σ)),

    c_skip = σ_d² / (σ² + σ_d²),  c_out = σ σ_d / √(σ² + σ_d²),  c_in = 1 / √(σ² + σ_d²)

(table 1, column "Ours"), and the score of the noisy density is (D(x; σ) − x) / σ² (eq. 3). Data are
centred by ``mean`` before, since the formulas take x_0 to have mean 0 and deviation σ_d.
c_noise = 100 ln σ rather than ln σ / 4: F embeds times on the scale of training steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repro.nets.unet import UNet


class PreconditionedDenoiser(nn.Module):
    """D(x; σ): x (B, C, H, W) in data units, σ (B,) or a number > 0 -> (B, C, H, W).

    network: F, called with (B, C, H, W) and (B,). sigma_data, mean: of the data's pixels.
    """

    def __init__(self, network: UNet, *, sigma_data: float, mean: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.mean = mean

    def _levels(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        return sigma.expand(len(x)) if sigma.ndim == 0 else sigma

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in at σ, each shaped like σ."""
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), total.rsqrt()

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        sigma = self._levels(x, sigma)
        c_skip, c_out, c_in = (c[:, None, None, None] for c in self.coefficients(sigma))
        u = x.float() - self.mean
        f = self.network(c_in * u, 100.0 * sigma.log())
        return c_skip * u + c_out * f.float() + self.mean

    def score(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """∇ log p(x; σ) = (D(x; σ) − x) / σ², shaped like x."""
        sigma = self._levels(x, sigma)
        return (self(x, sigma) - x) / sigma[:, None, None, None] ** 2

    def loss(self, x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """Weighted denoising error, (σ² + σ_d²) / (σ σ_d)² ‖D(x_0 + σ n; σ) − x_0‖² (eq. 8), mean.

        x0, noise (B, C, H, W); sigma (B,). The weight makes F's error count alike at every σ.
        """
        _, c_out, _ = self.coefficients(sigma)
        error = self(x0 + sigma[:, None, None, None] * noise, sigma) - x0
        return (error / c_out[:, None, None, None]).square().mean()
