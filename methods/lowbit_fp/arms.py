"""The arms of the experiment: glue between its card and `method`.

All arms of a seed share what :class:`repro.quant.study.Study` holds and one calibration set. Arms
then differ in number formats, in granularity, in range and in rounding alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor, nn

from methods.lowbit_fp import method as lowbit
from repro.metrics.fid import frechet_from_features
from repro.numbers import to_bytes
from repro.quant.calibration import CalibrationSet
from repro.quant.floating import AnyGrid, float_formats, scaled
from repro.quant.layers import calibrate, quantise, quantised_layers
from repro.quant.rounded import calibration, learned_units
from repro.quant.study import PICTURES, Study
from repro.zoo.judge import Judge

if TYPE_CHECKING:
    from repro.job import Job


class Protocol(Study):
    """The study with number formats for weights and activations."""

    @cached_property
    def calibration(self) -> CalibrationSet:
        return calibration(self)

    def quantised(
        self,
        weights: str,
        activations: str | None = None,
        *,
        up: Mapping[str, Tensor] | None = None,
        **options: Unpack[lowbit.Choices],
    ) -> nn.Module:
        """A quantised copy; `up`: learned directions, else to nearest. options: `method.recipe`."""
        network = quantise(
            self.network, lowbit.recipe(self.network, weights, activations, **options)
        )
        if up is not None:
            lowbit.set_directions(network, up)
        if activations:
            calibrate(network, self.calibration.batches(self.p.batch))
        return network

    # Measurements

    def measure_all(self, network: nn.Module, name: str, **at: object) -> None:
        """Everything: `evaluate`, and the distance to the full-precision samples' features."""
        self.measure_paired(self.evaluate(network, name, **at), **at)

    @cached_property
    def own_features(self) -> Tensor:
        return self.critic.features(self.final)

    def measure_paired(self, samples: Tensor, **at: object) -> None:
        """Fréchet distance to the full-precision samples of the same noises, as reference set."""
        if self.p.classifier:
            fake = self.critic.features(samples)
            distance = frechet_from_features(fake, self.own_features)
            self.job.measure("frechet_paired", distance, **at)


# Arms --------------------------------------------------------------------------------------------


@torch.no_grad()
def full_precision(job: Job) -> None:
    """The network as it is, against data and against itself."""
    protocol = Protocol(job)
    batch = protocol.p.batch
    job.measure("sample_variance", protocol.final.var())
    job.save("pictures", to_bytes(protocol.final[:PICTURES]))
    again = protocol.sample(protocol.network, protocol.x_T[:batch])
    job.measure("trajectory_mse", (again - protocol.final[:batch]).square().mean())
    protocol.measure_frechet(protocol.final)
    protocol.measure_paired(protocol.final)


def nearest(job: Job) -> None:
    """Weights alone, rounded to nearest: formats by granularity by range.

    ε is compared for all of them, samples for those in `sampled` (`<format>.<granularity>`, range
    searched). Over the latter: rank correlation of both Fréchet distances with the error of ε, and
    the share that is closer to the data than full precision is.
    """
    protocol, p = Protocol(job), job.params
    settings = [
        (form, granularity, span)
        for form in p.formats
        for granularity in lowbit.GRANULARITIES
        for span in lowbit.RANGES
        if span == "search" or not form.startswith("FP")
    ]
    for form, granularity, span in job.progress(settings, "formats"):
        network = protocol.quantised(form, granularity=granularity, span=span)
        at = {"format": form, "granularity": granularity, "range": span}
        if span == "search" and f"{form}.{granularity}" in p.sampled:
            protocol.measure_all(network, f"{form}.{granularity}", **at)
        else:
            protocol.measure_eps(network, **at)
    if p.classifier:
        _references(protocol)


def _references(protocol: Protocol) -> None:
    job = protocol.job
    found: dict[str, dict[tuple, float]] = {}
    for name, at, value in job.measured:
        found.setdefault(name, {})[tuple(at.values())] = value
    places = list(found["frechet"])
    truth = [found["eps_mse"][place] for place in places]
    plain = protocol.measure_frechet(protocol.final, format="float")
    for reference, name in (("data", "frechet"), ("outputs", "frechet_paired")):
        values = [found[name][place] for place in places]
        job.measure("rank_correlation", lowbit.spearman(truth, values), reference=reference)
    assert plain is not None, "the card gives a classifier"
    better = [found["frechet"][place] < plain for place in places]
    job.measure("better_than_float", sum(better) / len(better), reference="data")


def edges(job: Job) -> None:
    """Weights alone, to nearest, with the first and the last convolution at 8 bits."""
    protocol = Protocol(job)
    for form in job.params.formats:
        for granularity in lowbit.GRANULARITIES:
            network = protocol.quantised(form, granularity=granularity, keep_first_last_8bit=True)
            protocol.measure_eps(network, format=form, granularity=granularity)


def model_name(variant: str) -> str:
    """The model of the card that holds a learned rounding: e2m1-tensor of E2M1.tensor."""
    return variant.lower().replace(".", "-")


