"""The arms of the experiment: glue between its card and `method`, `baselines`, `exact`.

All arms of a seed share one protocol: what :class:`repro.quant.study.Study` holds, the calibration
set, the learned roundings, and what the full-precision network says to both. Arms then differ in
widths and in what has activation grids of its own; within an arm every configuration is measured
with the same calibration set, teacher and number of iterations, and every one that is trained is
trained at the same multiples of its released rates, of which held-out states choose.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.quest import baselines as rivals
from methods.quest import exact as identities
from methods.quest import method as qu
from repro.metrics.cost import interleaved, model_size_bytes, peak_memory
from repro.nets.ldm import CONFIGS, LatentUNet, select
from repro.numbers import to_bytes
from repro.quant import rounded
from repro.quant.calibration import CalibrationSet, Trajectory, uniform_grid
from repro.quant.layers import quantised_layers
from repro.quant.study import PICTURES, Study, widths

if TYPE_CHECKING:
    from repro.job import Job

TUNED = {
    "tla-cma": qu.RELEASED,
    "global-only": qu.GLOBAL_ONLY,
    "local-only": qu.LOCAL_ONLY,
    "full": qu.FULL,
    "text-losses": qu.Configuration(qu.Losses(1, 2), qu.Losses(1, 2)),
    "text": qu.PAPER,
}
GRIDS = {
    "tensor-single": qu.Granularity(channels=False, tables=False),
    "tensor-time": qu.Granularity(channels=False, tables=True),
    "channel-single": qu.Granularity(channels=True, tables=False),
    "channel-time": qu.Granularity(channels=True, tables=True),
}
RANGES = {"percentiles": qu.PERCENTILES, "symmetric": qu.SYMMETRIC, "running": qu.RUNNING}
SELECTED = {  # what the released code tunes after the projections of the time embedding
    "bedroom": ("qkv",),
    "church": ("qkv",),
    "cin256": ("ff.net", "to_q", "attn1.to_k", "attn1.to_v"),
    "sd-v1": ("ff.net",),
}
MODELS = {4: "q-diffusion/w4", 8: "w8"}
"""The model of learned roundings for a width."""
STEP_LR = 1e-4
"""Of the learned steps of Q-Diffusion, a quarter of the released rate; rates are times this."""

DIVERGED = 1e9
"""Stands for the error of a network that gives no number."""


@dataclass(frozen=True)
class Trained:
    """What came out at the rate that was best on held-out states.

    before: what it was before the second stage, where training has one.
    """

    network: nn.Module
    before: nn.Module
    rate: float
    seconds: float


class Protocol(Study):
    """The study with QuEST's calibration set, quantised networks and fine-tuning."""

    @cached_property
    def chains(self) -> Trajectory:
        return rounded.chains(self)

    @cached_property
    def data(self) -> CalibrationSet:
        return uniform_grid(self.chains, self.p.calibration_steps, self.p.per_step)

    @cached_property
    def held_out(self) -> Trajectory:
        """Trajectories from noises that are neither calibrated on nor judged: rates are chosen
        by the error of ε on them.
        """
        noise = self.noise(min(self.p.eps_samples, self.p.batch), "held out")
        return self.trajectory(self.network, noise)

    def with_half_the_tables(self) -> Protocol:
        """The same with every other calibration step and twice the samples of each."""
        other = Protocol(self.job)
        other.reference = self.reference
        steps, per_step = self.p.calibration_steps // 2, 2 * self.p.per_step
        other.data = uniform_grid(self.chains, steps, min(per_step, self.chains.x.shape[1]))
        return other

    @cached_property
    def lesson(self) -> qu.Lesson:
        return qu.lesson(self.network, self.data, self.p.batch)

    def state(self, weight_bits: int) -> dict[str, Tensor]:
        """The learned roundings of a width."""
        return self.job.model(MODELS[weight_bits])

    def quantised(
        self, bits: str, grids: str, *, nearest: bool = False, ranges: str = "percentiles"
    ) -> nn.Module:
        """A calibrated copy: learned roundings unless `nearest`."""
        weight, activation = widths(bits)
        state = None if nearest else self.state(weight)
        return qu.quantised(
            self.network, self.data, weight, activation, GRIDS[grids], state, RANGES[ranges]
        )

    def tune(
        self, network: nn.Module, bits: str, stage: qu.Stage, how: qu.Configuration, rate: float
    ) -> None:
        """One stage, in place; its draws depend on the seed and the stage alone."""
        p = self.p
        qu.tune(
            network,
            self.lesson,
            self.state(widths(bits)[0]),
            stage,
            how,
            p.tla if stage == "tla" else p.cma,
            batch=p.tuning_batch,
            passes=p.passes,
            generator=self.job.rng("tuning", stage),
            rate=rate,
        )

    def tuned(self, start: nn.Module, width: str, how: qu.Configuration, **at: object) -> Trained:
        """Both stages on a copy of `start`, at the best of the card's rates. width: as W4A8."""

        def train(network: nn.Module, rate: float) -> nn.Module:
            self.tune(network, width, "tla", how, rate)
            before = copy.deepcopy(network)
            self.tune(network, width, "cma", how, rate)
            return before

        return self.best(start, train, **at)

    def learned_steps(self, start: nn.Module, **at: object) -> Trained:
        """The steps of Q-Diffusion on a copy of `start`, at the best of the card's rates."""
        p = self.p

        def train(network: nn.Module, rate: float) -> nn.Module:
            return rivals.learn_steps(
                network,
                self.network,
                self.data,
                p.tla + p.cma,
                lr=rate * STEP_LR,
                batch=p.tuning_batch,
                generator=self.job.rng("steps"),
            )

        return self.best(start, train, **at)

    def best(
        self,
        start: nn.Module,
        train: Callable[[nn.Module, float], nn.Module],
        **at: object,
    ) -> Trained:
        """Trains a copy of `start` at every rate of the card, all with the same draws, and keeps
        the one of least error on held-out states. Measures these errors and the rate kept.

        train: (network, rate) -> what it was before the second stage, or itself; in place.
        """
        found, errors = [], []
        for rate in self.p.rates:
            network, began = copy.deepcopy(start), time.process_time()
            before = train(network, rate)
            found.append(Trained(network, before, rate, time.process_time() - began))
            error = self.error_on(network, self.held_out)
            errors.append(error if math.isfinite(error) else DIVERGED)
            self.job.measure("held_out_error", errors[-1], rate=rate, **at)
        place = errors.index(min(errors))
        self.job.measure("rate", self.p.rates[place], **at)
        return found[place]

    @torch.no_grad()
    def error_on(self, network: Callable[[Tensor, Tensor], Tensor], run: Trajectory) -> float:
        """E |ε_q - ε|² on a full-precision trajectory."""
        squared = [
            (network(x, t.expand(len(x))) - eps).square().mean()
            for x, t, eps in zip(run.x, run.t, run.eps, strict=True)
        ]
        return float(torch.stack(squared).mean())

    def measure_samples(self, network: nn.Module, name: str, **at: object) -> None:
        """Error of ε and of samples, absolute and relative to the variance of samples."""
        final = self.evaluate(network, name, **at)
        error = (final - self.final).square().mean() / self.final.var()
        self.job.measure("relative_error", error, **at)

    def judge(self, network: nn.Module, name: str, **at: object) -> None:
        """All measurements of a network, the error of its time embedding among them."""
        self.measure_samples(network, name, **at)
        self.measure_embedding(network, **at)

    def measure_embedding(self, network: nn.Module, **at: object) -> None:
        """Error of the time embedding at the steps of sampling and at those of calibration."""
        run = self.reference
        times = {"emb_error": run.t, "emb_error_calibrated": qu.labels_of(self.data)}
        for name, t in times.items():
            states = run.x[:1, 0].expand(len(t), *self.shape)
            self.job.measure(name, qu.embedding_error(network, self.network, states, t), **at)

    def glance(self, network: nn.Module, **at: object) -> None:
        """Error of ε and of the time embedding, without sampling."""
        self.measure_eps(network, **at)
        self.measure_embedding(network, **at)


