"""The arms of the experiment: glue between its card and `method`, `exact`, `deployed`.

All arms of a seed share one protocol: what :class:`repro.quant.study.Study` holds, and the noises
that calibration chains start from. Arms then differ in one choice. Converged roundings are models
of the card, learned once a seed, which every arm that begins from them loads.

Ranges come from extremes (`max`, the released command for CIFAR-10, whose network the one here is
in small) or from a search (`mse`, the released commands for latent diffusion and Stable Diffusion).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.q_diffusion import exact as identities
from methods.q_diffusion import method as qd
from repro.metrics.cost import (
    bops,
    count_macs,
    count_parameters,
    model_size_bytes,
    quantisable_weights,
)
from repro.nets.ldm import CONFIGS, LatentUNet, example_inputs
from repro.nets.unet import UNet
from repro.numbers import to_bytes
from repro.quant import rounded
from repro.quant.calibration import CalibrationSet
from repro.quant.layers import activation_quantisers, quantise, quantised_layers, use
from repro.quant.reconstruction import UnitReport, units
from repro.quant.study import PICTURES, Study, widths

if TYPE_CHECKING:
    from repro.job import Job

Widths = tuple[int | None, int | None]


def floats(name: str) -> Widths:
    """(weight bits, activation bits) of "W4A8"; 32 bits are None, left in floating point."""
    weight, activation = (None if bits == 32 else bits for bits in widths(name))
    return weight, activation


def undecided_of(reports: Sequence[UnitReport]) -> tuple[float, float]:
    """Share of undecided roundings in all layers together, and in the worst of them."""
    pairs = [(share, r.weights[n]) for r in reports for n, share in r.undecided.items()]
    total = sum(number for _, number in pairs)
    return sum(share * number for share, number in pairs) / total, max(s for s, _ in pairs)


class Protocol(Study):
    """The study with Q-Diffusion's calibration sets and quantised networks."""

    @cached_property
    def run(self):
        return rounded.chains(self)

    def states(self, times: str = "uniform") -> CalibrationSet:
        """The calibration set of the steps that `times` names; see `method.part_of_grid`."""
        steps, per_step = self.p.calibration_steps, self.p.per_step
        x_T = self.noise(steps * per_step, "first step") if times == "first-step" else self.run.x
        return qd.part_of_grid(self.run, x_T, times, steps, per_step)

    def started(
        self,
        bits: str,
        data: CalibrationSet,
        *,
        scale: rounded.Scale = "max",
        weight_scale: rounded.Scale | None = None,
        split: bool = False,
        state: dict[str, Tensor] | None = None,
        first: bool = False,
    ) -> nn.Module:
        """A copy with weights rounded to nearest, or as `state` says, and initial activation steps.

        scale: of activations and, unless `weight_scale` says otherwise, of weights. first: start
        from the states of the first step alone instead of random ones.
        """
        weight, activation = floats(bits)
        recipe = rounded.recipe(
            self.network,
            weight,
            activation,
            weight_scale=weight_scale or scale,
            scale=scale,
            split=split,
        )
        network = quantise(self.network, recipe)
        if state is not None:
            rounded.install(network, state)
        if activation is None:
            return use(network, activations=False)
        if first:
            return qd.initialise(network, data, self.p.per_step)
        return qd.initialise(network, data, self.p.initial, self.job.rng("initial states"))

    def learned(self, network: nn.Module, data: CalibrationSet, bits: str) -> nn.Module:
        """The same network, its activation steps learned."""
        return qd.learn_activation_steps(
            network,
            self.network,
            data,
            self.p.step_iterations,
            widths(bits)[1],
            lr=self.p.step_lr,
            batch=self.p.learning_batch,
            generator=self.job.rng("steps"),
        )

    def measure_start(self, network: nn.Module, **at: object) -> None:
        """Error of ε before activation steps are learned, which is what they have to better."""
        eps = self.eps_mse(network)
        self.job.measure("start_eps_mse", eps, **at)

    def judge(self, network: nn.Module, name: str, **at: object) -> None:
        """All measurements, and the error of states after the first step and at half way."""
        self.evaluate(network, name, **at)
        curve = self.job.arrays[f"curve-{name}"]
        half = len(curve) // 2
        for done, value in (("first", curve[1]), ("half", curve[half]), ("all", curve[-1])):
            self.job.measure("state_error", value, done=done, **at)


# Arms --------------------------------------------------------------------------------------------


