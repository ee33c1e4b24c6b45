"""What takes the place of a search in a check that must not hold: the same search, told nothing.

A blind search draws, mutates and crosses as the search of the card does and keeps the best of as
many candidates, but their fitness is drawn at random. What it returns differs from what the search
returns by the fitness alone.

`triples` is the one search whose space is larger than what it tries and can still be tried whole.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from methods.autodiffusion import exact as identities
from methods.autodiffusion import method as ad
from methods.autodiffusion import searches
from methods.autodiffusion.arms import DETAILS, _evolution, _judge, _mixture, _uniform
from methods.autodiffusion.guided import Guided
from methods.autodiffusion.guided_arms import _measure
from methods.autodiffusion.own_sampler import OwnSampler
from methods.autodiffusion.own_sampler import settings as own_settings
from methods.autodiffusion.problems import GRIDS, Images, abar, grid
from repro.zoo.judge import Judge

if TYPE_CHECKING:
    from repro.job import Job


def blind(job: Job, name: str, s: ad.Settings, kind: str = "evolution") -> ad.Candidate:
    """What a search finds whose fitness is drawn at random."""
    fitness = job.numpy_rng("blind fitness", name)
    state = ad.search(
        lambda candidates, first: fitness.random(len(candidates)).tolist(),
        searches.KINDS[kind](s),
        lambda epoch: job.numpy_rng("blind", name, epoch),
    )
    return state.winner.candidate


# The analytic mixture -----------------------------------------------------------------------------


def analytic(job: Job) -> None:
    """The chains of the arm `analytic`, those that were searched for found blindly."""
    p = job.params
    for schedule in p.schedules:
        problem = _mixture(job, schedule)
        for K in job.progress(p.Ks, schedule):
            chains = {name: ad.Candidate(grid(name, K)) for name in GRIDS} | {
                kind: blind(job, f"{schedule}-{K}-{kind}", _evolution(p, K), kind)
                for kind in searches.KINDS
            }
            for method, chain in chains.items():
                value = problem.judged(chain, p.fresh)
                job.measure("distance", value, schedule=schedule, steps=K, method=method)


def samplers(job: Job) -> None:
    """The chains of the arm `analytic-samplers`, those that were searched for found blindly."""
    p = job.params
    for schedule in p.schedules:
        for sampler in p.samplers:
            problem = _mixture(job, schedule, sampler=sampler)
            s = _evolution(p, p.K, sampler)
            chains = {
                "uniform": ad.Candidate(_uniform(sampler, p.K)),
                "evolution": blind(job, f"{schedule}-{sampler}", s),
            }
            for method, chain in chains.items():
                value = problem.judged(chain, p.fresh)
                job.measure("distance", value, schedule=schedule, sampler=sampler, method=method)


def details(job: Job) -> None:
    """The search of the arm `details`, and one by the released rules that is told nothing."""
    p = job.params
    for schedule in p.schedules:
        name = f"{schedule}-none"
        problem = _mixture(job, schedule, name=name)
        searched = searches.resumed(job, name, problem, _evolution(p, p.K)).winner.candidate
        released = _evolution(p, p.K, **DETAILS["released-code"])
        chains = {"none": searched, "released-code": blind(job, f"{schedule}-released", released)}
        for change, chain in chains.items():
            value = problem.judged(chain, p.fresh)
            job.measure("distance", value, schedule=schedule, change=change)


# The networks of the zoo --------------------------------------------------------------------------


def images(job: Job) -> None:
    """A blind search, judged as the arms `searched` and `transfer` are.

    samplers: names of samplers for which it is judged, as a coordinate; without any, DDIM alone.
    """
    problem = Images(job)
    found = blind(job, "images", searches.settings(job, problem.network.L))
    runs = {"ddim": partial(problem.ddim, found), "plms": partial(problem.plms, found.steps)}
    for sampler in job.params.samplers or ["ddim"]:
        at = {"sampler": sampler} if job.params.samplers else {}
        samples = _judge(job, problem, runs[sampler], **at)
        problem.judge.save_grid(samples, f"pictures-{sampler}")


def own_sampler(job: Job) -> None:
    """A blind search on the card's sampler, judged as `searched-plms` and `searched-dpm` are."""
    problem = OwnSampler(job)
    found = blind(job, problem.sampler, own_settings(job, problem))
    samples = _judge(job, problem, lambda: problem.along(found, problem.judge.noise))
    problem.judge.save_grid(samples, "pictures")


def floor(job: Job) -> None:
    """Real training images in the place of samples: the distance that as many images have."""
    judge = Judge(job)
    judge.measure(judge.pictures(job.params.samples, "train", "floor"))


def guided(job: Job) -> None:
    """A blind search, judged as the arms `searched-guided` and `transfer-guided` are."""
    problem = Guided(job)
    found = blind(job, "guided", searches.settings(job, problem.network.L))
    _measure(job, problem, found, "pictures")


def scales(job: Job) -> None:
    """Two blind searches in the places of those with and without guidance, used without."""
    problem = Guided(job, scale=0.0)
    s = searches.settings(job, problem.network.L)
    for found in ("guided", "unguided"):
        at = {"found": found, "used": "unguided"}
        _measure(job, problem, blind(job, found, s), f"pictures-{found}", **at)


# A space that can be tried whole ------------------------------------------------------------------

TRIPLES = ad.replace(identities.PAIRS, K=3)
"""Three of twenty steps: 1140 chains, of which 500 are tried."""


def triples(job: Job) -> None:
    """How often a search ends with the best of all triples on Gaussian data, in closed form."""
    chains = list(combinations(TRIPLES.times, TRIPLES.K))
    costs = (identities.factors(torch.tensor(chains), abar("cosine")) - identities.S2**0.5) ** 2
    cost = dict(zip(chains, costs.tolist(), strict=True))
    best = min(cost, key=cost.__getitem__)
    for kind, changed in searches.KINDS.items():
        found = 0
        for number in range(job.params.searches):
            state = ad.search(
                lambda candidates, first: [cost[c.chain()[0]] for c in candidates],
                changed(TRIPLES),
                partial(job.numpy_rng, "triples", kind, number),
            )
            found += state.winner.candidate.chain()[0] == best
        job.measure("found", found / job.params.searches, method=kind)