# Arms --------------------------------------------------------------------------------------------


def ladder(job: Job) -> None:
    """Everything at one pair of widths, with the activation grids of the released code.

    Every configuration that is trained has the same draws, iterations and choice of rates.
    """
    protocol, p = Protocol(job), job.params
    bits, grids = p.bits, p.grids
    job.measure("sample_variance", protocol.final.var())
    job.save("pictures", to_bytes(protocol.final[:PICTURES]))
    protocol.judge(protocol.quantised(bits, grids, nearest=True), "nearest", config="nearest")
    start = protocol.quantised(bits, grids)
    protocol.judge(start, "adaround", config="adaround")
    job.save("layers", list(quantised_layers(start)))
    before = qu.input_ranges(start, protocol.data)
    protocol.glance(qu.without_time(copy.deepcopy(start)), config="fp-time")

    learned = protocol.learned_steps(start, config="q-diffusion")
    job.measure("seconds", learned.seconds, config="q-diffusion")
    protocol.judge(learned.network, "q-diffusion", config="q-diffusion")

    for config in job.progress(p.configs, "configurations"):
        found = protocol.tuned(start, bits, TUNED[config], config=config)
        job.measure("seconds", found.seconds, config=config)
        first = "tla" if config == "tla-cma" else f"{config}-tla"
        protocol.glance(found.before, config=first)
        if config in ("tla-cma", "full"):
            protocol.judge(found.network, config, config=config)
        else:
            protocol.glance(found.network, config=config)
        if config == "tla-cma":
            _compare_ranges(job, before, qu.input_ranges(found.network, protocol.data))


