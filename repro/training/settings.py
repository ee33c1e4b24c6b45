r"""How a network is trained: AdamW, the schedule of its learning rate, and its average.

Step $n = 0, 1, \dots$ of $N$ has the learning rate $\eta_n = \eta f_n$ with a linear warm-up over
$w$ steps,

    $f_n = (n + 1) / w$ for $n < w$,  and with $r = (n - w) / (N - w)$ from there on
    $f_n = 1$ (constant),  $1 - r$ (linear),  $(1 + \cos \pi r) / 2$ (cosine).

The weights that training returns are the exponential moving average

    $\bar\theta \leftarrow d_k \bar\theta + (1 - d_k) \theta$,  $d_k = \min(d, (1 + k) / (10 + k))$,

over the updates $k = 0, 1, \dots$ of the network. Its warm-up is that of Song et al. 2021 (arXiv
2011.13456, published code).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from torch import Generator, Tensor, nn

from repro.errors import ReproError

Precision = Literal["32-true", "bf16-mixed"]
Schedule = Literal["constant", "cosine", "linear"]

Networks = Mapping[str, nn.Module]
Loss = Callable[[Any, Any, Generator], Tensor]
TurnLoss = Callable[[Networks, Any, Generator, dict[str, Any]], Tensor]
Batch = Callable[[int, Generator], Any]


@dataclass(frozen=True)
class Optimiser:
    """AdamW and what goes with it.

    lr: peak learning rate. weight_decay, betas: of AdamW. warmup: steps of linear increase.
    schedule: what the learning rate does after them. clip: limit of the gradient's norm, None for
    no limit. ema: limit d of the average's decay, None for no average.

    Raises ReproError for a schedule that there is not.
    """

    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 0
    schedule: Schedule = "constant"
    clip: float | None = 1.0
    ema: float | None = 0.999

    def __post_init__(self) -> None:
        check_choice("learning-rate schedule", self.schedule, get_args(Schedule))


@dataclass(frozen=True)
class Turn:
    """How one of several networks is trained.

    loss: (networks, batch, generator, shared) -> scalar tensor. ``shared`` is a new dict every
        step, through which a turn hands what it computed (detached) to those after it.
    every: the turn is taken in the steps that this number divides, the first among them. The
        learning rate moves in the other steps too.
    """

    loss: TurnLoss
    optimiser: Optimiser
    every: int = 1

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must have been made with, so that training may go on from it."""
        return {"every": self.every, **asdict(self.optimiser)}


@dataclass(frozen=True)
class Course:
    """How long a training is, in which precision, and when it is saved.

    name: tells apart several trainings in one job. autocast: what "bf16-mixed" covers, the whole
    step or the losses alone. checkpoint_every: seconds between checkpoints; checkpoint_steps: or
    steps, where given.

    Raises ReproError for a precision that there is not.
    """

    name: str
    steps: int
    precision: Precision
    autocast: Literal["step", "loss"]
    checkpoint_every: float
    checkpoint_steps: int | None

    def __post_init__(self) -> None:
        check_choice("training precision", self.precision, get_args(Precision))


def learning_rate_factor(n: int, steps: int, warmup: int, schedule: Schedule) -> float:
    """f_n: the learning rate at step n of ``steps`` over its peak."""
    if n < warmup:
        return (n + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - (n - warmup) / max(steps - warmup, 1)
    return 0.5 * (1.0 + math.cos(math.pi * (n - warmup) / max(steps - warmup, 1)))


def ema_decay(k: int, limit: float) -> float:
    """d_k: decay of the average at update k = 0, 1, …"""
    return min(limit, (1 + k) / (10 + k))


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ReproError where ``value`` is none of the choices."""
    if value not in choices:
        raise ReproError(f"there is no {what} `{value}`; choose one of {', '.join(choices)}")
