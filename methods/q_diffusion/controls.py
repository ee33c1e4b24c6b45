"""What the checks are held against: arms for which they must not hold, and what they presuppose.

floor            real images against real images, as many as the arms have samples
rounding         how learning ended: roundings left undecided, 0.05 < h(α) < 0.95, loss at the cut
one-step         ε of the quantised network at the first step of sampling alone
one-source       ranges of the two halves of what the decoder alone feeds to a shortcut
split-elsewhere  as many layers split as there are shortcuts, but layers of one source
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.q_diffusion import method as qd
from methods.q_diffusion.arms import Protocol, undecided_of
from repro.quant import rounded
from repro.quant.calibration import CalibrationSet
from repro.quant.layers import quantise
from repro.zoo.judge import Judge

if TYPE_CHECKING:
    from repro.job import Job

LAST = "conv_out"


def floor(job: Job) -> None:
    """As many training images as the other arms have samples: real against real."""
    judge = Judge(job)
    judge.measure(judge.pictures(job.params.samples, "train", "floor"))


def rounding(job: Job) -> None:
    """How learning ended in the models of converged roundings, as their records tell.

    The worst unit and the median one: loss after the cut over that of nearest rounding, and over
    that before the cut. Arrays keep every layer and unit.
    """
    for name in job.params.states:
        found = rounded.learned_units(job.model(name))
        total, worst = undecided_of(found)
        shares = {layer: share for unit in found for layer, share in unit.undecided.items()}
        for layer, share in (("all", total), ("worst", worst), ("last", shares[LAST])):
            job.measure("undecided", share, model=name, layer=layer)
        losses = torch.tensor(
            [(u.before, u.soft, u.after) for u in found], dtype=torch.float64
        ).clamp(min=torch.finfo(torch.float32).tiny)
        for of, ratio in (
            ("nearest", losses[:, 2] / losses[:, 0]),
            ("soft", losses[:, 2] / losses[:, 1]),
        ):
            job.measure("loss_ratio", ratio.max(), model=name, over=of, unit="worst")
            job.measure("loss_ratio", ratio.median(), model=name, over=of, unit="median")
        job.save(f"layers-{name}", list(shares))
        job.save(f"undecided-{name}", list(shares.values()))
        job.save(f"units-{name}", [unit.name for unit in found])
        job.save(f"losses-{name}", losses)
        job.save(f"iterations-{name}", [unit.iterations for unit in found])


@torch.no_grad()
def one_step(job: Job) -> None:
    """Round to nearest as `linear` does, and let its error into the first step alone."""
    protocol, p = Protocol(job), job.params
    network, run = protocol.started(p.width, protocol.states()), protocol.reference
    first = int(run.t[0])

    def disturbed(x: Tensor, t: Tensor) -> Tensor:
        return (network if int(t.flatten()[0]) == first else protocol.network)(x, t)

    other = protocol.trajectory(disturbed, protocol.x_T[: p.batch])
    states, twins = (torch.cat([r.x, r.final[None]]) for r in (other, run))
    curve = (states - twins).square().flatten(1).mean(1)
    for done, value in (("first", curve[1]), ("half", curve[len(curve) // 2]), ("all", curve[-1])):
        job.measure("state_error", value, bits=p.width, scale="max", done=done)


@torch.no_grad()
def halves_of_decoder(
    network: nn.Module, data: CalibrationSet, splits: dict[str, int], batch: int = 64
) -> dict[str, tuple[float, float]]:
    """(max |X1a|, max |X1b|) of the halves, by channels, of the decoder's part X1 of [X1 ; X2]."""
    reach = {name: [0.0, 0.0] for name in splits}

    def hook(name: str):
        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            own = args[0][:, : splits[name]]
            for i, part in enumerate(own.tensor_split(2, dim=1)):
                reach[name][i] = max(reach[name][i], float(part.abs().max()))

        return look

    hooks = [network.get_submodule(n).register_forward_pre_hook(hook(n)) for n in splits]
    try:
        for x, t in data.batches(batch):
            network(x, t)
    finally:
        for handle in hooks:
            handle.remove()
    return {name: (low, high) for name, (low, high) in reach.items()}


def one_source(job: Job) -> None:
    """The ratios of ranges that `full-precision` measures, within one source."""
    protocol = Protocol(job)
    found = halves_of_decoder(
        protocol.network, protocol.states(), rounded.splits(protocol.network), job.params.batch
    )
    ratios = torch.tensor([max(a / b, b / a) for a, b in found.values()])
    for place, value in (("widest", ratios.max()), ("median", ratios.median())):
        job.measure("shortcut_ratio", value, layer=place)


def layers_beside(network: nn.Module, shortcuts: dict[str, int]) -> dict[str, int]:
    """The second convolutions of the blocks that own shortcuts, and the middle of their inputs."""
    names = [f"{name.rpartition('.')[0]}.conv2" for name in shortcuts]
    found = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    return {name: found[name].in_channels // 2 for name in names}


def split_elsewhere(job: Job) -> None:
    """Nearest rounding with nothing split, and with other layers split than the shortcuts."""
    protocol, p = Protocol(job), job.params
    data = protocol.states()
    beside = layers_beside(protocol.network, rounded.splits(protocol.network))
    for split, layers in (("no", {}), ("elsewhere", beside)):
        recipe = replace(rounded.recipe(protocol.network, 4, 8, split=False), splits=layers)
        network = quantise(protocol.network, recipe)
        qd.initialise(network, data, p.initial, job.rng("initial states"))
        protocol.measure_eps(network, bits="W4A8", split=split)
