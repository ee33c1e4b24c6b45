"""The models of the experiment: a teacher, its pairs, small flows, and one-step students.

All flows of a seed meet the same pairs, times, coins and fresh noises, in the same order, whatever
their schedule; so do all students. Arms then differ in one choice.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from methods.slimflow import method as slim
from repro.data import items
from repro.diffusion import flow
from repro.diffusion.multistep import dpm_solver_pp_2m
from repro.diffusion.schedules import alphas_cumprod, linear_betas, q_sample, timesteps_uniform
from repro.errors import ReproError
from repro.nets.classifier import Classifier
from repro.nets.unet import UNet
from repro.training.fit import fit_and_save
from repro.training.seeding import seeded
from repro.training.settings import Batch, Loss, Optimiser
from repro.zoo import pretrained
from repro.zoo.judge import enlarged
from repro.zoo.train import images, scaled

if TYPE_CHECKING:
    from repro.job import Job, Params

TAPS = (0, 1, 3)
"""Stages of the classifier whose activations the feature distance compares."""


def autocast(job: Job) -> AbstractContextManager[Any]:
    """bfloat16 for sampling where the card trains in bf16-mixed."""
    half = job.params.precision == "bf16-mixed"
    return torch.autocast(job.device.type, torch.bfloat16, enabled=half)


def fitted(job: Job, network: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
    """Train with the options of the card; keeps the curve."""
    p = job.params
    optimiser = Optimiser(lr=p.lr, warmup=p.warmup, schedule="cosine", ema=p.ema, betas=(0.9, 0.99))
    return fit_and_save(job, network, loss, batch, optimiser, steps=p.steps, precision=p.precision)


# The teacher and its pairs -------------------------------------------------------------------


def teacher_network(job: Job, state: dict[str, Tensor] | None = None) -> nn.Module:
    """The ε-network of the card's zoo model, with other weights of the same shapes if given."""
    name = job.params.network
    if state is None:
        return pretrained.network(job, name).eval()
    network = pretrained.build(job.model_params(name).as_dict())
    network.load_state_dict(state)
    return network.to(job.device).eval()


def teacher_velocity(job: Job) -> flow.Velocity:
    """The velocity of the trained teacher, its ODE read as a flow."""
    network = teacher_network(job, job.model("teacher")).requires_grad_(False)

    def eps_model(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t).float()

    return flow.eps_velocity(eps_model, alphas_cumprod(linear_betas()).to(job.device))


def teacher(job: Job) -> dict[str, Tensor]:
    """The zoo's ε-network, trained on with mirrored images: flips of pairs need such a teacher."""
    p = job.params
    x = images(job.data(p.dataset).train, p.dataset)
    network = teacher_network(job).requires_grad_(True)
    abar = alphas_cumprod(linear_betas()).float()

    def batch(step: int, generator: Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(x), (p.batch,), generator=generator)
        coins = torch.rand(p.batch, generator=generator) < 0.5
        x0 = scaled(x[chosen], p.dataset)
        noise = torch.randn(x0.shape, generator=generator)
        x0, _ = slim.flip_pairs(x0, noise, coins)
        t = (flow.uniform_times(p.batch, generator, 0.0) * len(abar)).long()
        t = t.clamp(max=len(abar) - 1)
        return q_sample(x0, t, abar, noise), t, noise

    def loss(net: nn.Module, data: tuple[Tensor, ...], generator: Generator) -> Tensor:
        noisy, t, noise = data
        return (net(noisy, t).float() - noise).square().mean()

    return fitted(job, network, loss, batch)


def pairs(job: Job) -> dict[str, Tensor]:
    """Noises z and images x (N, C, H, W), the ends of the teacher's ODE by DPM-Solver++."""
    p = job.params
    network = teacher_network(job, job.model("teacher"))
    abar = alphas_cumprod(linear_betas())
    tau = timesteps_uniform(len(abar), p.solver_steps)
    items.glance(p.dataset)
    side = images(job.data(p.dataset).test, p.dataset).shape[1:]
    z = torch.randn(p.pairs, *side, generator=job.rng("pairs"))
    found = []
    for part in job.progress(z.split(p.sample_batch), "pairs"):
        with autocast(job):
            x = dpm_solver_pp_2m(lambda x, t: network(x, t).float(), part.to(job.device), tau, abar)
        found.append(x.float().cpu())
    return {"z": z, "x": torch.cat(found)}


# Small networks ---------------------------------------------------------------------------------


