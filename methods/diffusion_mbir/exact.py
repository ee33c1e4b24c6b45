"""What must hold to rounding, whatever the prior and the data: identities, closed forms, parity.

Every function returns ``{item: deviation}``; a deviation of 0 is perfect. The arm ``exact``
measures them and the tests bound them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.diffusion_mbir.method import (
    Differences,
    Noise,
    Split,
    admm,
    conjugate_gradient,
    diffusion_mbir,
    gaussian_noise,
    predictor,
    shrink,
    shrink_l21,
)
from methods.diffusion_mbir.priors import IsotropicGaussian, StationaryGaussian
from repro.diffusion.schedules import geometric_sigmas
from repro.inverse.base import Identity
from repro.inverse.fourier import MaskedFourier
from repro.inverse.radon import CompatRadon, ParallelBeam, sparse_view_angles

if TYPE_CHECKING:
    from repro.job import Job

F64 = torch.float64


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _column(values) -> Tensor:
    return torch.tensor(values, dtype=F64).reshape(-1, 1, 1, 1)


def differences() -> dict[str, float]:
    """Check 1: ⟨D_z x, v⟩ = ⟨x, D_zᵀv⟩, the second difference, the kernel."""
    x, v = _randn(7, 1, 5, 4), _randn(1, 7, 1, 5, 4, seed=1)
    out = {}
    for name, D in {"circular": Differences(), "open": Differences(periodic=False)}.items():
        left, right = torch.sum(D(x) * v), torch.sum(x * D.transpose(v))
        out[f"dz-adjoint-{name}"] = float(abs(left - right) / abs(left))
        constant = _randn(1, 1, 5, 4).expand(7, 1, 5, 4)
        out[f"dz-kernel-{name}"] = float(D(constant).abs().max())
    second = 2 * x - torch.roll(x, 1, 0) - torch.roll(x, -1, 0)
    out["dz-normal"] = float((Differences().normal(x) - second).abs().max())
    three = Differences((0, 2, 3))
    v = _randn(3, 7, 1, 5, 4, seed=2)
    left, right = torch.sum(three(x) * v), torch.sum(x * three.transpose(v))
    out["d3-adjoint"] = float(abs(left - right) / abs(left))
    return out


def proximal() -> dict[str, float]:
    """Check 2: soft shrinkage, and the ℓ2,1 prox: norm max(‖v‖ − τ, 0), direction unchanged."""
    v = torch.tensor([-1.0, -0.2, 0.2, 1.0], dtype=F64)
    expected = torch.tensor([-0.5, 0.0, 0.0, 0.5], dtype=F64)
    u = _randn(3, 4, 1, 5, 5)
    s = shrink_l21(u, 0.9)
    norm = u.norm(dim=0)
    kept = norm > 0.9
    cosine = (u * s).sum(0)[kept] / (norm * s.norm(dim=0))[kept]
    return {
        "shrink": float((shrink(v, 0.5) - expected).abs().max()),
        "l21-norm": float((s.norm(dim=0) - (norm - 0.9).clamp_min(0)).abs().max()),
        "l21-direction": float((cosine - 1).abs().max()),
    }


def tv_denoise(y: Tensor, lam: float, *, iterations: int = 300, rho: float = 1.0) -> Tensor:
    """min ½‖y − x‖² + λ‖D_z x‖₁ by ADMM with exact x-updates."""
    D, I = Differences(), Identity()  # noqa: E741
    split = Split.zeros(D, y)
    return admm(I, y, y, split, D, lam=lam, rho=rho, n_admm=iterations, n_cg=len(y))


def tv_plateaus() -> dict[str, float]:
    """Check 3: two circular plateaus of length L and jump J move by 2λ/L each and merge at LJ/4."""
    out = {}
    cases = [(3, 1.0, lam) for lam in (0.1, 0.2, 0.5, 1.0)] + [(5, 2.0, 1.0), (5, 2.0, 2.6)]
    for length, jump, lam in cases:
        low = 2 * lam / length if lam < length * jump / 4 else jump / 2
        expected = _column([low] * length + [jump - low] * length)
        y = _column([0.0] * length + [jump] * length)
        x = tv_denoise(y, lam)
        out[f"tv-L{length}-J{jump:g}-lambda{lam:g}"] = float((x - expected).abs().max())
    return out


def one_fast_step() -> dict[str, float]:
    """Check 4: one ADMM iteration with one CG step from x = y, A = I, λ = .04, ρ = 10."""
    y = _column([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    D = Differences()
    split = Split.zeros(D, y)
    x = admm(Identity(), y, y, split, D, lam=0.04, rho=10.0)
    third = 10 / 31
    expected = {
        "step-x": (x, [third, 0, third, 1 - third, 1, 1 - third]),
        "step-z": (
            split.z[0],
            [-0.31858065, 0.31858065, 0.35083871, 0.31858065, -0.31858065, -0.35083871],
        ),
        "step-w": (split.w[0], [-0.004, 0.004, 0.004, 0.004, -0.004, -0.004]),
    }
    return {k: float((a - _column(b)).abs().max()) for k, (a, b) in expected.items()}


def fixed_point() -> dict[str, float]:
    """Check 5: the TV solution with its dual is a fixed point; sharing without a sampler converges.

    For plateaus of length 3 the subgradient is g = (−1, 1, 3, 1, −1, −3) / 3 and w = g λ/ρ.
    """
    lam, rho = 0.2, 0.7
    D = Differences()
    y = _column([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    low = 2 * lam / 3
    x = _column([low] * 3 + [1 - low] * 3)
    w = _column([-1.0, 1.0, 3.0, 1.0, -1.0, -3.0])[None] / 3 * (lam / rho)
    split = Split(D(x), w.clone())
    moved = admm(Identity(), y, x, split, D, lam=lam, rho=rho, n_cg=6)
    out = {
        "fixed-x": float((moved - x).abs().max()),
        "fixed-z": float((split.z - D(x)).abs().max()),
        "fixed-w": float((split.w - w).abs().max()),
    }
    # A full mask: the data term is strictly convex, so both runs have one and the same limit.
    A = MaskedFourier(torch.ones(4, 4, dtype=F64))
    truth = _randn(6, 1, 4, 4)
    ATy = A.adjoint(A.forward(truth))
    full = admm(
        A, ATy, torch.zeros_like(truth), Split.zeros(D, truth), D,
        lam=0.3, rho=0.5, n_admm=300, n_cg=8,
    )  # fmt: skip
    shared, x = Split.zeros(D, truth), torch.zeros_like(truth)
    for _ in range(800):
        x = admm(A, ATy, x, shared, D, lam=0.3, rho=0.5)
    out["shared-converges"] = float((x - full).abs().max())
    return out


def _listed_noise(tensors: Iterator[Tensor]) -> Noise:
    def noise(shape: tuple[int, ...]) -> Tensor:
        tensor = next(tensors)
        assert tuple(tensor.shape) == tuple(shape)
        return tensor

    return noise


def separability() -> dict[str, float]:
    """Check 6: with A = I pixel columns decouple; with ρ = 0 slices do.

    Columns are solved to convergence: a *single* CG step couples them through its one step length.
    """
    y = _randn(6, 1, 3, 2)
    together = tv_denoise(y, 0.3, iterations=150)
    apart = torch.empty_like(y)
    for i in range(3):
        for j in range(2):
            apart[:, :, i : i + 1, j : j + 1] = tv_denoise(
                y[:, :, i : i + 1, j : j + 1], 0.3, iterations=150
            )
    A = ParallelBeam(16, sparse_view_angles(4), dtype=F64)
    truth = _randn(5, 1, 16, 16, seed=3).abs()
    sigmas = geometric_sigmas(8, 0.01, 5.0)
    score = StationaryGaussian(torch.zeros(16, 16, dtype=F64), torch.full((16, 9), 0.3, dtype=F64))
    order = torch.tensor([3, 0, 4, 1, 2])
    stream = [_randn(5, 1, 16, 16, seed=10 + k) for k in range(1 + 2 * len(sigmas))]

    def run(index: Tensor) -> Tensor:
        noise = _listed_noise(iter([xi[index] for xi in stream]))
        y = A.forward(truth[index])
        return diffusion_mbir(
            score, A, y, tuple(truth.shape), sigmas, noise, lam=0.0, rho=0.0, chunk=12
        )

    straight, permuted = run(torch.arange(5)), run(order)
    return {
        "columns": float((together - apart).abs().max()),
        "slices": _relative(permuted, straight[order]),
    }


def smooth_image(width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A smooth image without symmetry, (1, 1, W, W)."""
    u = torch.linspace(-1.0, 1.0, width, dtype=dtype)
    Y, X = torch.meshgrid(u, u, indexing="ij")
    bumps = torch.exp(-4 * (X**2 + Y**2)) + 0.5 * torch.exp(-12 * ((X - 0.3) ** 2 + (Y + 0.2) ** 2))
    return bumps[None, None]


