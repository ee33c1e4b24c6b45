r"""Post-training quantisation of a diffusion model, PTQ4DM (Shang et al., CVPR 2023, 2211.15736).

Three choices make the method, one section each:

1. Range (section 3.4, Table 4). A tensor is quantised on a grid of N = 2^n points. Candidates are
   θ_i = (i/100) max|x|, i = 1..100; the range is [-θ_i, θ_i], or [0, θ_i], [-θ_i, 0] if all values
   share a sign:

       δ_i = (hi - lo)/(N - 1),   z_i = clamp(-round(lo/δ_i), 0, N - 1),
       i* = argmin_i  mean |x - x̂_i|^2.4

   per output channel for weights, per tensor for layer outputs. Ranges of layer outputs are
   averaged over calibration batches, r <- 0.1 r_batch + 0.9 r.

2. Calibration set (section 3.3). Inputs are states x_t that the full-precision network meets while
   it denoises, each from its own chain, at time steps drawn from a skewed normal distribution:
   "Normally Distributed Time-step Calibration" (NDTC, Algorithm 1).

3. Operations (section 3.2, Table 1). Convolutions and linear layers; the network output μ, Σ and
   the sample x_{t-1} can be quantised as well.

The released code finds ranges while it quantises: the output of a layer is rounded to the running
range before the next layer sees it (`calibrate`). The paper does not say.

Time is counted in denoising steps: a sampler of S steps has labels τ_0 < ... < τ_{S-1} (its grid),
and step k is the one that feeds (x, τ_k) to the network. Sampling runs k = S-1, ..., 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from repro.diffusion.samplers import ddim, ddim_scales, noise_like, walk
from repro.diffusion.schedules import q_sample
from repro.errors import ReproError
from repro.quant.affine import Grid, grid_from_range
from repro.quant.calibration import CalibrationSet
from repro.quant.layers import ActivationGrid, Observer, Recipe, activation_quantisers, use
from repro.quant.ranges import best_candidate, per_channel, rows
from repro.quant.scores import L24, Score

CANDIDATES = 100
SMOOTHING = 0.1
RELEASED_STEPS = 250

# 1. Range ----------------------------------------------------------------------------------------


def search_range(
    x: Tensor, bits: int, *, score: Score = L24, channel_wise: bool = False, side: str | None = None
) -> tuple[Tensor, Tensor]:
    """Ends (lo, hi) of the best of 100 ranges of `x`; scalars, or (C, 1, ..., 1) per channel.

    side: "positive" or "negative" for one-sided tensors, "both" otherwise; None looks at `x`.
    """
    flat = rows(x, channel_wise)
    theta_max = flat.abs().amax(-1)
    i = torch.arange(1, CANDIDATES + 1, device=x.device, dtype=x.dtype)
    theta = theta_max / CANDIDATES * i[:, None]  # (100, C)
    side = side or one_sided(flat)
    lo = torch.zeros_like(theta) if side == "positive" else -theta
    hi = torch.zeros_like(theta) if side == "negative" else theta
    best = best_candidate(flat, grid_from_range(lo, hi, bits), score)[None]
    low, high = (per_channel(end.gather(0, best)[0], x, channel_wise) for end in (lo, hi))
    return low, high


def one_sided(x: Tensor) -> str:
    """ "positive" if min ≥ 0, "negative" if max ≤ 0, else "both"; of the whole tensor."""
    return "positive" if x.amin() >= 0 else "negative" if x.amax() <= 0 else "both"


def weight_grid(weight: Tensor, bits: int, score: Score = L24) -> Grid:
    """Grid of a weight (C_out, ...), one range per output channel."""
    return grid_from_range(*search_range(weight, bits, score=score, channel_wise=True), bits)


class SmoothedRange:
    """Range of a layer output, averaged over calibration batches: r <- 0.1 r_batch + 0.9 r.

    The first batch initialises r, so batch b of B weighs 0.9^(B-1) for b = 1, 0.1·0.9^(B-b) after.
    Whether the tensor is one-sided is decided on the first batch. One pass serves several widths.
    """

    def __init__(self, widths: tuple[int, ...], score: Score = L24):
        self.widths, self.score = widths, score
        self.side: str | None = None
        self.range: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, x: Tensor) -> None:
        self.side = self.side or one_sided(x)
        for bits in self.widths:
            batch = search_range(x, bits, score=self.score, side=self.side)
            old = self.range.get(bits, batch)
            low, high = (
                SMOOTHING * new + (1 - SMOOTHING) * r for new, r in zip(batch, old, strict=True)
            )
            self.range[bits] = low, high

    def grid(self, bits: int) -> Grid:
        return grid_from_range(*self.range[bits], bits)


class RunningGrid:
    """A grid that first updates an observer with the tensor, then quantises it by what it has."""

    def __init__(self, observer: Observer, bits: int):
        self.observer, self.bits = observer, bits

    @property
    def delta(self) -> Tensor:
        return self.grid.delta

    @property
    def grid(self) -> ActivationGrid:
        return self.observer.grid(self.bits)

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply_(x.clone())

    def apply_(self, x: Tensor) -> Tensor:
        self.observer.update(x)
        return self.grid.apply_(x)


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> nn.Module:
    """Find the ranges of all layer outputs of a network quantised by a recipe of one width.

    Weights are quantised, and outputs too while ranges are still found: each quantiser averages the
    range of the batch in and rounds the batch to the average, so that later layers see what they
    will see in use. Released code (`set_act_quantize_params`, order "together").

    batches: arguments of the network, (x (B, ...), t (B,)). Returns `network`, quantising.

    Raises ReproError where there is no batch.
    """
    quantisers = activation_quantisers(network).values()
    for quantiser in quantisers:
        quantiser.grids = {quantiser.bits: RunningGrid(quantiser.observer, quantiser.bits)}
        quantiser.mode = "quantise"
    seen = 0
    for arguments in batches:
        network(*arguments)
        seen += 1
    if not seen:
        raise ReproError("the calibration set is empty; give calibrate() at least one batch")
    for quantiser in quantisers:
        quantiser.freeze()
    return use(network)


def recipe(
    weight_bits: int | None,
    activation_bits: tuple[int, ...],
    score: Score = L24,
    skip: Callable[[str, nn.Module], bool] = lambda name, module: False,
    attention_bits: tuple[int, int] | None = None,
) -> Recipe:
    """What PTQ4DM quantises: weights per channel, layer outputs per tensor, not the last output.

    The first and last layer stay at 8 bits. `skip` leaves attention layers in floating point where
    the released code does (it matches Conv2d and Linear; the attention layers there are Conv1d).
    A score that is defined on histograms (KL) serves outputs only: an output channel has too few
    weights for a histogram, and its weights keep the |.|^2.4 score.
    Learned rounding and QDrop exist in the released code but none of its commands uses them.
    """
    return Recipe(
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weight_grid=partial(weight_grid, score=L24 if score.bins else score),
        observer=partial(SmoothedRange, score=score),
        side="output",
        layers=(nn.Conv2d, nn.Linear),
        skip=skip,
        edge_bits=8,
        last_output=False,
        attention_bits=attention_bits,
    )


# 2. Calibration set ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimeSteps:
    """For each sample: `state`, the step k whose input is taken (-1: the finished sample), and
    `label`, the number of the step whose label it is given; both int64 (N,). `raw`: the label is
    the number itself, counted on a grid of 250 steps, instead of τ of it.
    """

    state: Tensor
    label: Tensor
    raw: bool = False


def single_step(n: int, steps: int, fraction: float) -> TimeSteps:
    """All samples at t = fraction · T: 0 is next to x_0, 1 is pure noise. Observation 2, Fig. 4."""
    k = torch.full((n,), round(fraction * (steps - 1)))
    return TimeSteps(k, k)


def uniform(n: int, steps: int, generator: torch.Generator) -> TimeSteps:
    """t ~ U{0, ..., T - 1}. Observation 3."""
    k = torch.randint(steps, (n,), generator=generator)
    return TimeSteps(k, k)


def ndtc_paper(n: int, steps: int, generator: torch.Generator, mean: float = 0.4) -> TimeSteps:
    """Algorithm 1: t ~ Normal(μ, T/2), i.e. standard deviation √(T/2), floored and clamped.

    mean: μ/T; the paper asks for μ ≤ T/2 and gives no value, 0.4 is that of the released code.
    """
    return _normal(n, steps, generator, mean * steps, math.sqrt(steps / 2))


def ndtc_wide(
    n: int, steps: int, generator: torch.Generator, mean: float = 0.4, std: float = 0.4
) -> TimeSteps:
    """t = v T with v ~ Normal(0.4, 0.4), the distribution of the released code, rightly paired."""
    return _normal(n, steps, generator, mean * steps, std * steps)


def ndtc_released(
    n: int,
    steps: int,
    generator: torch.Generator,
    mean: float = 0.4,
    std: float = 0.4,
    *,
    mispaired: bool = True,
    raw: bool = True,
) -> TimeSteps:
    """What the released code does: the draws of `ndtc_wide`, wrongly paired, with raw labels.

    mispaired: its loop counter starts at the *noisy* end, so label k goes with the state after
    k + 1 denoising steps, the input of step T - 2 - k. raw: calibration calls the bare network with
    k itself, 0..249, not with the label τ_k that sampling would use, 0..1000. On grids of other
    than 250 steps k is scaled to the span 0..249. Each slip can be mended on its own.
    """
    k = ndtc_wide(n, steps, generator, mean, std).label
    return TimeSteps(steps - 2 - k if mispaired else k, k, raw)


def _normal(n: int, steps: int, generator: torch.Generator, mean: float, std: float) -> TimeSteps:
    t = mean + std * torch.randn(n, generator=generator, dtype=torch.float64)
    k = t.trunc().clamp(0, steps - 1).long()
    return TimeSteps(k, k)


def denoising_states(
    eps_model: Callable[[Tensor, Tensor], Tensor],
    x_T: Tensor,
    choices: Sequence[TimeSteps],
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    clip: float | None = None,
) -> list[CalibrationSet]:
    """Algorithm 1: denoise every x_T (N, ...) by DDIM, keep chain i's state at its own step.

    One pass serves several choices of time steps: one set each. timesteps: τ (S,), ascending;
    alphas_cumprod: ᾱ (T,); clip: bound of |x̂_0| while sampling.
    """
    chains = denoising_chains(eps_model, x_T, timesteps, alphas_cumprod, clip)
    return [at_time_steps(chains, when, timesteps) for when in choices]


def denoising_chains(
    eps_model: Callable[[Tensor, Tensor], Tensor],
    x_T: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    clip: float | None = None,
) -> Tensor:
    """The input of every denoising step, from x_T (N, ...) on, and the finished x_0.

    (S + 1, N, ...) in the order of sampling, S the number of `timesteps`.
    """
    states: list[Tensor] = []

    def keep(step: int, t: Tensor, x: Tensor, eps: Tensor) -> None:
        states.append(x.clone())

    x_0 = ddim(eps_model, x_T, timesteps, alphas_cumprod, clip=clip, callback=keep)
    return torch.stack([*states, x_0])


def at_time_steps(chains: Tensor, when: TimeSteps, timesteps: Tensor) -> CalibrationSet:
    """Of each of N chains (S + 1, N, ...), see `denoising_chains`, the state that `when` asks for.

    A state with `when.state` k is the input of step k, the one after S - 1 - k steps; -1 is x_0.
    """
    steps = len(timesteps)
    done = steps - 1 - when.state.to(chains.device)
    x = chains[done, torch.arange(chains.shape[1], device=chains.device)]
    raw = when.label * RELEASED_STEPS // steps
    t = raw if when.raw else timesteps[when.label]
    return CalibrationSet(x, t.to(chains.device))


def noise_samples(x_T: Tensor, when: TimeSteps, timesteps: Tensor) -> CalibrationSet:
    """Pure noise whatever the label says (PTQ's "Gaussian input"; Table 2)."""
    return CalibrationSet(x_T, timesteps.to(x_T.device)[when.label.to(x_T.device)])


def image_samples(x_0: Tensor, when: TimeSteps, timesteps: Tensor) -> CalibrationSet:
    """Real images whatever the label says, as PTQ of classifiers does (Table 2)."""
    return CalibrationSet(x_0, timesteps.to(x_0.device)[when.label.to(x_0.device)])


def training_mimic(
    x_0: Tensor, noise: Tensor, when: TimeSteps, timesteps: Tensor, alphas_cumprod: Tensor
) -> CalibrationSet:
    """Noised images √ᾱ_t x_0 + √(1 - ᾱ_t) ε, what the network saw in training (Table 2)."""
    t = timesteps[when.label].to(x_0.device)
    return CalibrationSet(q_sample(x_0, t, alphas_cumprod.to(x_0), noise), t)


# 3. Operations -----------------------------------------------------------------------------------

TENSORS = ("mean", "eps", "sample")


def sample_with(
    eps_model: Callable[[Tensor, Tensor], Tensor],
    x_T: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    through: Callable[[str, Tensor], Tensor],
    *,
    eta: float = 1.0,
    generator: torch.Generator,
    clip: float | None = None,
) -> Tensor:
    """DDIM in which `through(name, tensor)` replaces the tensors that Table 1 quantises.

        ε = through("eps", ε_θ(x_t, t));   μ = through("mean", √ᾱ_s x̂_0 + √(1 - ᾱ_s - σ²) ε)
        x_s = through("sample", μ + σ z)

    With η = 1 this is ancestral sampling, where μ and x_{t-1} differ. Σ = σ² is fixed here, one
    number a step, which a range [0, σ²] holds without error; only a network that learns Σ has it as
    a tensor to quantise. `clip` bounds |x̂_0|. Returns x_0 (B, ...).
    """
    x = x_T.clone()
    for _, t, abar_t, abar_s in walk(x, timesteps, alphas_cumprod):
        eps = through("eps", eps_model(x, t))
        x0_hat = (x - math.sqrt(1 - abar_t) * eps) / math.sqrt(abar_t)
        if clip is not None:
            x0_hat = x0_hat.clamp(-clip, clip)
            eps = (x - math.sqrt(abar_t) * x0_hat) / math.sqrt(1 - abar_t)
        sigma, direction = ddim_scales(abar_t, abar_s, eta)
        mean = through("mean", math.sqrt(abar_s) * x0_hat + direction * eps)
        x = through("sample", mean + sigma * noise_like(x, generator))
    return x


class TensorQuantiser:
    """`through` for `sample_with`: observes the named tensors, then quantises some of them.

    Each name has one range for all time steps, averaged over the steps seen while observing.
    """

    def __init__(self, bits: int = 8, score: Score = L24):
        self.bits, self.ranges = bits, {name: SmoothedRange((bits,), score) for name in TENSORS}
        self.quantised: tuple[str, ...] | None = None

    def __call__(self, name: str, x: Tensor) -> Tensor:
        if self.quantised is None:
            self.ranges[name].update(x)
            return x
        return self.ranges[name].grid(self.bits)(x) if name in self.quantised else x

    def only(self, *names: str) -> TensorQuantiser:
        """Quantise just these tensors from now on."""
        if unknown := set(names) - set(TENSORS):
            raise ReproError(f"no tensor `{sorted(unknown)[0]}` in sampling; choose from {TENSORS}")
        self.quantised = names
        return self
