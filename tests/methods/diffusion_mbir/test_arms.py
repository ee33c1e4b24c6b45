"""Arms, problems, volumes and structure on sizes that run in a second."""

import math

import numpy as np
import pytest
import torch

from methods.diffusion_mbir import arms, exact, structure
from methods.diffusion_mbir.priors import IsotropicGaussian
from methods.diffusion_mbir.problems import (
    operator,
    problems,
    split_name,
    training_stack,
    volume,
)
from methods.diffusion_mbir.volumes import ellipsoids, plane_metrics, to_stack, z_roughness
from repro.errors import ReproError
from repro.inverse.fourier import MaskedFourier
from repro.inverse.radon import ParallelBeam
from repro.nets.ncsnpp import NCSNppConfig
from repro.suite import zoo
from repro.suite.cards import library

SIZES = {"problems": ["ellipsoids-ct8", "ellipsoids-mri4"], "slices": 12, "width": 24}
SIGMAS = {"sigma_min": 0.01, "sigma_max": 20.0}
GRIDS = {
    "fast": {"lam": [5e-3], "rho": [0.1]},
    "unshared": {"lam": [1e-3], "rho": [0.1]},
    "slow": {"lam": [5e-3], "rho": [0.1]},
    "mcg": {"step": [0.4]},
    "admm-tv": {"lam": [1e-3], "rho": [0.01]},
}


def job(name, params, models=None, **more):
    return zoo.job("diffusion-mbir", name, 0, params, models, **more)


@pytest.fixture(scope="module")
def calibration():
    params = SIZES | SIGMAS | {"volumes": 3, "levels": 8, "grids": GRIDS, "slow": []}
    tuner = job("calibration", params)
    return tuner, arms.calibrate(tuner)


def measured(of, name, **at):
    found = [v for n, a, v in of.measured if n == name and at.items() <= a.items()]
    assert len(found) == 1, (name, at, found)
    return found[0]


def run(function, name, calibration, **extra):
    method = library.load("diffusion-mbir")
    card = method.experiment.arms[name].params
    params = {k: v for k, v in card.items() if v is not None} | SIZES | SIGMAS | extra
    params |= {"levels": 40} if "levels" in card and "levels" not in extra else {}
    declared = method.declared("gpu", name, params)
    of = job(name, params, {"calibration": calibration[1]}, declared=declared)
    function(of)
    return of


def test_every_grid_of_the_card_has_equally_many_points():
    models = library.load("diffusion-mbir").experiment.models
    for name in ("calibration", "calibration-learned"):
        grids = models[name].params["grids"]
        assert {len(arms.grid_points(grid)) for grid in grids.values()} == {8}
    for scale in ("smoke", "small", "gpu"):
        method = library.load("diffusion-mbir")
        grids = method.model_params(scale, "diffusion-mbir", "calibration")["grids"]
        assert len({len(arms.grid_points(grid)) for grid in grids.values()}) == 1


def test_unequal_tuning_is_refused():
    grids = GRIDS | {"fast": {"lam": [1e-3, 1e-2], "rho": [0.1]}}
    params = SIZES | SIGMAS | {"volumes": 2, "levels": 4, "grids": grids, "slow": []}
    with pytest.raises(ReproError, match="same number of grid points"):
        arms.calibrate(job("calibration", params))


def test_calibration_keeps_the_best_point(calibration):
    tuner, state = calibration
    assert state["ellipsoids-ct8.fast"].tolist() == [5e-3, 0.1]
    assert state["ellipsoids-mri4.mcg"].tolist() == [0.4]
    assert "ellipsoids-ct8.slow" not in state
    assert state["ellipsoids.spectrum"].shape == (24, 13)
    names = {(a["problem"], a["method"]) for _, a, _ in tuner.measured}
    assert len(names) == 8


def test_coupling_helps_and_costs_are_counted(calibration):
    fast = run(arms.sample, "fast", calibration)
    alone = run(arms.sample, "slice-wise", calibration)
    for problem in SIZES["problems"]:
        at = {"problem": problem}
        gain = measured(fast, "psnr", plane="volume", **at)
        assert gain > measured(alone, "psnr", plane="volume", **at)
        assert measured(fast, "nfe", **at) == 80
        assert measured(fast, "roughness", **at) < measured(alone, "roughness", **at)
    assert measured(fast, "applications", problem="ellipsoids-ct8") == 4 * 40 + 5
    assert measured(fast, "applications", problem="ellipsoids-mri4") == 4 * 40 + 1
    assert fast.arrays["ellipsoids-ct8_trace"].shape == (8, 3)
    assert fast.arrays["truth_ellipsoids-ct8_coronal"].shape == (12, 24)


