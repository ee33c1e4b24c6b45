"""The arms of the experiment: glue between its card and `method`, `exact`, `networks`.

All arms of a seed share one protocol: what :class:`repro.quant.study.Study` holds, and the noises
that calibration chains start from. Arms then differ in one choice. What full precision makes of
these noises is made once, by the model `reference` of the card.

Sampling takes evenly spaced steps, both ends included, as the paper's does (`--timestep_respacing
250`, `space_timesteps` of the released code); `grid: quadratic` takes those of DDIM's appendix D.2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.ptq4dm import exact as identities
from methods.ptq4dm import method as ptq
from methods.ptq4dm.networks import CONFIGS, count, unet
from repro.diffusion.multistep import dpm_solver_pp_2m
from repro.diffusion.samplers import ddim, ddpm
from repro.diffusion.schedules import timesteps_inclusive, timesteps_quad
from repro.errors import ReproError
from repro.metrics.cost import bops, interleaved, measure_interval
from repro.numbers import to_bytes
from repro.quant.calibration import CalibrationSet, Trajectory, uniform_grid
from repro.quant.layers import quantise, use
from repro.quant.scores import SCORES
from repro.quant.study import PICTURES, Study, T, widths

if TYPE_CHECKING:
    from repro.job import Job


GRIDS: dict[str, Callable[[int, int], Tensor]] = {
    "even": timesteps_inclusive,
    "quadratic": timesteps_quad,
}
"""Time steps by name, (T, S) -> τ (S,) ascending; the first is the paper's."""


