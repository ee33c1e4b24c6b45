"""Models and arms at toy sizes on digits: pairing of draws, starts, equivariance, bad cards."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
import torch

from methods.slimflow import arms, consistency, digits, structure, training
from methods.slimflow import method as slim
from repro.errors import ReproError
from repro.nets.edm import SongUNet
from repro.nets.unet import UNet
from repro.suite import zoo
from repro.suite.cards import library
from repro.training.fit import fit

SHIPPED = ("zoo/digits-unconditional", "zoo/digits-classifier")
TOY = {"steps": 2, "pairs": 24, "solver_steps": 3, "samples": 24, "real": 24, "straight": 4,
       "straight_steps": 2, "teacher_steps": 2, "flow_steps": 2, "student_steps": 2}  # fmt: skip


@pytest.fixture(scope="module")
def card():
    return library.load("slimflow")


def run(card, name, models, kind="models", seed=0, scale="smoke", **changed):
    entry = getattr(card.experiment, kind)[name]
    if kind == "models":
        params, wanted = card.model_params(scale, "slimflow", name), entry.models
    else:
        params, wanted = card.arm_params(scale, name), entry.models
    params |= {k: v for k, v in TOY.items() if k in params} | changed
    preset = card.preset("smoke").replace
    wanted = [preset.get(n, n) for n in wanted]
    job = zoo.job(
        "slimflow", name, seed, params, {n: models[n][0] for n in wanted},
        card.declared("gpu", name, params) if kind == "arms" else None,
        model_params={n: models[n][1] for n in wanted},
    )  # fmt: skip
    job.model_paths = {n: None for n in wanted}
    module, function = (entry.train if kind == "models" else entry.run).split(":")
    return job, getattr(importlib.import_module(module), function)(job)


@pytest.fixture(scope="module")
def models(card, tmp_path_factory):
    found = {n: (zoo.shipped(n)[0], zoo.params(n)) for n in SHIPPED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_WORK", str(tmp_path_factory.mktemp("work")))
        for name in ("teacher", "pairs", "reflow-both", "own-pairs", "guided-l2", "naive",
                     "consistency-l2"):  # fmt: skip
            job, state = run(card, name, found)
            found[name] = state, job.params.as_dict()
    return found


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_WORK", str(tmp_path))


def value(job, name, **at):
    [found] = [v for n, a, v in job.measured if n == name and a == at]
    return found


def test_pairs_are_the_teachers_and_the_flows(models):
    z, x = models["pairs"][0]["z"], models["pairs"][0]["x"]
    own = models["own-pairs"][0]
    assert z.shape == x.shape == own["x"].shape == (24, 1, 8, 8)
    assert torch.equal(own["z"], z) and not torch.allclose(own["x"], x, atol=0.1)
    assert 0.8 < float(z.std()) < 1.2


def test_all_flows_of_a_seed_meet_the_same_draws(models):
    data = models["pairs"][0]
    plain, flipped = (
        training.drawn(data, 16, flip, torch.Generator().manual_seed(3)) for flip in (False, True)
    )
    assert torch.equal(plain.t, flipped.t) and torch.equal(plain.fresh, flipped.fresh)
    moved = (plain.z != flipped.z).flatten(1).any(1)
    assert 0 < int(moved.sum()) < 16
    assert torch.equal(flipped.z[moved], plain.z[moved].flip(-1))
    assert torch.equal(flipped.x[moved], plain.x[moved].flip(-1))
    assert torch.equal(flipped.x[~moved], plain.x[~moved])


def test_schedules_reach_their_ends_within_the_training(card, models, monkeypatch):
    seen = []

    def loss(v, z, x, t, beta, fresh):
        seen.append(beta)
        return v(z, t).square().mean()

    monkeypatch.setattr(slim, "annealing_reflow_loss", loss)
    run(card, "reflow-both", models, steps=8)
    # A warm-up of 3 of 8 updates.
    assert seen == pytest.approx([1, 2 / 3, 1 / 3, 0, 0, 0, 0, 0])
    for name, beta in (("reflow-plain", 0.0), ("direct", 1.0)):
        seen.clear()
        run(card, name, models, steps=3)
        assert seen == [beta] * 3


def test_students_start_where_the_card_says(card, models):
    flow_state = models["reflow-both"][0]
    _, student = run(card, "distil-l2", models, steps=1, lr=0.0)
    assert all(torch.equal(student[k], flow_state[k]) for k in flow_state)
    _, fresh = run(card, "naive", models, steps=1, lr=0.0)
    assert not all(torch.equal(fresh[k], flow_state[k]) for k in flow_state)
    _, other = run(card, "direct", models, steps=1, lr=0.0)
    assert all(torch.equal(fresh[k], other[k]) for k in fresh)


def at_gpu(card, name, models, **changed):
    """A model of the gpu scale with the small network of the smoke scale."""
    sizes = {"unet": models["reflow-both"][1]["unet"], "precision": "32-true", "batch": 16}
    sizes |= {"classifier": "zoo/digits-classifier"}
    return run(card, name, models, scale="gpu", **(sizes | changed))


def test_the_two_step_term_and_its_variants_change_the_student(card, models):
    found = {
        name: at_gpu(card, name, models)[1]
        for name in ("guided-l2", "distil-l2", "guided-whole-range", "guided-teacher-step",
                     "guided-teacher-pairs", "distil-teacher-pairs", "distil-scratch",
                     "distil-feature", "guided-feature")
    }  # fmt: skip
    states = [torch.cat([v.flatten() for v in s.values()]) for s in found.values()]
    for i, a in enumerate(states):
        for b in states[i + 1 :]:
            assert not torch.equal(a, b)


def test_flow_guided_training_lowers_its_loss(card, models):
    job, _ = at_gpu(card, "guided-teacher-pairs", models, steps=40, lr=3e-3)
    curve = job.arrays["curve"]
    assert curve[-5:].mean() < 0.8 * curve[:5].mean()


def test_a_trained_flow_is_measured(card, models):
    job, _ = run(card, "reflow-both", models, "arms", nfe=[1, 3])
    assert value(job, "frechet", nfe=1) > 0 and value(job, "frechet", nfe=3) > 0
    assert value(job, "straightness") > 0
    assert value(job, "adaptive_evaluations") >= 8
    assert value(job, "parameters") == sum(
        p.numel() for p in UNet(**models["reflow-both"][1]["unet"]).parameters()
    )
    assert job.arrays["pictures-3"].shape == (10, 1, 8, 8)


def test_teacher_and_students_are_measured_from_the_same_noise(card, models):
    first, _ = run(card, "teacher", models, "arms", nfe=[1, 5])
    second, _ = run(card, "teacher", models, "arms", nfe=[1, 5])
    assert first.measured == second.measured
    # One step from noise is useless for a diffusion.
    assert value(first, "frechet", nfe=5) < value(first, "frechet", nfe=1)
    job, _ = run(card, "naive", models, "arms")
    assert {n for n, *_ in job.measured} == {"frechet", "precision", "recall"}


def test_mirrored_noises_tell_an_equivariant_teacher_from_another(card, models, monkeypatch):
    def asymmetry():
        job, _ = run(card, "mirror", models, "arms", samples=16)
        return value(job, "asymmetry")

    assert 0 < asymmetry() < 2
    ramp = torch.linspace(-1, 1, 8)
    for v, expected in ((lambda x, t: -x, 0.0), (lambda x, t: 5 * ramp - x, None)):
        monkeypatch.setattr(arms, "teacher_velocity", lambda job, v=v: v)
        found = asymmetry()
        assert found == pytest.approx(expected) if expected is not None else found > 1


def test_training_images_are_nearer_than_samples(card, models):
    real, _ = run(card, "floor", models, "arms")
    sampled, _ = run(card, "naive", models, "arms")
    assert value(real, "frechet") < value(sampled, "frechet", nfe=1)


def test_consistency_distillation_learns_and_is_measured_by_its_own_function(card, models):
    job, state = at_gpu(
        card, "consistency-feature", models, steps=40, warmup=5, lr=3e-3, network=SHIPPED[0]
    )
    curve = job.arrays["curve"]
    assert curve[-5:].mean() < 0.8 * curve[:5].mean()
    assert set(state) == set(models["naive"][0])
    given = dict(models) | {"consistency-l2": (state, job.params.as_dict())}
    arm, _ = run(card, "consistency-l2", given, "arms")
    assert {n for n, *_ in arm.measured} == {"frechet", "precision", "recall"}
    z, t = torch.randn(3, 1, 8, 8), torch.zeros(3)
    network = UNet(**job.params.unet).eval()
    network.load_state_dict(state)
    f = consistency.consistency(network, 0.5)
    with torch.no_grad():
        end = z + consistency.load(arm, "consistency-l2")(z, t)
        first = torch.full((3,), 1 / 81)
        x = z * 80 / 81
        assert torch.allclose(end, f(x, first), atol=1e-6)
        # Almost the image that the network predicts.
        assert torch.allclose(end, network(x, 999 * first), atol=0.02)


def test_consistency_distillation_starts_as_the_naive_student_and_ends_the_same_resumed(
    card, models, tmp_path, monkeypatch
):
    _, fresh = run(card, "naive", models, steps=1, lr=0.0)
    _, state = run(card, "consistency-l2", models, steps=1, lr=0.0)
    assert all(torch.equal(state[k], fresh[k]) for k in fresh)

    monkeypatch.setattr("repro.training.fit.fit", partial(fit, checkpoint_steps=2))
    _, whole = run(card, "consistency-l2", models, steps=4)
    monkeypatch.setenv("REPRO_WORK", str(tmp_path / "other"))
    seen, loss = [], consistency.consistency_loss

    def dies(*arguments):
        seen.append(0)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(consistency, "consistency_loss", dies)
    with pytest.raises((KeyboardInterrupt, SystemExit, ReproError)):
        run(card, "consistency-l2", models, steps=4)
    _, resumed = run(card, "consistency-l2", models, steps=4)
    assert len(seen) == 6
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)


@pytest.mark.parametrize("scale", ["smoke", "small", "gpu"])
def test_presets_do_not_reach_where_one_value_is_meant(card, scale):
    assert isinstance(card.model_params(scale, "slimflow", "own-pairs")["nfe"], int)
    assert card.model_params(scale, "slimflow", "digits-flows")["batch"] == 128
    arm = card.arm_params(scale, "digits")
    assert (arm["dataset"], arm["classifier"]) == ("digits", "zoo/digits-classifier")


@pytest.mark.parametrize("scale", ["small", "gpu"])
def test_baselines_have_the_updates_of_both_stages(card, scale):
    def steps(name):
        return card.model_params(scale, "slimflow", name)["steps"]

    both = steps("reflow-both") + steps("guided-l2")
    for name in ("direct", "naive", "consistency-l2", "consistency-feature"):
        assert steps(name) == both
    assert steps("guided-feature") == steps("distil-feature") == steps("guided-l2")
    for name in ("distil-l2", "distil-feature", "reflow-plain"):
        assert steps(f"{name}-long") == 2 * steps(name)


def test_digits_in_five_networks(card, models):
    job, state = run(card, "digits-flows", models)
    names = {key.split("/")[0] for key in state}
    assert names == {*digits.FLOWS, *digits.STUDENTS}
    sizes = {n: sum(v.numel() for k, v in state.items() if k.startswith(f"{n}/")) for n in names}
    assert sizes["narrow"] < sizes["wide"] == sizes["scratch"] == sizes["from-flow"]
    assert not torch.equal(state["wide/out.weight"], state["from-flow/out.weight"])
    given = dict(models) | {"digits-flows": (state, job.params.as_dict())}
    arm, _ = run(card, "digits", given, "arms", nfe=[1, 2])
    assert value(arm, "frechet_digits", network="scratch", nfe=1) > 0
    assert value(arm, "straightness", network="narrow") > 0


def test_mirrored_digits_hold_both_sides(card):
    job = zoo.job()
    x = digits.mirrored_digits(job, "train")
    half = len(x) // 2
    assert torch.equal(x[:half].flip(-1), x[half:])
    assert -1 <= float(x.min()) and float(x.max()) <= 1


def test_bad_cards_are_named(card, models):
    with pytest.raises(ReproError, match="no distance `lpips`; choose l2 or feature"):
        run(card, "guided-l2", models, distance="lpips")
    with pytest.raises(ReproError, match="no solver `rk4`; choose euler or heun"):
        run(card, "consistency-l2", models, solver="rk4")
    with pytest.raises(ReproError, match="no schedule `quick`"):
        run(card, "reflow-both", models, schedule="quick")


def test_box_filters_cost_four_operations_a_coarse_value():
    with torch.device("meta"):
        network = SongUNet(resolution=8, channels=8, mult=(1, 1), blocks=1, attention=()).eval()
    x, t = torch.zeros(1, 3, 8, 8, device="meta"), torch.zeros(1, device="meta")
    # Down and up of 8 channels between 8 x 8 and 4 x 4, in both paths of a block.
    assert structure.filter_macs(network, (x, t)) == 4 * 4 * (8 * 4 * 4)
