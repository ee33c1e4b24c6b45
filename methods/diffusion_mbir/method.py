r"""DiffusionMBIR: a 2D diffusion prior within slices, total variation across slices.

Chung, Ryu, McCann, Klasky & Ye, "Solving 3D inverse problems using pre-trained 2D diffusion models"
(CVPR 2023). A volume x ∈ R^{Z×1×H×W} (axial slices on the batch axis) is sampled given y = A x,
with A acting on every axial slice by itself. Two regularisers share the work:

* within a slice, the score s_θ(x, σ) ≈ ∇ log p_σ(x) of the variance-exploding SDE, σ₀ < … < σ_{N−1}
  geometric, by predictor–corrector steps on chunks of slices;
* across slices, the model-based problem on the *whole volume* after every noise level

      min_x ½ ‖y − A x‖² + λ ‖D_z x‖₁ ,        (D_z x)[k] = x[k+1] − x[k], circular,

  by ADMM with the split z = D_z x and the scaled dual w:

      x⁺ = (AᵀA + ρ D_zᵀD_z)⁻¹ (Aᵀy + ρ D_zᵀ(z − w))      by M conjugate-gradient steps from x
      z⁺ = S_{λ/ρ}(D_z x⁺ + w)
      w⁺ = w + D_z x⁺ − z⁺

"Variable sharing": z and w persist over the noise levels, so that K = M = 1 iteration per level
suffices ("fast"). Without it both are reset at every level and K, M must grow ("slow").

Here and in the code Aᵀ stands for ``A.adjoint``, which may carry a factor (π/(2V) for the released
back-projection); the problem solved is then that of the correspondingly weighted norm ‖y − A x‖.

Symbols: x volume (Z, 1, H, W); y measurements; s score; σ noise level; ξ standard normal noise;
λ ``lam``; ρ ``rho``; K ``n_admm``; M ``n_cg``; r ``snr``; N noise levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.diffusion.samplers import (
    ddim_scales,
    langevin_corrector,
    reverse_diffusion_predictor,
)
from repro.diffusion.schedules import descend
from repro.inverse.base import LinearOperator
from repro.numbers import at_least, finite

Score = Callable[[Tensor, Tensor], Tensor]
"""s(x, σ): x (B, 1, H, W) and σ (B,) to ∇ log p_σ(x), of the shape of x."""

Noise = Callable[[tuple[int, ...]], Tensor]
"""Standard normal noise of a given shape; the only source of randomness."""

CT_CHUNK, MRI_CHUNK = 12, 20


def gaussian_noise(generator: torch.Generator, like: Tensor | None = None) -> Noise:
    """Noise drawn on the CPU from ``generator``, cast to the type and device of ``like``."""
    like = torch.empty(0) if like is None else like

    def noise(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator).to(like.dtype).to(like.device)

    return noise


# Finite differences and their proximal maps --------------------------------------------------


@dataclass(frozen=True)
class Differences:
    """D: forward differences along ``axes``, stacked on a new first axis.

    ``axes`` are axes of x (Z, 1, H, W): (0,) is D_z. Circular as in the paper, where the last
    slice is tied to the first; ``periodic=False`` puts a zero there instead.
    """

    axes: tuple[int, ...] = (0,)
    periodic: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """D x: (Z, 1, H, W) to (len(axes), Z, 1, H, W)."""
        out = torch.empty(len(self.axes), *x.shape, dtype=x.dtype, device=x.device)
        for d, axis in zip(out, self.axes, strict=True):
            torch.sub(torch.roll(x, -1, axis), x, out=d)
            if not self.periodic:
                d.narrow(axis, -1, 1).zero_()
        return out

    def transpose(self, v: Tensor) -> Tensor:
        """Dᵀ v = Σ_axes v[k − 1] − v[k]: (len(axes), Z, 1, H, W) to (Z, 1, H, W)."""
        total = torch.zeros_like(v[0])
        for u, axis in zip(v, self.axes, strict=True):
            if not self.periodic:
                u = u.clone()
                u.narrow(axis, -1, 1).zero_()
            total += torch.roll(u, 1, axis) - u
        return total

    def normal(self, x: Tensor) -> Tensor:
        """DᵀD x; circular: Σ_axes 2 x[k] − x[k − 1] − x[k + 1]."""
        return self.transpose(self(x))


def shrink(v: Tensor, tau: float) -> Tensor:
    """S_τ(v) = sign(v) · max(|v| − τ, 0), the prox of τ‖·‖₁."""
    return torch.sign(v) * (v.abs() - tau).clamp_min(0.0)


def shrink_l21(v: Tensor, tau: float) -> Tensor:
    """Prox of τ‖·‖₂,₁: the vector over axis 0 keeps its direction, its norm loses τ."""
    norm = v.norm(dim=0, keepdim=True)
    return v * ((norm - tau).clamp_min(0.0) / norm.clamp_min(torch.finfo(v.dtype).tiny))


# Conjugate gradients and ADMM ---------------------------------------------------------------


def conjugate_gradient(
    H: Callable[[Tensor], Tensor], b: Tensor, x: Tensor, steps: int, *, compat: bool = False
) -> Tensor:
    """``steps`` CG steps for H x = b, started at x; one inner product over the whole volume.

    ``compat`` repeats a slip of the released code, where p and r are the same tensor during the
    first update: the second direction is (1 + β) r instead of r + β p. No effect at one step.
    """
    r = b - H(x)
    p = r
    rr = torch.sum(r * r)
    for step in range(steps):
        if rr == 0:
            break
        Hp = H(p)
        alpha = rr / torch.sum(p * Hp)
        x = x + alpha * p
        r = r - alpha * Hp
        rr_new = torch.sum(r * r)
        p = r + (rr_new / rr) * (r if compat and step == 0 else p)
        rr = rr_new
    return x


@dataclass
class Split:
    """The shared ADMM variables z and w, of the shape of D x."""

    z: Tensor
    w: Tensor

    @classmethod
    def zeros(cls, D: Differences, x: Tensor) -> Split:
        shape = (len(D.axes), *x.shape)
        zeros = torch.zeros(shape, dtype=x.dtype, device=x.device)
        return cls(zeros, zeros.clone())


def admm(
    A: LinearOperator,
    ATy: Tensor,
    x: Tensor,
    split: Split,
    D: Differences,
    *,
    lam: float,
    rho: float,
    n_admm: int = 1,
    n_cg: int = 1,
    prox: Callable[[Tensor, float], Tensor] = shrink,
    compat: bool = False,
) -> Tensor:
    """K = ``n_admm`` ADMM iterations of M = ``n_cg`` CG steps; updates ``split`` in place.

    With ρ = 0 only the data term is left: CG on ½‖y − A x‖², and ``split`` stays untouched. Raises
    ReproError for a λ or ρ that is negative or NaN, which would switch the penalty off.
    """
    at_least(lam, 0.0, "λ, the strength of the penalty,")
    at_least(rho, 0.0, "ρ, the strength of the splitting,")

    def H(v: Tensor) -> Tensor:
        return A.normal(v) + rho * D.normal(v) if rho > 0 else A.normal(v)

    for _ in range(n_admm):
        b = ATy + rho * D.transpose(split.z - split.w) if rho > 0 else ATy
        x = conjugate_gradient(H, b, x, n_cg, compat=compat)
        if rho > 0:
            Dx = D(x)
            split.z = prox(Dx + split.w, lam / rho)
            split.w = split.w + Dx - split.z
    return x


def admm_tv(
    A: LinearOperator,
    y: Tensor,
    shape: tuple[int, ...],
    *,
    lam: float,
    rho: float,
    n_admm: int = 30,
    n_cg: int = 20,
    axes: tuple[int, ...] = (0, 2, 3),
    isotropic: bool = True,
    periodic: bool = True,
    compat: bool = False,
) -> Tensor:
    """The model-based baseline: ADMM-TV in all three directions from x₀ = 0, no diffusion.

    ``isotropic`` shrinks the gradient vector (ℓ2,1), as in the released variant that runs;
    otherwise each component.
    """
    D = Differences(axes, periodic)
    ATy = A.adjoint(y)
    x = torch.zeros(shape, dtype=ATy.dtype, device=ATy.device)
    prox = shrink_l21 if isotropic else shrink
    return admm(
        A, ATy, x, Split.zeros(D, x), D,
        lam=lam, rho=rho, n_admm=n_admm, n_cg=n_cg, prox=prox, compat=compat,
    )  # fmt: skip


# Predictor and corrector of the VE-SDE ------------------------------------------------------


def predictor(score: Score, x: Tensor, sigma: float, sigma_next: float, noise: Noise) -> Tensor:
    """Reverse-diffusion step σ_i → σ_{i−1}; it re-injects noise also at the last level."""
    s = score(x, x.new_full((len(x),), sigma))
    return reverse_diffusion_predictor(x, s, sigma**2 - sigma_next**2, noise(tuple(x.shape)))


def corrector(score: Score, x: Tensor, sigma: float, snr: float, noise: Noise) -> Tensor:
    """Langevin step at σ_i whose size ε follows the norms *averaged over this chunk of slices*."""
    s = score(x, x.new_full((len(x),), sigma))
    return langevin_corrector(x, s, snr, noise(tuple(x.shape)))


def chunks(slices: int, size: int) -> Iterator[slice]:
    """Z // size + 1 nearly equal chunks, as released: at most ``size`` slices each."""
    count = slices // size + 1
    length, longer = divmod(slices, count)
    start = 0
    for k in range(count):
        stop = start + length + (k < longer)
        if stop > start:
            yield slice(start, stop)
        start = stop