class Protocol(Study):
    """The study with PTQ4DM's time steps, calibration sets and quantised networks."""

    def __init__(self, job: Job):
        super().__init__(job)
        self.timesteps = self.grid(self.p.steps)
        self._kept: dict[tuple, nn.Module] = {}

    def grid(self, steps: int) -> Tensor:
        """τ of a sampler with so many steps, on the grid of the card."""
        if self.p.grid not in GRIDS:
            raise ReproError(f"no grid `{self.p.grid}`; choose {' or '.join(GRIDS)}")
        return GRIDS[self.p.grid](T, steps)

    # What full precision makes of the noises of the seed

    @cached_property
    def kept(self) -> dict[str, Tensor]:
        """The model that the card names as `full_precision`, see `reference`."""
        state = self.job.model(self.p.full_precision)
        return {name: values.to(self.job.device) for name, values in state.items()}

    @cached_property
    def reference(self) -> Trajectory:
        """The full-precision trajectory of the first batch of evaluation noises."""
        final = self.final[: self.kept["x"].shape[1]]
        return Trajectory(self.kept["x"], self.kept["eps"], self.timesteps.flip(0), final)

    @cached_property
    def final(self) -> Tensor:
        """The full-precision samples of all evaluation noises."""
        return self.kept["final"][: self.p.samples]

    # Calibration sets

    def time_steps(self, times: str | float) -> ptq.TimeSteps:
        """Time steps by the name of their distribution, or of one step as a fraction of T.

        The draws depend on the seed alone, so that all distributions share their randomness.
        """
        n, steps, generator = self.p.calibration, self.p.steps, self.job.rng("time steps")
        draw: dict[str, Callable[..., ptq.TimeSteps]] = {
            "uniform": ptq.uniform,
            "ndtc-paper": ptq.ndtc_paper,
            "ndtc-wide": ptq.ndtc_wide,
            "ndtc-released": ptq.ndtc_released,
            "ndtc-mispaired": partial(ptq.ndtc_released, raw=False),
            "ndtc-raw-labels": partial(ptq.ndtc_released, mispaired=False),
        }
        if not isinstance(times, str):
            return ptq.single_step(n, steps, times)
        if times not in draw:
            raise ReproError(f"no time distribution `{times}`; choose {', '.join(draw)}")
        return draw[times](n, steps, generator)

    def denoising_states(self, *times: str | float) -> list[CalibrationSet]:
        """Sets of states of the same denoising chains, one for each choice of time steps."""
        return [self.states(self.time_steps(name)) for name in times]

    def states(self, when: ptq.TimeSteps) -> CalibrationSet:
        """The states of the seed's denoising chains at some time steps."""
        return ptq.at_time_steps(self.kept["chains"], when, self.timesteps)

    def other_inputs(self, source: str) -> CalibrationSet:
        """A calibration set of pure noise, images, noised images, or of every step alike."""
        n, when = self.p.calibration, self.time_steps("uniform")
        noise = self.noise(n, "calibration")
        if source == "noise":
            return ptq.noise_samples(noise, when, self.timesteps)
        if source == "grid":
            chains, steps = self.kept["chains"], min(self.p.steps, n)
            run = Trajectory(chains[:-1], chains[:0], self.timesteps.flip(0), chains[-1])
            return shuffled(uniform_grid(run, steps, n // steps), self.job.rng("shuffle"))
        x_0 = self.critic.pictures(n, "train", "calibration images")
        if source == "images":
            return ptq.image_samples(x_0, when, self.timesteps)
        if source == "noised-images":
            return ptq.training_mimic(x_0, noise, when, self.timesteps, self.alphas_cumprod)
        raise ReproError(f"no source `{source}`; choose noise, images, noised-images or grid")

    # Quantised networks

    def quantised(
        self,
        chosen: CalibrationSet,
        bits: Iterable[str],
        score: str = "l2.4",
        attention: bool = False,
    ) -> Iterator[tuple[str, nn.Module]]:
        """Quantised networks for each pair of widths, calibrated on one set.

        attention: also quantise its layers and products, which the released code leaves in float.
        Each width of the activations has its own calibration, which runs at that width.
        """
        for name in bits:
            network = copy.deepcopy(self._prepared(*widths(name), score, attention))
            yield name, ptq.calibrate(network, chosen.batches(self.p.calibration_batch))

    def _prepared(self, weight: int, activation: int, score: str, attention: bool) -> nn.Module:
        """The network with quantised weights, which do not depend on the calibration set."""
        key = (weight, activation, score, attention)
        if key not in self._kept:
            recipe = ptq.recipe(
                weight,
                (activation,),
                SCORES[score],
                skip=lambda name, module: not attention and ".attn" in name,
                attention_bits=(8, 8) if attention else None,
            )
            self._kept[key] = quantise(self.network, recipe)
        return self._kept[key]


def shuffled(chosen: CalibrationSet, generator: torch.Generator) -> CalibrationSet:
    """The same samples in random order, so that every batch holds all steps."""
    order = torch.randperm(len(chosen), generator=generator).to(chosen.x.device)
    return CalibrationSet(chosen.x[order], chosen.t[order])


# The model that all arms share --------------------------------------------------------------------


@torch.no_grad()
def reference(job: Job) -> dict[str, Tensor]:
    """What the full-precision network makes of the noises of a seed.

    x, eps: what the sampler fed to the network and got, (S, batch, C, H, W), of the first batch of
        evaluation noises; final: the samples of all of them, (samples, C, H, W).
    chains: inputs of all denoising steps and finished samples of the calibration noises,
        (S + 1, calibration, C, H, W).
    many: samples of further noises, (many, C, H, W), for Fréchet distances.
    """
    protocol, p = Protocol(job), job.params
    parts = protocol.x_T.split(p.batch)
    run = protocol.trajectory(protocol.network, parts[0])
    rest = [protocol.sample(protocol.network, part) for part in parts[1:]]
    chains = [
        ptq.denoising_chains(
            protocol.network, part, protocol.timesteps, protocol.alphas_cumprod, p.clip
        )
        for part in protocol.noise(p.calibration, "calibration").split(p.batch)
    ]
    return {
        "x": run.x.cpu(),
        "eps": run.eps.cpu(),
        "final": torch.cat([run.final, *rest]).cpu(),
        "chains": torch.cat(chains, 1).cpu(),
        "many": protocol.sample(protocol.network, protocol.noise(p.many, "many")).cpu(),
    }


# Arms --------------------------------------------------------------------------------------------


def denoising(job: Job) -> None:
    """Calibrate on denoising states, for every distribution of time steps in `times`."""
    protocol, p = Protocol(job), job.params
    for times, chosen in zip(p.times, protocol.denoising_states(*p.times), strict=True):
        job.save(f"labels-{times}", protocol.time_steps(times).label)
        for bits, network in protocol.quantised(chosen, p.bits):
            protocol.evaluate(network, f"{times}-{bits}", times=times, bits=bits)


def other_inputs(job: Job) -> None:
    """Calibrate on other inputs than denoising states at uniform time steps."""
    protocol = Protocol(job)
    for source in job.progress(job.params.sources, "calibration inputs"):
        chosen = protocol.other_inputs(source)
        for bits, network in protocol.quantised(chosen, job.params.bits):
            protocol.evaluate(network, f"{source}-{bits}", source=source, bits=bits)


def single_step(job: Job) -> None:
    """Calibrate on states of one step t = fraction · T, for every fraction."""
    protocol, fractions = Protocol(job), [float(f) for f in job.params.fractions]
    for t, chosen in zip(fractions, protocol.denoising_states(*fractions), strict=True):
        for bits, network in protocol.quantised(chosen, job.params.bits):
            protocol.evaluate(network, f"{t:g}-{bits}", t=t, bits=bits)


def ablation(job: Job) -> None:
    """Change one thing of uniform calibration: the score of the range search, or the attention."""
    protocol = Protocol(job)
    [chosen] = protocol.denoising_states("uniform")
    for change in job.progress(job.params.changes, "ablations"):
        options = {"attention": True} if change == "attention" else {"score": change}
        for bits, network in protocol.quantised(chosen, job.params.bits, **options):
            protocol.evaluate(network, f"{change}-{bits}", change=change, bits=bits)


@torch.no_grad()
def full_precision(job: Job) -> None:
    """The network as it is: its samples, and how its layer outputs change with the time step."""
    protocol = Protocol(job)
    run = protocol.reference
    job.measure("sample_variance", protocol.final.var())
    job.save("pictures", to_bytes(protocol.final[:PICTURES]))
    job.save("timesteps", run.t)

    layers = {n: m for n, m in protocol.network.named_modules() if isinstance(m, nn.Conv2d)}
    layers.pop("conv_out", None)
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda m, i, out, name=name: seen.__setitem__(name, out))
        for name, layer in layers.items()
    ]
    levels = torch.tensor([0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0], device=job.device)
    some = min(job.params.eps_samples, len(run.final))
    quantiles = []
    for x, t in zip(run.x, run.t, strict=True):
        protocol.network(x[:some], t.expand(some))
        flat = [torch.sort(seen[name].flatten()).values for name in layers]
        quantiles.append(torch.stack([v[(levels * (len(v) - 1)).round().long()] for v in flat]))
    for hook in hooks:
        hook.remove()
    table = torch.stack(quantiles, 1)  # (layers, steps, levels)
    job.save("activation_quantiles", table)
    job.save("layers", list(layers))
    reach = table.abs().amax(-1)
    spread = table[..., 5] - table[..., 1]
    for name, size in (("reach", reach), ("spread", spread)):
        ratio = size.amax(1) / size.amin(1)
        job.measure("activation_change", ratio.median(), statistic=name, over="median-layer")
        job.measure("activation_change", ratio.amax(), statistic=name, over="worst-layer")