def test_slow_mode_applies_the_operator_far_more_often(calibration):
    tuned = calibration[1] | {
        "ellipsoids-ct8.slow": calibration[1]["ellipsoids-ct8.fast"],
        "ellipsoids-mri4.slow": calibration[1]["ellipsoids-mri4.fast"],
    }
    slow = run(arms.sample, "slow", (None, tuned), levels=4)
    assert measured(slow, "applications", problem="ellipsoids-mri4") == 2 * 5 * 6 * 4 + 1


@pytest.mark.parametrize(
    ("function", "name"),
    [(arms.floor, "floor"), (arms.total_variation, "admm-tv"), (arms.mcg, "mcg"), (arms.dds, "dds"),
     (arms.sample, "unshared"), (arms.sample, "open-boundary"), (arms.sample, "foreign-prior")],
)  # fmt: skip
def test_other_arms_measure_every_problem(function, name, calibration):
    of = run(function, name, calibration)
    for problem in SIZES["problems"]:
        for plane in ("axial", "coronal", "sagittal", "volume"):
            assert 5 < measured(of, "psnr", problem=problem, plane=plane) < 60
            assert measured(of, "ssim", problem=problem, plane=plane) <= 1


def test_admm_tv_counts_30_times_21_applications(calibration):
    of = run(arms.total_variation, "admm-tv", calibration)
    assert measured(of, "applications", problem="ellipsoids-ct8") == 2 * 30 * 21 + 1


def test_coupling_alone_iterates_as_often_as_the_method_and_asks_no_prior():
    state = {f"{name}.fast": torch.tensor([5e-3, 0.1]) for name in SIZES["problems"]}
    params = SIZES | {"levels": 40, "prior": "zoo"}
    of = job("coupling-alone", params, {"calibration-learned": state})
    arms.coupling_alone(of)
    assert measured(of, "applications", problem="ellipsoids-ct8") == 4 * 40 + 5
    assert measured(of, "applications", problem="ellipsoids-mri4") == 4 * 40 + 1
    assert not [name for name, _, _ in of.measured if name == "nfe"]
    for problem in SIZES["problems"]:
        assert 5 < measured(of, "psnr", problem=problem, plane="coronal") < 60
        assert measured(of, "residual", problem=problem) < 0.2


def test_nearest_slice_looks_up_a_slice_of_the_training_set():
    of = job("nearest-slice", SIZES | {"problems": ["mni-ct2"], "width": 64})
    arms.nearest_slice(of)
    found = torch.as_tensor(of.arrays["mni-ct2_axial"])
    gaps = (training_stack(of, "mni")[:, 0] - found).abs().amax((1, 2))
    assert (gaps == 0).sum() == 1
    assert not torch.equal(found, torch.as_tensor(of.arrays["truth_mni-ct2_axial"]))


def test_strengths_are_those_of_the_method():
    state = {"mni-ct8.fast": torch.tensor([2e-2, 0.1], dtype=torch.float64)}
    reader = job("strengths", {"problems": ["mni-ct8"]}, {"calibration-learned": state})
    arms.strengths(reader)
    found = {at["of"]: value for _, at, value in reader.measured if at["problem"] == "mni-ct8"}
    assert found == {"lam": 2e-2, "rho": 0.1}


def test_missing_tuning_and_unknown_priors_are_named(calibration):
    with pytest.raises(ReproError, match="nothing was tuned for ellipsoids-ct4"):
        run(arms.sample, "fast", calibration, problems=["ellipsoids-ct4"])
    with pytest.raises(ReproError, match="no prior 'mni'"):
        run(arms.sample, "fast", calibration, prior="mni")


def test_exact_and_structure_arms():
    of = job("exact", {})
    exact.measure(of)
    assert measured(of, "error", item="shrink") == 0
    assert len(of.measured) > 40


def test_run_costs_of_a_short_run():
    assert structure.run_costs(10) == (20, 22, 23)


def test_memory_meter_counts_allocations_not_views():
    with structure.MemoryMeter() as meter:
        x = torch.zeros(1000)
        y = x.view(10, 100) + 1
        assert meter.live == 8000
        del x
        assert meter.live == 4000
        y.add_(1)
        y.t()
        assert meter.live == 4000
    assert meter.peak == 8000


