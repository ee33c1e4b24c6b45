"""Controls differ from the method in the one thing that they are named for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from methods.msd import arms, controls, toy
from methods.msd import method as msd
from repro.suite import zoo

PLANE = dict(
    classes=4, modes=2, sigma_min=0.02, sigma_max=10.0, pairs=32, heun_steps=4, width=4,
    fake_width=8, batch=8, lr=2e-3, regression=0.25, iterations=3, tsm_iterations=2,
    warm_iterations=2, warm_batch=8, consistency_steps=5, target_decay=0.9,
)  # fmt: skip


def toy_job(tmp_path, sets, **changes):
    return zoo.job(method="msd", params=PLANE | {"sets": sets} | changes, scratch=tmp_path)


def same_bits(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# Students for all classes


def test_unspecialised_students_learn_every_class(tmp_path):
    sets = [toy.Students(2), toy.Students(4, "random")]
    own, every = (
        kind(toy_job(tmp_path, [])).parts(sets) for kind in (toy.Toy, controls.Unspecialised)
    )
    assert own.sizes.tolist() == [2] * 2 + [1] * 4 and every.sizes.tolist() == [4] * 6


def test_the_parts_are_all_that_differs(tmp_path):
    """One student learns all classes either way, and so gets the same weights; two do not."""
    for students, same in ((1, True), (2, False)):
        sets = [{"students": students}]
        a = arms.train_toy(toy_job(tmp_path / f"a{students}", sets))
        b = controls.train_unspecialised(toy_job(tmp_path / f"b{students}", sets))
        assert same_bits(a, b) is same


def test_unspecialised_sets_and_consistency_train(tmp_path):
    sets = [{"students": 4, "variant": v} for v in ("plain", "random", "small-batch", "tsm")]
    state = controls.train_unspecialised(toy_job(tmp_path / "a", sets))
    assert {k.split(".")[0] for k in state} == {f"4-{s['variant']}" for s in sets}
    sets = [{"students": n, "variant": "consistency"} for n in (1, 4)]
    state = controls.train_unspecialised_consistency(toy_job(tmp_path / "b", sets))
    assert state["4-consistency.weight.0"].shape[0] == 4


# Smaller students


def test_smaller_students_imitate_larger_ones(tmp_path):
    plain = [{"students": 4}]
    larger = arms.train_toy(toy_job(tmp_path / "a", plain, width=6))

    sets = [{"students": 4, "variant": v} for v in ("plain", "tsm", "post")]

    def smaller(weights, name):
        job = zoo.job(
            method="msd", scratch=tmp_path / name, models={"toy-wide": weights},
            params=PLANE | {"sets": sets},
            model_params={"toy-wide": PLANE | {"sets": plain, "width": 6}},
        )  # fmt: skip
        job.model_paths = {"toy-wide": Path("unused")}
        return controls.train_smaller(job)

    a = smaller(larger, "b")
    b = smaller({k: -v for k, v in larger.items()}, "c")
    assert {k.split(".")[0] for k in a} == {"4-plain", "4-tsm", "4-post"}
    assert a["4-post.weight.1"].shape == (4, 4, 4)
    moved = {k.split(".")[0] for k in a if not torch.equal(a[k], b[k])}
    assert moved == {"4-post"}


# References


def test_variance_between_parts():
    points = torch.tensor([[[0.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 2.0]], [[8.0, 1.0]] * 2])
    nothing = controls.variance_between(points, torch.tensor([0, 0, 0]))
    assert nothing == pytest.approx(0, abs=1e-6)
    apart = controls.variance_between(points, torch.tensor([0, 0, 1]))
    assert apart == pytest.approx(1 - 4 / (4 + 32 * 8 / 3), abs=1e-6)
    assert controls.variance_between(points, torch.tensor([0, 1, 1])) < apart


def test_references_are_far_from_the_mixture():
    p = {k: PLANE[k] for k in ("classes", "modes", "sigma_min", "sigma_max", "heun_steps", "width")}
    job = zoo.job(method="msd", params=p | {"points": 500})
    controls.references(job)
    found = {(n, tuple(at.values())): v for n, at, v in job.measured}
    # Exact samples of the class itself are at 0.3 here: histograms of 500 points.
    assert 0.7 < found["l1", ("shuffled",)] <= 2 and 0.7 < found["l1", ("untrained",)] <= 2
    assert 0 <= found["between", ("random",)] <= 1 and 0 <= found["between", ("similar",)] <= 1


@pytest.mark.parametrize("channels", [0, 16])
def test_starts_are_untrained(channels):
    names = ("zoo/digits-unconditional", "zoo/digits-classifier")
    job = zoo.job(
        method="msd",
        models={name: zoo.shipped(name)[0] for name in names},
        params=dict(network=names[0], classifier=names[1], dataset="digits", samples=20, real=40,
                    classes=10, student_step=500, batch=8, channels=channels, stages=["dm", "adm"]),
    )  # fmt: skip
    controls.image_start(job)
    at = [(a["stage"], a["students"], a["nfe"]) for n, a, _ in job.measured if n == "frechet"]
    assert at == [("dm", 1, 1), ("adm", 1, 1)]
    assert job.arrays["start"].shape[0] == 20


# The paper's scale


def test_all_students_run_where_none_is_routed_to(monkeypatch):
    calls = []

    class Tiny(nn.Module):
        def forward(self, x, sigma, label):
            calls.append(1)
            return x * 0.5

    monkeypatch.setattr(controls.nets, "imagenet", lambda size: Tiny())
    job = zoo.job(method="msd", params={"net": "71", "repeats": 3})
    controls.latency_of_all(job)
    assert len(calls) == (4 + 1) * (3 + 1)
    ((name, at, value),) = job.measured
    assert (name, at) == ("latency_ratio", {"net": "routed"}) and value > 0


def test_sizes_at_the_paper_scale():
    """Counts of the inferred networks, which the percentages of the paper chose."""
    job = zoo.job(method="msd")
    arms.structure(job)
    found = {(n, *map(str, at.values())): v for n, at, v in job.measured}
    assert found["parameters", "42"] == 172_813_603 and found["parameters", "71"] == 85_943_555
    teacher = found["parameters", "teacher"]
    assert 1 - found["parameters", "42"] / teacher == pytest.approx(0.42, abs=0.005)
    assert 1 - found["parameters", "71"] / teacher == pytest.approx(0.71, abs=0.005)
    macs = sorted(v for k, v in found.items() if k[0] == "gmacs" and "all" in k)
    assert macs == pytest.approx([34.3, 67.6, 109.665], abs=0.06)
    assert found["stored", "42", "4"] == pytest.approx(691, abs=0.5)
    assert {v for k, v in found.items() if k[0] in ("nfe", "networks")} == {1}


# The gradient


@pytest.mark.parametrize("sigma", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("theta", [-1.5, 0.3])
def test_distribution_matching_follows_the_divergence(theta, sigma):
    assert controls.gradient_error(theta, sigma) < 1e-9


def faulty(change):
    def loss(x, c, sigma, noise, fake, teacher):
        with torch.no_grad():
            xt = x + sigma[:, None] * noise
            d_fake, d_teacher = fake(xt, sigma, c), teacher(xt, sigma, c)
            g = change(x, d_fake, d_teacher, sigma)
        return msd.dm_loss(x, g)

    return loss


@pytest.mark.parametrize(
    "change",
    [
        lambda x, f, t, s: msd.dm_gradient(x, t, f, s),
        lambda x, f, t, s: (f - t) / (x - f).abs(),
        lambda x, f, t, s: (f - t) / (x - t).abs().mean(),
        lambda x, f, t, s: (f - x) / (x - t).abs(),
    ],
    ids=["turned round", "residual of the fake", "one normaliser for all", "no teacher"],
)
def test_other_gradients_do_not(change):
    assert controls.gradient_error(2.0, 1.0, faulty(change)) > 1e-3
