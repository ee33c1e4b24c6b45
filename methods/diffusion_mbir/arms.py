"""The functions that ``experiment.yaml`` names: thin glue between jobs and the method."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from methods.diffusion_mbir import method, official
from methods.diffusion_mbir.priors import StationaryGaussian
from methods.diffusion_mbir.problems import (
    Problem,
    floor_of,
    operator,
    problems,
    split_name,
    training_stack,
)
from methods.diffusion_mbir.volumes import plane_metrics, z_roughness
from repro.data import cache
from repro.diffusion.schedules import geometric_sigmas
from repro.errors import ReproError
from repro.inverse.radon import ParallelBeam
from repro.nets.ncsnpp import NCSNpp, NCSNppConfig
from repro.nets.preconditioned import PreconditionedDenoiser
from repro.nets.unet import UNet
from repro.numbers import argmin
from repro.training.fit import fit_and_save
from repro.training.seeding import seeded
from repro.training.settings import Optimiser
from repro.zoo import pretrained, slices

if TYPE_CHECKING:
    from repro.job import Job


# The models: priors in closed form, and the strengths of every method -----------------------


def calibrate(job: Job) -> dict[str, Tensor]:
    """Fit the Gaussian priors, then choose every method's strengths on validation volumes.

    The method, its un-shared and slow variants, MCG and ADMM-TV each get a grid of the same number
    of points, on the same volumes, judged by volume PSNR. Returned: ``<dataset>.mean`` and
    ``.spectrum``, and ``<problem>.<method>`` = (λ, ρ) or (step,), relative to ‖AᵀA‖.
    """
    p = job.params
    grids = _grids(job)
    state: dict[str, Tensor] = {}
    priors = {}
    for dataset in dict.fromkeys(split_name(name)[0] for name in p.problems):
        fitted = StationaryGaussian.fit(training_stack(job, dataset)).state_dict()
        priors[dataset] = StationaryGaussian.from_state_dict(fitted, job.device)
        for key, value in fitted.items():
            state[f"{dataset}.{key}"] = value
    for problem in job.progress(problems(job, "validation"), "tuning", total=len(p.problems)):
        for name, points in grids.items():
            if name != "slow" or problem.name in p.slow:
                best = _best_point(job, problem, priors[problem.dataset], name, points)
                state[f"{problem.name}.{name}"] = best
    return state


def calibrate_learned(job: Job) -> dict[str, Tensor]:
    """The same choice for the methods that take the learned prior: ``<problem>.<method>``.

    ``problems`` are tuned for the method and ``mcg`` names those that are tuned for MCG.
    """
    p = job.params
    grids, prior = _grids(job), _learned_prior(job)
    state = {}
    for problem in job.progress(problems(job, "validation"), "tuning", total=len(p.problems)):
        for name, points in grids.items():
            if name != "mcg" or problem.name in p.mcg:
                best = _best_point(job, problem, prior, name, points)
                state[f"{problem.name}.{name}"] = best
    return state


def _grids(job: Job) -> dict[str, list[tuple[float, ...]]]:
    grids = {name: grid_points(grid) for name, grid in job.params.grids.items()}
    if len({len(points) for points in grids.values()}) > 1:
        sizes = ", ".join(f"{name} {len(points)}" for name, points in grids.items())
        raise ReproError(
            f"every method must be tuned with the same number of grid points; there are {sizes}"
            f" (experiment.yaml, {job.name})"
        )
    return grids


def _best_point(
    job: Job, problem: Problem, prior, name: str, points: list[tuple[float, ...]]
) -> Tensor:
    """The strengths of the highest PSNR on a validation volume."""
    scores = []
    for point in points:
        # A strength that diverges is a bad one, not an error.
        x = _solve(job, problem, prior, name, point, job.params.levels).nan_to_num()
        scores.append(plane_metrics(x, problem.truth)["volume"][0])
        at = dict(problem=problem.name, method=name, point=len(scores) - 1)
        job.measure("validation_psnr", scores[-1], **at)
    best = points[max(range(len(points)), key=scores.__getitem__)]
    job.log.info("%s %s: %s, %.2f dB", problem.name, name, best, max(scores))
    return torch.tensor(best, dtype=torch.float64)


def grid_points(grid: dict[str, list[float]]) -> list[tuple[float, ...]]:
    """Cartesian product of a card's grid, ``{lam: [..], rho: [..]}`` or ``{step: [..]}``."""
    return list(itertools.product(*grid.values()))


