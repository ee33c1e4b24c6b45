"""The arms of the experiment: glue between its card and `method`, `exact`.

All arms of a seed share one protocol: what :class:`repro.quant.study.Study` holds, the calibration
set, the learned roundings, and what the full-precision network says to both. Arms then differ in
widths and in what has activation grids of its own; within an arm every configuration is measured
with the same calibration set, teacher and number of iterations.
"""

from __future__ import annotations

import copy
import time
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

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
}
LOSSES = {"released": qu.RELEASED, "text": qu.Configuration(qu.Losses(1, 2), qu.Losses(1, 2))}
GRIDS = {
    "tensor-single": qu.Granularity(channels=False, tables=False),
    "tensor-time": qu.Granularity(channels=False, tables=True),
    "channel-single": qu.Granularity(channels=True, tables=False),
    "channel-time": qu.Granularity(channels=True, tables=True),
}
SELECTED = {  # what the released code tunes after the projections of the time embedding
    "bedroom": ("qkv",),
    "church": ("qkv",),
    "cin256": ("ff.net", "to_q", "attn1.to_k", "attn1.to_v"),
    "sd-v1": ("ff.net",),
}


class Protocol(Study):
    """The study with QuEST's calibration set, quantised networks and fine-tuning."""

    @cached_property
    def chains(self) -> Trajectory:
        return rounded.chains(self)

    @cached_property
    def data(self) -> CalibrationSet:
        return uniform_grid(self.chains, self.p.calibration_steps, self.p.per_step)

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
        return self.job.model({4: "q-diffusion/w4", 8: "w8"}[weight_bits])

    def quantised(self, bits: str, grids: str, *, nearest: bool = False) -> nn.Module:
        """A calibrated copy: learned roundings unless `nearest`."""
        weight, activation = widths(bits)
        state = None if nearest else self.state(weight)
        with torch.no_grad():
            return qu.quantised(self.network, self.data, weight, activation, GRIDS[grids], state)

    def tune(self, network: nn.Module, bits: str, stage: qu.Stage, how: qu.Configuration) -> None:
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
            lr=p.lr,
            step_lr=p.lr if stage == "tla" else p.step_lr,
            generator=self.job.rng("tuning", stage),
        )

    def judge(self, network: nn.Module, name: str, **at: object) -> None:
        """All measurements of a network, the error of its time embedding among them."""
        final = self.evaluate(network, name, **at)
        error = (final - self.final).square().mean() / self.final.var()
        self.job.measure("relative_error", error, **at)
        run = self.reference
        times = {"emb_error": run.t, "emb_error_calibrated": qu.labels_of(self.data)}
        for name, t in times.items():
            states = run.x[:1, 0].expand(len(t), *self.shape)
            self.job.measure(name, qu.embedding_error(network, self.network, states, t), **at)


# Arms --------------------------------------------------------------------------------------------


def ladder(job: Job) -> None:
    """Everything at one pair of widths, with the activation grids of the released code."""
    protocol, p = Protocol(job), job.params
    bits, grids = p.bits, p.grids
    job.measure("sample_variance", protocol.final.var())
    job.save("pictures", to_bytes(protocol.final[:PICTURES]))
    protocol.judge(protocol.quantised(bits, grids, nearest=True), "nearest", config="nearest")
    start = protocol.quantised(bits, grids)
    protocol.judge(start, "adaround", config="adaround")
    job.save("layers", list(quantised_layers(start)))
    before = qu.input_ranges(start, protocol.data)
    protocol.judge(qu.without_time(copy.deepcopy(start)), "fp-time", config="fp-time")

    learned, began = copy.deepcopy(start), time.process_time()
    qu.learn_steps(
        learned, protocol.network, protocol.data, p.tla + p.cma,
        lr=p.step_lr, batch=p.tuning_batch, generator=job.rng("steps"),
    )  # fmt: skip
    job.measure("seconds", time.process_time() - began, config="q-diffusion")
    protocol.judge(learned, "q-diffusion", config="q-diffusion")

    for config in job.progress(p.configs, "configurations"):
        network, began = copy.deepcopy(start), time.process_time()
        protocol.tune(network, bits, "tla", TUNED[config])
        seconds = time.process_time() - began
        if config == "tla-cma":
            protocol.judge(network, "tla", config="tla")
        else:
            protocol.measure_eps(network, config=f"{config}-tla")
        began = time.process_time()
        protocol.tune(network, bits, "cma", TUNED[config])
        job.measure("seconds", seconds + time.process_time() - began, config=config)
        protocol.judge(network, config, config=config)
        if config == "tla-cma":
            _compare_ranges(job, before, qu.input_ranges(network, protocol.data))


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
    """One table of per-tensor grids, losses 1, 1, 2, batches of all steps: as the text says."""
    protocol = Protocol(job)
    for bits in job.params.widths:
        network = protocol.quantised(bits, "tensor-single")
        protocol.judge(network, f"adaround-{bits}", config="adaround", bits=bits)
        stages: tuple[tuple[qu.Stage, str], ...] = (("tla", "tla"), ("cma", "tla-cma"))
        for stage, config in stages:
            protocol.tune(network, bits, stage, qu.PAPER)
            protocol.judge(network, f"{config}-{bits}", config=config, bits=bits)


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
            chosen.tune(network, job.params.bits, stage, qu.RELEASED)
        chosen.measure_eps(network, grids=cell, tuned="yes")


def static(job: Job) -> None:
    """Q-Diffusion as its paper has it: one grid for a tensor and all steps, steps learned.

    Beside it the same network with its time embedding in float, and one that was calibrated on
    other chains, which shows what the choice of samples does to errors and ranges.
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

    qu.learn_steps(
        network, protocol.network, protocol.data, p.tla + p.cma,
        lr=p.step_lr, batch=p.tuning_batch, generator=job.rng("steps"),
    )  # fmt: skip
    protocol.measure_eps(network, config="q-diffusion")


def tuned(job: Job) -> None:
    """Both stages on one network, measured after each: other losses or more iterations."""
    protocol, p = Protocol(job), job.params
    network = protocol.quantised(p.bits, p.grids)
    times = protocol.reference.t
    states = protocol.reference.x[:1, 0].expand(len(times), *protocol.shape)
    stages: tuple[tuple[qu.Stage, str], ...] = (("tla", "tla"), ("cma", "tla-cma"))
    for stage, config in stages:
        protocol.tune(network, p.bits, stage, LOSSES[p.losses])
        protocol.measure_eps(network, config=config)
        error = qu.embedding_error(network, protocol.network, states, times)
        job.measure("emb_error", error, config=config)


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
            tuner = qu.Tuner(
                copy.deepcopy(base), protocol.lesson, state, stage, how, lr=p.lr, step_lr=p.lr
            )
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
        tuner = qu.Tuner(
            copy.deepcopy(base), protocol.lesson, state, stage, how, lr=p.lr, step_lr=p.lr
        )
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
