"""The arms of the experiment: glue between its card and `exact`, `problems`, `searches`.

Baselines that nothing random enters run once, from the noises of seed 0; what a search found is
judged for every seed, from the noises of that seed, beside the uniform grids from the same noises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.autodiffusion import exact as identities
from methods.autodiffusion import method as ad
from methods.autodiffusion import searches
from methods.autodiffusion.problems import GRIDS, TIMES, Images, Mixture, grid
from repro.metrics.cost import count_macs, count_parameters, interleaved
from repro.nets.adm import IMAGENET_64, LSUN_256, ADMUNet, ResBlock, block_macs
from repro.nets.unet import UNet
from repro.training.seeding import seeded
from repro.zoo import pretrained

if TYPE_CHECKING:
    from repro.job import Job


def exact(job: Job) -> None:
    """Closed forms, printed values, identities, bookkeeping, and weights before and after."""
    values = job.model_params("zoo/digits-unconditional").as_dict()
    fresh = seeded(lambda: pretrained.build(values), torch.Generator().manual_seed(0))
    assert isinstance(fresh, UNet)
    found = [
        identities.respacing_errors(),
        identities.gaussian_errors(),
        identities.exhaustive(lambda *stream: job.numpy_rng("pairs", *stream)),
        identities.dropping_errors(fresh, job.rng("dropping")),
        identities.bookkeeping(lambda *stream: job.numpy_rng("bookkeeping", *stream)),
        {f"departure-{k}": v for k, v in identities.departure_counts().items()},
        {"permutation": identities.permutation_error(job.rng("permutation"))},
        _frozen(job),
    ]
    for item, error in (pair for errors in found for pair in errors.items()):
        job.measure("error", error, item=item)
    L, K = len(ADMUNet_on_meta(IMAGENET_64).block_names), 10
    job.measure("blocks", L * K, of="full")
    job.measure("blocks", identities.RELEASED_JOINT.blocks(L), of="released")


def _frozen(job: Job) -> dict[str, float]:
    """Whether a joint search changes a bit of the network's weights: 0 or 1."""
    problem = Images(job)
    before = identities.digest(problem.network.state_dict())
    s = searches.settings(job, problem.network.L)
    ad.search(problem.evaluate, s, lambda epoch: job.numpy_rng("evolution", "frozen", epoch))
    return {"frozen": float(identities.digest(problem.network.state_dict()) != before)}


def ADMUNet_on_meta(config) -> ADMUNet:
    with torch.device("meta"):
        return ADMUNet(config).eval()


KINDS = {  # residual, attention, down and up blocks of ImageNet 64 x 64, in the order they run
    "imagenet-64": "rrrd" + "rararad" * 2 + "rarara" + "rar" + ("ra" * 4 + "u") * 3 + "rrrr",
}
INPUTS = {  # input channels of the residual blocks of its decoder, up blocks left out
    "imagenet-64": [1536, 1536, 1536, 1344, 1344, 1152, 1152, 960, 960, 768, 768, 576,
                    576, 384, 384, 384],
}  # fmt: skip
GROUPS = ("input_blocks", "middle_block", "output_blocks", "time_embed", "out", "label_emb")


def structure(job: Job) -> None:
    """Parameters, blocks and operations of the networks that the paper searches."""
    for model, config in {"imagenet-64": IMAGENET_64, "lsun-256": LSUN_256}.items():
        network = ADMUNet_on_meta(config)
        state = network.state_dict()
        job.measure("params", count_parameters(network), model=model)
        job.measure("entries", len(state), model=model)
        for group in GROUPS:
            found = sum(name.split(".")[0] == group for name in state)
            job.measure("entries", found, model=model, group=group)
        blocks = [network.get_submodule(name) for name in network.block_names]
        kinds = [(b.change or "res")[0] if isinstance(b, ResBlock) else "a" for b in blocks]
        job.measure("blocks", len(blocks), model=model, kind="all")
        job.measure("blocks", kinds.count("a"), model=model, kind="attention")
        job.measure("blocks", len(kinds) - kinds.count("a"), model=model, kind="residual")
        total, savings = block_macs(network)
        job.measure("gmac", total / 1e9, model=model, dropped="none")
        job.measure("gmac", (total - sum(savings)) / 1e9, model=model, dropped="all")
        job.save(f"savings-{model}", torch.tensor(savings, dtype=torch.float64) / 1e9)
        job.save(f"kinds-{model}", kinds)
        if model in KINDS:
            _order_of_blocks(job, model, network, kinds)
            _released_chain(job, model, total, savings)