def test_activation_memory_is_flat_in_the_number_of_slices():
    config = NCSNppConfig(image_size=16, nf=8, ch_mult=(1, 2), num_res_blocks=1)
    few, many = (structure.activation_bytes(config, 16, z, 4) for z in (7, 15))
    assert few == many
    whole = [structure.activation_bytes(config, 16, z, z + 1) for z in (7, 15)]
    assert whole[1] / whole[0] == pytest.approx(15 / 7, rel=0.05)


def test_trained_score_is_a_prior(calibration, tmp_path):
    params = SIZES | SIGMAS | {
        "dataset": "ellipsoids", "volumes": 2, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1,
        "attn_resolutions": [], "levels": 6, "updates": 3, "batch": 4, "lr": 2e-4, "warmup": 2,
        "precision": "32-true",
    }  # fmt: skip
    trainer = job("ncsnpp", params, scratch=tmp_path)
    state = arms.train_score(trainer)
    assert trainer.arrays["curve"].shape == (3,)
    assert len(set(trainer.arrays["curve"].tolist())) == 3
    card = library.load("diffusion-mbir").experiment.arms["fast-ncsnpp"].params
    extra = SIZES | SIGMAS | {"levels": 4, "problems": ["ellipsoids-ct8"]}
    of = zoo.job(
        "diffusion-mbir", "fast-ncsnpp", 0, card | extra,
        {"calibration": calibration[1], "ncsnpp": state}, model_params={"ncsnpp": params},
    )  # fmt: skip
    arms.sample(of)
    assert measured(of, "nfe", problem="ellipsoids-ct8") == 8


@pytest.mark.parametrize("name", ["floor", "admm-tv", "slice-wise", "fast"])
def test_released_setting_on_stand_in_files(name, monkeypatch):
    """The paper-scale arm with the loaders replaced: a tiny volume and a Gaussian score."""
    truth = to_stack(ellipsoids(np.random.default_rng(0), 12, 24))
    prior = IsotropicGaussian(0.1, 0.05)
    asked = []
    monkeypatch.setattr(arms.official, "load_volume", lambda volume: truth)
    monkeypatch.setattr(arms.official, "load_score", lambda *given: asked.append(given) or prior)
    card = library.load("diffusion-mbir").experiment.arms[f"released-{name}"].params
    of = job(f"released-{name}", card | {"levels": 30, "rho": 1.0})
    arms.released(of)
    assert 5 < measured(of, "psnr", problem="aapm-l067-ct8", plane="sagittal") < 60
    sampled = name in ("slice-wise", "fast")
    assert len(asked) == sampled
    if sampled:
        assert asked[0][0].parts[-3:] == ("official", "diffusion-mbir", "checkpoint_185.pth")
        assert measured(of, "nfe", problem="aapm-l067-ct8") == 60


def test_fbpconvnet_learns_to_improve_the_floor(tmp_path):
    params = SIZES | {
        "problems": ["ellipsoids-mri4"], "volumes": 2, "width": 32, "channels": 8, "updates": 40,
        "batch": 8, "lr": 3e-3,
    }  # fmt: skip
    trainer = job("fbpconvnet", params, scratch=tmp_path)
    state = arms.train_fbpconvnet(trainer)
    curve = trainer.arrays["ellipsoids-mri4_curve"]
    assert curve[-10:].mean() < curve[:5].mean()
    of = zoo.job(
        "diffusion-mbir", "fbpconvnet", 0, params, {"fbpconvnet": state},
        model_params={"fbpconvnet": params},
    )  # fmt: skip
    arms.fbpconvnet(of)
    assert measured(of, "psnr", problem="ellipsoids-mri4", plane="volume") > 10
    of.params = type(of.params)(params | {"problems": ["ellipsoids-ct8"]}, "x")
    with pytest.raises(ReproError, match="no network was trained for ellipsoids-ct8"):
        arms.fbpconvnet(of)


LEARNED_GRIDS = {"fast": {"lam": [5e-3, 2e-2], "rho": [0.1]}, "mcg": {"step": [0.2, 0.4]}}


def max_point(tuner, problem, method):
    """The first coordinate of the point with the highest PSNR that the tuner measured."""
    scores = [measured(tuner, "validation_psnr", problem=problem, method=method, point=i)
              for i in (0, 1)]  # fmt: skip
    (first, *_) = LEARNED_GRIDS[method].values()
    return first[int(scores[1] > scores[0])]


