"""Trainings and arms at toy size, figures, the card, and the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.msd import arms, figures, images, official, toy
from methods.msd.networks import Head, imagenet
from repro.errors import ReproError
from repro.job import Job
from repro.nets.edm import DhariwalUNet, EDMPrecond
from repro.suite import zoo
from repro.suite.cards import library
from repro.suite.report import style
from repro.suite.report.results import Results

METHOD = library.load("msd")
PLANE = dict(
    classes=4, modes=2, sigma_min=0.02, sigma_max=10.0, pairs=32, heun_steps=4, width=4,
    fake_width=8, batch=8, lr=2e-3, regression=0.25, iterations=3, tsm_iterations=2,
    warm_iterations=2, warm_batch=8, consistency_steps=5, target_decay=0.9,
)  # fmt: skip
SETS = [
    {"students": 1},
    {"students": 4},
    {"students": 4, "variant": "random"},
    {"students": 4, "variant": "filtered"},
    {"students": 4, "variant": "small-batch"},
    {"students": 4, "variant": "tsm"},
    {"students": 4, "variant": "post"},
    {"students": 1, "times": 2},
]


def toy_job(tmp_path, sets, **changes) -> Job:
    return zoo.job(method="msd", params=PLANE | {"sets": sets} | changes, scratch=tmp_path)


def same_bits(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_sets_of_students_train_and_are_judged(tmp_path):
    state = arms.train_toy(toy_job(tmp_path, SETS))
    assert {k.split(".")[0] for k in state} == {
        "1-plain", "4-plain", "4-random", "4-filtered", "4-small-batch", "4-tsm", "4-post",
        "1-plain-x2",
    }  # fmt: skip
    judged = zoo.job(
        method="msd", name="toy-wide", params=PLANE | {"points": 50}, models={"toy-wide": state},
        model_params={"toy-wide": PLANE | {"sets": SETS}},
    )  # fmt: skip
    judged.model_paths = {"toy-wide": Path("unused")}
    arms.toy_students(judged)
    values = {(n, tuple(sorted(at.items()))): v for n, at, v in judged.measured}
    assert len(values) == 2 * len(SETS)
    at = (("students", 4), ("times", 1), ("variant", "plain"))
    assert values["updates", at] == 12 and 0 < values["l1", at] <= 2
    assert judged.arrays["points-4-plain"].shape == (50 * 4, 2)


def test_students_do_not_depend_on_who_trains_beside_them(tmp_path):
    """The same set, alone and beside others: the start is the same, the networks are isolated."""
    toys = [toy.Toy(toy_job(tmp_path / n, SETS)) for n in "ab"]
    sets = [toy.Students(4)], [toy.Students(4), toy.Students(1)]
    alone, beside = (toy.initial_students(t, s) for t, s in zip(toys, sets, strict=True))
    for a, b in zip(alone.parameters(), beside.parameters(), strict=True):
        assert torch.equal(a, b[:4]) and torch.equal(b[4], b[0])


def test_pairs_are_filtered_only_where_asked(tmp_path):
    t = toy.Toy(toy_job(tmp_path, SETS))
    c = torch.arange(32) % 4
    whole, filtered = toy.Students(2), toy.Students(2, "filtered")
    choices = t.pair_choices([whole, filtered], c)
    assert choices.sizes.tolist() == [32, 32, 16, 16]
    part = t.partition(filtered)
    assert set(part[c[choices.draw(64, torch.Generator().manual_seed(0))[2]]].tolist()) == {0}


def test_a_killed_toy_training_resumes_bit_for_bit(tmp_path, monkeypatch):
    sets = [{"students": 2}]
    whole = arms.train_toy(toy_job(tmp_path / "a", sets, iterations=6))
    original, calls = toy.fit_alternating, []

    def often(*args, **kwargs):
        return original(*args, **kwargs, checkpoint_steps=2)

    class Killed(Exception):
        pass

    def dying(x, y):
        calls.append(1)
        if len(calls) == 5:
            raise Killed
        return (x - y).square().mean()

    monkeypatch.setattr(toy, "fit_alternating", often)
    with monkeypatch.context() as inner, pytest.raises(Killed):
        inner.setattr(toy.msd, "regression_loss", dying)
        arms.train_toy(toy_job(tmp_path / "b", sets, iterations=6))
    assert same_bits(whole, arms.train_toy(toy_job(tmp_path / "b", sets, iterations=6)))


def test_consistency_students_follow_their_average(tmp_path):
    sets = [{"students": 1, "variant": "consistency"}, {"students": 2, "variant": "consistency"}]
    state = arms.train_toy_consistency(toy_job(tmp_path, sets))
    assert state["2-consistency.weight.0"].shape[0] == 2
    assert state["1-consistency.weight.0"].shape[0] == 1


# Images

DIGITS = dict(
    network="zoo/digits-unconditional", dataset="digits", classes=10, student_step=500, students=2,
    start="teacher", channels=0, batch=4, dm_iterations=2, adm_iterations=2, tsm_iterations=0,
    tsm_lr=1e-3, student_lr=1e-4, critic_lr=1e-4, student_every=2, warmup=1, ema=0.9,
    gan_generator=3e-3, gan_critic=1e-2, precision="32-true",
)  # fmt: skip


def image_job(tmp_path, **changes) -> Job:
    name = DIGITS["network"]
    return zoo.job(
        method="msd", params=DIGITS | changes, scratch=tmp_path,
        models={name: zoo.shipped(name)[0]}, model_params={name: zoo.params(name)},
    )  # fmt: skip


def test_students_of_images_train_in_both_stages(tmp_path):
    job = image_job(tmp_path)
    state = images.distil(job)
    teacher = zoo.shipped(DIGITS["network"])[0]
    assert state["assign"].tolist() == [0] * 5 + [1] * 5
    for stage in ("dm", "adm"):
        for k in range(2):
            prefix = f"{stage}.{k}."
            student = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            assert student.keys() == teacher.keys()
            assert not same_bits(student, teacher)
    # In the first step fake and teacher agree, so that DM has no gradient yet; ADM has.
    assert not torch.equal(state["adm.0.conv_in.weight"], state["adm.1.conv_in.weight"])
    # Two time scales: the student waits in every other step.
    assert np.isnan(job.arrays["dm-0"]).tolist() == [False, True]


def test_smaller_students_start_from_tsm(tmp_path):
    changes = dict(students=1, channels=16, dm_iterations=1, adm_iterations=0, student_every=1)
    state = images.distil(image_job(tmp_path / "a", start="tsm", tsm_iterations=2, **changes))
    without = images.distil(image_job(tmp_path / "b", start="random", **changes))
    assert state["dm.0.conv_in.weight"].shape[0] == 16
    assert not torch.equal(state["dm.0.conv_in.weight"], without["dm.0.conv_in.weight"])
    assert not any(n.startswith("adm") for n in state)


def test_real_images_are_of_the_asked_labels(tmp_path):
    job = image_job(tmp_path)
    real = images._Real(job)
    c = torch.tensor([3, 3, 7])
    x = real.draw(c, torch.Generator().manual_seed(0))
    split = job.data("digits").train
    known = images.scaled(images.images(split, "digits"), "digits")
    for picture, label in zip(x, c.tolist(), strict=True):
        hits = (known == picture).flatten(1).all(1).nonzero()[:, 0]
        assert label in {int(split.labels[i]) for i in hits}


def test_an_unknown_start_is_named(tmp_path):
    with pytest.raises(ReproError, match="no start `copy`.*teacher"):
        images.distil(image_job(tmp_path, start="copy"))


def test_noises_stay_on_the_grid(tmp_path):
    pictures = images.Pictures(image_job(tmp_path))
    sigma = pictures.noise_levels(64, 20, torch.Generator().manual_seed(0))
    assert torch.isin(sigma, pictures.sigmas).all()
    assert pictures.sigmas[20] <= sigma.min() and sigma.max() <= pictures.sigma_max


# Layouts

TINY = dict(resolution=8, channels=16, mult=(1, 2), blocks=1, attention=(4,), classes=3)


def tiny() -> EDMPrecond:
    return EDMPrecond(DhariwalUNet(**TINY))


def test_a_generator_loads_without_its_augmentation_map(tmp_path):
    network, path = tiny(), tmp_path / "pytorch_model.bin"
    state = network.state_dict()
    torch.save(state | {official.AUGMENTATION: torch.zeros(64, 9)}, path)
    loaded = official.load_generator(path, TINY)
    assert same_bits(loaded.state_dict(), state) and not loaded.training


def test_guidance_networks_load(tmp_path):
    path, network, head = tmp_path / "pytorch_model_1.bin", tiny(), Head(32, 4, groups=4)
    state = {f"{p}.{k}": v for p in ("real_unet", "fake_unet")
             for k, v in network.state_dict().items()}  # fmt: skip
    state |= {f"cls_pred_branch.{k}": v for k, v in head.state_dict().items()}
    state["karras_sigmas"] = torch.linspace(0, 1, 1000)
    torch.save(state, path)
    size = dict(channels=32, size=4, groups=4)
    found = official.load_guidance(path, TINY, size)
    assert same_bits(found.fake.state_dict(), network.state_dict())
    assert same_bits(found.head.state_dict(), head.state_dict()) and len(found.sigmas) == 1000
    del state["karras_sigmas"]
    torch.save(state, path)
    with pytest.raises(ReproError, match="lacks `karras_sigmas`"):
        official.load_guidance(path, TINY, size)


def test_foreign_and_damaged_files_are_one_line(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    with pytest.raises(ReproError, match="is missing"):
        official.load_generator(path, TINY)
    state = tiny().state_dict()
    torch.save({k: v for k, v in state.items() if k != "model.out_conv.bias"}, path)
    with pytest.raises(ReproError, match=r"lacks `model.out_conv.bias` \(1 of "):
        official.load_generator(path, TINY)
    torch.save(state | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ReproError, match="holds `extra`"):
        official.load_generator(path, TINY)
    torch.save(state | {"model.out_conv.bias": torch.zeros(7)}, path)
    with pytest.raises(ReproError, match=r"has shape \(7,\), expected \(3,\)"):
        official.load_generator(path, TINY)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ReproError, match="is truncated") as error:
        official.load_generator(path, TINY)
    assert "\n" not in str(error.value)
    torch.save({"ema": [1, 2]}, path)
    with pytest.raises(ReproError, match="`ema` is a list, not a tensor"):
        official.load_generator(path, TINY)


def test_students_of_this_suite_come_back(tmp_path):
    states = [tiny().state_dict() for _ in range(2)]
    official.save_students(tmp_path, states, torch.tensor([0, 0, 1]))
    loaded, assign = official.load_students(tmp_path)
    assert all(same_bits(a, b) for a, b in zip(states, loaded, strict=True))
    assert assign.tolist() == [0, 0, 1]
    path = tmp_path / "partition.json"
    path.write_text(json.dumps({"kind": "label", "K": 3, "assign": [0, 0, 1]}))
    with pytest.raises(ReproError, match="assigns classes to .* but K is 3"):
        official.load_students(tmp_path)
    path.write_text(json.dumps({"kind": "prompt"}))
    with pytest.raises(ReproError, match="no partition of labels"):
        official.load_students(tmp_path)


def test_names_of_the_published_generator():
    with torch.device("meta"):
        names = set(imagenet("teacher").state_dict())
    assert {"model.map_layer0.weight", "model.enc.64x64_conv.weight", "model.dec.8x8_in0.qkv.bias",
            "model.dec.64x64_block3.conv1.weight", "model.out_norm.bias"} <= names  # fmt: skip


# Figures


def record(arm, seed, *measured):
    return {
        "arm": arm,
        "seed": seed,
        "measurements": [{"name": n, "at": at, "value": v} for n, v, at in measured],
    }


class MadeUp(Results):
    """Measurements with arrays that are not read from disk."""

    def array(self, arm, seed, name):
        if name == "labels":
            return np.arange(40) % 8
        if name.startswith("points"):
            return np.zeros((40, 2), np.float32)
        return np.zeros((20, 1, 8, 8), np.uint8)


@pytest.fixture
def results():
    records = [record("teacher", 0, *[("frechet", 30.0 / n, {"nfe": n}) for n in (10, 50)])]
    for seed in range(2):
        records.append(record("toy-teacher", seed, ("l1", 0.1, {"of": "exact"}),
                              ("l1", 0.12, {"of": "teacher"})))  # fmt: skip
        for arm in ("toy-wide", "toy-narrow", "toy-consistency"):
            sets = METHOD.experiment.models[arm].params["sets"]
            rows = [toy.Students(**s).at for s in sets]
            records.append(record(arm, seed, *[("l1", 1 / a["students"], a) for a in rows]))
        for arm, _ in figures.SETS:
            k = METHOD.experiment.models[arm].params["students"]
            at = {"nfe": 1, "students": k}
            stages = ("dm",) if arm.startswith("small") else ("dm", "adm")
            rows = [("frechet", 90.0, at | {"stage": s}) for s in stages]
            records.append(record(arm, seed, *rows))
    return MadeUp(METHOD.paper, METHOD.experiment, "small", records)


@pytest.mark.parametrize("figure", [f.id for f in METHOD.experiment.figures])
def test_figures_draw(results, figure, tmp_path):
    (card,) = [f for f in METHOD.experiment.figures if f.id == figure]
    with style.context():
        drawn = getattr(figures, card.run.split(":")[1])(results)
        drawn.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_every_control_of_the_figure_is_trained():
    sets = METHOD.experiment.models["toy-wide"].params["sets"]
    trained = [toy.Students(**s).at for s in sets]
    assert all(at in trained for _, at in figures.CONTROLS)


def test_equal_totals_are_equal():
    """The control has as many updates as five students, in each stage, at every scale."""
    for scale in ("small", "gpu"):
        one, five = (
            METHOD.model_params(scale, "msd", name) for name in ("students-1-long", "students-5")
        )
        for stage in ("dm_iterations", "adm_iterations"):
            assert one[stage] == five["students"] * five[stage]
        rest = ("student_lr", "critic_lr", "batch", "start", "student_step", "ema")
        assert all(one[key] == five[key] for key in rest)


def test_a_student_without_tsm_gets_its_iterations():
    for scale in ("smoke", "small", "gpu"):
        tsm, none = (METHOD.model_params(scale, "msd", f"small-{n}") for n in ("tsm", "random"))
        assert none["dm_iterations"] == tsm["dm_iterations"] + tsm["tsm_iterations"]
        assert none["adm_iterations"] == tsm["adm_iterations"]