def learned(job: Job) -> None:
    """Weights alone, 4 bits, learned rounding."""
    protocol = Protocol(job)
    for name in job.progress(job.params.variants, "roundings"):
        variant, up = lowbit.Variant.of(name), job.model(model_name(name))
        network = protocol.quantised(variant.form, up=up, granularity=variant.granularity)
        at = {"format": variant.form, "granularity": variant.granularity}
        at["aware"] = "yes" if variant.scale_aware else "no"
        protocol.measure_all(network, name, **at)
        job.measure("zero_share", lowbit.zero_weights(network), **at)
        moved = [
            float((up[layer] != directions).double().mean())
            for layer, directions in _nearest(network).items()
        ]
        job.measure("turned", sum(moved) / len(moved), **at)


@torch.no_grad()
def _nearest(network: nn.Module) -> dict[str, Tensor]:
    """Directions of rounding to nearest, as `method.learn` gives those that were learned."""
    found = {}
    for name, layer in quantised_layers(network).items():
        [grid] = layer.weight_grids
        u = scaled(grid, layer.layer.weight)
        found[name] = (torch.round(u) > torch.floor(u)).to(torch.uint8)
    return found


def activations(job: Job) -> None:
    """Weights and activations: `pairs` of formats, by granularity of the weights.

    `rounding`: nearest, or learned (then the weights are those of the models). `sampled`: whether
    samples are compared, or ε alone.
    """
    protocol, p = Protocol(job), job.params
    for weights, inputs in job.progress(p.pairs, "pairs of formats"):
        for granularity in lowbit.GRANULARITIES:
            up = None
            if p.rounding == "learned":
                up = job.model(model_name(f"{weights}.{granularity}"))
            network = protocol.quantised(weights, inputs, up=up, granularity=granularity)
            at = {"weights": weights, "activations": inputs, "granularity": granularity}
            if p.sampled:
                protocol.measure_all(network, f"{weights}.{inputs}.{granularity}", **at)
            else:
                protocol.measure_eps(network, **at)


@torch.no_grad()
def weights(job: Job) -> None:
    """What formats do to the weights, without sampling: errors, zeros, chosen formats, kurtosis."""
    protocol, p = Protocol(job), job.params
    layers = {
        name: module.weight.detach()
        for name, module in protocol.network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear)
    }
    energy = sum(float(w.double().square().sum()) for w in layers.values())
    job.measure("zero_share", _zero_share(layers), format="float")
    gridded: dict[tuple[str, str], dict[str, Tensor]] = {}
    errors: dict[tuple[str, str], dict[str, float]] = {}
    for form in job.progress(p.formats, "formats"):
        searched = form.startswith("FP")  # among the splits of its bits
        spans = [span for span in lowbit.RANGES if not (searched and span == "max")]
        for granularity, span in product(lowbit.GRANULARITIES, spans):
            grids = {
                name: lowbit.grid(w, form, granularity=granularity, span=span)
                for name, w in layers.items()
            }
            rounded = {name: grids[name](w) for name, w in layers.items()}
            lost = {n: float((rounded[n] - w).double().square().sum()) for n, w in layers.items()}
            at = {"format": form, "granularity": granularity, "range": span}
            job.measure("weight_error", sum(lost.values()) / energy, **at)
            job.measure("zero_share", _zero_share(rounded), **at)
            if searched:
                _chosen(job, int(form[2:]), granularity, list(grids.values()))
            if span == "search":
                gridded[form, granularity], errors[form, granularity] = rounded, lost
    _predicted(protocol, layers, gridded, errors)


def _zero_share(weights: Mapping[str, Tensor]) -> float:
    zeros = sum(int((w == 0).sum()) for w in weights.values())
    return zeros / sum(w.numel() for w in weights.values())


def _chosen(job: Job, bits: int, granularity: str, grids: list[AnyGrid]) -> None:
    """Share of the layers for which the search chose each split of the bits."""
    for exponent, mantissa in float_formats(bits):
        split = f"E{exponent}M{mantissa}"
        share = sum(lowbit.format_of(grid) == split for grid in grids) / len(grids)
        job.measure("chosen", share, bits=bits, format=split, granularity=granularity)


def _predicted(
    protocol: Protocol,
    layers: Mapping[str, Tensor],
    gridded: Mapping[tuple[str, str], Mapping[str, Tensor]],
    errors: Mapping[tuple[str, str], Mapping[str, float]],
) -> None:
    """Kurtosis of each layer's weights against what E2M1 gains over INT4, in decibels."""
    job, states = protocol.job, protocol.calibration
    job.save("layers", list(layers))
    for granularity in lowbit.GRANULARITIES:
        integer, floating = ("INT4", granularity), ("E2M1", granularity)
        tails = [lowbit.kurtosis(w, granularity) for w in layers.values()]
        job.save(f"kurtosis-{granularity}", tails)
        other = {
            name: {"integer": gridded[integer][name], "floating": gridded[floating][name]}
            for name in layers
        }
        outputs = lowbit.output_errors(protocol.network, states, other)
        lost = {
            "weights": [(errors[integer][n], errors[floating][n]) for n in layers],
            "outputs": [(outputs[n]["integer"], outputs[n]["floating"]) for n in layers],
        }
        for where, pairs in lost.items():
            gain = (10 * torch.tensor([i / f for i, f in pairs]).log10()).tolist()
            at = {"granularity": granularity, "error": where}
            job.save(f"gain-{granularity}-{where}", gain)
            job.measure("kurtosis_correlation", lowbit.spearman(tails, gain), **at)
            job.measure("float_wins", sum(g > 0 for g in gain) / len(gain), **at)