@pytest.mark.parametrize(
    ("function", "name"),
    [(arms.sample, "fast-learned"), (arms.mcg, "mcg-learned"), (arms.sample, "foreign-learned")],
)
def test_learned_arms_run_the_network_of_the_zoo(function, name, calibration):
    """The code path with an untrained network: its score is finite, counted and differentiable."""
    network = zoo.build("mni152-score").state_dict()
    problem = "ellipsoids-ct8" if name.startswith("foreign") else "mni-ct8"
    sizes = SIZES | SIGMAS | {"width": 64, "levels": 2, "problems": [problem]}
    learned = {"zoo/mni152-score": network}
    tuner = job(
        "calibration-learned", sizes | {"mcg": [problem], "grids": LEARNED_GRIDS}, learned,
    )  # fmt: skip
    tuned = arms.calibrate_learned(tuner)
    assert {key: value.tolist() for key, value in tuned.items()} == {
        f"{problem}.fast": [max_point(tuner, problem, "fast"), 0.1],
        f"{problem}.mcg": [max_point(tuner, problem, "mcg")],
    }
    card = library.load("diffusion-mbir").experiment.arms[name].params
    of = job(name, card | sizes, {"calibration-learned": tuned, **learned})
    function(of)
    assert measured(of, "nfe", problem=problem) == 4
    assert np.isfinite(of.arrays[f"{problem}_axial"]).all()


def test_plateaus_are_constant_along_z_and_share_the_prior_of_the_brain():
    of = job("x", SIZES | {"problems": ["mni-plateaus-ct8"]})
    brain, plateaus = (volume(of, name, "test") for name in ("mni", "mni-plateaus"))
    assert plateaus.shape == brain.shape == (12, 1, 64, 64)
    assert torch.equal(plateaus[::4], brain[::4])
    assert all(torch.equal(plateaus[i], plateaus[i - i % 4]) for i in range(12))
    a, b = (training_stack(of, name) for name in ("mni", "mni-plateaus"))
    assert torch.equal(a, b)


def test_problem_names():
    assert split_name("mni-la90") == ("mni", "la90")
    generator = torch.Generator().manual_seed(0)
    assert operator("ct4", 16, generator, "cpu").views == 4
    limited = operator("la90", 16, generator, "cpu")
    assert isinstance(limited, ParallelBeam) and limited.views == 90
    assert np.rad2deg(limited.angles).max() == pytest.approx(89)
    assert isinstance(operator("mri2", 16, generator, "cpu"), MaskedFourier)
    with pytest.raises(ReproError, match="unknown task"):
        operator("pet3", 16, generator, "cpu")
    with pytest.raises(ReproError, match="unknown dataset"):
        next(problems(job("x", SIZES | {"problems": ["knee-ct8"]})))


def test_masks_and_volumes_follow_the_seed():
    def first(seed):
        params = SIZES | {"problems": ["ellipsoids-mri4"]}
        return next(problems(zoo.job(seed=seed, params=params)))

    a, b, c = first(0), first(0), first(1)
    assert torch.equal(a.truth, b.truth) and torch.equal(a.A.mask, b.A.mask)
    assert not torch.equal(a.truth, c.truth)
    assert a.norm == pytest.approx(1.0, abs=1e-4)


def test_ellipsoids_are_a_volume_in_range():
    v = ellipsoids(np.random.default_rng(0), 16, 32)
    assert v.shape == (16, 32, 32) and v.dtype == np.float32
    assert v.min() >= 0 and v.max() <= 1 and 0.05 < v.mean() < 0.5
    assert not np.array_equal(v[0], v[-1])
    assert v[:, 0].max() == 0  # air around the body


def test_plane_metrics_look_along_their_axis():
    truth = to_stack(ellipsoids(np.random.default_rng(0), 16, 32))
    x = truth.clone()
    x[3] += 0.1  # one bad axial slice
    found = plane_metrics(x, truth)
    assert found["axial"][0] > found["coronal"][0]
    error = float((x.clamp(0, 1) - truth).square().mean())
    assert found["volume"][0] == pytest.approx(-10 * math.log10(error), abs=1e-3)
    assert z_roughness(torch.arange(4.0).reshape(4, 1, 1, 1)) == 1.0
