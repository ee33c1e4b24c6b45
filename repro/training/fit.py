"""Training of the networks of the suite: `fit` trains one, `fit_alternating` several in turn.

Both run the loop of `repro.training.loop` with the optimiser, schedule and average of
`repro.training.settings`. Everything random in step n is drawn from a generator seeded by
(seed, name, n), so a run that was killed and resumed from its checkpoint ends in the same bits as
one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Generator, Tensor, nn

from repro.display import quiet_lightning
from repro.errors import ReproError
from repro.training.settings import (
    Batch,
    Course,
    Loss,
    Networks,
    Optimiser,
    Precision,
    Turn,
)

if TYPE_CHECKING:
    from repro.job import Job


@dataclass(frozen=True)
class Fitted:
    """What training gives back.

    state_dict: the averaged weights (the plain ones without EMA), on the CPU.
    curve: (steps,) float32, the training loss of every step.
    """

    state_dict: dict[str, Tensor]
    curve: np.ndarray


@dataclass(frozen=True)
class Alternated:
    """What training in turn gives back, by the names of the networks.

    state_dicts: the averaged weights (the plain ones without EMA), on the CPU.
    curves: (steps,) float32, the loss of every step; NaN in steps without that turn.
    """

    state_dicts: dict[str, dict[str, Tensor]]
    curves: dict[str, np.ndarray]


def fit(
    job: Job,
    network: nn.Module,
    loss: Loss,
    batch: Batch,
    optimiser: Optimiser,
    *,
    steps: int,
    precision: Precision = "32-true",
    checkpoint_every: float = 60.0,
    checkpoint_steps: int | None = None,
    name: str = "fit",
) -> Fitted:
    """Train ``network`` for ``steps`` steps; resumes where an earlier, killed run was.

    job: gives the seed (``job.rng``), the device, the log and the folder of the checkpoint.
    network: trained in place; at the end it holds the returned weights and is in eval mode.
    loss: (network, batch, generator) -> scalar tensor.
    batch: (step, generator) -> whatever ``loss`` takes; tensors in it are moved to the device.
        Both get one CPU generator, seeded by (seed, name, step) and first used by ``batch``.
        The global generator is seeded likewise during the loss, which serves dropout.
    precision: "bf16-mixed" runs the step, backward too, under bfloat16 autocast; weights stay
        float32.
    checkpoint_every: seconds between checkpoints; checkpoint_steps: or steps, where given.
    name: tells apart several trainings in one job.

    Raises ReproError where the loss is not finite, or where the checkpoint cannot be read or
    written; with one that is damaged it begins anew. SIGINT and SIGTERM raise
    `repro.stopping.Stopped`, which ends the process.
    """

    def own(networks: Networks, data: Any, generator: Generator, shared: dict[str, Any]) -> Tensor:
        return loss(networks["network"], data, generator)

    course = Course(name, steps, precision, "step", checkpoint_every, checkpoint_steps)
    found = _train(job, {"network": network}, {"network": Turn(own, optimiser)}, batch, course)
    return Fitted(found.state_dicts["network"], found.curves["network"])


def fit_and_save(
    job: Job,
    network: nn.Module,
    loss: Loss,
    batch: Batch,
    optimiser: Optimiser,
    *,
    steps: int,
    precision: Precision = "32-true",
    name: str = "fit",
    curve: str = "curve",
) -> dict[str, Tensor]:
    """The weights that `fit` returns; its curve is kept with the job, under the name ``curve``."""
    fitted = fit(job, network, loss, batch, optimiser, steps=steps, precision=precision, name=name)
    job.save(curve, fitted.curve)
    return fitted.state_dict


def fit_alternating(
    job: Job,
    networks: Networks,
    turns: Mapping[str, Turn],
    batch: Batch,
    *,
    steps: int,
    precision: Precision = "32-true",
    checkpoint_every: float = 60.0,
    checkpoint_steps: int | None = None,
    name: str = "fit",
) -> Alternated:
    """Train several networks in turn: a generator against a fake score, a discriminator, or both.

    Each step gives every network its turn, in the order of ``turns``, with a loss and an optimiser
    of its own. While one has its turn the parameters of the others are frozen, so that a loss may
    differentiate through them without leaving gradients behind.

    networks: trained in place, with the names of ``turns``; at the end they hold the returned
        weights and are in eval mode.
    batch: (step, generator) -> whatever the losses take. It and the losses of a step share one CPU
        generator; the global generator is seeded before every turn.
    precision: "bf16-mixed" runs each loss, without its backward pass, under bfloat16 autocast.
    The others, and the errors, as in `fit`; the names have to agree.
    """
    course = Course(name, steps, precision, "loss", checkpoint_every, checkpoint_steps)
    return _train(job, networks, turns, batch, course)


def _train(
    job: Job, networks: Networks, turns: Mapping[str, Turn], batch: Batch, course: Course
) -> Alternated:
    if set(networks) != set(turns):
        raise ReproError(
            f"training '{course.name}' of {job.name} has networks {', '.join(networks)} but turns "
            f"for {', '.join(turns)}; give each network one turn"
        )
    if course.steps < 1:
        raise ReproError(
            f"training '{course.name}' of {job.name} asks for {course.steps} steps; use 1 or more"
        )
    # Lightning takes seconds to import: only a job that trains pays for it.
    with quiet_lightning():
        from repro.training.loop import train

    curves = train(job, {k: networks[k] for k in turns}, turns, batch, course)
    states = {
        k: {n: v.detach().to("cpu", copy=True) for n, v in networks[k].state_dict().items()}
        for k in turns
    }
    return Alternated(states, {k: curve.numpy().copy() for k, curve in curves.items()})