def full_precision(job: Job) -> None:
    """The network as it is: its samples, and how wide both parts of every shortcut are."""
    protocol = Protocol(job)
    job.measure("sample_variance", protocol.final.var())
    job.save("pictures", to_bytes(protocol.final[:PICTURES]))
    protocol.measure_frechet(protocol.final)
    found = qd.shortcut_ranges(
        protocol.network, protocol.states(), rounded.splits(protocol.network), job.params.batch
    )
    job.save("layers", list(found))
    job.save("ranges", torch.tensor(list(found.values())))
    ratios = torch.tensor([max(a / b, b / a) for a, b in found.values()])
    for place, value in (("widest", ratios.max()), ("median", ratios.median())):
        job.measure("shortcut_ratio", value, layer=place)


def linear(job: Job) -> None:
    """Round to nearest, nothing learned, nothing split, for every range rule and pair of widths."""
    protocol, p = Protocol(job), job.params
    data = protocol.states()
    for scale in p.ranges:
        for bits in p.bits:
            network = protocol.started(bits, data, scale=scale)
            protocol.judge(network, f"{scale}-{bits}", scale=scale, bits=bits)


def squant(job: Job) -> None:
    """Round so that errors cancel over kernels and channels; no data, nothing split."""
    protocol, p = Protocol(job), job.params
    data = protocol.states()
    for bits in p.bits:
        network = qd.squant(protocol.started(bits, data))
        protocol.judge(network, bits, bits=bits)


W4 = {"max": "w4", "mse": "w4-mse"}
"""The model of converged 4-bit roundings for a range rule, shortcuts split."""


def adaround(job: Job) -> None:
    """4-bit weights, activations in float: learned rounding against nearest at the same scales."""
    protocol, scale = Protocol(job), job.params.scale
    data = protocol.states()
    for rounding, state in (("nearest", None), ("learned", job.model(W4[scale]))):
        network = protocol.started("W4A32", data, scale=scale, split=True, state=state)
        protocol.judge(network, rounding, rounding=rounding)


def q_diffusion(job: Job) -> None:
    """Learned rounding, then learned activation steps; with and without split shortcuts."""
    protocol, p = Protocol(job), job.params
    data, model = protocol.states(), W4[p.scale]
    for bits in p.bits:
        for split in p.splits:
            state = job.model(model if split == "yes" else f"{model}-unsplit")
            at = {"bits": bits, "split": split}
            network = protocol.started(bits, data, scale=p.scale, split=split == "yes", state=state)
            protocol.measure_start(network, **at)
            started = time.perf_counter()
            protocol.learned(network, data, bits)
            seconds = time.perf_counter() - started
            job.measure("seconds", seconds, phase="steps", **at)
            protocol.judge(network, f"{bits}-{split}", **at)
    if model in job.model_paths:
        record = job.model_record(model)
        job.measure("seconds", record["wall_s"], phase="weights")
        job.measure("peak_memory", record["peak_memory_mb"], phase="weights")


def calibration(job: Job) -> None:
    """Calibrate and learn coarse activations on states of some steps; weights stay nearest."""
    protocol, p = Protocol(job), job.params
    for times in p.times:
        data = protocol.states(times)
        job.save(f"t-{times}", data.t)
        network = protocol.started(p.width, data)
        protocol.measure_eps(network, times=times, stage="initial")
        protocol.learned(network, data, p.width)
        protocol.judge(network, times, times=times, stage="learned")


def learn_anew(
    protocol: Protocol, data: CalibrationSet, bits: str, change: str = "none"
) -> tuple[nn.Module, float]:
    """A copy whose roundings are learned on `data`, activations off; and what was undecided."""
    p, reports = protocol.p, []
    recipe = rounded.recipe(protocol.network, *floats(bits))
    network = quantise(protocol.network, recipe)
    qd.learn_weights(
        network,
        protocol.network,
        data,
        p.iterations,
        generator=protocol.job.rng("rounding"),
        most=p.most,
        until=p.until,
        lr=p.lr,
        batch=p.learning_batch,
        change=change,
        progress=lambda report, done, total: reports.append(report),
    )
    return network, undecided_of(reports)[0]