def _compare_ranges(job: Job, before: dict[str, tuple], after: dict[str, tuple]) -> None:
    """How fine-tuning changed what enters the layers that a change can reach."""
    old, new = torch.tensor(list(before.values())), torch.tensor(list(after.values()))
    job.save("ranges-before", old)
    job.save("ranges-after", new)
    moved = (old != new).any(1)
    old, new = (old[moved], new[moved]) if moved.any() else (old, new)
    width = (new[:, 1] - new[:, 0]) / (old[:, 1] - old[:, 0])
    deviation = new[:, 2] / old[:, 2]
    for name, ratio in (("range", width), ("deviation", deviation)):
        job.measure("change", ratio.median(), of=name, over="median-layer")
        job.measure("change", ratio.min(), of=name, over="most-shrunk-layer")
        job.measure("change", (ratio < 1).float().mean(), of=name, over="share-shrunk")


def paper_configuration(job: Job) -> None:
    """One table of per-tensor grids, losses 1, 1, 2, batches of all steps: as the text says.

    Of widths that are not tuned only the start is measured.
    """
    protocol = Protocol(job)
    for bits in job.params.widths:
        start = protocol.quantised(bits, "tensor-single")
        protocol.judge(start, f"adaround-{bits}", config="adaround", bits=bits)
        if bits not in job.params.tuned:
            continue
        found = protocol.tuned(start, bits, TUNED["text"], config="tla-cma", bits=bits)
        protocol.glance(found.before, config="tla", bits=bits)
        protocol.judge(found.network, f"tla-cma-{bits}", config="tla-cma", bits=bits)


def granularity(job: Job) -> None:
    """Per tensor or channel, one table or one for each step, before and after tuning.

    A cell that ends in -half has half as many tables, so that each serves two sampling steps.
    """
    protocol = Protocol(job)
    for cell in job.progress(job.params.cells, "granularities"):
        grids = cell.removesuffix("-half")
        chosen = protocol if cell == grids else protocol.with_half_the_tables()
        network = chosen.quantised(job.params.bits, grids)
        chosen.measure_eps(network, grids=cell, tuned="no")
        if cell != grids:  # with the time embedding in float: what missing entries do to it
            float_time = qu.without_time(copy.deepcopy(network))
            chosen.measure_eps(float_time, grids=f"{cell}-fp-time", tuned="no")
        for stage in ("tla", "cma"):
            chosen.tune(network, job.params.bits, stage, qu.RELEASED, job.params.rate)
        chosen.measure_eps(network, grids=cell, tuned="yes")


