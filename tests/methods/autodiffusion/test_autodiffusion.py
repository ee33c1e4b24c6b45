"""The search, its state on disk, the wrapped network, exact checks, loaders, and the arms."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.autodiffusion import exact, figures, official, problems, searches
from methods.autodiffusion import method as ad
from methods.autodiffusion.noisy_classifier import NAME
from repro.errors import ReproError
from repro.metrics.cost import count_macs
from repro.suite import zoo
from repro.suite.cards import library
from repro.suite.report import style
from tests.methods.making import results_of

STEPS = ad.Settings(K=4, E=4, P=12, k=3, N_m=6, N_c=3, m_prob=0.25)
JOINT = ad.Settings(
    K=4, E=6, P=12, k=3, N_m=6, N_c=3, m_prob=0.3, L=12, N_max=48, max_prun=0.34, rise=2, patience=1
)


def cheap(candidates, first):
    """Distance of a chain to an ideal one; blocks that are left out cost a little."""
    ideal = np.linspace(60, 930, 4)
    return [
        float(np.abs(np.interp(np.linspace(0, 1, 4), np.linspace(0, 1, len(t)), t) - ideal).sum())
        + sum(map(len, c.skips))
        for c in candidates
        for t in [c.chain()[0]]
    ]


def rng(epoch, seed=0):
    return np.random.default_rng([seed, epoch])


# Candidates ---------------------------------------------------------------------------------------


def test_chains_pair_sets_with_steps_or_ranks():
    c = ad.Candidate((700, 100, 400), (frozenset({1}), frozenset({2}), ad.NONE))
    assert c.chain() == ((100, 400, 700), (frozenset({2}), ad.NONE, frozenset({1})))
    assert c.chain("rank") == ((100, 400, 700), (frozenset({1}), frozenset({2}), ad.NONE))
    assert c.blocks(10) == 28 and c.effective_K == 3
    assert ad.Candidate.of_json(json.loads(json.dumps(c.as_json()))) == c
    with pytest.raises(ReproError, match="pair or rank"):
        c.chain("order")
    with pytest.raises(ReproError, match="3 steps with 1"):
        ad.Candidate((1, 2, 3), (ad.NONE,))


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_random_candidates_fit_the_budget(seed, low, high):
    lo, hi = sorted((low * JOINT.max_prun, high * JOINT.max_prun))
    c = ad.random_candidate(JOINT, lo, hi, np.random.default_rng(seed))
    assert c.blocks(12) <= 48 and c.effective_K == len(c.steps) >= 4
    most = int(JOINT.L * hi)
    assert all(len(s) <= most for s in c.skips)
    # No further step would have fitted.
    assert c.blocks(12) + JOINT.L - most > 48
    if hi == 0:
        assert len(c.steps) == 4


@given(st.integers(0, 10_000), st.sampled_from(["paper", "code"]))
@settings(max_examples=40, deadline=None)
def test_children_keep_what_they_must(seed, parity):
    r, s = np.random.default_rng(seed), replace(JOINT, parity=parity)
    a, b = (ad.random_candidate(s, 0, 0.34, r) for _ in range(2))
    child = ad.mutate(a, s, 0, 0.34, r, 0.5)
    assert len(child.steps) == len(a.steps) == child.effective_K
    for before, after in zip(a.skips, child.skips, strict=True):
        assert not before or len(before) == len(after)
        assert parity == "paper" or not before or before == after
    assert ad.mutate(a, s, 0, 0.34, r, 0.0) == a
    crossed = ad.cross(a, b, s, r)
    genes = set(zip(a.steps + b.steps, a.skips + b.skips, strict=True))
    assert set(zip(crossed.steps, crossed.skips, strict=True)) <= genes
    if parity == "paper":
        assert len(crossed.steps) == max(len(a.steps), len(b.steps))


def test_widening():
    s = replace(exact.JOINT)
    lo, hi, seen = 0.0, 0.0, []
    for epoch in range(12):
        lo, hi = ad.widen(s, lo, hi, epoch, unchanged=False)
        seen.append(round(hi, 3))
    assert seen == [0] * 5 + [0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1]
    assert ad.widen(s, 0, 0, 1, unchanged=True) == (0, pytest.approx(0.02))
    assert ad.widen(replace(s, min_prun=0.05), 0, 0.1, 6, True)[0] == 0.05
    assert ad.widen(STEPS, 0, 0, 9, True) == (0, 0)


# The search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parity", ["paper", "code"])
@pytest.mark.parametrize("base", [STEPS, JOINT], ids=["steps", "joint"])
def test_search_evaluates_each_once_and_keeps_the_best(base, parity):
    s = replace(base, parity=parity)
    state = ad.search(cheap, s, rng)
    keys = [r.candidate.key(parity) for r in state.records]
    assert len(keys) == s.P * s.E == len(set(keys))
    assert state.best == sorted(state.best, reverse=True)
    assert state.winner.fitness == min(r.fitness for r in state.records)
    if parity == "paper":
        assert all(s.allows(r.candidate) for r in state.records)


def test_search_beats_the_start_and_random_search_is_random():
    s = replace(STEPS, E=8, P=30, N_m=15, N_c=9, k=6, start=(0, 250, 500, 750))
    state = ad.search(cheap, s, rng)
    assert state.records[0].candidate.steps == s.start
    assert state.winner.fitness < 0.5 * state.records[0].fitness
    chance = ad.search(cheap, ad.without_evolution(s), rng)
    assert {r.origin for r in chance.records} == {"random"}
    assert len(chance.records) == len(state.records)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_interrupted_search_ends_with_the_same_bits(tmp_path, stop):
    class Problem:
        def __init__(self, fail_at=None):
            self.network_evaluations, self.epochs, self.fail_at = 0, 0, fail_at

        def evaluate(self, candidates, first):
            if self.epochs == self.fail_at:
                raise KeyboardInterrupt
            self.epochs += 1
            self.network_evaluations += len(candidates)
            return [f / 3 for f in cheap(candidates, first)]

    def job(folder):
        return zoo.job("autodiffusion", "x", 3, {}, scratch=tmp_path / folder)

    whole = searches.resumed(job("whole"), "x", Problem(), JOINT)
    with pytest.raises(KeyboardInterrupt):
        searches.resumed(job("cut"), "x", Problem(stop), JOINT)
    rest = Problem()
    resumed = searches.resumed(job("cut"), "x", rest, JOINT)
    assert rest.epochs == JOINT.E - stop
    assert rest.network_evaluations == JOINT.P * JOINT.E
    assert resumed == whole
    counts = {"network_evaluations": 1, "blocks_run": 2}
    for name, tensor in searches.as_tensors(whole, 12, counts).items():
        assert torch.equal(tensor, searches.as_tensors(resumed, 12, counts)[name])
    assert ad.State.of_json(json.loads(json.dumps(whole.as_json()))) == whole
    again = Problem(0)  # a finished search evaluates nothing
    assert searches.resumed(job("cut"), "x", again, JOINT) == whole
    with pytest.raises(ReproError, match="other settings"):
        searches.resumed(job("cut"), "x", Problem(), replace(JOINT, P=13))
    with pytest.raises(ReproError, match="evolution, random"):
        searches.resumed(job("cut"), "x", Problem(), JOINT, "annealing")


def test_kept_search_gives_back_its_winner():
    state = ad.search(cheap, JOINT, rng)
    kept = searches.as_tensors(state, 12, {"network_evaluations": 5, "blocks_run": 7})
    found, winner = searches.candidate(kept), state.winner.candidate
    assert found.chain() == winner.chain()
    assert kept["cost"].tolist() == [72, 5, 7]
    assert float(kept["best"][-1]) == state.winner.fitness
    first = state.records[0].candidate.steps
    assert kept["history"][0, : len(first)].tolist() == list(first)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"parity": "both"}, "paper or code"),
        ({"N_m": 20}, "exceed a population"),
        ({"max_prun": 0.1}, "budget N_max"),
        ({"grid": 400}, "cannot choose"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ReproError, match=message):
        replace(STEPS, **change)


# Sampling and networks ----------------------------------------------------------------------------


def test_chains_together_are_chains_alone():
    problem = problems.Mixture(
        lambda *s: torch.Generator().manual_seed(len(str(s))), schedule="linear", real=64
    )
    chains = [ad.Candidate(s) for s in ((0, 250, 500, 750), (94, 217, 834, 944))]
    x = problem.noise(16, "x").expand(2, -1, -1)
    together = problem.generate(chains, x)
    for chain, samples, start in zip(chains, together, x, strict=True):
        torch.testing.assert_close(problem.generate([chain], start[None])[0], samples)


def test_mixture_noise_is_exact():
    """Against the gradient of the log density, -sqrt(1 - abar) grad log p."""
    problem = problems.Mixture(
        lambda *s: torch.Generator().manual_seed(0), schedule="cosine", d=3, components=4, real=64
    )
    for t in (50, 400, 900):
        a = problem.alphas_cumprod[t].float()
        x = problem.noise(5, "x").requires_grad_(True)
        v = a * problem.std**2 + 1 - a
        squared = (x[:, None] - a.sqrt() * problem.means).square().sum(-1)
        (-squared / (2 * v)).logsumexp(1).sum().backward()
        eps = problem.eps(x.detach(), problem.alphas_cumprod[t])
        torch.testing.assert_close(eps, -(1 - a).sqrt() * x.grad, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", problems.SAMPLERS)
def test_mixture_samples_approach_the_data(sampler):
    def problem(s):
        return problems.Mixture(
            lambda *stream: torch.Generator().manual_seed(len(str(stream))),
            schedule="cosine", sampler=s, n=200, real=4000,
        )  # fmt: skip

    from methods.autodiffusion.arms import _uniform

    own = problem(sampler)
    few, many = (own.judged(ad.Candidate(_uniform(sampler, K)), 4000) for K in (3, 50))
    assert many < 0.3 * few
    own.network_evaluations = 0
    own.evaluate([ad.Candidate(_uniform(sampler, 5))], 0)
    assert own.network_evaluations == 200 * {"ddim": 5, "plms": 6, "dpm++": 5}[sampler]


def test_fresh_and_shared_noise():
    def fitness(fresh):
        problem = problems.Mixture(
            lambda *s: torch.Generator().manual_seed(hash(s) % 2**31),
            schedule="linear", n=64, real=256, fresh=fresh,
        )  # fmt: skip
        return problem.evaluate([ad.Candidate((0, 300, 600, 900))] * 2, 0)

    one, other = fitness(True)
    assert one != other
    one, other = fitness(False)
    assert one == other


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    made = zoo.build("fashion-mnist-unconditional").eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.05) if p.ndim > 1 else None
    return made.requires_grad_(False)


def test_blocks_of_the_zoo_network(unet):
    wrapped = ad.SkippableUNet(unet)
    assert wrapped.L == 12
    assert sum("attn" in name for name in wrapped.names) == 1
    assert wrapped.names[:4] == [
        "down.0.block.0",
        "down.1.block.0",
        "down.2.block.0",
        "mid.block_1",
    ]
    assert wrapped.names[6] == "up.2.block.0" and wrapped.names[-1] == "up.0.block.1"
    x, t = torch.randn(2, 1, 32, 32), torch.tensor([3, 900])
    assert torch.equal(wrapped(x, t), unet(x, t))
    full = count_macs(unet, x, t).total
    saved = [full - count_macs(wrapped, x, t, None, frozenset({b})).total for b in range(12)]
    assert min(saved) > 0
    rest = count_macs(wrapped, x, t, None, frozenset(range(12))).total
    assert full - sum(saved) == rest > 0
    shared = {p.data_ptr() for p in unet.parameters()}
    assert {p.data_ptr() for p in wrapped.parameters()} == shared


@given(st.lists(st.frozensets(st.integers(0, 11), max_size=12), min_size=1, max_size=3))
@settings(max_examples=10, deadline=None)
def test_rows_with_other_sets_share_a_batch(unet, sets):
    wrapped = ad.SkippableUNet(unet)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2 * len(sets), 1, 32, 32, generator=g)
    t = torch.arange(2 * len(sets)) * 100
    together = wrapped(x, t, None, sets)
    alone = [wrapped(a, b, None, s) for a, b, s in zip(x.split(2), t.split(2), sets, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_wrong_blocks_and_parts_are_named(unet):
    wrapped = ad.SkippableUNet(unet)
    x, t = torch.zeros(3, 1, 32, 32), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ReproError, match="no block 12"):
        wrapped(x, t, None, frozenset({12}))
    with pytest.raises(ReproError, match="equal parts"):
        wrapped(x, t, None, [ad.NONE, ad.NONE])


@given(st.integers(1, 6), st.integers(10, 72))
@settings(deadline=None)
def test_uniform_dropping_meets_the_budget(n, budget):
    steps = range(0, 1000, 150)[:n]
    c = ad.drop_uniformly(steps, 12, max(budget, 1), rng(0))
    assert c.blocks(12) == min(12 * n, max(budget, 1)) or budget < 0
    sizes = [len(s) for s in c.skips]
    assert max(sizes) - min(sizes) <= 1


# Exact checks and arms ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card():
    return library.load("autodiffusion")


@pytest.fixture(scope="module")
def weights():
    names = ("zoo/digits-unconditional", "zoo/digits-classifier")
    return {name: zoo.shipped(name)[0] for name in names}


TOY = {"samples": 24, "real": 60, "n": 16, "batch": 64, "E": 2, "P": 4, "elites": 2,
       "mutations": 2, "crossovers": 1, "fresh": 500, "Ks": [4],
       "controls": ["stride", "found"]}  # fmt: skip


def execute(card, name, models, scratch, kind="arms"):
    at = "smoke"
    if kind == "arms":
        at = next(s for s in ("smoke", "small", "gpu") if name in card.arms(s))
        params = card.arm_params(at, name)
    else:
        params = card.model_params("smoke", "autodiffusion", name)
    smoke = card.arm_params("smoke", "ddim")
    params |= {k: v for k, v in TOY.items() if k in params and params[k] != 2}
    params |= {k: smoke[k] for k in ("network", "dataset", "classifier") if k in params}
    # `throughput` counts the blocks of the network, which is smaller here.
    strict = kind == "arms" and name != "throughput"
    declared = card.declared("gpu", name, params) if strict else None
    job = zoo.job(
        "autodiffusion", name, 0, params, models, declared, scratch / name,
        model_params={NAME: card.model_params("smoke", "autodiffusion", NAME)},
    )  # fmt: skip
    entry = getattr(card.experiment, kind)[name]
    module, function = (entry.run if kind == "arms" else entry.train).split(":")
    return job, getattr(importlib.import_module(module), function)(job)


@pytest.fixture(scope="module")
def models(card, weights, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("models")
    found = {}
    for name, entry in card.experiment.models.items():
        own = {earlier: found[earlier] for earlier in entry.models if earlier in found}
        found[name] = execute(card, name, weights | own, scratch, "models")[1]
    return found


@pytest.fixture(scope="module")
def jobs(card, weights, models, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("arms")
    found = {}
    for arm, entry in card.experiment.arms.items():
        own = {name: models[name] for name in entry.models if name in models}
        found[arm] = execute(card, arm, weights | own, scratch)[0]
    return found


def place(at):
    return tuple(sorted((k, str(v)) for k, v in at.items()))


def lookup(jobs):
    return {(arm, n, place(a)): v for arm, job in jobs.items() for n, a, v in job.measured}


def where(r):
    at = tuple(sorted(tuple(part.split("=")) for part in r.at.split(","))) if r.at else ()
    return r.arm, r.name, at


@pytest.mark.parametrize("tier", ["exact", "structural"])
def test_arms_meet_every_check_of_the_tier(card, jobs, tier):
    values = lookup(jobs)
    checks = [c for c in card.checks("smoke").values() if c.tier == tier]
    assert len(checks) > 10
    for check in checks:
        assert check.parsed.holds(lambda r: values[where(r)]), check.expect


def test_reduced_checks_find_their_measurements(card, jobs):
    values = lookup(jobs)
    for check in card.checks("gpu").values():
        assert check.tier != "reduced" or check.control is not None
        for parsed in (check.parsed, check.control):
            for r in parsed.references() if parsed else ():
                if r.arm.startswith("analytic") and ("steps=10" in r.at or "steps=6" in r.at):
                    continue
                if r.arm in ("analytic-samplers", "samplers-blind") and "schedule=linear" in r.at:
                    continue
                if r.arm in ("plms", "ddim-long", "dpm-solver", "throughput"):
                    continue  # toy jobs have fewer steps and blocks
                if r.arm == "ddim" and r.at in ("nfe=10", "nfe=20"):
                    continue
                assert where(r) in values, str(r)


AT_MOST = {
    # what the specification computed, to the digits that it has
    "signal": 5e-4, "betas-4": 5.1e-7, "betas-6": 5.1e-7, "alphas-cosine": 5e-6,
    "alphas-linear": 5e-6, "grid-inclusive": 0, "grid-times": 1e-6,
    "gaussian-cosine-stride-4": 6e-7, "gaussian-cosine-inclusive-4": 6e-7,
    "gaussian-cosine-released-6": 6e-7, "gaussian-cosine-stride-6": 6e-7,
    "gaussian-cosine-all": 6e-7, "gaussian-linear-stride-4": 6e-7,
    "gaussian-linear-stride-6": 6e-7, "pairs-optimum": 0, "pairs-deviation": 6e-7,
    "pairs-cost": 2e-4, "pairs-uniform": 6e-7,
    # blind enumeration of 190 pairs needs 95.5 on average
    "needed": 95.5,
    # our own loop and candidates
    "dropping-rows": 1e-5, "dropping-none": 0, "rises": 0, "composition": 0, "same-winner": 0,
    "breaches": 0, "most-dropped": 5, "first-stage": 0, "last-hi": 1e-12, "permutation": 0,
    "frozen": 0, "departure-entries": 0, "departure-tail": 0, "departure-budget": 0,
    "departure-duplicates": 0, "departure-pairing": 0, "departure-memory": 0,
    "departure-released-pairing": 0,
}  # fmt: skip


@pytest.mark.parametrize("item", AT_MOST)
def test_identities_of_our_own_code(jobs, item):
    assert lookup(jobs)["exact", "error", (("item", item),)] <= AT_MOST[item]


@pytest.mark.parametrize(
    "item, count", [("evaluated", 500), ("evaluated-extra", 550), ("found", 10)]
)
def test_counts_of_our_own_loop(jobs, item, count):
    assert lookup(jobs)["exact", "error", (("item", item),)] == count


@pytest.mark.parametrize(
    "item, most",
    [
        ("guidance-zero", 0),
        ("guidance-steps", 0),
        ("guidance-frozen", 0),
        ("guidance-labels", 27.88),
    ],
)
def test_identities_of_guidance(jobs, item, most):
    assert lookup(jobs)["guided-exact", "error", (("item", item),)] <= most


def test_a_blind_search_does_not_see_what_it_samples(card, weights, tmp_path):
    """The same sequence on any data, for any seed another."""
    from methods.autodiffusion import controls

    def found(seed, schedule):
        job = zoo.job("autodiffusion", "analytic-blind", seed, {}, scratch=tmp_path)
        return controls.blind(job, schedule, replace(STEPS, start=(0, 250, 500, 750)))

    assert found(0, "x") == found(0, "x")
    assert len({found(seed, "x") for seed in range(8)}) > 4


def test_triples_are_more_than_are_tried(jobs):
    from methods.autodiffusion import controls

    s = controls.TRIPLES
    assert 2 * s.P * s.E < len(s.times) * (len(s.times) - 1) * (len(s.times) - 2) / 6
    shares = [v for n, _, v in jobs["triples"].measured if n == "found"]
    assert len(shares) == 2 and all(0 <= v <= 1 for v in shares)


def test_evaluations_are_counted(jobs):
    values = lookup(jobs)
    assert ("ddim", "frechet", (("nfe", "4"),)) in values
    assert ("plms", "frechet", (("nfe", "4"),)) in values
    assert ("searched", "frechet", (("nfe", "5"), ("sampler", "plms"))) in values
    assert values["ddim", "blocks", (("nfe", "4"),)] == 4 * 9
    assert values["random-search", "evaluations", (("of", "candidates"),)] == 8
    assert values["random-search", "evaluations", (("of", "network"),)] == 8 * 4 * 16
    assert values["searched-guided", "evaluations", (("of", "network"),)] == 8 * 4 * 16
    assert values["searched-guided", "evaluations", (("of", "gradients"),)] == 8 * 4 * 16
    for arm in ("ddim-guided", "searched-guided", "transfer-guided"):
        assert values[arm, "gradients", (("nfe", "4"),)] == 4
    crossed = {
        dict(at)["used"]: v for (arm, n, at), v in values.items()
        if arm == "transfer-guidance" and n == "gradients"
    }  # fmt: skip
    assert crossed == {"guided": 4, "unguided": 0}


def test_joint_search_stays_in_its_budget(jobs):
    values = lookup(jobs)
    budget = values["joint", "blocks", (("of", "budget"),)]
    assert values["joint", "blocks", (("pairing", "pair"),)] <= budget == 36
    assert (
        values["random-blocks", "blocks", (("steps", "stride"),)]
        == values["joint", "blocks", (("pairing", "pair"),)]
    )


def test_searched_network_is_not_changed(card, weights):
    before = {name: exact.digest(state) for name, state in weights.items()}
    assert len({*before.values()}) == len(before)
    params = card.model_params("smoke", "autodiffusion", "joint") | {
        k: v for k, v in TOY.items() if k not in ("samples", "Ks", "fresh")
    }
    job = zoo.job("autodiffusion", "joint", 0, params, weights)
    problem = problems.Images(job)
    ad.search(problem.evaluate, searches.settings(job, problem.network.L), rng)
    assert {name: exact.digest(state) for name, state in weights.items()} == before


def test_precisions_agree_and_others_are_named(card, weights):
    params = card.arm_params("smoke", "ddim") | {"samples": 8, "real": 20}
    job = zoo.job("autodiffusion", "ddim", 0, params, weights)
    chain = ad.Candidate((0, 250, 500, 750))
    single, half = (problems.Images(job, p).ddim(chain) for p in ("float32", "bf16"))
    assert 0 < (single - half).abs().mean() < 0.05
    with pytest.raises(ReproError, match="bf16 or float32"):
        problems.Images(job, "float16")


def test_conditional_network_gets_labels(card, unet):
    torch.manual_seed(0)
    states = {
        "zoo/fashion-mnist-conditional": zoo.build("fashion-mnist-conditional").state_dict(),
    }
    params = card.arm_params("small", "transfer") | {"samples": 6, "batch": 4}
    job = zoo.job("autodiffusion", "transfer", 0, params, states)
    problem = problems.Images(job)
    seen = []
    inner = problem.network.network.forward
    problem.network.network.forward = lambda x, t, y: seen.append(y) or inner(x, t, y)
    type(problem.judge).shape  # noqa: B018  (a cached property: the dataset is not read here)
    problem.judge.__dict__["shape"] = (1, 32, 32)
    images = problem.ddim(ad.Candidate((100, 600)))
    assert images.shape == (6, 1, 32, 32)
    assert [len(y) for y in seen] == [4, 4, 2, 2]
    labels = problem.labels(6, "evaluation")
    assert torch.equal(torch.cat([seen[0], seen[2]]), labels)


# Loaders ------------------------------------------------------------------------------------------


@pytest.fixture
def small_adm():
    from repro.nets.adm import ADMConfig, ADMUNet

    torch.manual_seed(0)
    return ADMUNet(ADMConfig(8, 32, (1,), 1, (8,), head=32))


def test_checkpoint_is_read_strictly(tmp_path, small_adm):
    from repro.nets.adm import ADMUNet

    path = tmp_path / "64x64_diffusion.pt"
    state = small_adm.state_dict()
    torch.save({k: v.half() for k, v in state.items()}, path)
    with torch.device("meta"):
        empty = ADMUNet(small_adm.config)
    loaded = official.load_adm(path, empty)
    assert not loaded.training
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, state[name].half().float())


def test_foreign_checkpoints_are_refused(tmp_path, small_adm):
    path = tmp_path / "lsun_cat.pt"
    with pytest.raises(ReproError, match="is missing"):
        official.load_adm(path, small_adm)
    state = small_adm.state_dict()
    torch.save({**state, "label_emb.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ReproError, match=r"holds `label_emb.weight`"):
        official.load_adm(path, small_adm)
    torch.save({k: v for k, v in state.items() if k != "out.2.bias"}, path)
    with pytest.raises(ReproError, match=r"lacks `out.2.bias`"):
        official.load_adm(path, small_adm)
    torch.save({**state, "out.2.bias": torch.zeros(7)}, path)
    with pytest.raises(ReproError, match="shape"):
        official.load_adm(path, small_adm)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReproError, match="truncated"):
        official.load_adm(path, small_adm)
    with pytest.raises(ReproError, match="no network"):
        official.load_adm(path, "imagenet")


def test_printed_candidates():
    assert official.read_candidate("[94, 217, 354]").steps == (94, 217, 354)
    both = official.read_candidate("{'timesteps': [9, 5], 'skip_layers': [[], [3, 57]]}")
    assert both.skips == (ad.NONE, frozenset({3, 57}))
    for text, message in {
        "__import__('os')": "no list",
        "[1, 2": "no list",
        "[]": "whole numbers",
        "[1, 1000]": "whole numbers",
        "{'timesteps': [1]}": "skip_layers",
        "{'timesteps': [1], 'skip_layers': [[58]]}": "blocks",
        "{'timesteps': [1], 'skip_layers': [[1], [2]]}": "1 steps with 2",
    }.items():
        with pytest.raises(ReproError, match=message):
            official.read_candidate(text)


# Figures ------------------------------------------------------------------------------------------


def test_figures_are_drawn(card, jobs, tmp_path):
    results = results_of(card, {(arm, 0): job for arm, job in jobs.items()}, tmp_path)
    with style.context():
        for figure in card.experiment.figures:
            drawn = getattr(figures, figure.run.split(":")[1])(results)
            assert drawn.axes, figure.id
            drawn.savefig(tmp_path / f"{figure.id}.png")
