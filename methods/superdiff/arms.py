"""The arms of the experiment: glue between its card and `method`, `learning`.

All arms of a seed start from the same noise and, at as many steps, take the same Brownian motion.
`nfe` is the number of network evaluations a sample over all models: steps x models, and twice that
where a forward-mode product follows each evaluation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.superdiff import learning
from methods.superdiff import method as sd
from methods.superdiff.networks import ScheduleMatched
from repro.errors import ReproError
from repro.nets.unet import UNet
from repro.numbers import argmax
from repro.zoo import pretrained
from repro.zoo.judge import Judge

if TYPE_CHECKING:
    from repro.job import Job

PICTURES, FOLLOWED = 10, 64


def rule_of(name: str, temperature: float = 1.0) -> sd.Rule:
    """`or`, `and` or `averaging`; the last also follows log-densities, to compare them."""
    rules: dict[str, sd.Rule] = {
        "or": sd.Or(temperature),
        "and": sd.And(),
        "averaging": sd.Averaging(tracks=True),
        "single": sd.Averaging((1.0,)),
    }
    if name not in rules:
        raise ReproError(f"there is no rule `{name}`; choose one of {', '.join(rules)}")
    return rules[name]


def as_model(network: nn.Module, precision: str) -> sd.Model:
    """A network as the method calls it: evaluated in `precision`, given back in x's type."""

    def model(x: Tensor, t: float) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return network(x.float(), t).to(x.dtype)

    return model


def experts(job: Job, names: Sequence[str], dim: int) -> list[sd.Model]:
    return [as_model(learning.load(job, n, dim), job.params.sampling_precision) for n in names]


def generate(
    job: Job,
    models: Sequence[sd.Model],
    noise: Tensor,
    rule: sd.Rule,
    *,
    path: str = "sde",
    steps: int,
    increments: Callable[..., Tensor] = sd.ito,
    trace: str = "",
) -> sd.Superposed:
    """Samples of all the noise, in batches; states and log-densities in float64.

    trace: name under which the weights and differences of log-densities of the first samples are
    kept, each (steps, samples).
    """
    parts, kept = [], []
    for number, x in enumerate(noise.double().split(job.params.batch)):
        generator = job.rng("path", steps, number)
        if path == "ode":
            # Fused attention has no forward derivative on a GPU.
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                out = sd.superdiff_ode(models, x, steps, rule, generator=generator, offset=1e-3)
        else:
            follow = trace and number == 0

            def keep(t: float, x: Tensor, L: Tensor, kappa: Tensor) -> None:
                kept.append(torch.stack([L[0] - L[1], kappa[0]])[:, :FOLLOWED].cpu())

            with torch.inference_mode():
                out = sd.superdiff(
                    models,
                    x,
                    steps,
                    rule,
                    generator=generator,
                    increments=increments,
                    callback=keep if follow else None,
                )
        parts.append(out)
    if kept:
        gap, kappa = torch.stack(kept, 1)
        job.save(f"gap-{trace}", gap)
        job.save(f"kappa-{trace}", kappa)
    joined = [torch.cat(values, dim=values[0].ndim - 1 if i in (1, 2) else 0)
              for i, values in enumerate(zip(*parts, strict=True))]  # fmt: skip
    return sd.Superposed(*joined)


def evaluations(models: int, steps: int, path: str, rule: sd.Rule) -> int:
    """Network evaluations a sample; a forward-mode product counts as one."""
    return models * steps * (2 if path == "ode" and rule.tracks else 1)


def measure(job: Job, judge: Judge, x: Tensor, name: str, **at: object) -> None:
    """Distances to the real images, and what the classifier takes the samples for.

    The histogram of classes is compared with that of the labels of the test images.
    """
    judge.measure(x, **at)
    found = judge.probabilities(x).cpu()
    labels = torch.from_numpy(np.array(job.data(job.params.dataset).test.labels))
    expected = torch.bincount(labels, minlength=10).double() / len(labels) * len(x)
    counts = torch.bincount(argmax(found, 1, "class probabilities"), minlength=10).double()
    job.measure("chi_square", ((counts - expected).square() / expected).sum(), **at)
    job.measure("share_b", counts[5:].sum() / len(x), **at)
    job.measure("confidence", found.max(1).values.double().mean(), **at)
    job.save(f"classes-{name}", counts / len(x))
    judge.save_grid(x, f"pictures-{name}", PICTURES)


