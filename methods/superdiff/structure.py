"""Counts on the true architectures, on shapes alone, and the cost of one step on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from methods.superdiff import method as sd
from methods.superdiff.networks import ScoreUNet, cifar_network, edge_aware_macs, lean
from repro.metrics.cost import (
    NFECounter,
    count_macs,
    count_parameters,
    interleaved,
    measure_interval,
    peak_memory,
)
from repro.nets.ldm import CONFIGS, LatentUNet, example_inputs
from repro.training.seeding import seeded

if TYPE_CHECKING:
    from repro.job import Job


def as_model(network: ScoreUNet) -> sd.Model:
    """The network of raw t as the method calls it."""
    return lambda x, t: network(x, x.new_full((len(x),), t))


def _flops(function: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        function()
    return counter.get_total_flops()


def flop_counts() -> dict[str, int]:
    """FLOPs of a forward pass, with a forward-mode product, and with a lean one; batch of 1.

    Products with padding count here, which changes no ratio by more than 0.1 %.
    """
    with torch.device("meta"):
        network, x = cifar_network().eval(), torch.zeros(1, 3, 32, 32)
    model = as_model(network)
    found = {"forward": _flops(lambda: model(x, 1.0))}
    found["product"] = _flops(lambda: sd.hutchinson(model, x, 1.0, torch.ones_like(x)))
    lean(network)
    found["lean product"] = _flops(lambda: sd.hutchinson(model, x, 1.0, torch.ones_like(x)))
    return found


def structure(job: Job) -> None:
    """Parameters, operations and evaluations of the networks and samplers of the paper."""
    with torch.device("meta"):
        plain, conditional = cifar_network().eval(), cifar_network(10)
        x, t = torch.zeros(1, 3, 32, 32), torch.zeros(1)
        sd_v1 = LatentUNet(CONFIGS["sd-v1"]).eval()
    job.measure("params", count_parameters(plain), model="cifar10")
    job.measure("params", count_parameters(conditional), model="cifar10-conditional")
    job.measure("params", count_parameters(sd_v1), model="sd-v1")
    job.measure("gmac", count_macs(plain, x, t).total / 1e9, model="cifar10")
    macs = count_macs(sd_v1, *example_inputs(CONFIGS["sd-v1"])).total
    job.measure("gmac", macs / 1e9, model="sd-v1")
    job.measure("gflop", 2 * edge_aware_macs(plain, x, t) / 1e9, model="cifar10")
    counts = flop_counts()
    for name in ("product", "lean product"):
        item = name.replace(" ", "-")
        job.measure("flop_ratio", counts[name] / counts["forward"], of=item)
    for rule in ("or", "and", "hutchinson"):
        job.measure("calls", calls_per_step(rule), rule=rule, models=2)


def calls_per_step(rule: str, steps: int = 4) -> float:
    """Evaluations of all models a step; a forward-mode product counts as one more."""
    products = 0

    class Negative(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return -x

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def jvp(ctx, tangent):
            nonlocal products
            products += 1
            return -tangent

    models = [NFECounter(lambda x, t: Negative.apply(x)) for _ in range(2)]
    x, generator = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.Generator()
    if rule == "hutchinson":
        sd.superdiff_ode(models, x, steps, sd.Or(), generator=generator)
    else:
        rules: dict[str, sd.Rule] = {"or": sd.Or(), "and": sd.And()}
        sd.superdiff(models, x, steps, rules[rule], generator=generator)
    return (sum(m.calls for m in models) + products) / steps


def cost(job: Job) -> None:
    """Time and memory of one OR step with two CIFAR-10 networks of random weights.

    `ito` follows log-densities by Theorem 1, `hutchinson` by Proposition 5, with PyTorch's
    forward-mode product and with a lean one. Forward mode rules out fused attention, so `ito` is
    also timed without it. channels: 128 is the paper's network.
    """
    p = job.params
    pairs = {}
    for kind in ("plain", "lean"):
        nets = seeded(
            lambda: [ScoreUNet(channels=p.channels) for _ in range(2)], job.rng("network")
        )
        nets = [net.eval().requires_grad_(False).to(job.device) for net in nets]
        pairs[kind] = [as_model(lean(n) if kind == "lean" else n) for n in nets]
    x = torch.randn(p.batch, 3, 32, 32, generator=job.rng("x")).to(job.device)

    def step(kind: str, ode: bool, fused: bool) -> Callable[[], object]:
        sampler = sd.superdiff_ode if ode else sd.superdiff

        def run() -> object:
            backends = [SDPBackend.MATH]
            if fused:
                backends += [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
            with torch.no_grad(), sdpa_kernel(backends):
                return sampler(pairs[kind], x, 1, sd.Or(), generator=job.rng("step"))

        return run

    steps = {
        "ito": step("plain", ode=False, fused=True),
        "ito-unfused": step("plain", ode=False, fused=False),
        "hutchinson": step("plain", ode=True, fused=False),
        "hutchinson-lean": step("lean", ode=True, fused=False),
    }
    rounds = interleaved(steps, p.repeats, p.warmup)
    reference = peak_memory(steps["ito"], job.device)
    for name, run in steps.items():
        job.measure("seconds", rounds[name].median / p.batch, estimator=name)
        if name != "ito":
            ratio = rounds.ratio(name, "ito")
            measure_interval(job, "time_ratio", ratio, estimator=name)
            used = peak_memory(run, job.device)
            job.measure("memory_ratio", reference / used, estimator=name)