def _order_of_blocks(job: Job, model: str, network: ADMUNet, kinds: list[str]) -> None:
    """Blocks whose kind or whose input channels are not those of the released network."""
    wrong = sum(a != b for a, b in zip("".join(kinds), KINDS[model], strict=False))
    job.measure("mismatches", wrong + abs(len(kinds) - len(KINDS[model])), model=model, of="kinds")
    norms = [
        network.get_submodule(f"{name}.in_layers.0")
        for name, kind in zip(network.block_names, kinds, strict=True)
        if name.startswith("output") and kind == "r"
    ]
    decoder = [norm.num_channels for norm in norms if isinstance(norm, nn.GroupNorm)]
    wrong = sum(a != b for a, b in zip(decoder, INPUTS[model], strict=True))
    job.measure("mismatches", wrong, model=model, of="inputs")


def _released_chain(job: Job, model: str, total: int, savings: Sequence[int]) -> None:
    """Operations of the chain that the authors released, and of ten steps of the whole network."""
    released = identities.RELEASED_JOINT
    cost = [(total - sum(savings[b] for b in s)) / 1e9 for s in released.skips]
    job.measure("gmac", min(cost), model=model, dropped="released")
    job.measure("gmac", sum(cost), model=model, chain="released")
    job.measure("gmac", 10 * total / 1e9, model=model, chain="full")
    job.measure("nfe", released.effective_K, model=model, chain="released")


# The analytic mixture -----------------------------------------------------------------------------


def _uniform(sampler: str, K: int) -> tuple[int, ...]:
    """Genes of the uniform chain of K steps of a sampler."""
    if sampler == "dpm++":
        return tuple(torch.linspace(0, TIMES - 1, K + 1).round().long().tolist())
    return grid("stride", K)


def _evolution(p: Any, K: int, sampler: str = "ddim", **changes: Any) -> ad.Settings:
    """The settings of a card for K steps of a sampler."""
    start = _uniform(sampler, K)
    made = ad.Settings(
        K=len(start), E=p.E, P=p.P, k=p.elites, N_m=p.mutations, N_c=p.crossovers,
        m_prob=p.m_prob, space=TIMES if sampler == "dpm++" else 1000,
        start=start if p.uniform_start else None,
    )  # fmt: skip
    return replace(made, **changes)


def _mixture(job: Job, schedule: str, **options: Any) -> Mixture:
    p = job.params
    return Mixture(job.rng, schedule=schedule, d=p.d, n=p.n, real=p.fresh, **options)


def analytic(job: Job) -> None:
    """Uniform, quadratic, random and evolved chains on the analytic mixture."""
    p = job.params
    for schedule in p.schedules:
        problem = _mixture(job, schedule)
        reference = ad.Candidate(grid("stride", 100))
        job.measure(
            "distance", problem.judged(reference, p.fresh), schedule=schedule, method="uniform-100"
        )
        real = problem.distance(problem.data(p.fresh, job.rng("other real")))
        job.measure("distance", real, schedule=schedule, method="real")
        for K in job.progress(p.Ks, schedule):
            for name in GRIDS:
                value = problem.judged(ad.Candidate(grid(name, K)), p.fresh)
                job.measure("distance", value, schedule=schedule, steps=K, method=name)
            for kind in searches.KINDS:
                name = f"{schedule}-{K}-{kind}"
                own = _mixture(job, schedule, name=name)
                state = searches.resumed(job, name, own, _evolution(p, K), kind)
                _judge_search(job, own, state, schedule=schedule, steps=K, method=kind)
                job.save(f"best-{name}", torch.tensor(state.best, dtype=torch.float64))
                job.save(f"steps-{name}", list(state.winner.candidate.chain()[0]))


def _judge_search(job: Job, problem: Mixture, state: ad.State, **at: Any) -> None:
    """The winner's fitness, its distance from fresh noise at that size, and at the full one."""
    winner, p = state.winner, job.params
    job.measure("fitness", winner.fitness, noise="search", **at)
    with torch.inference_mode():
        x = problem.noise(p.n, "again")[None]
        again = problem.distance(problem.generate([winner.candidate], x)[0])
    job.measure("fitness", again, noise="fresh", **at)
    job.measure("distance", problem.judged(winner.candidate, p.fresh), **at)


