"""Training of networks in turn: a generator against a fake score, a discriminator, or both.

`repro.training.fit` trains one network; here each step gives every network its turn, in the order
in which they are named, each with a loss and an optimiser of its own. While one has its turn the
parameters of the others are frozen, so that a loss may differentiate through them without
leaving gradients behind. The rest of the contract is that of `fit`: everything random in step n is
drawn from a generator seeded by (seed, n), so that a killed and resumed training ends in the same
bits; a loss that is not finite stops with one line.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_map

from repro.errors import ReproError
from repro.training import LOG_EVERY_S, _Average, _bar, _read, ema_decay, learning_rate_factor

if TYPE_CHECKING:
    from repro.job import Job

Networks = Mapping[str, nn.Module]
Loss = Callable[[Networks, Any, Generator, dict[str, Any]], Tensor]


@dataclass(frozen=True)
class Turn:
    """How one network is trained.

    loss: (networks, batch, generator, shared) -> scalar tensor. ``shared`` is a new dict every
        step, through which a turn hands what it computed (detached) to those after it.
    every: the turn is taken in the steps that this number divides, the first among them.
    The others as in `repro.training.fit`; "linear" falls from the peak to 0.
    """

    loss: Loss
    lr: float
    every: int = 1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    clip: float | None = 10.0
    ema: float | None = None

    def factor(self, n: int, steps: int) -> float:
        """Learning rate at step n over its peak. It moves in steps without this turn too."""
        if self.schedule != "linear" or n < self.warmup:
            schedule = "constant" if self.schedule == "linear" else self.schedule
            return learning_rate_factor(n, steps, self.warmup, schedule)
        return 1.0 - (n - self.warmup) / max(steps - self.warmup, 1)

    def settings(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "loss"}


@dataclass(frozen=True)
class Alternated:
    """What training gives back, by the names of the networks.

    state_dicts: the averaged weights (the plain ones without EMA), on the CPU.
    curves: (steps,) float32, the loss of every step; NaN in steps without that turn.
    """

    state_dicts: dict[str, dict[str, Tensor]]
    curves: dict[str, np.ndarray]


class _Player:
    """One network with its turn, optimiser, average and curve."""

    def __init__(self, network: nn.Module, turn: Turn, steps: int, device: torch.device) -> None:
        self.network, self.turn, self.steps = network.to(device).train(), turn, steps
        self.trained = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained, turn.lr, betas=turn.betas, weight_decay=turn.weight_decay, fused=True
        )
        self.average = _Average(network) if turn.ema is not None else None
        self.averaged, self.live = self.average.pairs(network) if self.average else ([], [])
        self.curve = torch.full((steps,), float("nan"))
        self.updates = 0

    def frozen(self, frozen: bool) -> None:
        for p in self.trained:
            p.requires_grad_(not frozen)

    def update(self, n: int, value: Tensor) -> None:
        value.backward()
        if self.turn.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained, self.turn.clip, foreach=True)
        for group in self.optimiser.param_groups:
            group["lr"] = self.turn.lr * self.turn.factor(n, self.steps)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.averaged:
            with torch.no_grad():
                decay = ema_decay(self.updates, self.turn.ema)
                torch._foreach_lerp_(self.averaged, self.live, 1.0 - decay)
        self.updates += 1

    def state(self, done: int) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.average.state if self.average else {},
            "curve": self.curve[:done].clone(),
            "updates": self.updates,
        }

    def restore(self, saved: Mapping[str, Any], done: int) -> None:
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.curve[:done] = saved["curve"]
        self.updates = saved["updates"]
        if self.average:
            for name, value in saved["ema"].items():
                self.average.state[name].copy_(value)

    def finish(self) -> dict[str, Tensor]:
        if self.average:
            self.network.load_state_dict(self.average.state)
        self.network.eval()
        return {k: v.detach().to("cpu", copy=True) for k, v in self.network.state_dict().items()}


def fit_alternating(
    job: Job,
    networks: Networks,
    turns: Mapping[str, Turn],
    batch: Callable[[int, Generator], Any],
    *,
    steps: int,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    checkpoint_every: float = 60.0,
    checkpoint_steps: int | None = None,
    name: str = "fit",
) -> Alternated:
    """Train several networks for ``steps`` steps; resumes where an earlier, killed run was.

    job: gives the seed (``job.rng``), the device, the log and the folder of the checkpoint.
    networks: trained in place, in the order of ``turns``, which has the same names; at the end they
        hold the returned weights and are in eval mode.
    batch: (step, generator) -> whatever the losses take; tensors in it are moved to the device. It
        and the losses of a step share one CPU generator, seeded by (seed, name, step). The global
        generator is seeded likewise before every turn, which serves dropout.
    precision, checkpoint_every, checkpoint_steps, name: as in `repro.training.fit`.

    Raises ReproError where names differ, a loss is not finite, or the checkpoint cannot be read.
    """
    if steps < 1:
        raise ReproError(f"training '{name}' of {job.name} asks for {steps} steps; use 1 or more")
    if set(networks) != set(turns):
        raise ReproError(
            f"training '{name}' of {job.name} has networks {', '.join(networks)} but turns for "
            f"{', '.join(turns)}; give each network one turn"
        )
    device = torch.device(job.device)
    players = {k: _Player(networks[k], turn, steps, device) for k, turn in turns.items()}
    settings = json.dumps(
        {
            "steps": steps,
            "precision": precision,
            "seed": job.seed,
            "turns": {k: turn.settings() for k, turn in turns.items()},
            "shapes": {
                k: {n: list(v.shape) for n, v in p.network.state_dict().items()}
                for k, p in players.items()
            },
        }
    )
    path = Path(job.scratch) / f"{name}.checkpoint"
    start = 0
    if path.exists():
        saved = _read(path)
        if saved["settings"] == settings:
            start = saved["step"]
            for k, player in players.items():
                player.restore(saved["players"][k], start)
            job.log.info("%s: resuming at step %d of %d", name, start, steps)
        else:
            job.log.info("%s: the checkpoint was made with other settings; starting anew", name)

    def save(done: int) -> None:
        content = {
            "settings": settings,
            "step": done,
            "players": {k: p.state(done) for k, p in players.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        torch.save(content, temporary)
        os.replace(temporary, path)

    def read(pending: list[tuple[str, int, Tensor]]) -> None:
        for k, n, value in pending:
            players[k].curve[n] = found = value.float().cpu()
            if not math.isfinite(found.item()):
                raise ReproError(
                    f"training '{name}' of {job.name}: the loss of '{k}' is {found.item()} at step "
                    f"{n} of {steps} (learning rate {turns[k].lr:g}, see its log); lower the "
                    "learning rate, lengthen the warm-up or train in 32-true precision"
                )
        pending.clear()

    # Reading a loss stalls a GPU, so there they are read in blocks.
    read_every = 1 if device.type == "cpu" else 50
    pending: list[tuple[str, int, Tensor]] = []
    bar = _bar(f"{job.name}: {name}", start, steps)
    saved_at = logged_at = began = time.monotonic()
    random_state = torch.get_rng_state()
    try:
        for n in range(start, steps):
            generator = job.rng(name, n)
            data = tree_map(
                lambda v: v.to(device) if isinstance(v, Tensor) else v, batch(n, generator)
            )
            shared: dict[str, Any] = {}
            for k, player in players.items():
                if n % player.turn.every:
                    continue
                for other, p in players.items():
                    p.frozen(other != k)
                torch.manual_seed(generator.initial_seed())
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                    value = player.turn.loss(networks, data, generator, shared)
                player.update(n, value)
                pending.append((k, n, value.detach()))
            done = n + 1
            if done % read_every and done < steps:
                continue
            read(pending)
            now = time.monotonic()
            due = (
                done % checkpoint_steps == 0
                if checkpoint_steps
                else now - saved_at >= checkpoint_every
            )
            if due and done < steps:
                save(done)
                saved_at = now
            if bar is None and now - logged_at < LOG_EVERY_S and done < steps:
                continue
            recent = ", ".join(
                f"{k} {p.curve[max(start, done - 100) : done].nanmean().item():.4g}"
                for k, p in players.items()
            )
            if bar is not None:
                bar.update(0, completed=done, loss=recent)
            else:
                rate = (done - start) / max(now - began, 1e-9)
                job.log.info(
                    "%s: step %d of %d, loss %s, %.2f steps/s, %.1f min left",
                    name, done, steps, recent, rate, (steps - done) / rate / 60,
                )  # fmt: skip
                logged_at = now
    finally:
        torch.set_rng_state(random_state)
        for player in players.values():
            player.frozen(False)
        if bar is not None:
            bar.stop()
    if start < steps and path.exists():
        save(steps)
    states = {k: player.finish() for k, player in players.items()}
    return Alternated(states, {k: p.curve.numpy().copy() for k, p in players.items()})
