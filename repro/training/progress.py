"""What a person sees of a training: its messages, and how far it is. No number depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from repro.display import Meter

if TYPE_CHECKING:
    from repro.job import Job
    from repro.training.loop import Stream
    from repro.training.settings import Course


def title(job: Job, course: Course) -> str:
    return f"training '{course.name}' of {job.name}"


def not_finite(title: str, network: str | None, value: float, n: int, steps: int, lr: float) -> str:
    """The message on a loss that is NaN or infinite. network: named where there are several."""
    of = f" of '{network}'" if network else ""
    return (
        f"{title}: the loss{of} is {value} at step {n} of {steps} (learning rate {lr:g}, see its "
        "log); lower the learning rate, lengthen the warm-up or train in 32-true precision"
    )


def no_loss(title: str, n: int, steps: int) -> str:
    return f"{title}: step {n} of {steps} gave no loss; mend its loss, it may raise StopIteration"


def interrupted(job: Job, course: Course) -> str:
    return f"{title(job, course)} was interrupted; run it again to resume"


def recent(curves: Mapping[str, Tensor], done: int) -> str:
    """The mean losses of the last hundred of ``done`` steps."""
    means = {k: v[max(0, done - 100) : done].nanmean().item() for k, v in curves.items()}
    if len(means) == 1:
        return f"loss {next(iter(means.values())):.4g}"
    return "loss " + ", ".join(f"{name} {mean:.4g}" for name, mean in means.items())


class Progress(Callback):
    """Step, speed and recent losses, on a terminal or in the job's log."""

    def __init__(
        self, job: Job, course: Course, stream: Stream, curves: Mapping[str, Tensor]
    ) -> None:
        self.job, self.stream, self.curves = job, stream, curves
        self.title = f"{job.name}: {course.name}"
        self.meter: Meter | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        start, steps = self.stream.next, self.stream.steps
        if start:
            self.job.log.info("%s: resuming at step %d of %d", self.title, start, steps)
        self.meter = Meter(self.title, steps, self.job.log, start)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if self.meter is not None:
            done = batch[0] + 1
            self.meter.update(done, partial(recent, self.curves, done))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.close()

    def on_exception(
        self, trainer: Trainer, module: LightningModule, exception: BaseException
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.meter is not None:
            self.meter.close()