def analytic_samplers(job: Job) -> None:
    """The search on other samplers, against their own uniform grids, on the analytic mixture."""
    p = job.params
    for schedule in p.schedules:
        for sampler in p.samplers:
            name = f"{schedule}-{sampler}"
            problem = _mixture(job, schedule, sampler=sampler, name=name)
            s = _evolution(p, p.K, sampler)
            uniform = ad.Candidate(_uniform(sampler, p.K))
            at = {"schedule": schedule, "sampler": sampler}
            job.measure("distance", problem.judged(uniform, p.fresh), method="uniform", **at)
            state = searches.resumed(job, name, problem, s)
            _judge_search(job, problem, state, method="evolution", **at)


DETAILS: dict[str, dict[str, Any]] = {
    "none": {},
    "released-code": {"parity": "code"},
    "random-start": {"start": None},
    "shared-noise": {},
}


def details(job: Job) -> None:
    """The search with one detail changed, on the analytic mixture."""
    p = job.params
    for schedule in p.schedules:
        for change in p.changes:
            name = f"{schedule}-{change}"
            problem = _mixture(job, schedule, name=name, fresh=change != "shared-noise")
            s = _evolution(p, p.K, **DETAILS[change])
            state = searches.resumed(job, name, problem, s)
            _judge_search(job, problem, state, schedule=schedule, change=change)
            repeats = sum(r.candidate.effective_K < p.K for r in state.records)
            job.measure("shortened", repeats, schedule=schedule, change=change)


# The networks of the zoo --------------------------------------------------------------------------


def _judge(
    job: Job, problem: Images, sample: Callable[[], Tensor], *, place: bool = True, **at: Any
) -> Tensor:
    """Measure samples; the network evaluations of each are counted, not assumed.

    place: whether they are a coordinate; else, where seeds differ in them, a measurement.
    """
    before, blocks = problem.network_evaluations, problem.blocks_run
    images = sample()
    nfe, rest = divmod(problem.network_evaluations - before, len(images))
    assert rest == 0
    if place:
        at = {"nfe": nfe} | at
    else:
        job.measure("nfe", nfe, **at)
    problem.judge.measure(images, **at)
    job.measure("blocks", (problem.blocks_run - blocks) / len(images), **at)
    return images


def ddim(job: Job) -> None:
    """DDIM along uniform strides."""
    problem = Images(job)
    for K in job.progress(job.params.Ks, "ddim"):
        chain = ad.Candidate(grid("stride", K))
        images = _judge(job, problem, partial(problem.ddim, chain))
        problem.judge.save_grid(images, f"pictures-{K}")


def plms(job: Job) -> None:
    """PLMS along uniform strides; the first step costs two evaluations, so one step fewer."""
    problem = Images(job)
    for nfe in job.progress(job.params.Ks, "plms"):
        steps = grid("stride", nfe - 1)
        _judge(job, problem, partial(problem.plms, steps))


def dpm_solver(job: Job) -> None:
    """DPM-Solver++(2M) along its own uniform grid of times."""
    problem = Images(job)
    for K in job.progress(job.params.Ks, "dpm-solver"):
        _judge(job, problem, partial(problem.dpm_uniform, K))


def grids(job: Job) -> None:
    """DDIM along other grids of as many steps."""
    problem, p = Images(job), job.params
    for K in p.Ks:
        for name in p.grids:
            chain = ad.Candidate(grid(name, K))
            images = _judge(job, problem, partial(problem.ddim, chain), grid=name)
            problem.judge.save_grid(images, f"pictures-{K}-{name}")


def _found(job: Job) -> tuple[str, ad.Candidate]:
    """Name and winner of the search that the card lists."""
    [name] = [name for name in job.model_paths or job._states if not name.startswith("zoo/")]
    return name, searches.candidate(job.model(name))


def _report_search(job: Job, problem: Images, name: str, candidate: ad.Candidate) -> None:
    """What the search cost, what it found, and its fitness on fresh noise."""
    kept = job.model(name)
    for of, value in zip(("candidates", "network", "blocks"), kept["cost"].tolist(), strict=True):
        job.measure("evaluations", value, of=of)
    if name in job.model_paths:
        job.measure("seconds", job.model_record(name)["wall_s"], of="search")
    problem.name = "again"
    started = time.perf_counter()
    [again] = problem.evaluate([candidate], 0)
    job.measure("seconds", time.perf_counter() - started, of="evaluation")
    job.measure("fitness", float(kept["best"][-1]), noise="search")
    job.measure("fitness", again, noise="fresh")
    for array in ("best", "bounds", "fitness", "epoch", "origin", "history", "steps", "skips"):
        job.save(array, kept[array])