def predict_correct(
    score: Score, x: Tensor, sigma: float, sigma_next: float, snr: float, chunk: int, noise: Noise
) -> Tensor:
    """One predictor and one corrector step on every chunk; the volume after both."""
    out = torch.empty_like(x)
    for part in chunks(len(x), chunk):
        h = predictor(score, x[part], sigma, sigma_next, noise)
        out[part] = corrector(score, h, sigma, snr, noise)
    return out


# The method ---------------------------------------------------------------------------------


def final_consistency(A: LinearOperator, y: Tensor, x: Tensor) -> Tensor:
    """x + Aᵀ(y − A x) / Aᵀ A 1: one SIRT-like step with relaxation 1 (released for CT only)."""
    weight = A.normal(torch.ones_like(x[:1]))
    # Pixels that no ray meets have weight 0 and a zero numerator.
    return x + A.adjoint(y - A.forward(x)) / weight.clamp_min(torch.finfo(x.dtype).eps)


@torch.no_grad()
def diffusion_mbir(
    score: Score,
    A: LinearOperator,
    y: Tensor,
    shape: tuple[int, ...],
    sigmas: Tensor,
    noise: Noise,
    *,
    lam: float,
    rho: float,
    snr: float = 0.16,
    chunk: int = CT_CHUNK,
    share: bool = True,
    n_admm: int = 1,
    n_cg: int = 1,
    periodic: bool = True,
    compat: bool = False,
    final_step: bool = True,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Sample a volume given y = A x: the algorithm box of the paper.

    Parameters
    ----------
    score : s(x, σ) of one chunk of axial slices
    A, y : forward operator and measurements of the whole volume
    shape : (Z, 1, H, W)
    sigmas : (N,) noise levels, ascending
    noise : standard normal noise; drawn in the order: initial volume, then per level and chunk
        the predictor's and the corrector's
    lam, rho : λ and ρ; both 0 is the slice-wise solver (data term alone)
    snr : r of the corrector
    chunk : most slices per network call
    share : keep z and w over the levels ("fast"); False resets them at each ("slow")
    n_admm, n_cg : K and M per noise level
    periodic : circular D_z
    compat : the released CG's aliasing
    final_step : the consistency step after the last level (CT)
    callback : called with (i, x) after each level, i counting down

    Returns
    -------
    The volume, (Z, 1, H, W), not clipped.
    """
    D = Differences((0,), periodic)
    levels = list(descend(sigmas, 0.0))
    ATy = A.adjoint(y)
    x = levels[0][0] * noise(shape)
    split = Split.zeros(D, x)
    for step, (sigma, sigma_next) in enumerate(levels):
        x = predict_correct(score, x, sigma, sigma_next, snr, chunk, noise)
        if not share:
            split = Split.zeros(D, x)
        x = admm(
            A, ATy, x, split, D,
            lam=lam, rho=rho, n_admm=n_admm, n_cg=n_cg, compat=compat,
        )  # fmt: skip
        if callback is not None:
            callback(len(sigmas) - 1 - step, x)
    return final_consistency(A, y, x) if final_step else x


# Comparison methods that use the same prior --------------------------------------------------


def manifold_constrained_gradient(
    score: Score,
    A: LinearOperator,
    y: Tensor,
    shape: tuple[int, ...],
    sigmas: Tensor,
    noise: Noise,
    *,
    step: float,
    snr: float = 0.16,
    chunk: int = CT_CHUNK,
    norm: float = 1.0,
    project: bool = True,
) -> Tensor:
    """MCG (Chung, Sim, Ryu & Ye, 2022): every slice by itself, no coupling along z.

    Per level: predictor; gradient of ½‖y − A x̂₀‖² through the denoiser x̂₀ = x + σ² s(x, σ), of
    size ``step`` / ``norm`` with ``norm`` = ‖AᵀA‖; projection x + Aᵀ(y − A x) / AᵀA1; corrector.
    ``project=False`` leaves the gradient alone (DPS with a constant step).
    """
    levels = list(descend(sigmas, 0.0))
    x = levels[0][0] * noise(shape)
    for sigma, sigma_next in levels:
        g2 = sigma**2 - sigma_next**2
        x0, s = torch.empty_like(x), torch.empty_like(x)
        pullbacks = []
        for part in chunks(len(x), chunk):
            with torch.enable_grad():
                x_in = x[part].detach().requires_grad_()
                score_in = score(x_in, x_in.new_full((len(x_in),), sigma))
                x0_in = x_in + sigma**2 * score_in
            x0[part], s[part] = x0_in.detach(), score_in.detach()
            pullbacks.append((part, x_in, x0_in))
        cotangent = A.adjoint(A.forward(x0) - y)
        gradient = torch.empty_like(x)
        for part, x_in, x0_in in pullbacks:
            (gradient[part],) = torch.autograd.grad(x0_in, x_in, cotangent[part])
        with torch.no_grad():
            x = reverse_diffusion_predictor(x, s, g2, noise(shape)) - (step / norm) * gradient
            if project:
                x = final_consistency(A, y, x)
            for part in chunks(len(x), chunk):
                x[part] = corrector(score, x[part], sigma, snr, noise)
    return final_consistency(A, y, x) if project else x


@torch.no_grad()
def decomposed_diffusion(
    score: Score,
    A: LinearOperator,
    y: Tensor,
    shape: tuple[int, ...],
    sigmas: Tensor,
    noise: Noise,
    *,
    lam: float,
    rho: float,
    eta: float = 0.85,
    n_cg: int = 5,
    chunk: int = CT_CHUNK,
    periodic: bool = True,
) -> Tensor:
    """DDS (Chung, Lee & Ye, 2023), the authors' later method: the ADMM step on Tweedie's estimate.

    DDIM of the variance-preserving process with ᾱ = 1 / (1 + σ²), whose score follows from the
    variance-exploding one by x_VE = x_VP / √ᾱ; one network call per level.
    """
    D = Differences((0,), periodic)
    abar = 1.0 / (1.0 + finite(sigmas, "noise levels").double() ** 2)
    ATy = A.adjoint(y)
    x = noise(shape)
    split = Split.zeros(D, x)
    for abar_t, abar_s in descend(abar, 1.0):
        sigma = math.sqrt((1 - abar_t) / abar_t)
        s = torch.empty_like(x)
        for part in chunks(len(x), chunk):
            s[part] = score(x[part] / math.sqrt(abar_t), x.new_full((len(x[part]),), sigma))
        x0 = x / math.sqrt(abar_t) + sigma**2 * s
        epsilon = -sigma * s
        x0 = admm(A, ATy, x0, split, D, lam=lam, rho=rho, n_cg=n_cg)
        spread, direction = ddim_scales(abar_t, abar_s, eta)
        x = math.sqrt(abar_s) * x0 + direction * epsilon
        if abar_s < 1:
            x = x + spread * noise(shape)
    return x
