"""Searches as jobs: resumed where they stopped, kept as tensors.

After every epoch the whole state of a search is written, atomically, into the job's scratch folder.
A job that was killed goes on with the next epoch and ends with the same bits as one that was not:
the random choices of an epoch depend on the seed and the epoch's number, the noise of an evaluation
on its number. What is kept of a search, as float64 and int64 tensors:

    steps (K,), skips (K, L)              the winner, steps ascending, 1 where a block is left out
    fitness, epoch, origin (N,)           of every evaluation; origin indexes `ORIGINS`
    history (N, longest), -1 past the end time steps of every candidate, as drawn
    best (E,), bounds (E, 2)              best fitness and [lo, hi] after and at each epoch
    cost (3,)                             candidates, network evaluations, blocks that ran
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from methods.autodiffusion import method as ad
from methods.autodiffusion.problems import Images, grid
from repro import store
from repro.errors import ReproError, nearest

if TYPE_CHECKING:
    from repro.job import Job

ORIGINS = ("start", "random", "mutation", "crossover")
KINDS = {"evolution": lambda s: s, "random": ad.without_evolution}


def resumed(job: Job, name: str, problem: Any, s: ad.Settings, kind: str = "evolution") -> ad.State:
    """Run a search, or what is left of it, with its state in the job's scratch folder.

    problem: has `evaluate` and counts `network_evaluations` (and perhaps `blocks_run`), which a
        resumed search counts on.
    Raises ReproError where the state on disk is of another search, or was changed.
    """
    if kind not in KINDS:
        raise ReproError(f"no search `{kind}`{nearest(kind, KINDS)}; known: {', '.join(KINDS)}")
    path = Path(job.scratch) / f"{name}.search.json"
    state, settings = None, repr((kind, s))
    if path.exists():
        content = store.read_sealed(path)
        if content.get("settings") != settings:
            raise ReproError(f"{path}: is of a search with other settings; delete it")
        state = ad.State.of_json(content["state"])
        for counter, value in content["counts"].items():
            setattr(problem, counter, value)
        job.log.info("%s: resuming at epoch %d of %d", name, state.epoch, s.E)

    def save(state: ad.State) -> None:
        counts = {
            counter: getattr(problem, counter)
            for counter in ("network_evaluations", "blocks_run")
            if hasattr(problem, counter)
        }
        content = {"settings": settings, "state": state.as_json(), "counts": counts}
        store.write_sealed(path, content, durable=False)
        job.log.info("%s: epoch %d, best %.4g", name, state.epoch, state.best[-1])

    def rng(epoch: int):
        return job.numpy_rng("evolution", name, epoch)

    return ad.search(problem.evaluate, KINDS[kind](s), rng, state, save)


def settings(job: Job, L: int) -> ad.Settings:
    """The settings that a card gives; N_max is K whole networks."""
    p = job.params
    joint = p.max_prun > 0
    return ad.Settings(
        K=p.K,
        E=p.E,
        P=p.P,
        k=p.elites,
        N_m=p.mutations,
        N_c=p.crossovers,
        m_prob=p.m_prob,
        start=grid("stride", p.K) if p.uniform_start else None,
        L=L if joint else 0,
        N_max=p.K * L if joint else None,
        max_prun=p.max_prun,
        rise=p.rise,
        patience=p.patience,
        parity=p.parity,
    )


def as_tensors(state: ad.State, L: int, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """What is kept of a search; see the module."""
    steps, sets = state.winner.candidate.chain()
    longest = max(len(r.candidate.steps) for r in state.records)
    history = torch.full((len(state.records), longest), -1)
    for row, r in zip(history, state.records, strict=True):
        row[: len(r.candidate.steps)] = torch.tensor(r.candidate.steps)
    number = {
        "fitness": [r.fitness for r in state.records],
        "best": state.best,
        "bounds": state.bounds,
    }
    whole = {
        "steps": list(steps),
        "epoch": [r.epoch for r in state.records],
        "origin": [ORIGINS.index(r.origin) for r in state.records],
        "cost": [len(state.records), counts["network_evaluations"], counts["blocks_run"]],
    }
    return {
        **{k: torch.tensor(v, dtype=torch.float64) for k, v in number.items()},
        **{k: torch.tensor(v) for k, v in whole.items()},
        "skips": torch.tensor([[int(b in s) for b in range(L)] for s in sets]),
        "history": history,
    }


def candidate(tensors: Mapping[str, Tensor]) -> ad.Candidate:
    """The winner of a search that was kept."""
    return ad.Candidate(
        tuple(tensors["steps"].tolist()),
        tuple(frozenset(row.nonzero().flatten().tolist()) for row in tensors["skips"]),
    )


def search(job: Job) -> dict[str, Tensor]:
    """A model of the card: the sequence that a search finds for a network of the zoo."""
    problem = Images(job)
    L = problem.network.L
    state = resumed(job, job.name, problem, settings(job, L), job.params.kind)
    return as_tensors(
        state,
        L,
        {
            "network_evaluations": problem.network_evaluations,
            "blocks_run": problem.blocks_run,
        },
    )
