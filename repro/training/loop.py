"""The training loop: `Training.training_step` is one step of it, for one network or for several.

Lightning moves batches to the device, runs the loss in the precision asked for, freezes the
networks whose turn it is not, calls the callbacks and restores all that a checkpoint holds. Its
manual optimisation is its documented way for several optimisers; with a single network there is one
turn. Importing this module imports Lightning, which takes seconds: `repro.training.fit` does so
where something trains.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.plugins import Precision as FullPrecision
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import Generator, Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from repro import stopping
from repro.display import quiet_lightning
from repro.errors import ReproError
from repro.stopping import Stopped
from repro.training.callbacks import AtomicCheckpoints, Average, Checkpoint, Losses
from repro.training.progress import Progress, interrupted
from repro.training.seeding import seed_global
from repro.training.settings import Batch, Course, Turn, learning_rate_factor

if TYPE_CHECKING:
    from repro.job import Job


class Training(LightningModule):
    """Networks, their turns, and the step in which each takes its turn.

    networks, turns: by name, in the order in which turns are taken. steps: how many there are.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], turns: Mapping[str, Turn], steps: int
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.turns, self.steps = dict(turns), steps
        self.networks = dict(networks)
        self.registered = nn.ModuleList(self.networks.values())

    def training_step(self, item: tuple[int, Any, Generator], index: int) -> dict[str, Tensor]:
        """Step n: each network whose turn it is takes a step of its optimiser. Losses by name."""
        n, batch, generator = item
        shared: dict[str, Any] = {}
        losses = {}
        for (name, turn), optimiser in zip(
            self.turns.items(), as_list(self.optimizers()), strict=True
        ):
            if n % turn.every:
                continue
            with self.toggled_optimizer(optimiser):
                seed_global(generator, self.device)  # serves dropout
                with self.trainer.precision_plugin.forward_context():
                    loss = turn.loss(self.networks, batch, generator, shared)
                self.manual_backward(loss)
                if turn.optimiser.clip is not None:
                    clip_gradients(optimiser, turn.optimiser.clip)
                optimiser.step()
                optimiser.zero_grad()
            losses[name] = loss.detach()
        for schedule in as_list(self.lr_schedulers()):
            schedule.step()
        return losses

    def configure_optimizers(self) -> tuple[list[AdamW], list[LambdaLR]]:
        """AdamW of each network, on its parameters that are not frozen, and its learning rate."""
        optimisers, schedules = [], []
        for name, turn in self.turns.items():
            o = turn.optimiser
            trained = [p for p in self.networks[name].parameters() if p.requires_grad]
            optimiser = AdamW(trained, o.lr, betas=o.betas, weight_decay=o.weight_decay, fused=True)
            factor = partial(
                learning_rate_factor, steps=self.steps, warmup=o.warmup, schedule=o.schedule
            )
            optimisers.append(optimiser)
            schedules.append(LambdaLR(optimiser, factor))
        return optimisers, schedules


def clip_gradients(optimiser: Any, limit: float) -> None:
    """Scale the gradients of an optimiser's parameters to a norm of at most ``limit``.

    Lightning's own clipping refuses fused optimisers under mixed precision.
    """
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(trained, limit, foreach=True)


def as_list(one_or_more: Any) -> list[Any]:
    """Lightning gives the only one of a kind without a list."""
    return one_or_more if isinstance(one_or_more, list) else [one_or_more]


class Stream:
    """Batches of the steps to come, each with its step and the generator that it was drawn from.

    Everything random in step n comes from a generator seeded by (seed, name, n) alone.
    """

    def __init__(self, job: Job, course: Course, batch: Batch) -> None:
        self.job, self.batch = job, batch
        self.name, self.steps = course.name, course.steps
        self.next = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[int, Any, Generator]]:
        for n in range(self.next, self.steps):
            generator = self.job.rng(self.name, n)
            batch = self.batch(n, generator)
            self.next = n + 1
            yield n, batch, generator

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.next = state["next"]


class LossPrecision(MixedPrecision):
    """bfloat16 autocast of the losses alone; that of Lightning covers the step, all its turns.

    A weight is cast once a loss, however often the loss uses it, and its gradients are summed in
    bfloat16: `torch.autocast` does so unless told otherwise, as Lightning tells it.
    """

    def autocast_context_manager(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16)

    @contextmanager
    def train_step_context(self) -> Iterator[None]:
        yield


def train(
    job: Job,
    networks: Mapping[str, nn.Module],
    turns: Mapping[str, Turn],
    batch: Batch,
    course: Course,
) -> dict[str, Tensor]:
    """Train networks to the end, in place; see `repro.training.fit.fit_alternating`.

    At the end they hold the averaged weights and are in eval mode. Returns the curves (steps,).
    """
    device = torch.device(job.device)
    for network in networks.values():
        network.to(device).train()
    stream, average = Stream(job, course, batch), Average(networks, turns)
    # Reading a loss stalls a GPU, so there they are read in blocks.
    losses = Losses(job, course, turns, read_every=1 if device.type == "cpu" else 50)
    checkpoint = Checkpoint(job, course, settings_of(job, networks, turns, course))
    progress = Progress(job, course, stream, losses.curves)
    random_state = torch.get_rng_state()
    asked_by: signal.Signals | None = None
    with quiet_lightning():
        trainer = trainer_of(job, course, [average, losses, checkpoint, progress])
        module = Training(networks, turns, course.steps)
        try:
            # Lightning ends a training between two steps, so that a checkpoint can be made.
            with stopping.unless(signal.SIGTERM, lambda: trainer.received_sigterm):
                trainer.fit(module, stream, ckpt_path=checkpoint.to_resume())
        except SystemExit as error:
            # Lightning gives SIGINT, which no handler took before it, another status.
            asked_by = error.signal if isinstance(error, Stopped) else signal.SIGINT
        finally:
            torch.set_rng_state(random_state)
    if trainer.received_sigterm:
        asked_by = signal.SIGTERM
    if asked_by is not None:
        job.log.error(interrupted(job, course))
        raise Stopped(asked_by, interrupted(job, course))
    if trainer.interrupted or not losses.complete:
        raise ReproError(interrupted(job, course))
    average.apply()
    for network in networks.values():
        network.to(device).eval()
    return losses.curves


def settings_of(
    job: Job, networks: Mapping[str, nn.Module], turns: Mapping[str, Turn], course: Course
) -> str:
    """What a checkpoint has to have in common with a training that goes on from it."""
    return json.dumps(
        {
            "steps": course.steps,
            "precision": course.precision,
            "autocast": course.autocast,
            "seed": job.seed,
            "turns": {k: turn.settings() for k, turn in turns.items()},
            "shapes": {
                k: {n: list(v.shape) for n, v in network.state_dict().items()}
                for k, network in networks.items()
            },
        }
    )


def trainer_of(job: Job, course: Course, callbacks: Sequence[Callback]) -> Trainer:
    """Lightning's trainer for one pass over a `Stream`; it writes nothing but checkpoints."""
    device = torch.device(job.device)
    return Trainer(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        max_epochs=1,
        callbacks=list(callbacks),
        plugins=[
            precision_of(course, device),
            AtomicCheckpoints(),
            # Snakemake starts and restarts jobs, under Slurm too.
            LightningEnvironment(),
        ],
        default_root_dir=job.scratch,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,
    )


def precision_of(course: Course, device: torch.device) -> FullPrecision:
    """Lightning's precision plugin of a training."""
    if course.precision == "32-true":
        return FullPrecision()
    plugin = {"step": MixedPrecision, "loss": LossPrecision}[course.autocast]
    return plugin(course.precision, device.type)