VARIANTS: dict[str, dict[str, Any]] = {
    "fast": {},
    "unshared": {"share": False},
    "slow": {"share": False, "n_admm": 5, "n_cg": 5},
}


def _levels(job: Job, count: int) -> Tensor:
    return geometric_sigmas(count, job.params.sigma_min, job.params.sigma_max)


def _solve(
    job: Job, problem: Problem, prior, name: str, point: tuple[float, ...], levels: int
) -> Tensor:
    """One reconstruction for the tuning, on the stream of its own."""
    A, y, shape, norm = problem.A, problem.y, problem.shape, problem.norm
    if name == "admm-tv":
        lam, rho = point
        return method.admm_tv(A, y, shape, lam=lam * norm, rho=rho * norm)
    noise = method.gaussian_noise(job.rng("noise", problem.name), problem.truth)
    sigmas = _levels(job, levels)
    if name == "mcg":
        return method.manifold_constrained_gradient(
            prior, A, y, shape, sigmas, noise, step=point[0], norm=norm, chunk=problem.chunk
        )
    lam, rho = point
    return method.diffusion_mbir(
        prior, A, y, shape, sigmas, noise,
        lam=lam * norm, rho=rho * norm, chunk=problem.chunk, final_step=problem.tomography,
        **VARIANTS[name],
    )  # fmt: skip