def velocity(network: Callable[[Tensor, Tensor], Tensor], p: Params) -> flow.Velocity:
    """The velocity of a small network, as all of its uses read it."""
    return slim.data_velocity(network, p.floor)


def initialised(job: Job, state: dict[str, Tensor] | None = None) -> UNet:
    """A small network: fresh, from the seed's stream, or with weights."""
    network = seeded(lambda: UNet(**job.params.unet), job.rng("initialise"))
    if state is not None:
        network.load_state_dict(state)
    return network.to(job.device)


def load_flow(job: Job, name: str) -> flow.Velocity:
    """The velocity of a trained small network, in eval mode."""
    p = job.model_params(name)
    network = UNet(**p.unet)
    network.load_state_dict(job.model(name))
    return velocity(network.to(job.device).eval().requires_grad_(False), p)


class Draw(NamedTuple):
    """One batch of pairs, times and fresh noises; `beta` belongs to its update."""

    z: Tensor
    x: Tensor
    t: Tensor
    fresh: Tensor
    beta: float = 0.0


def drawn(data: dict[str, Tensor], size: int, flip: bool, generator: Generator) -> Draw:
    """Pairs with their coins, times and fresh noises: the same draws whatever is used of them."""
    chosen = torch.randint(len(data["z"]), (size,), generator=generator)
    coins = torch.rand(size, generator=generator) < 0.5
    t = flow.uniform_times(size, generator, slim.EPS)
    z, x = data["z"][chosen], data["x"][chosen]
    fresh = torch.randn(z.shape, generator=generator)
    if flip:
        z, x = slim.flip_pairs(z, x, coins)
    return Draw(z, x, t, fresh)


def reflow(job: Job) -> dict[str, Tensor]:
    """A small flow on the teacher's pairs by Annealing Reflow; `schedule` fixes what it becomes."""
    p, data = job.params, job.model("pairs")
    beta, warm = slim.schedule(p.schedule), p.warm * p.steps

    def batch(step: int, generator: Generator) -> Draw:
        draw = drawn(data, p.batch, p.flip, generator)
        return draw._replace(beta=beta(step, warm))

    def loss(net: nn.Module, d: Draw, generator: Generator) -> Tensor:
        v = velocity(net, p)
        return slim.annealing_reflow_loss(v, d.z, d.x, d.t, d.beta, d.fresh)

    return fitted(job, initialised(job), loss, batch)


def own_pairs(job: Job) -> dict[str, Tensor]:
    """Noises and what the small 2-rectified flow makes of them; the noises are the teacher's."""
    p, z = job.params, job.model("pairs")["z"]
    (name,) = (n for n in job.model_paths if n != "pairs")
    v = load_flow(job, name)
    with autocast(job):
        x = flow.euler(v, z.to(job.device), p.nfe, eps=slim.EPS, batch=p.sample_batch)
    return {"z": z, "x": x.cpu()}


def distance(job: Job) -> slim.Distance:
    """The distance of the card: of pixels, or of the classifier's early activations."""
    name = job.params.distance
    if name == "l2":
        return slim.squared
    if name != "feature":
        raise ReproError(f"no distance `{name}`; choose l2 or feature")
    classifier = pretrained.of_type(Classifier, job, job.params.classifier)
    early = slim.feature_distance(classifier.stages, TAPS)
    return lambda a, b: early(enlarged(a), enlarged(b))


def distil(job: Job) -> dict[str, Tensor]:
    """A one-step student on pairs, with the two-step term or without, fresh or from a flow.

    The released code starts a student from the plain weights of its flow and keeps the averaged
    ones as the frozen teacher; both are the averaged ones here.
    """
    p = job.params
    source = next(n for n in job.model_paths if n.endswith("pairs"))
    data = job.model(source)
    flows = [n for n in job.model_paths if n != source and not n.startswith("zoo/")]
    start = job.model(flows[0]) if p.start == "flow" else None
    v_phi = load_flow(job, flows[0]) if p.two_step else None
    D = distance(job)
    low, high = p.between

    def batch(step: int, generator: Generator) -> Draw:
        return drawn(data, p.batch, p.flip, generator)

    def loss(net: nn.Module, d: Draw, generator: Generator) -> Tensor:
        v = velocity(net, p)
        if v_phi is None:
            return slim.distil_loss(v, d.z, d.x, D)
        # The draw holds times spread over [ε, 1], here spread over the range of s.
        s = low + (high - low) * d.t
        return slim.flow_guided_loss(
            v, v_phi, d.z, d.x, d.fresh, s, D, own_first_step=p.own_first_step
        )

    return fitted(job, initialised(job, start), loss, batch)
