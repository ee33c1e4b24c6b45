"""Calibration sets: the inputs on which activation ranges are found.

Both PTQ4DM and Q-Diffusion calibrate on states x_t that the full-precision network meets while it
samples, paired with the time label t that it was given there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.errors import ReproError

Eps = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class CalibrationSet:
    """Network inputs `x` (N, ...) with labels `t` (N,); ReproError where they do not pair up."""

    x: Tensor
    t: Tensor

    def __post_init__(self) -> None:
        if self.t.ndim != 1 or not self.x.ndim or len(self.x) != len(self.t):
            raise ReproError(
                f"inputs of shape {tuple(self.x.shape)} and labels of shape {tuple(self.t.shape)} "
                "do not pair up; give one label an input"
            )

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Consecutive batches of at most `size` samples. Raises ReproError for a size below 1."""
        if size < 1:
            raise ReproError(f"batches of {size} samples are none; ask for 1 or more")
        for start in range(0, len(self.x), size):
            yield self.x[start : start + size], self.t[start : start + size]


@dataclass(frozen=True)
class Trajectory:
    """What a sampler fed to its network and got back: x, eps (S, B, ...) in the order of sampling,
    t (S,), final (B, ...).
    """

    x: Tensor
    eps: Tensor
    t: Tensor
    final: Tensor


@torch.no_grad()
def record(eps_model: Eps, sample: Callable[[Eps], Tensor]) -> Trajectory:
    """Run `sample(eps_model)` and keep every state fed to the network and every ε that it gave.

    `sample` takes an ε-model and returns final samples; the model must be called once a step with
    one label for the batch. Raises ReproError where it is never called.
    """
    states, noises, labels = [], [], []

    def recording(x: Tensor, t: Tensor) -> Tensor:
        eps = eps_model(x, t)
        with torch.inference_mode(False):
            states.append(x.clone())
            noises.append(eps.clone())
            labels.append(t.flatten()[0].clone())
        return eps

    final = sample(recording)
    if not states:
        raise ReproError("the sampler never called the network; give it at least one step")
    return Trajectory(torch.stack(states), torch.stack(noises), torch.stack(labels), final)


def uniform_grid(trajectory: Trajectory, steps: int, per_step: int) -> CalibrationSet:
    """Q-Diffusion's set: `steps` of the S sampling steps at stride S // steps from the first,
    `per_step` samples of each.

    Different chains are taken at different steps as long as there are enough of them. Source:
    Q-Diffusion, section 3.2.
    """
    total, chains = trajectory.x.shape[:2]
    if not 0 < steps <= total or not 0 < per_step <= chains:
        raise ReproError(
            f"cannot take {per_step} samples of {steps} steps from {chains} chains of {total} "
            "steps; ask for fewer"
        )
    xs, ts = [], []
    for k in range(steps):
        step = k * (total // steps)
        chosen = torch.arange(k * per_step, (k + 1) * per_step) % chains
        xs.append(trajectory.x[step, chosen])
        ts.append(trajectory.t[step].expand(per_step))
    return CalibrationSet(torch.cat(xs), torch.cat(ts))
