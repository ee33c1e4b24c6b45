"""Arms on tiny networks, training, figures, and the card."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from methods.superdiff import arms, learning
from methods.superdiff import figures as drawn
from methods.superdiff import method as sd
from repro.errors import ReproError
from repro.job import Job
from repro.nets.unet import UNet
from repro.suite import zoo
from repro.suite.cards import library
from repro.suite.report import style
from repro.suite.report.results import Results
from repro.zoo import pretrained

METHOD = library.load("superdiff")
CLASSIFIER = "zoo/digits-classifier"
TRAINED = {
    "half": "a", "dataset": "digits", "start": "", "width": 16, "blocks": 1, "updates": 3,
    "batch": 8, "lr": 1e-3, "warmup": 1, "ema": 0.9, "training_precision": "32-true",
}  # fmt: skip
JUDGED = {
    "dataset": "digits", "classifier": CLASSIFIER, "samples": 12, "real": 40, "batch": 8,
    "steps": [4], "paths": ["sde"], "sampling_precision": "float32",
}  # fmt: skip


def models(*names):
    found = {}
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        network = learning.build(Job.for_test(), SimpleNamespace(**TRAINED), 64)
        torch.nn.init.normal_(network.last.weight, std=0.05)
        found[name] = network.state_dict()
    return found


def job_for(params, *names):
    return zoo.job(
        "superdiff",
        params=params,
        models=models(*names) | {CLASSIFIER: zoo.shipped(CLASSIFIER)[0]},
        model_params={n: TRAINED for n in names},
    )


def found(job, name):
    return {tuple(sorted(at.items())): value for n, at, value in job.measured if n == name}


def test_superposed_arm_measures_every_path():
    params = JUDGED | {"paths": ["sde", "ode"], "experts": ["a", "b"], "rule": "or"}
    job = job_for(params | {"temperature": 1.0, "increments": "theorem-1"}, "a", "b")
    arms.superpose(job)
    keys = {key for n in ("frechet", "chi_square", "share_b", "gap") for key in found(job, n)}
    assert keys == {(("nfe", 8), ("path", "sde")), (("nfe", 16), ("path", "ode"))}
    assert job.arrays["gap-sde-4"].shape == (4, 8)
    assert job.arrays["classes-sde-4"].sum() == pytest.approx(1)
    assert job.arrays["pictures-sde-4"].shape == (10, 1, 8, 8)


def test_and_arm_does_not_drift_in_batches():
    params = JUDGED | {"experts": ["a", "b"], "rule": "and", "temperature": 1.0}
    job = job_for(params | {"increments": "theorem-1"}, "a", "b")
    arms.superpose(job)
    assert max(found(job, "drift").values()) < 1e-9
    assert min(found(job, "chi_square").values()) >= 0


def test_coin_flip_takes_samples_of_both_rows():
    job = job_for(JUDGED | {"experts": ["a", "b"]}, "a", "b")
    arms.halves(job)
    rows = {dict(key)["row"] for key in found(job, "frechet")}
    assert rows == {"a", "b", "coin-flip"}
    a, b, coin = (job.arrays[f"pictures-sde-4-{r}"] for r in ("a", "b", "coin-flip"))
    from_a = (coin == a).all((1, 2, 3))
    assert ((coin == b).all((1, 2, 3)) | from_a).all() and 0 < from_a.sum() < len(coin)


def test_all_rows_take_the_same_noise():
    job = job_for(JUDGED, "a")
    noise = torch.randn(12, 1, 8, 8)
    model = arms.experts(job, ["a"], 64)
    one = arms.generate(job, model, noise, sd.Averaging((1.0,)), steps=4)
    two = arms.generate(job, model, noise, sd.Averaging((1.0,)), steps=4)
    assert torch.equal(one.x, two.x) and one.x.shape == noise.shape and one.L.shape == (1, 12)


@pytest.fixture
def zoo_network(monkeypatch):
    """Networks of noise under the names `net`, with classes, and `plain`, without."""
    shape = dict(resolution=8, in_channels=1, channels=8, mult=(1,), blocks=1, groups=4)
    torch.manual_seed(0)
    known = {"net": UNet(**shape, num_classes=10).eval(), "plain": UNet(**shape).eval()}
    for network in known.values():  # its last layer starts at zero
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    original = pretrained.network
    monkeypatch.setattr(
        pretrained,
        "network",
        lambda job, name: known[name] if name in known else original(job, name),
    )


def test_pairs_with_a_conditional_network(zoo_network):
    params = JUDGED | {"network": "net", "pairs": [[0, 1], [2, 8]], "steps": 3}
    job = job_for(params | {"rules": ["and", "averaging", "or", "coin-flip"]})
    arms.pairs(job)
    keys = {(dict(k)["rule"], dict(k)["nfe"]) for k in found(job, "apart")}
    assert keys == {("and", 6), ("averaging", 6), ("or", 6), ("coin-flip", 3)}
    gaps = {dict(k)["rule"]: v for k, v in found(job, "gap").items()}
    assert gaps["and"] < 1e-9 and set(gaps) == {"and", "averaging", "or"}


def test_pairs_of_others_differ_from_pairs_in_and_alone(zoo_network):
    params = JUDGED | {"network": "net", "pairs": [[0, 1], [2, 8]], "steps": 3}
    job, other = (job_for(params | {"rules": ["and", "averaging"]}) for _ in range(2))
    arms.pairs(job)
    arms.pairs_of_others(other)
    right, wrong = (found(j, "least_probability") for j in (job, other))
    key = {rule: (("nfe", 6), ("rule", rule)) for rule in ("and", "averaging")}
    assert right[key["averaging"]] == wrong[key["averaging"]]
    assert right[key["and"]] != wrong[key["and"]]


def test_untuned_network_and_real_images_are_measured_as_models_are(zoo_network):
    job = job_for(JUDGED | {"experts": ["plain"]})
    arms.untuned(job)
    assert set(found(job, "frechet")) == {(("nfe", 4), ("path", "sde"))}
    real = job_for(JUDGED)
    arms.floor(real)
    assert found(real, "frechet")[()] < found(job, "frechet")[(("nfe", 4), ("path", "sde"))]
    assert real.arrays["classes-real"].sum() == pytest.approx(1)


def test_true_scores_of_the_plane():
    x = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, modes = 0.3, (0, 1)
    V = (learning.DEVIATION * sd.alpha(t)) ** 2 + t**2
    y = x.clone().requires_grad_()
    means = sd.alpha(t) * torch.tensor(learning.MODES, dtype=torch.float64)[list(modes)]
    away = (y[:, None] - means).square().sum(-1)
    (score,) = torch.autograd.grad(torch.logsumexp(-away / (2 * V), 1).sum(), y)
    torch.testing.assert_close(arms.mixture_score(modes)(x, t), sd.sigma(t) * score)


def test_training_sees_its_half_alone(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        learning, "fit_and_save", lambda job, network, loss, batch, *a, **k: (
            seen.append(loss(network, batch(0, job.rng("x")), None)), network.state_dict(),
        )[1],
    )  # fmt: skip
    kept = []
    monkeypatch.setattr(learning, "noised", lambda x, g: (kept.append(x), NOISED(x, g))[1])
    job = zoo.job("superdiff", params=TRAINED | {"batch": 400}, scratch=tmp_path)
    learning.train(job)
    from repro.data.catalogue import load

    digits = load("digits").train
    half = learning.scaled(learning.images(digits, "digits"), "digits")[digits.labels < 5]
    known = {row.numpy().tobytes() for row in half}
    assert all(row.numpy().tobytes() in known for row in kept[0])
    assert 0.8 < float(seen[0].detach()) < 1.2  # a network of zeros leaves the noise
    job.params._values["half"] = "c"
    with pytest.raises(ReproError, match="no half"):
        learning.train(job)


NOISED = learning.noised


def test_noised_states_have_the_schedule():
    x0 = torch.full((2000, 2), 3.0)
    x, t, noise = learning.noised(x0, torch.Generator().manual_seed(0))
    expected = torch.exp(sd.log_alpha(t))[:, None] * x0 + t[:, None] * noise
    torch.testing.assert_close(x.double(), expected.double(), rtol=1e-5, atol=1e-5)


def test_unknown_rule():
    with pytest.raises(ReproError, match="no rule `xor`"):
        arms.rule_of("xor")


def test_every_claim_is_checked_or_needs_official_weights():
    checked = {claim for claim, _ in METHOD.expected.each()}
    for claim in METHOD.paper.claims:
        assert claim.id in checked or claim.best_tier == "paper"


# Figures


@pytest.fixture
def results(tmp_path):
    rng = np.random.default_rng(0)
    records = []

    def record(arm, seed, measured, **arrays):
        folder = tmp_path / arm / str(seed)
        folder.mkdir(parents=True)
        np.savez(folder / "arrays.npz", **arrays)
        items = [{"name": n, "at": at, "value": v} for n, v, at in measured]
        records.append({"arm": arm, "folder": folder, "seed": seed, "measurements": items})

    pictures = rng.integers(0, 255, (10, 1, 8, 8), dtype=np.uint8)
    for seed in range(2):
        for prefix, steps in (("", [50]), ("digits-", [50, 200])):
            for place, (_, arm, row) in enumerate(drawn.ROWS):
                if prefix + arm not in METHOD.experiment.arms or row in ("b", "coin-flip"):
                    continue
                rows = ("a", "b", "coin-flip") if row else (None,)
                measured, arrays = [], {}
                for n in steps:
                    for r in rows:
                        at = {"path": "sde", "nfe": n} | ({"row": r} if r else {})
                        measured.append(("frechet", 10.0 + place + seed, at))
                        name = f"sde-{n}" + (f"-{r}" if r else "")
                        arrays[f"pictures-{name}"] = pictures
                        arrays[f"classes-{name}"] = np.full(10, 0.1)
                    arrays[f"gap-sde-{n}"] = rng.normal(size=(n, 5)).cumsum(0)
                record(prefix + arm, seed, measured, **arrays)
        points = {
            f"points-{s}-{r}": rng.normal(size=(20, 2))
            for s in ("learned", "true")
            for r in drawn.RULES
        }
        record("plane", seed, [], **points)
        rules = METHOD.experiment.arms["pairs"].params["rules"]
        record("pairs", seed, [], **{f"pictures-{r}": pictures for r in rules})
    return Results(METHOD.paper, METHOD.experiment, "small", records)


def test_figures_show_what_their_captions_say(results):
    with style.context():
        left, right = drawn.distances(results).axes
        assert [t.get_text() for t in left.get_yticklabels()][:3] == [
            "model of 0-4", "model of 5-9", "model of all",
        ]  # fmt: skip
        assert left.get_lines()[0].get_xdata().tolist() == [10, 11]
        assert len(right.get_yticklabels()) == len(drawn.ROWS)
        (ax,) = drawn.quality(results).axes
        assert ax.get_lines()[0].get_xdata().tolist() == [50, 200]
        assert all(
            len(line.get_xdata()) == 10 for line in drawn.histograms(results).axes[0].lines[:4]
        )
        assert len(drawn.log_densities(results).axes) == 3
        assert len(drawn.plane(results).axes) == 6
        assert len(drawn.samples(results).axes) == 10 * 8
        assert len(drawn.pairs(results).axes) == 40


def test_every_figure_of_the_card_draws(results):
    for figure in METHOD.experiment.figures:
        with style.context():
            assert getattr(drawn, figure.run.split(":")[1])(results).axes
