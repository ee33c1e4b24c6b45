"""The arms on tiny settings, and the figures from their runs."""

import numpy as np
import pytest

from methods.diffusion_couple import arms
from repro.job import Job
from repro.suite import run as runner
from repro.suite.cards import library
from repro.suite.records import read_record
from repro.suite.report.results import Results
from repro.suite.run import Options

SMALL = {
    "points": 41,
    "w": [-0.4, 0.0, 0.4],
    "noise": [0.0, 0.003],
    "kink": [3.0],
    "strong": False,
    "thickness_noise": [0, 0.02],
}


def run(function, seed=0, **params):
    made = Job.for_test("diffusion-couple", function.__name__, seed, {**SMALL, **params})
    function(made)
    return made


def value(made, name, **at):
    found = [v for n, a, v in made.measured if n == name and at.items() <= a.items()]
    assert len(found) == 1, (name, at, found)
    return found[0]


WAGNER = {"relation": "wagner", "volume": "actual", "component": "B"}
DEN_BROEDER = {"relation": "den-broeder", "volume": "actual", "component": "B"}


def test_families_agree_for_ideal_volume_and_part_otherwise():
    made = run(arms.relations, **DEN_BROEDER)
    ideal = value(made, "max_difference", couple="ni-pd", w=0.0, noise=0.003)
    assert ideal <= 1e-9
    assert value(made, "difference", couple="ni-pd", w=0.4, noise=0.003) == pytest.approx(
        0.018, abs=1e-3
    )
    assert value(made, "linearity", couple="ni-pd", noise=0.0) > 0.99
    same = value(made, "intrinsic_difference", component="A", couple="ni-pd", w=0.0, noise=0.003)
    assert abs(same) <= 1e-9
    apart = value(made, "intrinsic_difference", component="A", couple="ni-pd", w=0.4, noise=0.0)
    assert apart == pytest.approx(0.045, abs=2e-3)


def test_wagner_is_right_without_noise():
    made = run(arms.relations, **WAGNER)
    for w in SMALL["w"]:
        assert value(made, "error", couple="ni-pd", w=w, noise=0.0) < 1e-3
        bias = value(made, "intrinsic_bias", component="B", couple="ni-pd", w=w, noise=0.0)
        assert abs(bias) < 1e-3
    for compound in ("cu3sn", "cu6sn5"):
        ratio = value(made, "integrated_ratio", couple="cu-sn", compound=compound, noise=0)
        assert ratio == pytest.approx(1, abs=1e-9)


def test_arms_of_a_seed_see_the_same_points_and_seeds_differ():
    one, other = run(arms.relations, **WAGNER), run(arms.relations, **WAGNER)
    assert one.measured == other.measured
    key = "points/ni-pd_0.4_0.003"
    np.testing.assert_array_equal(one.arrays[key], other.arrays[key])
    second = next(c.N for c in arms.cases(run(arms.hall_ends, seed=1)) if c.at["noise"])
    first = next(c.N for c in arms.cases(run(arms.hall_ends, seed=0)) if c.at["noise"])
    assert not np.array_equal(first, second)


def test_ideal_volume_repairs_the_concentration_family():
    actual = run(arms.relations, **DEN_BROEDER)
    ideal = run(arms.relations, **{**DEN_BROEDER, "volume": "ideal"})
    at = {"couple": "ni-pd", "w": 0.4, "noise": 0.0}
    assert value(ideal, "error", **at) < value(actual, "error", **at) / 3


def test_bootstrap_covers_and_inverse_meets_the_points():
    made = run(arms.bootstrap, w=[0.4], noise=[0.003], kink=[], resamples=100)
    assert value(made, "coverage", couple="ni-pd") > 0.5
    assert 0.003 < value(made, "interval", couple="ni-pd") < 0.1
    made = run(arms.inverse, w=[0.4], noise=[0.003], kink=[], knots=6, smoothness=0.003)
    assert value(made, "misfit", couple="ni-pd") == pytest.approx(0.003, rel=0.3)
    assert value(made, "error", couple="ni-pd") < 0.05


def test_unknown_relation_is_refused():
    with pytest.raises(ValueError, match="no relation 'wagnr'"):
        run(arms.relations, **{**WAGNER, "relation": "wagnr"})


def test_figures_draw_what_the_runs_saved(tmp_path):
    method = library.load("diffusion-couple")
    options = Options("smoke", work=tmp_path)
    made = [
        read_record(folder / "record.json")
        for arm in method.arms("smoke")
        if arm != "exact"
        for folder in runner.run_arm(method, arm, options, seeds=[0])
    ]
    results = Results(method.paper, method.experiment, "smoke", made)
    from repro.suite.report import style

    for card in method.experiment.figures:
        with style.context():
            figure = runner.function(card.run)(results)
            figure.savefig(tmp_path / f"{card.id}.png")
        assert figure.axes and all(ax.get_xlabel() or ax.get_xticklabels() for ax in figure.axes)
    lines = runner.function("methods.diffusion_couple.figures:excess")(results).axes[0].lines
    drawn = np.max([np.max(np.abs(line.get_ydata())) for line in lines])
    known = [np.max(np.abs(100 * (results.array("concentration-cb", 0, "D/ni-pd_0.8_0")
                                  / results.array("wagner", 0, "D/ni-pd_0.8_0") - 1)))]  # fmt: skip
    assert drawn == pytest.approx(max(known))