def train_score(job: Job) -> dict[str, Tensor]:
    """NCSN++ on axial slices by denoising score matching, as released.

    Loss: batch mean of ½ Σ_pixels (σ s_θ(x + σ ε, σ) + ε)², with t ~ U(1e-5, 1) and
    σ = σ_min (σ_max / σ_min)^t.
    """
    p = job.params
    stack = training_stack(job, p.dataset)
    network = NCSNpp(_network_config(p), generator=job.rng("initialise"))
    low, high = math.log(p.sigma_min), math.log(p.sigma_max)

    def batch(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x = stack[torch.randint(len(stack), (p.batch,), generator=generator)]
        t = 1e-5 + (1 - 1e-5) * torch.rand(p.batch, generator=generator)
        return x, torch.exp(low + (high - low) * t), torch.randn(x.shape, generator=generator)

    def loss(net: NCSNpp, data: tuple[Tensor, Tensor, Tensor], generator) -> Tensor:
        x, sigma, epsilon = data
        s = sigma[:, None, None, None]
        return 0.5 * (s * net(x + s * epsilon, sigma) + epsilon).square().flatten(1).sum(1).mean()

    optimiser = Optimiser(lr=p.lr, warmup=p.warmup, ema=0.999)
    return fit_and_save(
        job, network, loss, batch, optimiser, steps=p.updates, precision=p.precision
    )


def train_fbpconvnet(job: Job) -> dict[str, Tensor]:
    """FBPConvNet (Jin et al., 2017): a U-Net from the floor's slices to the truth, supervised.

    One network per problem, residual, mean squared error; the keys are ``<problem>.<parameter>``.
    The U-Net is the one of the learned prior; it sees the slices that the priors see, those of
    MNI152 with the augmentation of the zoo.
    """
    p = job.params
    state: dict[str, Tensor] = {}
    for problem in problems(job, "validation"):
        stack = training_stack(job, problem.dataset)
        augmented = problem.dataset == "mni"

        def batch(step: int, generator: torch.Generator, stack=stack, augmented=augmented):
            x = stack[torch.randint(len(stack), (p.batch,), generator=generator)]
            return slices.augment(x[:, 0], generator) if augmented else x

        def loss(net: UNet, x: Tensor, generator: torch.Generator, problem=problem) -> Tensor:
            start = floor_of(problem.A, problem.A.forward(x))
            return (_post_process(net, start) - x).square().mean()

        network = seeded(
            lambda: _fbpconvnet(p.width, p.channels), job.rng("initialise", problem.name)
        )
        weights = fit_and_save(
            job, network, loss, batch, Optimiser(lr=p.lr, schedule="cosine", ema=0.99),
            steps=p.updates, name=problem.name, curve=f"{problem.name}_curve",
        )  # fmt: skip
        state |= {f"{problem.name}.{key}": value for key, value in weights.items()}
    return state


def _fbpconvnet(width: int, channels: int) -> UNet:
    return UNet(
        resolution=width, in_channels=1, channels=channels, mult=(1, 2, 4), blocks=1,
        attention=(), middle_attention=False, dropout=0.0, groups=8, patch=2, zero_init=True,
    )  # fmt: skip


def _post_process(network: UNet, x: Tensor) -> Tensor:
    return x + network(x, torch.zeros(len(x), dtype=torch.long, device=x.device))


def _network_config(p) -> NCSNppConfig:
    return NCSNppConfig(
        image_size=p.width,
        nf=p.nf,
        ch_mult=tuple(p.ch_mult),
        num_res_blocks=p.num_res_blocks,
        attn_resolutions=tuple(p.attn_resolutions),
        sigma_min=p.sigma_min,
        sigma_max=p.sigma_max,
        num_scales=p.levels,
    )


# Shared by the arms -------------------------------------------------------------------------


class CountedScore:
    """A score that counts its evaluations, in slices."""

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.score, self.slices = score, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.slices += len(x)
        return self.score(x, sigma)


def _prior(job: Job, problem: Problem) -> CountedScore:
    """The prior that ``job.params.prior`` names.

    ``own``: the Gaussian of the problem's dataset; ``ellipsoids`` or ``mni``: that one's;
    ``zoo``: the network trained on MNI152 slices; ``ncsnpp``: the one of :func:`train_score`.
    """
    name = job.params.prior
    if name == "zoo":
        return CountedScore(_learned_prior(job))
    if name == "ncsnpp":
        network = NCSNpp(_network_config(job.model_params(name)), generator=torch.Generator())
        network.load_state_dict(job.model(name))
        return CountedScore(network.to(job.device).eval().requires_grad_(False))
    state = job.model("calibration")
    dataset = problem.dataset if name == "own" else name
    if f"{dataset}.mean" not in state:
        raise ReproError(
            f"{job.name}: no prior {name!r} was fitted; use own, zoo, ncsnpp or a dataset among"
            " the problems of the calibration"
        )
    own = {key: state[f"{dataset}.{key}"] for key in ("mean", "spectrum")}
    return CountedScore(StationaryGaussian.from_state_dict(own, job.device))


def _learned_prior(job: Job) -> Callable[[Tensor, Tensor], Tensor]:
    return pretrained.of_type(PreconditionedDenoiser, job, "zoo/mni152-score").score


def _tuned(job: Job, problem: Problem, name: str) -> list[float]:
    """Strengths, tuned with the prior that the arm uses; with NCSN++ those of the Gaussian one."""
    model = "calibration-learned" if job.params.get("prior") == "zoo" else "calibration"
    state = job.model(model)
    key = f"{problem.name}.{name}"
    if key not in state:
        raise ReproError(
            f"{job.name}: nothing was tuned for {key}; list the problem under the model {model}"
        )
    return state[key].tolist()


def _report(
    job: Job, problem: Problem, x: Tensor, seconds: float, score: CountedScore | None = None
) -> None:
    """Measure a reconstruction and keep its middle slices."""
    counts, at = problem.A.counts, {"problem": problem.name}
    job.measure("applications", counts.total, **at)
    if score is not None:
        job.measure("nfe", score.slices / len(x), **at)
    job.measure("seconds", seconds, **at)
    for plane, (psnr, ssim) in plane_metrics(x, problem.truth).items():
        job.measure("psnr", psnr, plane=plane, **at)
        job.measure("ssim", ssim, plane=plane, **at)
    rough, rough_truth = z_roughness(x), z_roughness(problem.truth)
    job.measure("roughness", rough, **at)
    job.measure("roughness_truth", rough_truth, **at)
    job.measure("roughness_excess", abs(rough - rough_truth), **at)
    residual = (problem.A.forward(x) - problem.y).norm() / problem.y.norm()
    job.measure("residual", float(residual), **at)
    for name, stack in {"": x, "truth_": problem.truth}.items():
        v = stack[:, 0]
        middle = (v[len(v) // 2], v[:, v.shape[1] // 2], v[:, :, v.shape[2] // 2])
        for plane, image in zip(("axial", "coronal", "sagittal"), middle, strict=True):
            job.save(f"{name}{problem.name}_{plane}", image)


# The arms -----------------------------------------------------------------------------------


def floor(job: Job) -> None:
    """FBP for CT, zero-filled inverse FFT for MRI."""
    for problem in problems(job):
        started = time.perf_counter()
        x = problem.floor()
        problem.A.counts.adjoint += 1
        _report(job, problem, x, time.perf_counter() - started)


def fbpconvnet(job: Job) -> None:
    """FBPConvNet: the trained network on every slice of the floor."""
    state, p = job.model("fbpconvnet"), job.model_params("fbpconvnet")
    for problem in problems(job):
        prefix = f"{problem.name}."
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if not own:
            raise ReproError(
                f"{job.name}: no network was trained for {problem.name}; list it under the model"
            )
        network = _fbpconvnet(p.width, p.channels)
        network.load_state_dict(own)
        network = network.to(job.device).eval()
        started = time.perf_counter()
        with torch.no_grad():
            x = _post_process(network, problem.floor())
        problem.A.counts.adjoint += 1
        _report(job, problem, x, time.perf_counter() - started)


def total_variation(job: Job) -> None:
    """ADMM-TV in three directions, tuned."""
    for problem in problems(job):
        lam, rho = _tuned(job, problem, "admm-tv")
        started = time.perf_counter()
        x = method.admm_tv(
            problem.A, problem.y, problem.shape,
            lam=lam * problem.norm, rho=rho * problem.norm,
            n_admm=job.params.n_admm, n_cg=job.params.n_cg,
        )  # fmt: skip
        _report(job, problem, x, time.perf_counter() - started)


def sample(job: Job) -> None:
    """DiffusionMBIR and its variants; without ``coupled`` the slice-wise solver (λ = ρ = 0)."""
    p = job.params
    for problem in problems(job):
        score = _prior(job, problem)
        lam, rho = _tuned(job, problem, p.tuned) if p.coupled else (0.0, 0.0)
        trace: list[tuple[float, float, float]] = []
        sigmas = _levels(job, p.levels)

        def follow(i: int, x: Tensor, problem=problem, trace=trace, sigmas=sigmas) -> None:
            if i % p.trace_every == 0:
                error = float((x - problem.truth).square().mean().sqrt())
                trace.append((float(sigmas[i]), z_roughness(x), error))

        started = time.perf_counter()
        x = method.diffusion_mbir(
            score, problem.A, problem.y, problem.shape, sigmas,
            method.gaussian_noise(job.rng("noise", problem.name), problem.truth),
            lam=lam * problem.norm, rho=rho * problem.norm, snr=p.snr, chunk=problem.chunk,
            share=p.share, n_admm=p.n_admm, n_cg=p.n_cg, periodic=p.periodic,
            final_step=problem.tomography, callback=follow,
        )  # fmt: skip
        _report(job, problem, x, time.perf_counter() - started, score)
        job.save(f"{problem.name}_trace", torch.tensor(trace))


def coupling_alone(job: Job) -> None:
    """The iterations of the method without its prior and its noise: the data and the z-term alone.

    As many ADMM iterations as there are noise levels, of one CG step each, from x₀ = 0, with the
    strengths of the method.
    """
    p, D = job.params, method.Differences()
    for problem in problems(job):
        lam, rho = (strength * problem.norm for strength in _tuned(job, problem, "fast"))
        started = time.perf_counter()
        ATy = problem.A.adjoint(problem.y)
        start = torch.zeros_like(problem.truth)
        split = method.Split.zeros(D, start)
        x = method.admm(problem.A, ATy, start, split, D, lam=lam, rho=rho, n_admm=p.levels)
        if problem.tomography:
            x = method.final_consistency(problem.A, problem.y, x)
        _report(job, problem, x, time.perf_counter() - started)


def nearest_slice(job: Job) -> None:
    """For every slice the training slice whose measurements are nearest: no prior but memory."""
    for problem in problems(job):
        stack = training_stack(job, problem.dataset).to(job.device)
        started = time.perf_counter()
        seen = problem.A.forward(stack).flatten(1)
        gaps = torch.cdist(problem.y.flatten(1), seen)
        x = stack[argmin(gaps, 1, "distances of measurements")]
        _report(job, problem, x, time.perf_counter() - started)


def strengths(job: Job) -> None:
    """λ and ρ of the method with the learned prior, as the grid search chose them."""
    state = job.model("calibration-learned")
    for problem in job.params.problems:
        for of, value in zip(("lam", "rho"), state[f"{problem}.fast"].tolist(), strict=True):
            job.measure("strength", value, problem=problem, of=of)


def mcg(job: Job) -> None:
    """Manifold-constrained gradient, slice by slice, tuned."""
    p = job.params
    for problem in problems(job):
        score = _prior(job, problem)
        (step,) = _tuned(job, problem, "mcg")
        started = time.perf_counter()
        x = method.manifold_constrained_gradient(
            score, problem.A, problem.y, problem.shape, _levels(job, p.levels),
            method.gaussian_noise(job.rng("noise", problem.name), problem.truth),
            step=step, norm=problem.norm, snr=p.snr, chunk=problem.chunk,
        )  # fmt: skip
        _report(job, problem, x, time.perf_counter() - started, score)


def dds(job: Job) -> None:
    """Decomposed diffusion sampling, the authors' later method, with the method's λ and ρ."""
    p = job.params
    for problem in problems(job):
        score = _prior(job, problem)
        lam, rho = _tuned(job, problem, "fast")
        started = time.perf_counter()
        x = method.decomposed_diffusion(
            score, problem.A, problem.y, problem.shape, _levels(job, p.steps),
            method.gaussian_noise(job.rng("noise", problem.name), problem.truth),
            lam=lam * problem.norm, rho=rho * problem.norm, eta=p.eta, n_cg=p.n_cg,
            chunk=problem.chunk,
        )  # fmt: skip
        _report(job, problem, x, time.perf_counter() - started, score)


def released(job: Job) -> None:
    """The paper's own setting: released network, volume and parameters; files that the user brings.

    They lie under ``official/`` of the data cache: ``aapm-l067/<number>.npy`` or
    ``brats-aam1/<number>.npy``, and ``diffusion-mbir/<checkpoint>``. ``method`` is fast,
    slice-wise, admm-tv or floor. λ and ρ are absolute here, as released.
    """
    p = job.params
    truth = official.load_volume(p.volume).to(job.device)
    width = truth.shape[-1]
    A = operator(p.task, width, job.rng("mask", p.task), job.device)
    y = A.forward(truth)
    A.counts.forward = 0
    name = f"{p.volume}-{p.task}"
    tomography = isinstance(A, ParallelBeam)
    problem = Problem(name, p.volume, truth, A, y, A.norm((width, width)), tomography)
    score = None
    started = time.perf_counter()
    if p.method == "floor":
        x = problem.floor()
    elif p.method == "admm-tv":
        x = method.admm_tv(A, y, problem.shape, lam=p.lam, rho=p.rho)
    else:
        config = official.CT if tomography else official.MRI
        path = cache.root() / "official" / "diffusion-mbir" / p.checkpoint
        score = CountedScore(official.load_score(path, config, job.device))
        lam, rho = (p.lam, p.rho) if p.method == "fast" else (0.0, 0.0)
        x = method.diffusion_mbir(
            score, A, y, problem.shape, geometric_sigmas(p.levels, 0.01, 378.0),
            method.gaussian_noise(job.rng("noise"), truth), lam=lam, rho=rho,
            chunk=problem.chunk, final_step=tomography,
        )  # fmt: skip
    _report(job, problem, x, time.perf_counter() - started, score)