def back_projection() -> dict[str, float]:
    """Checks 7 and 8: the released pair off by 2V/π, ours adjoint; the norm constants π/2 · W."""
    out = {}
    image = smooth_image(64, F64)
    for views in (8, 4, 2):
        compat = CompatRadon(64, sparse_view_angles(views))
        y = compat.forward(image)
        ratio = float(torch.sum(y * y) / torch.sum(image * compat.adjoint(y)))
        out[f"released-ratio-V{views}"] = abs(ratio / (2 * views / math.pi) - 1)
        A = ParallelBeam(64, sparse_view_angles(views), dtype=F64)
        x, v = _randn(2, 1, 64, 64), _randn(2, 1, A.length, views, seed=1)
        left = A.scale * torch.sum(A.forward(x) * v)
        right = torch.sum(x * A.adjoint(v))
        out[f"our-adjoint-V{views}"] = float(abs(left - right) / abs(left))
        out[f"our-forward-V{views}"] = _relative(A.forward(image), y)
    for width in (64, 256):
        angles = sparse_view_angles(2)
        for name, radon in {
            "released": CompatRadon(width, angles),
            "ours": ParallelBeam(width, angles, dtype=F64),
        }.items():
            value = radon.normal(torch.ones(1, 1, width, width, dtype=F64)).mean()
            out[f"norm-constant-{name}-W{width}"] = float(abs(value / (math.pi / 2 * width) - 1))
    mask = (torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    for norm in ("ortho", "backward"):
        fourier = MaskedFourier(mask, norm=norm)
        x = _randn(2, 1, 16, 16)
        k = torch.complex(_randn(2, 1, 16, 16, seed=1), _randn(2, 1, 16, 16, seed=2))
        left = fourier.scale * torch.sum((fourier.forward(x).conj() * k).real)
        gap = abs(left - torch.sum(x * fourier.adjoint(k)))
        out[f"fourier-adjoint-{norm}"] = float(gap / abs(left))
        again = fourier.adjoint(fourier.forward(x))
        out[f"fourier-normal-{norm}"] = _relative(fourier.normal(x), again)
    return out


def conjugate_gradients() -> dict[str, float]:
    """Check 9: exact after dim steps; one step is steepest descent; aliased second direction."""
    root = _randn(6, 6)
    H = root @ root.T + torch.eye(6, dtype=F64)
    b, x0 = _randn(6, seed=1), _randn(6, seed=2)

    def apply(v: Tensor) -> Tensor:
        return H @ v

    r = b - H @ x0
    step = x0 + (r @ r) / (r @ H @ r) * r
    r1 = b - H @ step
    p1 = (1 + (r1 @ r1) / (r @ r)) * r1
    aliased = step + (r1 @ r1) / (p1 @ H @ p1) * p1
    return {
        "cg-solves": _relative(conjugate_gradient(apply, b, x0, 6), torch.linalg.solve(H, b)),
        "cg-steepest": _relative(conjugate_gradient(apply, b, x0, 1), step),
        "cg-aliased": _relative(conjugate_gradient(apply, b, x0, 2, compat=True), aliased),
    }


def naive_mbir(
    score, A, y: Tensor, shape, sigmas: list[float], draw: Noise, lam: float, rho: float,
    size: int, snr: float = 0.16,
) -> Tensor:  # fmt: skip
    """The published pseudo-code a second time, slice loops and indices, sharing no code above."""
    Z = shape[0]

    def Dz(v):
        return torch.stack([v[(k + 1) % Z] - v[k] for k in range(Z)])

    def DzT(v):
        return torch.stack([v[(k - 1) % Z] - v[k] for k in range(Z)])

    def H(v):
        return A.adjoint(A.forward(v)) + rho * DzT(Dz(v))

    number = Z // size + 1
    lengths = [Z // number + (1 if k < Z % number else 0) for k in range(number)]
    x = sigmas[-1] * draw(shape)
    z = torch.zeros(shape, dtype=x.dtype)
    w = torch.zeros(shape, dtype=x.dtype)
    for i in range(len(sigmas) - 1, -1, -1):
        below = sigmas[i - 1] if i else 0.0
        parts, first = [], 0
        for length in lengths:
            part = x[first : first + length]
            first += length
            level = torch.full((length,), sigmas[i], dtype=x.dtype)
            variance = sigmas[i] ** 2 - below**2
            part = part + variance * score(part, level)
            part = part + variance**0.5 * draw(tuple(part.shape))
            s = score(part, level)
            xi = draw(tuple(part.shape))
            s_norm = sum(float(s[k].pow(2).sum().sqrt()) for k in range(length)) / length
            xi_norm = sum(float(xi[k].pow(2).sum().sqrt()) for k in range(length)) / length
            eps = 2 * (snr * xi_norm / s_norm) ** 2
            parts.append(part + eps * s + (2 * eps) ** 0.5 * xi)
        x = torch.cat(parts)
        r = A.adjoint(y) + rho * DzT(z - w) - H(x)
        x = x + (r * r).sum() / (r * H(r)).sum() * r
        v = Dz(x) + w
        z = torch.where(v > lam / rho, v - lam / rho, torch.where(v < -lam / rho, v + lam / rho, 0))
        w = v - z
    return x + A.adjoint(y - A.forward(x)) / A.adjoint(A.forward(torch.ones_like(x)))


def parity_problem() -> tuple:
    """Check 10's set-up: 14 slices 32 × 32, 8 views, N = 15, σ ∈ [.01, 10]; released operators."""
    A = CompatRadon(32, sparse_view_angles(8))
    profile = 0.5 + 0.5 * torch.cos(torch.arange(14) / 14 * 2 * math.pi)
    truth = smooth_image(32) * (0.4 + 0.6 * profile[:, None, None, None])
    score = IsotropicGaussian(0.5, 0.1)
    return score, A, A.forward(truth), (14, 1, 32, 32), geometric_sigmas(15, 0.01, 10.0)


def parity_run() -> Tensor:
    """Our output on :func:`parity_problem` with stream 0."""
    score, A, y, shape, sigmas = parity_problem()
    noise = gaussian_noise(torch.Generator().manual_seed(0))
    return diffusion_mbir(score, A, y, shape, sigmas, noise, lam=0.04, rho=10.0)


def parity() -> dict[str, float]:
    """Check 10: the method against :func:`naive_mbir` under one random stream (absolute)."""
    score, A, y, shape, sigmas = parity_problem()
    draw = gaussian_noise(torch.Generator().manual_seed(0))
    naive = naive_mbir(score, A, y, shape, sigmas.tolist(), draw, 0.04, 10.0, 12)
    return {"parity": float((parity_run() - naive).abs().max())}


def schedule() -> dict[str, float]:
    """Check 11: 378 → 376.012 at the first step, .01 → 0 at the last, which adds noise of .01."""
    sigmas = geometric_sigmas(2000, 0.01, 378.0)
    xi = _randn(3, 1, 4, 4)
    x = _randn(3, 1, 4, 4, seed=1)
    last = predictor(lambda v, _: torch.zeros_like(v), x, 0.01, 0.0, lambda _: xi)
    return {
        "first-sigma": abs(float(sigmas[-1]) - 378.0),
        "second-sigma": abs(float(sigmas[-2]) - 378.0 / 1.0052866),
        "last-noise": float((last - (x + 0.01 * xi)).abs().max()),
    }


CHECKS = (
    differences,
    proximal,
    tv_plateaus,
    one_fast_step,
    fixed_point,
    separability,
    back_projection,
    conjugate_gradients,
    parity,
    schedule,
)


def measure(job: Job) -> None:
    """Deviations from the identities and closed forms of the specification."""
    for check in CHECKS:
        for item, deviation in check().items():
            job.measure("error", deviation, item=item)