def searched(job: Job) -> None:
    """What a search found: judged anew, with its sampler and then with others."""
    problem, p = Images(job), job.params
    name, found = _found(job)
    _report_search(job, problem, name, found)
    for sampler in p.samplers:
        run = {
            "ddim": lambda: problem.ddim(found),
            "plms": lambda: problem.plms(found.steps),
            "dpm++": lambda: problem.dpm_along(found.steps),
        }[sampler]
        images = _judge(job, problem, run, sampler=sampler)
        problem.judge.save_grid(images, f"pictures-{sampler}")


@torch.no_grad()
def _chain_gmac(problem: Images, candidate: ad.Candidate, pairing: str = "pair") -> float:
    """Multiply-accumulates of a whole chain for one sample, in 10^9."""
    x, t = torch.zeros(1, *problem.judge.shape), torch.zeros(1, dtype=torch.long)
    sets = candidate.chain(pairing)[1]
    cost = {s: count_macs(problem.network, x, t, None, s).total for s in set(sets)}
    return sum(cost[s] for s in sets) / 1e9


def joint(job: Job) -> None:
    """What the joint search found, sets paired with their steps, and by rank as in the code."""
    problem = Images(job)
    name, found = _found(job)
    _report_search(job, problem, name, found)
    for pairing in ("pair", "rank"):
        images = _judge(
            job, problem, partial(problem.ddim, found, pairing), place=False, pairing=pairing
        )
        problem.judge.save_grid(images, f"pictures-{pairing}")
    job.measure("gmac", _chain_gmac(problem, found), chain="found")
    full = ad.Candidate(grid("stride", job.params.K))
    job.measure("gmac", _chain_gmac(problem, full), chain="full")
    job.measure("blocks", job.params.K * problem.network.L, of="budget")
    job.measure("dropped", sum(map(len, found.skips)))


def dropped(job: Job) -> None:
    """Controls of the joint search: blocks left out at random, to the budget of what it found.

    "stride": uniform steps, as many as it found; "found": the very steps.
    """
    problem = Images(job)
    _, found = _found(job)
    L, budget = problem.network.L, found.blocks(problem.network.L)
    chains = {"stride": grid("stride", len(found.steps)), "found": found.chain()[0]}
    for name in job.params.controls:
        control = ad.drop_uniformly(chains[name], L, budget, job.numpy_rng("dropped", name))
        images = _judge(job, problem, partial(problem.ddim, control), place=False, steps=name)
        problem.judge.save_grid(images, f"pictures-{name}")


def transfer(job: Job) -> None:
    """The found steps on the card's network, which they were not searched on."""
    problem = Images(job)
    _, found = _found(job)
    images = _judge(job, problem, lambda: problem.ddim(found))
    problem.judge.save_grid(images, "pictures")


@torch.inference_mode()
def throughput(job: Job) -> None:
    """Samples per second of a forward pass: precisions, candidates together, blocks left out.

    Ratios are taken within rounds in which all settings take turns.
    """
    p = job.params
    problems = {name: Images(job, precision=name) for name in ("float32", "bf16")}
    L = problems["bf16"].network.L

    def forward(precision: str, candidates: int, sets: list[ad.Skips]) -> Callable[[], Any]:
        x = problems[precision].noise(candidates * p.rows, "throughput")
        t = torch.full((len(x),), 500, device=x.device)
        return lambda: problems[precision].predict(x, t, None, sets)

    alone = {name: forward(name, 1, [ad.NONE]) for name in problems}
    timed: dict[str, Callable[[], Any]] = dict(alone)
    some = [frozenset({i % L}) for i in range(p.together)]
    together = forward("bf16", p.together, [ad.NONE])
    mixed = forward("bf16", p.together, some)
    one_by_one = [forward("bf16", 1, [s]) for s in some]
    timed |= {
        "together": together,
        "one-by-one": lambda: [alone["bf16"]() for _ in range(p.together)],
        "together-mixed": mixed,
        "one-by-one-mixed": lambda: [run() for run in one_by_one],
    }
    for count in range(0, L + 1, max(1, L // 4)):
        timed[f"dropped-{count}"] = forward("bf16", 1, [frozenset(range(count))])
    rounds = interleaved(timed, p.repeats)
    for name in problems:
        job.measure("seconds", rounds[name].median, of=name)
    job.measure("time_ratio", rounds.ratio("bf16", "float32").median, of="bf16", over="float32")
    for kind in ("", "-mixed"):
        ratio = rounds.ratio(f"together{kind}", f"one-by-one{kind}").median
        job.measure("time_ratio", ratio, of=f"together{kind}", over="one-by-one")
    for name in timed:
        if name.startswith("dropped-"):
            ratio = rounds.ratio(name, "bf16").median
            job.measure("time_ratio", ratio, of="dropped", blocks=int(name.split("-")[1]))