def states(job: Job) -> None:
    """The whole protocol, weights and then activation steps, learned on states of some steps."""
    protocol, p = Protocol(job), job.params
    for times in job.progress(p.times, "calibration sets"):
        data = protocol.states(times)
        network, undecided = learn_anew(protocol, data, p.width)
        job.measure("undecided", undecided, times=times)
        qd.initialise(network, data, p.initial, job.rng("initial states"))
        protocol.measure_eps(network, times=times, stage="initial")
        protocol.learned(network, data, p.width)
        protocol.judge(network, times, times=times, stage="learned")


def departures(job: Job) -> None:
    """Learn the roundings again with one detail changed: what each is worth."""
    protocol, p = Protocol(job), job.params
    data = protocol.states()
    for change in job.progress(p.changes, "departures"):
        network, undecided = learn_anew(protocol, data, "W4A32", change)
        job.measure("undecided", undecided, change=change)
        protocol.measure_eps(network, change=change)


def starts(job: Job) -> None:
    """Learn activation steps from other starts: the first states alone, or searched ranges too."""
    protocol, p = Protocol(job), job.params
    data = protocol.states()
    choices: dict[str, dict[str, Any]] = {
        "random-max": {},
        "first-max": {"first": True},
        "first-mse": {"first": True, "scale": "mse", "weight_scale": "max"},
    }
    for start in p.starts:
        network = protocol.started(
            "W4A8", data, split=True, state=job.model("w4"), **choices[start]
        )
        protocol.measure_eps(network, start=start, stage="initial")
        protocol.learned(network, data, "W4A8")
        protocol.measure_eps(network, start=start, stage="learned")


def exact(job: Job) -> None:
    """Values printed by the released quantiser, closed forms, identities of the wrapped network."""
    for item, error in identities.quantiser_errors().items():
        job.measure("error", error, item=item)
    for item, error in identities.rounding_errors().items():
        job.measure("error", error, item=item)
    for item, error in identities.splitting_errors().items():
        job.measure("error", error, item=item)
    job.measure("error", identities.accumulation_error(job.rng("errors")), item="accumulation")
    protocol = Protocol(job)
    x, t = protocol.noise(4, "evaluation"), torch.full((4,), 500, device=job.device)
    for item, error in identities.network_errors(protocol.network, x, t).items():
        job.measure("error", error, item=item)
    job.measure("reads", identities.reads_of_learning(job), of="weights")


@torch.no_grad()
def structure(job: Job) -> None:
    """Parameters, layers, operations and sizes of the networks that the paper quantises."""
    cifar10 = torch.zeros(1, 3, 32, 32, device="meta"), torch.zeros(1, device="meta")
    inputs = {"cifar10": cifar10} | {n: example_inputs(c) for n, c in CONFIGS.items()}
    for model, arguments in inputs.items():
        with torch.device("meta"):
            network = UNet() if model == "cifar10" else LatentUNet(CONFIGS[model])
        _count(job, model, network.eval(), arguments)


def _count(job: Job, model: str, network: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    job.measure("params", count_parameters(network), model=model)
    job.measure("params", quantisable_weights(network), model=model, of="weights")
    for kind in (nn.Linear, nn.Conv2d, nn.Conv1d):
        found = sum(isinstance(m, kind) for m in network.modules())
        job.measure("layers", found, model=model, kind=kind.__name__.lower())
    macs = count_macs(network, *arguments)
    for part in ("conv", "linear", "attention", "total"):
        job.measure("gmac", getattr(macs, part) / 1e9, model=model, kind=part)
    for bits in (32, 8, 4):
        size = model_size_bytes(network, bits) / 1e6
        job.measure("size", size, model=model, bits=bits, rule="all")
        size = model_size_bytes(network, bits, honest=True) / 1e6
        job.measure("size", size, model=model, bits=bits, rule="weights")
    for weight, activation in ((32, 32), (8, 32), (4, 32), (8, 8), (4, 8)):
        billions = bops(macs.total, weight, activation) / 1e9
        job.measure("gbops", billions, model=model, bits=f"W{weight}A{activation}")
    # Activations only: the grids of weights need values, which the meta device does not have.
    wrapped = quantise(network, rounded.recipe(network, None, 8))
    layers = quantised_layers(wrapped)
    operands = [n for n in activation_quantisers(wrapped) if "quantised_attend" in n]
    job.measure("layers", len(layers), model=model, kind="quantised")
    job.measure("layers", len(operands), model=model, kind="attention-operands")
    split = sum(len(layer.parts) == 2 for layer in layers.values())
    job.measure("layers", split, model=model, kind="split")
    if model == "cifar10":
        job.measure("layers", len(units(wrapped)), model=model, kind="units")