# Controls and preconditions -----------------------------------------------------------------------


def even(job: Job) -> None:
    """As `activations`, to nearest, with one range per tensor: for formats of even steps."""
    protocol = Protocol(job)
    for weights, inputs in job.progress(job.params.pairs, "pairs of formats"):
        network = protocol.quantised(weights, inputs)
        at = {"weights": weights, "activations": inputs, "granularity": "tensor"}
        protocol.measure_all(network, f"{weights}.{inputs}.tensor", **at)


def shuffled(job: Job) -> None:
    """As `learned`, but in every layer as many weights as learning turned, drawn at random, turn.

    Also with the activations of `activations`.
    """
    protocol, p = Protocol(job), job.params
    generator = job.rng("shuffle")
    for name in job.progress(p.variants, "roundings"):
        variant, up = lowbit.Variant.of(name), job.model(model_name(name))
        options: lowbit.Choices = {"granularity": variant.granularity}
        plain = _nearest(protocol.quantised(variant.form, **options))
        other = {}
        for layer, directions in plain.items():
            turned = (up[layer].to(directions.device) != directions).flatten()
            order = torch.randperm(len(turned), generator=generator).to(turned.device)
            other[layer] = directions ^ turned[order].view_as(directions).to(torch.uint8)
        at = {"format": variant.form, **options, "aware": "no"}
        protocol.evaluate(protocol.quantised(variant.form, up=other, **options), name, **at)
        network = protocol.quantised(variant.form, p.activations, up=other, **options)
        protocol.measure_eps(network, weights=variant.form, activations=p.activations, **options)


def convergence(job: Job) -> None:
    """How learning ended in the models of roundings, as their records tell.

    Share of undecided roundings (0.05 < h < 0.95) in all layers and in the worst; loss of the worst
    and of the median unit after the cut over that of rounding to nearest, and over that before the
    cut. Arrays keep every layer and unit.
    """
    for name in job.params.variants:
        variant = lowbit.Variant.of(name)
        found = learned_units(job.model(model_name(name)))
        at = {"format": variant.form, "granularity": variant.granularity}
        at["aware"] = "yes" if variant.scale_aware else "no"
        shares = {layer: share for unit in found for layer, share in unit.undecided.items()}
        weights = {layer: n for unit in found for layer, n in unit.weights.items()}
        total = sum(shares[layer] * weights[layer] for layer in shares) / sum(weights.values())
        for layer, share in (("all", total), ("worst", max(shares.values()))):
            job.measure("undecided", share, layer=layer, **at)
        losses = [(unit.before, unit.soft, unit.after) for unit in found]
        table = torch.tensor(losses, dtype=torch.float64).clamp(min=torch.finfo(torch.float32).tiny)
        for over, ratio in (
            ("nearest", table[:, 2] / table[:, 0]),
            ("soft", table[:, 2] / table[:, 1]),
        ):
            job.measure("loss_ratio", ratio.max(), over=over, unit="worst", **at)
            job.measure("loss_ratio", ratio.median(), over=over, unit="median", **at)
        job.save(f"layers-{name}", list(shares))
        job.save(f"undecided-{name}", list(shares.values()))
        job.save(f"units-{name}", [unit.name for unit in found])
        job.save(f"losses-{name}", table)
        job.save(f"iterations-{name}", [unit.iterations for unit in found])


@torch.no_grad()
def kurtosis_of_others(job: Job) -> None:
    """The correlations of `weights` when every layer gets the kurtosis of another."""
    protocol = Protocol(job)
    layers = {
        name: module.weight.detach()
        for name, module in protocol.network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear)
    }
    gridded: dict[tuple[str, str], dict[str, Tensor]] = {}
    errors: dict[tuple[str, str], dict[str, float]] = {}
    for form, granularity in product(("INT4", "E2M1"), lowbit.GRANULARITIES):
        grids = {n: lowbit.grid(w, form, granularity=granularity) for n, w in layers.items()}
        gridded[form, granularity] = {n: grids[n](w) for n, w in layers.items()}
        errors[form, granularity] = {n: lowbit.weight_error(w, grids[n]) for n, w in layers.items()}
    order = torch.randperm(len(layers), generator=job.rng("shuffle")).tolist()
    names, weights = list(layers), list(layers.values())
    others = {name: weights[i] for name, i in zip(names, order, strict=True)}
    _predicted(protocol, others, gridded, errors)


def floor(job: Job) -> None:
    """As many training images as the other arms have samples: real against real."""
    if job.params.classifier:
        judge = Judge(job)
        judge.measure(judge.pictures(job.params.samples, "train", "floor"))