# Arms on images


def _dim(judge: Judge) -> int:
    return int(np.prod(judge.shape))


def settings(p: Any) -> Iterator[tuple[str, int]]:
    """Every path (sde, ode) with every number of steps of the card."""
    return itertools.product(p.paths, p.steps)


def single(job: Job) -> None:
    """One model alone, by SDE and by ODE."""
    p, judge = job.params, Judge(job)
    models = experts(job, p.experts, _dim(judge))
    for path, steps in settings(p):
        rule = sd.Averaging((1.0,))
        x = generate(job, models, judge.noise, rule, path=path, steps=steps).x
        measure(job, judge, x, f"{path}-{steps}", path=path, nfe=steps)


def halves(job: Job) -> None:
    """Both half models alone, and each sample from one of them by the toss of a coin.

    The coin chooses among the samples of both rows: that is the mixture of the two models.
    """
    p, judge = job.params, Judge(job)
    models = experts(job, p.experts, _dim(judge))
    for path, steps in settings(p):
        rule, rows = sd.Averaging((1.0,)), {}
        for row, model in zip(("a", "b"), models, strict=True):
            rows[row] = generate(job, [model], judge.noise, rule, path=path, steps=steps).x
        coin = torch.rand(len(judge.noise), generator=job.rng("coin")) < 0.5
        rows["coin-flip"] = torch.where(
            coin.to(job.device)[:, None, None, None], rows["a"], rows["b"]
        )
        for row, x in rows.items():
            measure(job, judge, x, f"{path}-{steps}-{row}", path=path, row=row, nfe=steps)


def superpose(job: Job) -> None:
    """Both half models by one rule, by SDE and by ODE."""
    p, judge = job.params, Judge(job)
    models = experts(job, p.experts, _dim(judge))
    rule, increments = rule_of(p.rule, p.temperature), sd.INCREMENTS[p.increments]
    for path, steps in settings(p):
        out = generate(
            job,
            models,
            judge.noise,
            rule,
            path=path,
            steps=steps,
            increments=increments,
            trace=f"{path}-{steps}" if path == "sde" else "",
        )
        at = {"path": path, "nfe": evaluations(len(models), steps, path, rule)}
        measure(job, judge, out.x, f"{path}-{steps}", **at)
        measure_gap(job, out, **at)


def measure_gap(job: Job, out: sd.Superposed, **at: object) -> None:
    """|L_1 - L_2| at the end, and its largest value along any path."""
    job.measure("gap", (out.L[0] - out.L[1]).abs().mean(), **at)
    job.measure("drift", out.largest_gap.max(), **at)


def pairs(job: Job) -> None:
    """Two class-conditional experts of a pair of classes, by every rule of the card.

    `coin-flip` draws the class of each sample and uses its expert alone. The classifier says how
    much of either class it sees.
    """
    p, judge = job.params, Judge(job)
    network = pretrained.of_type(UNet, job, p.network)
    noise = torch.randn(
        p.samples, network.in_channels, *[network.resolution] * 2, generator=job.rng("evaluation")
    ).to(job.device)
    pair = torch.tensor(p.pairs)[torch.arange(p.samples) % len(p.pairs)].to(job.device)
    for name in p.rules:
        labels = list(pair.T)
        if name == "coin-flip":
            coin = torch.randint(2, (p.samples, 1), generator=job.rng("coin")).to(job.device)
            labels = [pair.gather(1, coin)[:, 0]]
        rule = rule_of("single" if name == "coin-flip" else name)
        out = _labelled(job, network, noise, labels, rule)
        nfe = p.steps * len(labels)
        seen = judge.probabilities(out.x).gather(1, pair).double()
        job.measure("least_probability", seen.min(1).values.mean(), rule=name, nfe=nfe)
        job.measure("most_probability", seen.max(1).values.mean(), rule=name, nfe=nfe)
        job.measure("apart", (seen[:, 0] - seen[:, 1]).abs().mean(), rule=name, nfe=nfe)
        if len(labels) == 2:
            measure_gap(job, out, rule=name, nfe=nfe)
        judge.save_grid(out.x, f"pictures-{name}", PICTURES)


