"""Every figure of the card draws from real, small runs."""

import pytest

from methods.diffusion_mbir import arms, figures
from repro.suite import zoo
from repro.suite.cards import library
from repro.suite.report import style
from tests.methods.making import results_of

SIZES = {
    "problems": ["ellipsoids-ct8", "ellipsoids-mri4"], "slices": 12, "width": 16, "levels": 12,
    "sigma_min": 0.01, "sigma_max": 10.0,
}  # fmt: skip
GRIDS = {
    "fast": {"lam": [5e-3], "rho": [0.1]},
    "unshared": {"lam": [1e-3], "rho": [0.1]},
    "mcg": {"step": [0.4]},
    "admm-tv": {"lam": [1e-3], "rho": [0.01]},
}
RUN = {
    "floor": arms.floor,
    "admm-tv": arms.total_variation,
    "slice-wise": arms.sample,
    "fast": arms.sample,
    "unshared": arms.sample,
    "mcg": arms.mcg,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    method = library.load("diffusion-mbir")
    tuner = zoo.job("diffusion-mbir", "calibration", 0,
                         SIZES | {"volumes": 2, "grids": GRIDS, "slow": []})  # fmt: skip
    state, jobs = arms.calibrate(tuner), {}
    for name, function in RUN.items():
        for seed in (0, 1):
            params = method.experiment.arms[name].params
            of = zoo.job("diffusion-mbir", name, seed, params | SIZES, {"calibration": state})
            function(of)
            jobs[name, seed] = of
    return results_of(method, jobs, tmp_path_factory.mktemp("work"))


SMOKE = ("planes_ellipsoids", "gallery", "psnr_by_plane", "convergence")


@pytest.mark.parametrize("name", SMOKE)
def test_figure_draws(results, name, tmp_path):
    with style.context():
        figure = getattr(figures, name)(results)
        figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_planes_carry_the_measured_psnr(results):
    figure = figures.planes_ellipsoids(results)
    texts = [t.get_text() for ax in figure.axes for t in ax.texts]
    expected = results.values("psnr", "fast", problem="ellipsoids-ct8", plane="coronal")[0]
    assert f"{expected:.1f} dB" in texts
    assert len(texts) == 3 * 5  # three planes of every arm that measured the problem


def test_noise_falls_from_left_to_right(results):
    axes = figures.convergence(results).axes
    assert axes[0].get_xlim()[0] > axes[0].get_xlim()[1]


def test_arms_drawn_together_look_different():
    looks = [tuple(figures._look(arm).values()) for arm in figures.COMPARED]
    assert len(set(looks)) == len(looks)


def test_every_figure_of_the_card_exists_and_smoke_has_four():
    method = library.load("diffusion-mbir")
    named = [figure.run.split(":")[1] for figure in method.experiment.figures]
    assert all(hasattr(figures, name) for name in named)
    at_smoke = {figure.run.split(":")[1] for figure in method.figures("smoke")}
    assert at_smoke == set(SMOKE)
