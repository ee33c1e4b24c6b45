"""Searches on PLMS and on DPM-Solver++ themselves, with a network of the zoo.

As in the released scripts, genes for PLMS are training steps, and for DPM-Solver++ one point more
than it has evaluations, of the grid of 1001 times: both ends are searched for too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.autodiffusion import method as ad
from methods.autodiffusion import searches
from methods.autodiffusion.arms import _found, _judge, _report_search, _uniform
from methods.autodiffusion.problems import TIMES, Images, grid_time
from repro.diffusion.multistep import dpm_solver_pp_2m_times, plms
from repro.errors import ReproError

if TYPE_CHECKING:
    from repro.job import Job


class OwnSampler(Images):
    """`Images` whose candidates are walked by the card's `sampler`: "plms" or "dpm++"."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.sampler = job.params.sampler
        if self.sampler not in ("plms", "dpm++"):
            raise ReproError(f"unknown sampler '{self.sampler}'; use plms or dpm++")
        if self.classes is not None:
            raise ReproError("searches on other samplers take a network without classes")

    def along(self, candidate: ad.Candidate, x: Tensor) -> Tensor:
        """Images of a candidate from noise, both (n, C, H, W)."""
        steps, table, clip = candidate.chain()[0], self.alphas_cumprod, self.p.clip

        def eps(x: Tensor, t: Tensor) -> Tensor:
            return self.predict(x, t, None, [ad.NONE])

        def part(x: Tensor) -> Tensor:
            if self.sampler == "plms":
                return plms(eps, x, torch.tensor(steps), table, clip=clip)
            return dpm_solver_pp_2m_times(eps, x, grid_time(steps), table, clip=clip)

        return torch.cat([part(rows) for rows in x.split(self.p.batch)])

    def evaluate(self, candidates: Sequence[ad.Candidate], first: int) -> list[float]:
        """Fitness of candidates, each from its own noise."""
        return [
            self.judge.frechet(self.along(c, self.noise(self.p.n, self.name, first + i)))
            for i, c in enumerate(candidates)
        ]


def settings(job: Job, problem: OwnSampler) -> ad.Settings:
    """The settings of the card for the genes of its sampler, from the sampler's uniform chain."""
    start = _uniform(problem.sampler, job.params.K)
    made = searches.settings(job, problem.network.L)
    space = TIMES if problem.sampler == "dpm++" else made.space
    return replace(made, K=len(start), start=start, space=space)


def search(job: Job) -> dict[str, Tensor]:
    """A model of the card: the sequence that a search on the card's sampler finds."""
    problem = OwnSampler(job)
    state = searches.resumed(job, job.name, problem, settings(job, problem), job.params.kind)
    counts = {k: getattr(problem, k) for k in ("network_evaluations", "blocks_run")}
    return searches.as_tensors(state, problem.network.L, counts)


def searched(job: Job) -> None:
    """What a search on the card's sampler found, judged anew with it."""
    problem = OwnSampler(job)
    name, found = _found(job)
    _report_search(job, problem, name, found)
    images = _judge(job, problem, lambda: problem.along(found, problem.judge.noise))
    problem.judge.save_grid(images, "pictures")