def _labelled(
    job: Job, network: UNet, noise: Tensor, labels: list[Tensor], rule: sd.Rule
) -> sd.Superposed:
    models = [as_model(ScheduleMatched(network, y), job.params.sampling_precision) for y in labels]
    generator = job.rng("path", job.params.steps)
    with torch.inference_mode():
        return sd.superdiff(models, noise.double(), job.params.steps, rule, generator=generator)


# What checks must not hold for, and what distances cannot fall below


def untuned(job: Job) -> None:
    """The network of the zoo that models of images start from, as `single` samples a model."""
    p, judge = job.params, Judge(job)
    network = pretrained.of_type(UNet, job, p.experts[0])
    model = as_model(ScheduleMatched(network), p.sampling_precision)
    for path, steps in settings(p):
        rule = sd.Averaging((1.0,))
        x = generate(job, [model], judge.noise, rule, path=path, steps=steps).x
        measure(job, judge, x, f"{path}-{steps}", path=path, nfe=steps)


def floor(job: Job) -> None:
    """As many training images as the other arms have samples: real against real."""
    judge = Judge(job)
    measure(job, judge, judge.pictures(job.params.samples, "train", "floor"), "real")


def pairs_of_others(job: Job) -> None:
    """As `pairs`, but AND has the experts of the next pair, whose classes nobody asked for.

    How much of both classes a classifier sees in images that show neither.
    """
    p, judge = job.params, Judge(job)
    network = pretrained.of_type(UNet, job, p.network)
    noise = torch.randn(
        p.samples, network.in_channels, *[network.resolution] * 2, generator=job.rng("evaluation")
    ).to(job.device)
    place = torch.arange(p.samples)
    known = torch.tensor(p.pairs).to(job.device)
    pair = known[place % len(p.pairs)]
    for name in p.rules:
        shown = known[(place + 1) % len(p.pairs)] if name == "and" else pair
        out = _labelled(job, network, noise, list(shown.T), rule_of(name))
        at = {"rule": name, "nfe": 2 * p.steps}
        seen = judge.probabilities(out.x).gather(1, pair).double()
        job.measure("least_probability", seen.min(1).values.mean(), **at)
        job.measure("most_probability", seen.max(1).values.mean(), **at)
        job.measure("apart", (seen[:, 0] - seen[:, 1]).abs().mean(), **at)
        measure_gap(job, out, **at)


# The plane


def mixture_score(modes: Sequence[int]) -> sd.Model:
    """sigma times the score of an equal mixture of some of the four Gaussians, in closed form."""
    means = torch.tensor(learning.MODES, dtype=torch.float64)[list(modes)]

    def model(x: Tensor, t: float) -> Tensor:
        V = (learning.DEVIATION * sd.alpha(t)) ** 2 + sd.sigma(t) ** 2
        away = sd.alpha(t) * means - x[:, None]
        weights = torch.softmax(-away.square().sum(-1) / (2 * V), 1)
        return sd.sigma(t) / V * (weights[:, :, None] * away).sum(1)

    return model


def plane(job: Job) -> None:
    """Models of the upper and of the lower two of four Gaussians, superposed by every rule.

    With learned models and, as a control, with their true scores.
    """
    p = job.params
    noise = torch.randn(p.samples, 2, generator=job.rng("evaluation"))
    learned = [as_model(learning.load(job, n, 2), "float32") for n in p.experts]
    true = [mixture_score(job.model_params(n).modes) for n in p.experts]
    modes = torch.tensor(learning.MODES, dtype=torch.float64)
    for scores, models in (("learned", learned), ("true", true)):
        for name in p.rules:
            out = generate(job, models, noise, rule_of(name), steps=p.steps)
            distance = (out.x[:, None] - modes).norm(dim=-1)
            near = (distance <= 3 * learning.DEVIATION).double().mean(0)
            at = {"rule": name, "scores": scores}
            for mode, share in enumerate(near):
                job.measure("mode_share", share, mode=mode, **at)
            job.measure("height", out.x[:, 1].square().mean().sqrt(), **at)
            measure_gap(job, out, **at)
            job.save(f"points-{scores}-{name}", out.x[:500].float())


# Identities