def static(job: Job) -> None:
    """Q-Diffusion as its paper has it: one grid for a tensor and all steps, steps learned.

    Beside it the same network with its time embedding in float, and one that was calibrated on
    other chains, which shows what the choice of samples does to errors and ranges; and what PTQ-D
    makes of the learned steps.
    """
    protocol, p = Protocol(job), job.params
    network = protocol.quantised(p.bits, "tensor-single")
    protocol.measure_eps(network, config="adaround")
    protocol.measure_eps(qu.without_time(copy.deepcopy(network)), config="fp-time")

    other = Protocol(job)
    chains = rounded.chains(other, "calibration again")
    other.data = uniform_grid(chains, p.calibration_steps, p.per_step)
    protocol.measure_eps(other.quantised(p.bits, "tensor-single"), config="again")
    seen = (qu.input_ranges(network, data) for data in (protocol.data, other.data))
    _compare_ranges(job, *seen)

    learned = protocol.learned_steps(network, config="q-diffusion").network
    protocol.measure_samples(learned, "q-diffusion", config="q-diffusion")
    found = rivals.correction(learned, protocol.chains)
    job.save("gain", found.gain)
    protocol.measure_samples(rivals.Corrected(learned, found), "ptq-d", config="ptq-d")


def efficient_dm(job: Job) -> None:
    """EfficientDM at the widths, batch and iterations of the ladder, before and after training."""
    protocol, p = Protocol(job), job.params
    start = rivals.naive(
        protocol.network, protocol.data, *widths(p.bits), job.rng("initial states")
    )
    protocol.measure_samples(start, "naive", config="naive")

    def runs() -> Iterator[Trajectory]:
        for epoch in itertools.count():
            noise = protocol.noise(p.tuning_batch, f"low rank {epoch}")
            yield protocol.trajectory(protocol.network, noise)

    def train(network: nn.Module, rate: float, share: float = 1.0) -> nn.Module:
        iterations = max(1, round(share * (p.tla + p.cma)))
        generator = job.rng("low rank")
        return rivals.efficient_dm(network, runs(), iterations, generator=generator, rate=rate)

    found = protocol.best(start, train, config="efficient-dm")
    half = copy.deepcopy(start)
    train(half, found.rate, 0.5)
    protocol.measure_eps(half, config="half")
    job.measure("seconds", found.seconds, config="efficient-dm")
    protocol.measure_samples(found.network, "efficient-dm", config="efficient-dm")


def tuned(job: Job) -> None:
    """Both stages on one network, measured after each: other losses, ranges or iterations."""
    protocol, p = Protocol(job), job.params
    start = protocol.quantised(p.bits, p.grids, ranges=p.ranges)
    protocol.glance(start, config="adaround")
    found = protocol.tuned(start, p.bits, TUNED[p.losses], config="tla-cma")
    protocol.glance(found.before, config="tla")
    protocol.glance(found.network, config="tla-cma")


def rounding(job: Job) -> None:
    """How learning of the roundings ended, as the records of the models tell: share of undecided
    ones, and in the worst unit the loss after the cut over that of nearest rounding.
    """
    for bits, name in MODELS.items():
        found = rounded.learned_units(job.model(name))
        pairs = [(s, u.weights[layer]) for u in found for layer, s in u.undecided.items()]
        share = sum(s * n for s, n in pairs) / sum(n for _, n in pairs)
        job.measure("undecided", share, weights=bits, layer="all")
        job.measure("undecided", max(s for s, _ in pairs), weights=bits, layer="worst")
        smallest = torch.finfo(torch.float32).tiny
        worst = max(u.after / max(u.before, smallest) for u in found)
        job.measure("loss_ratio", worst, weights=bits, unit="worst")


