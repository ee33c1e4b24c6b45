"""Where the error of samples comes from: what is common to all images, and the last layer.

Where the errors of a quantised network were independent from image to image, those of successive
steps would partly cancel. What is common to all images of a step,

    b_t = E_x [ε_q(x, t) - ε(x, t)],

does not: it moves every trajectory the same way, step after step. `drift` measures its share of
the error, and samples again with b_t taken off. b_t comes from calibration chains, never from the
noises that are judged. `last_layer` learns the roundings of one layer alone, in a network that is
rounded to nearest otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.q_diffusion import method as qd
from methods.q_diffusion.arms import Protocol
from repro.quant import rounded
from repro.quant.calibration import Trajectory
from repro.quant.reconstruction import Cache, Outcome, capture, learn_rounding

if TYPE_CHECKING:
    from repro.job import Job


@torch.no_grad()
def common_error(network: nn.Module, run: Trajectory) -> tuple[Tensor, Tensor]:
    """Mean error over the samples of a trajectory, at each step, and its share of the error.

    network: (x, t) -> ε. run: of the full-precision network, states (steps, N, C, H, W). Returns
    (steps, C, H, W) and (steps,). The share is corrected for the number of samples, N > 1: errors
    without a common part have 0 on average.
    """
    common, share = [], []
    for x, t, eps in zip(run.x, run.t, run.eps, strict=True):
        error = network(x, t.expand(len(x))) - eps
        whole, mean = error.square().mean(), error.mean(0)
        spread = (whole - mean.square().mean()) / (len(x) - 1)
        common.append(mean)
        share.append((mean.square().mean() - spread) / whole)
    return torch.stack(common), torch.stack(share)


def drift(job: Job) -> None:
    """4-bit weights rounded three ways: share of the common error, and samples without it."""
    protocol = Protocol(job)
    data, run = protocol.states(), rounded.chains(protocol)
    networks = {
        "nearest": protocol.started("W4A32", data, split=True),
        "learned": protocol.started("W4A32", data, split=True, state=job.model("w4")),
        "squant": qd.squant(protocol.started("W4A32", data)),
    }
    for rounding, network in networks.items():
        common, share = common_error(network, run)
        taken_off = dict(zip(run.t.tolist(), common, strict=True))

        def corrected(x: Tensor, t: Tensor, network=network, taken_off=taken_off) -> Tensor:
            return network(x, t) - taken_off[int(t[0])]

        half = len(share) // 2
        job.measure("common_share", share[:half].mean(), rounding=rounding, half="noisy")
        job.measure("common_share", share[half:].mean(), rounding=rounding, half="clean")
        for name, model in (("no", network), ("yes", corrected)):
            error = (protocol.sample(model, protocol.x_T) - protocol.final).square().mean()
            job.measure("trajectory_mse", error, rounding=rounding, corrected=name)
        job.save(f"share-{rounding}", share)


def last_layer(job: Job) -> None:
    """Nearest rounding with the roundings of one layer learned: the last, or one as large."""
    protocol, p = Protocol(job), job.params
    data = protocol.states()
    for name in ("none", *p.layers):
        network = protocol.started("W4A32", data, split=True)
        if name != "none":
            own = capture(network, [name], data, record="inputs")[name]
            target = capture(protocol.network, [name], data, record="output")[name]
            ended: list[Outcome] = []
            learn_rounding(
                network.get_submodule(name), Cache(own.inputs, target.output), p.most,
                generator=job.rng("rounding", name), lr=p.lr * p.iterations / p.most,
                batch=p.learning_batch, until=p.until, outcome=ended.append,
            )  # fmt: skip
            job.measure("undecided", max(ended[0].undecided.values()), learned=name)
        protocol.measure_eps(network, learned=name)
        error = (protocol.sample(network, protocol.x_T) - protocol.final).square().mean()
        job.measure("trajectory_mse", error, learned=name)