def quality(job: Job) -> None:
    """Fréchet distance to real images of many samples: full precision, and 8 bits (NDTC, uniform).

    The distance of n samples is biased upwards by a term that falls like 1/n; compare equal n.
    """
    protocol = Protocol(job)
    protocol.measure_frechet(protocol.kept["many"], network="full-precision")
    x_T = protocol.noise(len(protocol.kept["many"]), "many")
    times = ("ndtc-paper", "uniform")
    for name, chosen in zip(times, protocol.denoising_states(*times), strict=True):
        [(_, network)] = protocol.quantised(chosen, ["W8A8"])
        protocol.measure_frechet(protocol.sample(network, x_T), network=name)


def tensors(job: Job) -> None:
    """Quantise only the network output, the mean μ or the sample x_{t-1}, to 8 bits (Table 1).

    Sampling is ancestral (η = 1), so that μ and x_{t-1} differ; all runs draw the same noise.
    """
    protocol, p = Protocol(job), job.params

    def run(through: ptq.TensorQuantiser, x_T: Tensor, stream: str) -> Tensor:
        generator = job.rng(stream)
        parts = [
            ptq.sample_with(
                protocol.network,
                part,
                protocol.timesteps,
                protocol.alphas_cumprod,
                through,
                generator=generator,
                clip=p.clip,
            )
            for part in x_T.split(p.batch)
        ]
        return torch.cat(parts)

    with torch.no_grad():
        through = ptq.TensorQuantiser(8)
        run(through, protocol.noise(p.calibration, "calibration"), "calibration sampler")
        plain = run(through.only(), protocol.x_T, "sampler")
        protocol.measure_frechet(plain, tensor="none")
        for label, names in (
            ("eps", ("eps",)),
            ("mean", ("mean",)),
            ("sample", ("sample",)),
            ("all", ptq.TENSORS),
        ):
            final = run(through.only(*names), protocol.x_T, "sampler")
            job.measure("trajectory_mse", (final - plain).square().mean(), tensor=label)
            protocol.measure_frechet(final, tensor=label)


