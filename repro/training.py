"""Training of every network in the suite: one function, `fit`.

Lightning moves data, applies mixed precision and clips gradients; what a reproduction needs beyond
that is here. Everything random in step n is drawn from a generator seeded by (seed, n), so a run
that was killed and resumed from its checkpoint ends in the same bits as one that was not. The
returned weights are an exponential moving average,

    θ̄ ← d_n θ̄ + (1 − d_n) θ,    d_n = min(ema, (1 + n) / (10 + n)),

whose warm-up is that of Song et al. 2021 (arXiv 2011.13456, published code).
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn

from repro.errors import ReproError

if TYPE_CHECKING:
    from repro.job import Job

LOG_EVERY_S = 30.0


@dataclass(frozen=True)
class Fitted:
    """What training gives back.

    state_dict: the averaged weights (the plain ones without EMA), on the CPU.
    curve: (steps,) float32, the training loss of every step.
    """

    state_dict: dict[str, Tensor]
    curve: np.ndarray


def ema_decay(n: int, limit: float) -> float:
    """Decay of the average at update n = 0, 1, …: min(limit, (1 + n) / (10 + n))."""
    return min(limit, (1 + n) / (10 + n))


def learning_rate_factor(
    n: int, steps: int, warmup: int, schedule: Literal["constant", "cosine"]
) -> float:
    """Learning rate at step n, relative: linear warm-up, then constant or half a cosine to 0."""
    if n < warmup:
        return (n + 1) / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (n - warmup) / max(steps - warmup, 1)))


class _Average:
    """Exponential moving average of the floating-point entries of a state dict."""

    def __init__(self, network: nn.Module) -> None:
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    def pairs(self, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        live = network.state_dict()
        names = [k for k, v in live.items() if v.is_floating_point()]
        return [self.state[k] for k in names], [live[k].detach() for k in names]


def fit(
    job: Job,
    network: nn.Module,
    loss: Callable[[nn.Module, Any, Generator], Tensor],
    batch: Callable[[int, Generator], Any],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    warmup: int = 0,
    schedule: Literal["constant", "cosine"] = "constant",
    clip: float | None = 1.0,
    ema: float | None = 0.999,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    checkpoint_every: float = 60.0,
    checkpoint_steps: int | None = None,
    name: str = "fit",
) -> Fitted:
    """Train ``network`` with AdamW for ``steps`` steps; resumes where an earlier, killed run was.

    job: gives the seed (``job.rng``), the device, the log and the folder of the checkpoint.
    network: trained in place; at the end it holds the returned weights and is in eval mode.
    loss: (network, batch, generator) -> scalar tensor.
    batch: (step, generator) -> whatever ``loss`` takes; tensors in it are moved to the device.
        Both get one CPU generator, seeded by (seed, name, step) and first used by ``batch``.
        The global generator is seeded likewise during the loss, which serves dropout.
    lr: peak learning rate, after ``warmup`` steps of linear increase; then follows ``schedule``.
    clip: limit of the gradient's norm, None for no limit.
    ema: limit of the average's decay, None for no average.
    precision: "bf16-mixed" runs the loss under bfloat16 autocast, weights stay float32.
    checkpoint_every: seconds between checkpoints; checkpoint_steps: or steps, where given.
    name: tells apart several trainings in one job.

    Raises ReproError where the loss is not finite, or where the checkpoint cannot be read.
    """
    if steps < 1:
        raise ReproError(f"training '{name}' of {job.name} asks for {steps} steps; use 1 or more")
    path = Path(job.scratch) / f"{name}.checkpoint"
    settings = json.dumps(
        dict(
            steps=steps,
            lr=lr,
            weight_decay=weight_decay,
            betas=betas,
            warmup=warmup,
            schedule=schedule,
            clip=clip,
            ema=ema,
            precision=precision,
            seed=job.seed,
            shapes={k: list(v.shape) for k, v in network.state_dict().items()},
        ),
    )
    device = torch.device(job.device)
    network.to(device).train()
    average = _Average(network) if ema is not None else None
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr, betas=betas, weight_decay=weight_decay, fused=True)
    curve = torch.full((steps,), float("nan"))
    start = 0

    if path.exists():
        saved = _read(path)
        if saved["settings"] == settings:
            start = saved["step"]
            network.load_state_dict(saved["network"])
            optimiser.load_state_dict(saved["optimiser"])
            curve[:start] = saved["curve"]
            if average is not None:
                average.state = {k: v.to(device) for k, v in saved["ema"].items()}
            job.log.info("%s: resuming at step %d of %d", name, start, steps)
        else:
            job.log.info("%s: the checkpoint was made with other settings; starting anew", name)

    def save(step: int) -> None:
        content = {
            "settings": settings,
            "step": step,
            "curve": curve[:step].clone(),
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "ema": average.state if average is not None else {},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        torch.save(content, temporary)
        os.replace(temporary, path)

    if start < steps:
        _train(
            job,
            network,
            loss,
            batch,
            optimiser,
            average,
            curve,
            start=start,
            steps=steps,
            lr=lr,
            warmup=warmup,
            schedule=schedule,
            clip=clip,
            ema=ema,
            precision=precision,
            save=save,
            every_s=checkpoint_every,
            every_n=checkpoint_steps,
            name=name,
        )
        if path.exists():
            save(steps)

    if average is not None:
        network.load_state_dict(average.state)
    network.to(device).eval()
    state = {k: v.detach().to("cpu", copy=True) for k, v in network.state_dict().items()}
    return Fitted(state, curve.numpy().copy())


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ReproError(
            f"the training checkpoint {path} cannot be read ({type(error).__name__}); "
            "delete it to train from the beginning"
        ) from error


def _train(
    job: Job,
    network: nn.Module,
    loss: Callable[[nn.Module, Any, Generator], Tensor],
    batch: Callable[[int, Generator], Any],
    optimiser: torch.optim.Optimizer,
    average: _Average | None,
    curve: Tensor,
    *,
    start: int,
    steps: int,
    lr: float,
    warmup: int,
    schedule: Literal["constant", "cosine"],
    clip: float | None,
    ema: float | None,
    precision: str,
    save: Callable[[int], None],
    every_s: float,
    every_n: int | None,
    name: str,
) -> None:
    # Lightning takes seconds to import: only a job that trains pays for it.
    with _quiet():
        import pytorch_lightning as lightning

    cpu = torch.device(job.device).type == "cpu"
    # Reading the loss stalls a GPU, so there it is read in blocks.
    read_every = 1 if cpu else 50
    averaged, live = average.pairs(network) if average is not None else ([], [])

    class Stream:
        """Batches of the steps to come, each with the generator that it was drawn from."""

        def __len__(self) -> int:
            return steps - start

        def __iter__(self) -> Iterator[tuple[int, Any, Generator]]:
            for n in range(start, steps):
                generator = job.rng(name, n)
                yield n, batch(n, generator), generator

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.network = network
            self.pending: list[tuple[int, Tensor]] = []
            self.saved_at = self.logged_at = self.began = time.monotonic()
            self.bar = _bar(f"{job.name}: {name}", start, steps)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimiser

        def training_step(self, item: tuple[int, Any, Generator], index: int) -> None:
            n, data, generator = item
            torch.manual_seed(generator.initial_seed())
            value = loss(network, data, generator)
            self.manual_backward(value)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(trained, clip, foreach=True)
            factor = learning_rate_factor(n, steps, warmup, schedule)
            for group in optimiser.param_groups:
                group["lr"] = lr * factor
            optimiser.step()
            optimiser.zero_grad()
            if averaged:
                with torch.no_grad():
                    torch._foreach_lerp_(averaged, live, 1.0 - ema_decay(n, ema))
            self.pending.append((n, value.detach()))
            if (n + 1) % read_every == 0 or n + 1 == steps:
                self.read()
                self.report(n + 1)

        def read(self) -> None:
            for n, value in self.pending:
                curve[n] = value.float().cpu()
                if not math.isfinite(curve[n].item()):
                    raise ReproError(
                        f"training '{name}' of {job.name}: the loss is {curve[n].item()} at step "
                        f"{n} of {steps} (learning rate {lr:g}, see its log); lower the learning "
                        "rate, lengthen the warm-up or train in 32-true precision"
                    )
            self.pending.clear()

        def report(self, done: int) -> None:
            now = time.monotonic()
            due = done % every_n == 0 if every_n else now - self.saved_at >= every_s
            if due and done < steps:
                save(done)
                self.saved_at = now
            rate = (done - start) / max(now - self.began, 1e-9)
            recent = curve[max(start, done - 100) : done]
            if self.bar is not None:
                self.bar.update(0, completed=done, loss=f"{recent.mean().item():.4g}")
            elif now - self.logged_at >= LOG_EVERY_S or done == steps:
                job.log.info(
                    "%s: step %d of %d, loss %.4g, %.2f steps/s, %.1f min left",
                    name,
                    done,
                    steps,
                    recent.mean().item(),
                    rate,
                    (steps - done) / rate / 60,
                )
                self.logged_at = now

    trained = [p for group in optimiser.param_groups for p in group["params"]]
    module = Module()
    state = torch.get_rng_state()
    try:
        with _quiet():
            trainer = lightning.Trainer(
                accelerator="cpu" if cpu else "gpu",
                devices=1,
                precision=precision,
                max_epochs=1,
                deterministic=None,
                barebones=True,
                inference_mode=False,
            )
            trainer.fit(module, train_dataloaders=Stream())
    finally:
        torch.set_rng_state(state)
        if module.bar is not None:
            module.bar.stop()
    if torch.isnan(curve).any():
        # Lightning ends quietly when it is interrupted; the job must not pass that for a result.
        raise ReproError(f"training '{name}' of {job.name} was interrupted; run it again to resume")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Lightning's banners and its advice on data loaders, which say nothing about the job."""
    loggers = [logging.getLogger(n) for n in ("pytorch_lightning", "lightning", "lightning_fabric")]
    loggers += [
        logging.getLogger(n)
        for n in list(logging.root.manager.loggerDict)
        if n.startswith(("pytorch_lightning.", "lightning."))
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_)?lightning.*")
            warnings.filterwarnings("ignore", message=".*(num_workers|barebones|dataloader).*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _bar(title: str, start: int, steps: int) -> Any:
    """A progress bar on a terminal; None where the output is a file."""
    if not sys.stderr.isatty():
        return None
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        "{task.description}",
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        "loss {task.fields[loss]}",
        console=Console(stderr=True),
    )
    bar.add_task(title, total=steps, completed=start, loss="-")
    bar.start()
    return bar
