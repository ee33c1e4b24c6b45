"""The glue between cards and method, and the cards themselves."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from methods.radd import arms, exact
from repro.data import cache, catalogue
from repro.diffusion import absorbing
from repro.errors import ReproError
from repro.job import Job
from repro.suite.cards import library

TEXT = ("the cat sat on the mat, and the dog lay by the door. " * 40).strip()
SIZES = {
    "d": 16, "blocks": 1, "heads": 2, "cond": 8, "length": 8, "batch": 4, "updates": 3, "lr": 1e-3,
    "warmup": 1, "draw": "stratified", "characters": 0, "precision": "32-true",
}  # fmt: skip
METHOD = library.load("radd")


@pytest.fixture(autouse=True)
def text(monkeypatch):
    loaded = SimpleNamespace(train=TEXT, test=TEXT[:600], ood=TEXT[300:900])
    monkeypatch.setattr(catalogue, "load", lambda name: loaded)
    return loaded


def job_for(params, model=None, **more):
    job = Job.for_test("radd", params=params, **more)
    job.data_names = ["english-text"]
    if model is not None:
        torch.manual_seed(0)
        loss = model
        network = arms.build(SimpleNamespace(**SIZES), loss)
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.3)
        job.model_paths = {"net": Path()}
        job._states = {"net": network.state_dict()}
        job._model_params = {"net": SimpleNamespace(**SIZES, loss=loss)}
    return job


def found(job, name):
    return {tuple(sorted(at.items())): value for n, at, value in job.measured if n == name}


def key(**at):
    return tuple(sorted(at.items()))


# Text


def test_excerpts_are_spread_over_the_text():
    text = "a" * 100_000 + "b" * 100_000 + "c" * 100_000
    codes = arms.encoded(text, 60_000)
    share = np.bincount(codes, minlength=31)[:3] / len(codes)
    assert len(codes) < 61_000 and share == pytest.approx([1 / 3] * 3, abs=0.01)
    assert len(arms.encoded(text, 0)) == 300_000


def test_a_text_is_read_through_the_card(monkeypatch):
    job = job_for({})
    assert arms.corpus(job).train == TEXT
    job.data_names = ["wikipedia-excerpt"]
    monkeypatch.setattr(catalogue, "load", lambda name: name)
    assert arms.corpus(job) == "wikipedia-excerpt"


def test_text_shorter_than_a_window():
    with pytest.raises(ReproError, match="no window of 32"):
        arms.windows(np.zeros(5, np.uint8), 2, 32)


def test_windows_cover_both_ends():
    w = arms.windows(np.arange(100, dtype=np.uint8), 4, 10)
    assert w.shape == (4, 10) and w[0, 0] == 0 and w[-1, -1] == 99


# Training and losses


@pytest.mark.parametrize("loss", arms.LOSSES)
def test_every_loss_has_a_value_and_a_gradient(loss):
    network = arms.build(SimpleNamespace(**SIZES), loss).double()
    model = arms.Loaded(network, loss, 8)
    x0 = torch.randint(31, (16, 8), generator=torch.Generator().manual_seed(0))
    u = absorbing.uniforms(16, generator=torch.Generator().manual_seed(1))
    value = arms.loss_of(model, loss, x0, u, torch.Generator().manual_seed(2))
    assert value.shape == (16,) and torch.isfinite(value).all()
    value.mean().backward()
    assert network.output_layer.linear.weight.grad.abs().max() > 0
    assert (network.config.cond is not None) == loss.startswith("sedd")


def test_training_saves_the_network_that_scoring_loads(tmp_path):
    job = job_for(SIZES | {"loss": "sedd-scale"}, scratch=tmp_path)
    state = arms.train(job)
    network = arms.build(SimpleNamespace(**SIZES), "sedd-scale")
    network.load_state_dict(state)
    assert job.arrays["curve"].shape == (3,)
    assert state["output_layer.linear.weight"].abs().max() > 0
    start = torch.get_rng_state()
    again = arms.train(job_for(SIZES | {"loss": "sedd-scale"}, scratch=tmp_path / "again"))
    assert torch.equal(torch.get_rng_state(), start)
    assert all(torch.equal(state[k], again[k]) for k in state)


def test_unknown_loss_is_refused(tmp_path):
    with pytest.raises(ReproError, match="no loss `elbo`"):
        arms.train(job_for(SIZES | {"loss": "elbo"}, scratch=tmp_path))


# Scoring


def scored(model, **params):
    params = {"characters": 0, "windows": 32, "draws": 4, "scorers": []} | params
    job = job_for(params, model, name=f"scored-{model}")
    arms.score(job)
    return job


def test_score_measures_both_splits_and_the_own_loss():
    job = scored("t-dce", scorers=["ao"])
    nats = found(job, "nats")
    scorers = ("lambda-dce", "t-dce", "own", "ao")
    assert set(nats) == {key(split=s, scorer=q) for s in ("test", "ood") for q in scorers}
    perplexity = found(job, "perplexity")
    assert all(perplexity[k] == pytest.approx(math.exp(v)) for k, v in nats.items())
    assert nats[key(split="test", scorer="own")] == nats[key(split="test", scorer="t-dce")]


def test_masks_are_common_to_all_models(monkeypatch):
    seen = {}
    right = arms.radd.lambda_dce

    def spy(c_theta, x0, u, **keep):
        def look(xt):
            seen.setdefault(name, []).append(xt)
            return c_theta(xt)

        return right(look, x0, u, **keep)

    monkeypatch.setattr(arms.radd, "lambda_dce", spy)
    for name in ("lambda-dce", "sedd-scale"):
        scored(name)
    assert len(seen["lambda-dce"]) == len(seen["sedd-scale"]) == 8
    for one, two in zip(seen["lambda-dce"], seen["sedd-scale"], strict=True):
        assert torch.equal(one, two)


def test_shuffling_lets_every_window_meet_every_level(monkeypatch):
    """A stratified draw is ordered; without a shuffle a window would keep its level."""
    job = job_for({}, "lambda-dce")
    x0 = torch.arange(16)[:, None].expand(16, 8) % 31
    levels = {i: [] for i in range(16)}

    def spy(model, loss, rows, u, generator):
        for row, level in zip(rows[:, 0].tolist(), u.tolist(), strict=True):
            levels[row].append(level)
        return u

    monkeypatch.setattr(arms, "loss_of", spy)
    arms.estimate(job, arms.load(job), "lambda-dce", x0, 200, "test")
    means = np.array([np.mean(v) for v in levels.values()])
    assert np.abs(means - 0.5).max() < 0.1


def test_without_their_weights_the_losses_differ():
    """The control of the estimators: what makes them agree is their weights."""
    scorers = ["dse", "t-dce", "ao"]
    params = {"characters": 0, "windows": 64, "draws": 32, "scorers": scorers}
    job = job_for(params, "lambda-dce")
    arms.score_unweighted(job)
    bare = found(job, "nats")
    right = found(scored("lambda-dce", **params), "nats")
    assert set(bare) == {key(split="test", scorer=s) for s in ["lambda-dce", *scorers]}
    reference = key(split="test", scorer="lambda-dce")
    assert bare[reference] == pytest.approx(right[reference], rel=0.05)
    for scorer in scorers:
        at = key(split="test", scorer=scorer)
        assert right[at] == pytest.approx(right[reference], rel=0.1)
        assert bare[at] < 0.7 * bare[reference]


def test_normalised_scores_of_sedd_are_the_better_reading():
    """DSE is at least the cross-entropy of the normalised scores, draw by draw."""
    job = job_for({}, "sedd-unscale")
    model = arms.load(job)
    x0 = torch.randint(31, (64, 8), generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.01, 0.99, 64)
    noise = absorbing.LogLinear()
    lam = noise.masked(t)
    m = absorbing.mask_independently(x0, lam, generator=torch.Generator().manual_seed(1))
    xt = arms.radd.corrupt(x0, m, 31)
    with torch.no_grad():
        log_c = model.conditionals_at(lam)(xt)
        log_s = model.s_theta(xt, noise.total(t))
    torch.testing.assert_close(log_c.exp().sum(-1), torch.ones(64, 8))
    score_entropy = arms.radd.dse_integrand(log_s, x0, m, t, noise)
    cross_entropy = arms.radd.nll(log_c, x0, m) / t
    assert (score_entropy >= cross_entropy * (1 - 1e-5) - 1e-4).all()
    assert float((score_entropy - cross_entropy).mean()) > 0.01


# Sampling


def test_sampling_measures_evaluations_quality_and_the_cache():
    params = {"characters": 0, "order": 3, "sequences": 40, "draws_in": "float64", "steps": [4, 16]}
    job = job_for(params, "lambda-dce")
    arms.sample(job)
    nfe, formula = found(job, "nfe"), found(job, "nfe_formula")
    assert formula[key(steps=16)] == pytest.approx(16 * (1 - (15 / 16) ** 8), rel=1e-4)
    assert nfe[key(steps=16)] == pytest.approx(formula[key(steps=16)], rel=0.15)
    assert found(job, "changed_by_cache")[()] == 0
    assert set(found(job, "judge_nll")) == {key(steps=4), key(steps=16)}
    assert 0 < found(job, "entropy")[key(steps=4)] <= math.log(8)
    assert job.arrays["samples-16"].shape == (8, 8)
    sedd = job_for(params, "sedd-scale")
    arms.sample(sedd)
    assert found(sedd, "calls") == {key(steps=4): 5, key(steps=16): 17}
    assert not found(sedd, "nfe_formula")


def test_sampling_in_order():
    orders = ["random", "forward", "backward"]
    params = {"characters": 0, "order": 3, "sequences": 6, "draws_in": "float64", "orders": orders}
    job = job_for(params, "ao")
    arms.sample_in_order(job)
    assert found(job, "calls") == {key(order=name): 8 for name in orders}
    assert len(set(found(job, "judge_nll").values())) == 3


def test_an_untrained_network_samples_every_character_alike():
    """The control of the samples: their entropy is that of uniform draws, and the judge sees it."""
    sizes = {k: SIZES[k] for k in ("d", "blocks", "heads", "cond", "length")}
    params = {"characters": 0, "order": 3, "sequences": 400, "draws_in": "float64", "steps": [16]}
    job = job_for(params | sizes)
    arms.sample_untrained(job)
    uniform = np.random.default_rng(0).integers(0, 31, (400, 8))
    at = key(steps=16)
    entropy = arms.unigram_entropy(uniform).mean()
    assert found(job, "entropy")[at] == pytest.approx(entropy, abs=0.03)
    nll = arms.judge(job).nll(uniform).mean()
    assert found(job, "judge_nll")[at] == pytest.approx(nll, rel=0.03)
    real = job_for({"characters": 0, "order": 3, "sequences": 40, "length": 8})
    arms.held_out(real)
    assert found(real, "judge_nll")[()] < 0.3 * nll


def test_judge_is_better_on_text_than_on_noise():
    params = {"characters": 0, "order": 4, "sequences": 20, "length": 16}
    job = job_for(params)
    arms.held_out(job)
    judge = arms.judge(job)
    noise = torch.randint(31, (20, 16), generator=torch.Generator().manual_seed(0))
    arms.measure_text(job, judge, noise, kind="noise")
    nll = found(job, "judge_nll")
    assert nll[()] < 1 < nll[key(kind="noise")]


# Counting and timing


def test_simulated_evaluations_follow_both_closed_forms():
    params = {"tokens": 64, "sequences": 400, "rows": 16, "steps": [16, 64]}
    job = job_for(params)
    arms.simulate_nfe(job)
    for steps in (16, 64):
        at = key(steps=steps)
        plain = steps * (1 - (1 - 1 / steps) ** 64)
        assert found(job, "nfe_formula")[at] == pytest.approx(plain, rel=1e-4)
        for name in ("nfe", "calls"):
            formula = found(job, f"{name}_formula")[at]
            assert found(job, name)[at] == pytest.approx(formula, rel=0.02)
        assert found(job, "ideal_speedup")[at] == pytest.approx(steps / plain, rel=1e-4)
        whole = steps * (1 - (1 - 1 / steps) ** (64 * 16))
        assert found(job, "nfe_batch_cache")[at] == pytest.approx(whole, rel=1e-4)


def test_float32_draws_lose_entropy_with_steps():
    job = job_for({"vocab": 2000, "steps": [16, 512]})
    arms.draw_precision(job)
    entropy = found(job, "draw_entropy")
    ideal = entropy[key(draws_in="exact", steps=0)]
    assert entropy[key(draws_in="float64", steps=512)] == pytest.approx(ideal, abs=1e-6)
    coarse = [entropy[key(draws_in="float32", steps=n)] for n in (16, 512)]
    assert ideal > coarse[0] > coarse[1]


def test_latency_runs_all_samplers_and_takes_ratios(monkeypatch):
    params = {
        "size": "custom", "d": 16, "blocks": 1, "heads": 2, "vocab": 5, "length": 6,
        "batches": [1, 2], "steps_per_token": [1, 2], "variants": ["cached", "uncached", "sedd"],
        "repeats": 2, "precision": "float32", "draws_in": "float64",
    }  # fmt: skip
    job = job_for(params)
    evaluated = {}
    right = arms.interleaved

    def spy(functions, repeats, warmup):
        for name, function in functions.items():
            out = function()
            evaluated.setdefault(name, []).append(float(out.calls.double().mean()))
        return right(functions, repeats, warmup)

    monkeypatch.setattr(arms, "interleaved", spy)
    arms.time_samplers(job)
    assert evaluated["uncached"] == [6, 12, 6, 12] and evaluated["sedd"] == [7, 13, 7, 13]
    assert all(a <= b for a, b in zip(evaluated["cached"], evaluated["uncached"], strict=True))
    assert len(found(job, "seconds")) == 12 and len(found(job, "speedup")) == 8
    assert all(value > 0 for _, _, value in job.measured)
    with pytest.raises(ReproError, match="no sampler `fast`"):
        arms.time_samplers(job_for(params | {"variants": ["fast"]}))


def test_structure_counts_the_released_networks():
    job = job_for({"tokens": 1024})
    arms.structure(job)
    parameters = found(job, "parameters")
    assert parameters[key(family="radd", size="small")] == 162_265_682
    assert parameters[key(family="sedd", size="medium")] == 424_477_010
    assert set(found(job, "wrong_tensors").values()) == {0}
    assert found(job, "gmacs")[key(family="radd", size="small")] == pytest.approx(145.8, abs=0.05)
    megabytes = found(job, "megabytes")[key(family="radd", size="small")]
    assert megabytes == pytest.approx(649.06, abs=0.005)


def test_identities_are_all_measured(monkeypatch):
    monkeypatch.setattr(exact, "all_checks", lambda seed, n: iter([("a", 0.5), ("b", n)]))
    job = job_for({"sequences": 3})
    exact.measure(job)
    assert found(job, "error") == {key(item="a"): 0.5, key(item="b"): 3}


# Official weights


def test_zero_shot_scores_official_blocks(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    from methods.radd import official
    from repro.nets.transformer import Config

    config = Config(vocab=11, d=16, blocks=1, heads=2)
    state = {k: torch.zeros(s) for k, s in official.shapes(config).items()}
    folder = tmp_path / "official" / "radd-t-dce"
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    model = {"hidden_size": 16, "n_heads": 2, "n_blocks": 1, "length": 6}
    (folder / "config.json").write_text(json.dumps({"tokens": 11, "model": model}))
    monkeypatch.setitem(official.PUBLISHED, "radd-t-dce", official.Published("", config))
    monkeypatch.setattr(cache, "root", lambda: tmp_path)
    vocabulary = SimpleNamespace(encoder={c: i for i, c in enumerate("abcdefghij.")}, merges=[])
    monkeypatch.setattr(catalogue, "load", {"gpt2-bpe": vocabulary}.__getitem__)
    blocks = np.random.default_rng(0).integers(0, 11, (5, 6))
    corpus = SimpleNamespace(blocks=lambda tokenizer, length: blocks)
    monkeypatch.setitem(arms.ZERO_SHOT, "ptb", corpus)
    params = {
        "weights": "radd-t-dce", "loss": "ao", "corpora": ["ptb"], "draws": 3, "batch": 2,
        "precision": "float32",
    }  # fmt: skip
    job = job_for(params)
    job.data_names = METHOD.experiment.arms["official-t-dce"].data
    arms.zero_shot(job)
    assert found(job, "perplexity")[key(corpus="ptb")] == pytest.approx(11, rel=1e-5)  # uniform
    assert found(job, "blocks")[key(corpus="ptb")] == 5
    job.params._values["corpora"] = ["openwebtext"]
    with pytest.raises(ReproError, match="openwebtext is no zero-shot set; choose among lambada"):
        arms.zero_shot(job)


def test_a_split_that_a_text_lacks_is_not_scored(text):
    text.ood = ""
    splits = {dict(at)["split"] for at in found(scored("t-dce"), "nats")}
    assert splits == {"test"}


def test_zero_shot_corpora_are_those_of_the_card():
    for name in ("official-lambda-dce", "official-t-dce", "official-sedd"):
        assert METHOD.experiment.arms[name].params["corpora"] == list(arms.ZERO_SHOT)


# Cards


def test_cards_name_what_exists():
    import importlib

    for card in [*METHOD.experiment.arms.values(), *METHOD.experiment.figures]:
        module, name = card.run.split(":")
        assert callable(getattr(importlib.import_module(module), name))
    for model in METHOD.experiment.models.values():
        assert model.train == "methods.radd.arms:train" and model.params["loss"] in arms.LOSSES


def test_every_training_gets_the_same_budget():
    def params(name, but):
        found = METHOD.model_params("small", "radd", name)
        return {k: v for k, v in found.items() if k not in ("loss", *but)}

    # what an arm of its own asks about: more training, more parameters
    differ = {"-long": ("updates",), "-wide": ("d",)}
    for name in METHOD.experiment.models:
        but = next((keys for end, keys in differ.items() if name.endswith(end)), ())
        assert params(name, but) == params("radd-dse", but), name
    assert params("radd-dse-long", ()) == params("sedd-scale-long", ())


def test_table_of_evaluations_follows_from_the_formula():
    table = {t.id: t for t in METHOD.paper.tables}["enfe"]
    rows = {row[0]: row[1:] for row in table.rows}
    for column, value in zip(table.columns[1:], rows["log-linear"], strict=True):
        n = int(column)
        assert value == pytest.approx(n * (1 - (1 - 1 / n) ** 1024), abs=0.006)


def test_means_of_the_zero_shot_claims_follow_from_the_tables():
    tables = {t.id: {r[0]: np.mean(r[1:]) for r in t.rows} for t in METHOD.paper.tables[:2]}
    for claim, table in (("zeroshot-small", "table-1"), ("zeroshot-medium", "table-2")):
        card = METHOD.paper.claim(claim)
        means = tables[table]
        best = min(v for k, v in means.items() if k.startswith("RADD"))
        assert card.baseline == pytest.approx(means["SEDD-Scale"], abs=0.006)
        assert card.method == pytest.approx(best, abs=0.006)