def timing(job: Job) -> None:
    """Time of a step of each stage over that of full fine-tuning, and of the latter over itself."""
    protocol, p = Protocol(job), job.params
    base = protocol.quantised(p.bits, "channel-time", nearest=True)
    state = rounded.export(base)
    index = torch.arange(p.tuning_batch)
    cases: tuple[tuple[str, qu.Configuration, qu.Stage], ...] = (
        ("tla", qu.RELEASED, "tla"), ("cma", qu.RELEASED, "cma"),
        ("full", qu.FULL, "cma"), ("full-again", qu.FULL, "cma"),
    )  # fmt: skip
    with ExitStack() as stack:
        steps = {}
        for name, how, stage in cases:
            tuner = qu.Tuner(copy.deepcopy(base), protocol.lesson, state, stage, how)
            stack.enter_context(tuner)
            steps[name] = lambda tuner=tuner: tuner.step(index)
        rounds = interleaved(steps, repeats=p.repeats, warmup=1)
    for name in ("tla", "cma", "full-again"):
        job.measure("latency_ratio", rounds.ratio(name, "full").median, stage=name)


def cost(job: Job) -> None:
    """Time and memory of one step of fine-tuning: few layers against all of them."""
    protocol, p = Protocol(job), job.params
    base = protocol.quantised(p.bits, "channel-time", nearest=True)
    state = rounded.export(base)
    index = torch.arange(p.tuning_batch)
    total = sum(parameter.numel() for parameter in base.parameters())
    memory, steps, entered = {}, {}, []
    cases: tuple[tuple[str, qu.Configuration, qu.Stage], ...] = (
        ("tla", qu.RELEASED, "tla"), ("cma", qu.RELEASED, "cma"), ("full", qu.FULL, "cma"),
    )  # fmt: skip
    for name, how, stage in cases:
        tuner = qu.Tuner(copy.deepcopy(base), protocol.lesson, state, stage, how)
        tuned = sum(weight.numel() for weight in tuner.weights)
        job.measure("share", tuned / total, model="here", of=name)
        entered.append(tuner.__enter__())
        steps[name] = lambda tuner=tuner: tuner.step(index)
        steps[name]()
        memory[name] = peak_memory(steps[name], job.device)
    rounds = interleaved(steps, repeats=p.repeats, warmup=1)
    for tuner in entered:
        tuner.__exit__()
    for name in steps:
        job.measure("seconds", rounds[name].median, stage=name)
        job.measure("peak_memory", memory[name] / 1e6, stage=name)
    for name in ("tla", "cma"):
        job.measure("latency_ratio", rounds.ratio(name, "full").median, stage=name)
        job.measure("memory_ratio", memory[name] / memory["full"], stage=name)


def exact(job: Job) -> None:
    """Printed values, closed forms, and what fine-tuning must leave alone."""
    for item, error in identities.grid_errors().items():
        job.measure("error", error, item=item)
    for item, error in identities.outliers(job.rng("outliers")).items():
        job.measure("error", error, item=item)
    for item, error in identities.theorem_errors(job.rng("theorem")).items():
        job.measure("error", error, item=item)
    for item, error in identities.tuned_weight_errors().items():
        job.measure("error", error, item=item)
    job.measure("error", identities.lookup_error(), item="lookup")
    protocol = Protocol(job)
    for item, count in identities.frozen(protocol.network, protocol.data).items():
        job.measure("tensors", count, item=item)


@torch.no_grad()
def structure(job: Job) -> None:
    """What the released code tunes in the true networks, and their sizes."""
    for model, config in CONFIGS.items():
        with torch.device("meta"):
            network = LatentUNet(config)
        job.measure("params", sum(p.numel() for p in network.parameters()), model=model, of="all")
        parts = {
            "emb": ("emb_layers",),
            "cma": SELECTED[model],
            "tuned": ("emb_layers", *SELECTED[model]),
            "time-embed": ("time_embed",),
            "emb-and-to-q": ("emb_layers", "to_q"),
        } | {name: (name,) for name in SELECTED[model] if len(SELECTED[model]) > 1}
        for name, chosen in parts.items():
            found = select(network, *chosen)
            job.measure("params", found.parameters, model=model, of=name)
            job.measure("layers", found.layers, model=model, of=name)
            job.measure("share", found.share, model=model, of=name)
        for bits in (32, 8, 4):
            size = model_size_bytes(network, bits, honest=bits < 32) / 2**20
            job.measure("size", size, model=model, bits=bits)
