"""What goes along with training: the average, the stop at NaN, checkpoints."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from repro import store
from repro.errors import ReproError
from repro.training import progress
from repro.training.settings import Course, Turn, ema_decay

if TYPE_CHECKING:
    from repro.job import Job


class Average(Callback):
    """Exponential moving averages of the networks whose turns ask for one.

    The floating-point entries of a state dict are averaged, at every step of its optimiser.
    """

    def __init__(self, networks: Mapping[str, nn.Module], turns: Mapping[str, Turn]) -> None:
        self.networks = networks
        limits = {name: turn.optimiser.ema for name, turn in turns.items()}
        self.limits = {name: limit for name, limit in limits.items() if limit is not None}
        self.averages: dict[str, dict[str, Tensor]] = {}
        self.updates = dict.fromkeys(self.limits, 0)

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        for (name, network), optimiser in zip(
            self.networks.items(), trainer.optimizers, strict=True
        ):
            if name not in self.limits:
                continue
            live = network.state_dict()
            restored = self.averages.get(name, live)
            average = {k: restored[k].detach().to(v.device, copy=True) for k, v in live.items()}
            self.averages[name] = average
            moving = [k for k, v in live.items() if v.is_floating_point()]
            update = partial(
                self.update, name, [average[k] for k in moving], [live[k].detach() for k in moving]
            )
            optimiser.register_step_post_hook(update)

    @torch.no_grad()
    def update(self, name: str, averaged: list[Tensor], live: list[Tensor], *_: Any) -> None:
        decay = ema_decay(self.updates[name], self.limits[name])
        torch._foreach_lerp_(averaged, live, 1.0 - decay)
        self.updates[name] += 1

    def apply(self) -> None:
        """Give the networks their averaged weights."""
        for name, average in self.averages.items():
            self.networks[name].load_state_dict(average)

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self.averages, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.averages, self.updates = state["averages"], state["updates"]


class Losses(Callback):
    """The loss of every step; one that is not finite stops the training.

    curves: (steps,) float32 by name, NaN in steps without that turn.
    """

    def __init__(
        self, job: Job, course: Course, turns: Mapping[str, Turn], read_every: int
    ) -> None:
        self.title, self.turns = progress.title(job, course), turns
        self.steps, self.read_every = course.steps, read_every
        self.curves = {name: torch.full((self.steps,), float("nan")) for name in turns}
        self.unread: list[tuple[int, dict[str, Tensor]]] = []

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        n = batch[0]
        if list(outputs) != [name for name, turn in self.turns.items() if n % turn.every == 0]:
            # Lightning takes a StopIteration of a loss for the end of the step.
            raise ReproError(progress.no_loss(self.title, n, self.steps))
        self.unread.append((n, outputs))
        if (n + 1) % self.read_every == 0 or n + 1 == self.steps:
            self.read()

    def read(self) -> None:
        """Take over the losses that are not read yet.

        Raises ReproError where one is not finite.
        """
        for n, losses in self.unread:
            for name, value in losses.items():
                self.curves[name][n] = value.float().cpu()
                if not math.isfinite(found := self.curves[name][n].item()):
                    named = name if len(self.turns) > 1 else None
                    lr = self.turns[name].optimiser.lr
                    raise ReproError(
                        progress.not_finite(self.title, named, found, n, self.steps, lr)
                    )
        self.unread.clear()

    @property
    def complete(self) -> bool:
        """Whether every turn of every step left its loss."""
        return not any(
            self.curves[name][:: turn.every].isnan().any() for name, turn in self.turns.items()
        )

    def state_dict(self) -> dict[str, Any]:
        # A checkpoint waits for the losses: none is made of weights that a NaN has spoilt.
        self.read()
        return {"curves": self.curves}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, curve in state["curves"].items():
            self.curves[name].copy_(curve)


DIGEST = 64
"""Length of what ends a checkpoint: the SHA-256 of all before it, in hexadecimal digits."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or not there, and that are read without unpickling objects."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        with store.atomic(Path(path)) as temporary, store.as_os_error(RuntimeError):
            with temporary.open("w+b") as handle:
                torch.save(checkpoint, handle)
                handle.seek(0)
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
                handle.write(digest.encode())

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: Any = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


class Damaged(ReproError):
    """A checkpoint that is not what was written."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises Damaged where it is not what was written, ReproError where it cannot be read."""
    remedy = "delete it to train from the beginning"
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise ReproError(
            f"the training checkpoint {path} cannot be read ({error.strerror}); {remedy}"
        ) from error
    if hashlib.sha256(content[:-DIGEST]).hexdigest().encode() != content[-DIGEST:]:
        raise Damaged(f"the training checkpoint {path} is damaged; {remedy}")
    del content
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise Damaged(
            f"the training checkpoint {path} is of another version ({type(error).__name__}); "
            f"{remedy}"
        ) from error


class Checkpoint(Callback):
    """Saves the training every so often, and where the process is asked to end.

    settings: what a training must have in common with the file to go on from it.
    """

    def __init__(self, job: Job, course: Course, settings: str) -> None:
        self.job, self.course, self.settings = job, course, settings
        self.path = Path(job.scratch) / f"{course.name}.checkpoint"
        self.saved_at = time.monotonic()

    def to_resume(self) -> Path | None:
        """The file, if there is one, it is whole, and it was made with these settings."""
        if not self.path.exists():
            return None
        try:
            if read_checkpoint(self.path).get("settings") == self.settings:
                return self.path
        except Damaged:
            self.job.log.warning("%s is damaged; training from the beginning", self.path.name)
            return None
        self.job.log.info("%s was made with other settings; starting anew", self.path.name)
        return None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        done, now = batch[0] + 1, time.monotonic()
        every = self.course.checkpoint_steps
        due = done % every == 0 if every else now - self.saved_at >= self.course.checkpoint_every
        if due and done < self.course.steps:
            trainer.save_checkpoint(self.path)
            self.saved_at = now

    def on_exception(
        self, trainer: Trainer, module: LightningModule, exception: BaseException
    ) -> None:
        # Lightning raises this one between two steps; any other may have cut a step in half.
        if isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(self.path)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        # A training so short that none was made is repeated as fast as it is read.
        if self.path.exists():
            trainer.save_checkpoint(self.path)

    def on_save_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["settings"] = self.settings