@torch.no_grad()
def tensors_ddim(job: Job) -> None:
    """As `tensors`, by DDIM (η = 0) as in Table 1: all of them at 8 bits, and at 4 for contrast.

    Without noise μ is x_{t-1}.
    """
    protocol, p = Protocol(job), job.params

    def run(through: Callable[[str, Tensor], Tensor], x_T: Tensor) -> Tensor:
        generator = job.rng("sampler")  # its draws are multiplied by σ = 0
        parts = [
            ptq.sample_with(
                protocol.network,
                part,
                protocol.timesteps,
                protocol.alphas_cumprod,
                through,
                eta=0.0,
                generator=generator,
                clip=p.clip,
            )
            for part in x_T.split(p.batch)
        ]
        return torch.cat(parts)

    plain = run(lambda name, x: x, protocol.x_T)
    protocol.measure_frechet(plain, tensor="none")
    for label, bits in (("all", 8), ("all-4-bit", 4)):
        through = ptq.TensorQuantiser(bits)
        run(through, protocol.noise(p.calibration, "calibration"))
        final = run(through.only(*ptq.TENSORS), protocol.x_T)
        job.measure("trajectory_mse", (final - plain).square().mean(), tensor=label)
        protocol.measure_frechet(final, tensor=label)


def fast_samplers(job: Job) -> None:
    """One quantised network, calibrated once on DDIM states, used unchanged by other samplers."""
    protocol, p = Protocol(job), job.params
    [chosen] = protocol.denoising_states("uniform")
    [(_, network)] = protocol.quantised(chosen, ["W8A8"])
    abar, full = protocol.alphas_cumprod, protocol.timesteps
    half = protocol.grid(max(2, p.steps // 2))
    samplers = {
        "ddim": partial(ddim, timesteps=full, alphas_cumprod=abar, clip=p.clip),
        "ddim-half": partial(ddim, timesteps=half, alphas_cumprod=abar, clip=p.clip),
        "dpm-solver++-half": partial(
            dpm_solver_pp_2m, timesteps=half, alphas_cumprod=abar, clip=p.clip
        ),
        "ancestral": partial(ddpm, timesteps=full, alphas_cumprod=abar, clip=p.clip),
    }
    x_T = protocol.x_T[: p.batch]
    for name, sampler in samplers.items():
        finals = []
        for model in (protocol.network, network):
            more = {"generator": job.rng("sampler")} if name == "ancestral" else {}
            finals.append(sampler(model, x_T, **more))
        mse = (finals[1] - finals[0]).square().mean()
        job.measure("trajectory_mse", mse, sampler=name)
        job.measure("relative_error", mse / finals[0].var(), sampler=name)


# Arms for which a check must not hold, and that say whether it may decide ------------------------


def floor(job: Job) -> None:
    """The Fréchet distance of as many training images as `quality` has samples: real to real."""
    protocol = Protocol(job)
    protocol.measure_frechet(protocol.critic.pictures(job.params.many, "train", "floor"))


def poor_quality(job: Job) -> None:
    """As `quality`, with 8 bits calibrated on images, which fails in Table 2."""
    protocol = Protocol(job)
    protocol.measure_frechet(protocol.kept["many"], network="full-precision")
    x_T = protocol.noise(len(protocol.kept["many"]), "many")
    [(_, network)] = protocol.quantised(protocol.other_inputs("images"), ["W8A8"])
    protocol.measure_frechet(protocol.sample(network, x_T), network="images")


@torch.no_grad()
def poor_samplers(job: Job) -> None:
    """As `fast_samplers`, calibrated on images; DDIM on the whole grid and on half of it."""
    protocol, p = Protocol(job), job.params
    [(_, network)] = protocol.quantised(protocol.other_inputs("images"), ["W8A8"])
    x_T, half = protocol.x_T[: p.batch], protocol.grid(max(2, p.steps // 2))
    for name, grid in (("ddim", protocol.timesteps), ("ddim-half", half)):
        plain, final = (
            ddim(model, x_T, grid, protocol.alphas_cumprod, clip=p.clip)
            for model in (protocol.network, network)
        )
        error = (final - plain).square().mean() / plain.var()
        job.measure("relative_error", error, sampler=name)


def released_steps(job: Job) -> None:
    """As `single_step`, but label k goes with the states that the released code gives to it.

    Its counter starts at the noisy end and its labels are raw (`method.ndtc_released`).
    """
    protocol, p = Protocol(job), job.params
    for t in (float(f) for f in p.fractions):
        k = protocol.time_steps(t).label
        chosen = protocol.states(ptq.TimeSteps(p.steps - 2 - k, k, raw=True))
        for bits, network in protocol.quantised(chosen, p.bits):
            protocol.evaluate(network, f"{t:g}-{bits}", t=t, bits=bits)


@torch.no_grad()
def one_time_step(job: Job) -> None:
    """Layer outputs as in `full_precision`, over batches of one time step, the middle one.

    Widest over narrowest of as many batches as there are steps: what nothing but the draw changes.
    """
    protocol, p = Protocol(job), job.params
    run = protocol.trajectory(protocol.network, protocol.x_T)
    x, t = run.x[p.steps // 2], run.t[p.steps // 2]
    layers = {n: m for n, m in protocol.network.named_modules() if isinstance(m, nn.Conv2d)}
    layers.pop("conv_out", None)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, out: Tensor) -> None:
        values = torch.sort(out.flatten()).values
        low, high = (values[round(q * (len(values) - 1))] for q in (0.01, 0.99))
        seen[name] = values[[0, -1]].abs().amax(), high - low

    hooks = [
        layer.register_forward_hook(lambda m, i, out, name=name: look(name, out))
        for name, layer in layers.items()
    ]
    sizes = []
    for part in x.split(p.eps_samples):
        protocol.network(part, t.expand(len(part)))
        sizes.append(torch.stack([torch.stack(seen[name]) for name in layers]))
    for hook in hooks:
        hook.remove()
    ratio = torch.stack(sizes).amax(0) / torch.stack(sizes).amin(0)  # (layers, 2)
    for name, column in zip(("reach", "spread"), ratio.T, strict=True):
        job.measure("activation_change", column.median(), statistic=name, over="median-layer")
        job.measure("activation_change", column.amax(), statistic=name, over="worst-layer")


# Facts -------------------------------------------------------------------------------------------


def exact(job: Job) -> None:
    """Values printed by the released quantiser, closed forms, and the pairing of states."""
    for item, error in identities.quantiser_errors().items():
        job.measure("error", error, item=item)
    for item, sigmas in identities.distribution_errors(job.rng("draws")).items():
        job.measure("standard_errors", sigmas, item=item)
    protocol = Protocol(job)
    x_T = protocol.noise(job.params.calibration, "calibration")
    for name in ("uniform", "ndtc-paper", "ndtc-wide", "ndtc-released"):
        mispaired = identities.pairing(
            protocol.network,
            x_T,
            protocol.time_steps(name),
            protocol.timesteps,
            protocol.alphas_cumprod,
            job.params.clip,
        )
        job.measure("mispaired", mispaired, times=name)


def structure(job: Job) -> None:
    """Parameters, layers, operations and sizes of the two networks that the paper quantises."""
    for model, config in CONFIGS.items():
        with torch.device("meta"):
            network = unet(model)
        found = count(network, config["image_size"])
        job.measure("params", found["params"], model=model)
        job.measure("tensors", found["tensors"], model=model)
        for group in ("time_embed", "input_blocks", "middle_block", "output_blocks", "out"):
            job.measure("params", found[f"params_{group}"], model=model, group=group)
        for kind in ("conv2d", "linear", "conv1d"):
            job.measure("layers", found[kind], model=model, kind=kind)
        matched = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        job.measure("layers", len(matched), model=model, kind="quantised")
        for kind in ("conv2d", "linear", "conv1d", "attention"):
            job.measure("gmac", found[f"mac_{kind}"] / 1e9, model=model, kind=kind)
        job.measure("gmac", found["mac"] / 1e9, model=model, kind="all")
        weights = sum(m.weight.numel() for m in matched)
        sizes = {
            "float": 4 * found["params"],
            "all-8bit": found["params"],
            "released-8bit": weights + 4 * (found["params"] - weights),
        }
        for kind, size in sizes.items():
            job.measure("size", size / 1e6, model=model, kind=kind)
        share = found["attention_weights"] / (weights + found["attention_weights"])
        job.measure("float_share", share, model=model)
        for bits in (32, 8):
            job.measure("gbops", bops(found["mac"], bits, bits) / 1e9, model=model, bits=bits)


def latency(job: Job) -> None:
    """Time of a quantised forward pass over a plain one, interleaved on the whole machine."""
    protocol, p = Protocol(job), job.params
    chosen = protocol.other_inputs("noise")  # whose ranges take as long as any
    x = protocol.noise(p.batch, "evaluation")
    t = torch.full((p.batch,), T // 2, device=job.device)
    network = protocol.network
    runs: dict[str, Callable[[], Tensor]] = {"plain": lambda: network(x, t)}
    [(_, both)] = protocol.quantised(chosen, ["W8A8"])
    weights = use(copy.deepcopy(both), activations=False)
    runs["w8a8"] = lambda: both(x, t)
    runs["w8"] = lambda: weights(x, t)
    with torch.inference_mode():
        rounds = interleaved(runs, repeats=p.repeats, warmup=3)
    job.measure("seconds", rounds["plain"].median, network="plain")
    for name in ("w8a8", "w8"):
        job.measure("seconds", rounds[name].median, network=name)
        measure_interval(job, "latency_ratio", rounds.ratio(name, "plain"), network=name)
