"""Formats, learned directions, exact checks, and the arms on the digits network at toy sizes."""

import contextlib
import importlib
from functools import partial

import pytest
import torch

from methods.lowbit_fp import arms, exact, figures, structure
from methods.lowbit_fp import method as lowbit
from repro.errors import ReproError
from repro.quant.calibration import CalibrationSet
from repro.quant.layers import quantise, quantised_layers
from repro.quant.reconstruction import capture, learn_rounding, units
from repro.quant.study import full_precision
from repro.suite import zoo
from repro.suite.cards import library
from repro.zoo.judge import Judge
from tests.methods.making import results_of

TOY = {"steps": 4, "samples": 12, "eps_samples": 4, "calibration_steps": 4, "per_step": 4,
       "batch": 12, "iterations": 2, "most": 3, "chains": 12, "until": 1.0}  # fmt: skip
REFERENCE = "q-diffusion/reference"
FORMS = ["INT8", "FP8", "INT4", "INT4-asym", "E2M1", "FP4"]

JUDGED = {
    "frechet", "precision", "recall", "frechet_paired", "rank_correlation", "better_than_float",
}  # fmt: skip


@pytest.fixture(scope="module")
def card():
    return library.load("lowbit-fp")


@pytest.fixture(scope="module")
def network():
    return zoo.build("digits-unconditional").eval()


@pytest.fixture(scope="module")
def weights():
    return {"zoo/digits-unconditional": zoo.shipped("digits-unconditional")[0]}


@contextlib.contextmanager
def coarse():
    """A coarser search is as good here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("search_float_grid", "search_integer_grid"):
            patch.setattr(lowbit, name, partial(getattr(lowbit, name), candidates=23))
        yield


def execute(card, name, params, models, kind="arms", seed=0, declared=True):
    declared = card.declared("gpu", name, params) if declared and kind == "arms" else None
    job = zoo.job("lowbit-fp", name, seed, params, models, declared)
    entry = getattr(card.experiment, kind)[name]
    module, function = (entry.run if kind == "arms" else entry.train).split(":")
    with coarse():
        return job, getattr(importlib.import_module(module), function)(job)


def small(params):
    return params | {k: v for k, v in TOY.items() if k in params}


@pytest.fixture(scope="module")
def models(card, weights):
    trained = dict(weights)
    params = small(library.load("q-diffusion").model_params("smoke", "q-diffusion", "reference"))
    trained[REFERENCE] = full_precision(zoo.job("q-diffusion", "reference", 0, params, weights))
    for name in card.experiment.models:
        params = small(card.model_params("smoke", "lowbit-fp", name))
        trained[name] = execute(card, name, params, weights, "models")[1]
    return trained


@pytest.fixture(scope="module")
def jobs(card, models):
    found = {}
    for arm in card.experiment.arms:
        at = next(scale for scale in ("smoke", "small", "gpu") if arm in card.arms(scale))
        params = small(card.arm_params(at, arm))
        smoke = card.arm_params("smoke", "full-precision")
        params |= {k: smoke[k] for k in ("network", "dataset", "classifier") if k in params}
        if arm in ("nearest", "weights"):
            params["formats"] = FORMS
        found[arm] = execute(card, arm, params, models)[0]
    return found


def value(job, name, **at):
    [found] = [v for n, a, v in job.measured if n == name and a == at]
    return found


# Formats ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, bits, integer, wide",
    [
        ("INT4", 4, True, "INT8"),
        ("INT4-asym", 4, True, "INT8-asym"),
        ("E2M1", 4, False, "FP8"),
        ("FP4", 4, False, "FP8"),
        ("E5M2", 8, False, "E5M2"),
    ],
)
def test_names_of_formats(name, bits, integer, wide):
    form = lowbit.Form.of(name)
    assert (form.bits, form.integer, form.at(8).name) == (bits, integer, wide)


def test_grids_have_the_codes_of_their_names():
    w = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) ** 3
    for name in ("INT8", "INT4", "INT4-asym", "E2M1", "E3M0", "E4M3"):
        for granularity, shape in (("tensor", ()), ("channel", (6, 1))):
            for span in lowbit.RANGES:
                grid = lowbit.grid(w, name, granularity=granularity, span=span)
                own = grid.maxval if hasattr(grid, "maxval") else grid.delta
                assert own.shape == shape
                assert lowbit.format_of(grid) == name.removesuffix("-asym")
    assert lowbit.format_of(lowbit.grid(w, "FP4")) == "E2M1"
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert lowbit.format_of(lowbit.grid(uniform, "FP4")) == "E1M2"


def test_searched_ranges_never_err_more_than_extremes():
    w = torch.randn(6, 400, generator=torch.Generator().manual_seed(0)) ** 3
    for name in ("INT4", "E2M1", "E4M3"):
        for granularity in lowbit.GRANULARITIES:
            searched, extremes = (
                float((lowbit.grid(w, name, granularity=granularity, span=s)(w) - w).square().sum())
                for s in ("search", "max")
            )
            assert searched <= extremes * 1.001


@pytest.mark.parametrize("name", ["INT", "E2", "float4", "INT9"])
def test_unknown_formats_are_named(name):
    with pytest.raises(ReproError, match="no number format"):
        lowbit.grid(torch.ones(3), name)


def test_other_mistakes_are_named(network):
    with pytest.raises(ReproError, match="search"):
        lowbit.grid(torch.ones(3), "FP4", span="max")
    with pytest.raises(ReproError, match="granularity"):
        lowbit.grid(torch.ones(3), "INT4", granularity="row")
    with pytest.raises(ReproError, match="E2M1.tensor"):
        lowbit.Variant.of("E2M1")
    with pytest.raises(ReproError, match="8 bits"):
        lowbit.recipe(network, "E2M1", "E2M1")
    with pytest.raises(ReproError, match="another network"):
        lowbit.set_directions(quantise(network, lowbit.recipe(network, "INT4")), {})


def test_first_and_last_layer_may_keep_eight_bits(network):
    recipe = lowbit.recipe(network, "E2M1", keep_first_last_8bit=True)
    bits = {n: m.weight_bits for n, m in quantised_layers(quantise(network, recipe)).items()}
    assert {n for n, b in bits.items() if b == 8} == {"conv_in", "conv_out"}
    assert set(bits.values()) == {4, 8}


def test_attention_and_inputs_are_quantised_in_the_family(network):
    quantised = quantise(network, lowbit.recipe(network, "E2M1", "FP8"))
    states = CalibrationSet(torch.randn(4, 1, 8, 8), torch.arange(4))
    from repro.quant.layers import activation_quantisers, calibrate

    calibrate(quantised, states.batches(4))
    found = activation_quantisers(quantised)
    assert len(found) == len(quantised_layers(quantised)) + 4
    assert all(lowbit.format_of(q.grids[8]).startswith("E") for q in found.values())


# Learned directions -------------------------------------------------------------------------------


def test_directions_are_restored(card, network, weights, models):
    network.load_state_dict(weights["zoo/digits-unconditional"])
    with coarse():
        quantised = quantise(network, lowbit.recipe(network, "E2M1"))
    before = {n: m.weight.clone() for n, m in quantised_layers(quantised).items()}
    lowbit.set_directions(quantised, models["e2m1-tensor"])
    for name, layer in quantised_layers(quantised).items():
        [grid], weight = layer.weight_grids, layer.weight
        assert torch.equal(grid(weight), weight)
        up = models["e2m1-tensor"][name].bool()
        inside = layer.layer.weight.abs() < grid.maxval
        assert (weight >= layer.layer.weight - 1e-6)[up & inside].all()
        assert (weight <= layer.layer.weight + 1e-6)[~up & inside].all()
        assert weight.shape == before[name].shape


def test_kurtosis():
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(8, 50_000, generator=g)
    assert abs(lowbit.kurtosis(normal) - 3) < 0.05
    uneven = normal * torch.logspace(0, 2, 8)[:, None]
    assert lowbit.kurtosis(uneven) > 10
    assert abs(lowbit.kurtosis(uneven, "channel") - 3) < 0.05


def test_output_error_of_an_unchanged_weight_is_zero(network):
    weight = network.conv_in.weight.detach()
    states = CalibrationSet(torch.randn(4, 1, 8, 8), torch.arange(4))
    found = lowbit.output_errors(
        network, states, {"conv_in": {"same": weight, "double": 2 * weight}}
    )
    with torch.no_grad():
        moved = network.conv_in(states.x) - network.conv_in.bias[:, None, None]
    assert found["conv_in"]["same"] == 0
    assert found["conv_in"]["double"] == pytest.approx(float(moved.square().mean()), rel=1e-4)


# Exact checks -------------------------------------------------------------------------------------


def test_ratios_of_the_table():
    found = exact.ratios()
    for name, expected in exact.SQNR.items():
        for form, ratio in zip(exact.FORMATS, expected, strict=True):
            tolerance = 0.1 if name == "uniform" else 0.03
            assert found[name, form][0] == pytest.approx(ratio, abs=tolerance)
    assert found["laplace", "E2M1"][0] - found["laplace", "INT4"][0] == pytest.approx(
        1.35, abs=0.06
    )
    assert exact.range_error() <= 0.03  # the optimum is flat, a step of the search is 1 to 2 %


@pytest.mark.parametrize(
    "item", ["power-of-two", "odd", "idempotent", "monotone", "relative-error"]
)
def test_quantiser_keeps_its_laws(jobs, item):
    assert value(jobs["exact"], "error", item=item) == 0


def test_computed_values_of_formats(jobs):
    assert value(jobs["exact"], "error", item="released-values") <= 1e-6
    assert value(jobs["exact"], "error", item="nine-values") <= 2e-6  # the sixth digit is rounded


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
def test_zeros_of_the_table(jobs, distribution):
    """Within 12 % and 0.01 % points: the largest of a million draws moves by 5 %."""
    assert value(jobs["exact"], "zero_error", distribution=distribution) <= 1


def test_formats_in_numbers():
    found = structure.formats()
    for name in structure.FLOATS:
        e, m = int(name[1]), int(name[3])
        assert found[name] == (2 ** (1 + e + m) - 1, (2 - 2**-m) * 2 ** (2**e - 2 + m))
    assert found["INT4-asym"][0] == 16
    assert (found["INT8"][1], found["INT4"][1]) == (127, 7)


def test_sizes_of_published_networks(jobs):
    found = {name: each["params"] for name, each in structure.networks().items()}
    assert found == {"ddim-cifar10": 35746307, "ldm4-bedroom": 274056163, "sd-v1": 859520964}
    for model, eight, four in (("ddim-cifar10", 35.75, 17.87), ("ldm4-bedroom", 274.06, 137.03)):
        for bits, size in ((8, eight), (4, four)):
            measured = value(jobs["structure"], "size", model=model, bits=bits)
            assert measured == pytest.approx(size, abs=0.0051)


def test_full_precision_repeats_itself(jobs):
    assert value(jobs["full-precision"], "trajectory_mse") == 0


@pytest.mark.parametrize("tier", ["exact", "structural"])
def test_arms_meet_every_check_of_the_tier(card, jobs, tier):
    checks = [c for c in card.checks("smoke").values() if c.tier == tier]
    assert checks
    lookup = {
        (arm, n, tuple(sorted((k, str(v)) for k, v in a.items()))): v
        for arm, job in jobs.items()
        for n, a, v in job.measured
    }

    def find(r):
        at = tuple(sorted(tuple(part.split("=")) for part in r.at.split(","))) if r.at else ()
        return lookup[r.arm, r.name, at]

    for check in checks:
        assert check.parsed.holds(find), check.expect


# Arms ---------------------------------------------------------------------------------------------


def test_more_bits_err_less(jobs):
    for granularity in lowbit.GRANULARITIES:
        at = {"granularity": granularity, "range": "search"}
        eps = {f: value(jobs["nearest"], "eps_mse", format=f, **at) for f in FORMS}
        assert max(eps["INT8"], eps["FP8"]) < 0.1 * min(eps["INT4"], eps["E2M1"], eps["FP4"])


def test_whole_evaluation_and_eps_alone_agree(card, models, jobs):
    params = small(card.arm_params("smoke", "nearest")) | {"formats": ["E2M1"], "sampled": []}
    job, _ = execute(card, "nearest", params, models)
    at = {"format": "E2M1", "granularity": "tensor", "range": "search"}
    assert value(job, "eps_mse", **at) == value(jobs["nearest"], "eps_mse", **at)


def test_every_check_of_the_largest_scale_finds_its_measurements(card, jobs):
    """But those that need Fréchet distances, which the toy jobs have not."""
    measured = {
        (arm, n, tuple(sorted((k, str(v)) for k, v in a.items())))
        for arm, job in jobs.items()
        for n, a, _ in job.measured
    }
    for check in card.checks("gpu").values():
        for r in check.parsed.references():
            if r.name in JUDGED:
                continue
            at = tuple(sorted(tuple(p.split("=")) for p in r.at.split(","))) if r.at else ()
            assert (r.arm, r.name, at) in measured, str(r)


def test_references_are_compared(card, models, monkeypatch):
    names = card.arm("small", "nearest").models
    torch.manual_seed(0)
    states = {names[0]: zoo.build(names[0]).state_dict(), names[1]: zoo.shipped(names[1])[0]}
    assert names[2] == REFERENCE

    for tensor in states[names[0]].values():  # layers that start at zero
        if tensor.ndim > 1 and not tensor.any():
            torch.nn.init.normal_(tensor, std=0.1)

    def pictures(critic, n, split, stream):
        generator = critic.job.rng(stream)
        return torch.rand(n, 1, 32, 32, generator=generator).lt(0.3).float() * 2 - 1

    monkeypatch.setattr(Judge, "pictures", pictures)
    params = small(card.arm_params("small", "nearest"))
    params |= {"formats": ["INT8", "E2M1"], "real": 20, "steps": 2, "samples": 4, "batch": 4,
               "reference": "",
               "sampled": ["INT8.tensor", "E2M1.tensor", "E2M1.channel"]}  # fmt: skip
    job, _ = execute(card, "nearest", params, states, declared=False)
    assert -1 <= value(job, "rank_correlation", reference="outputs") <= 1
    assert 0 <= value(job, "better_than_float", reference="data") <= 1
    at = {"granularity": "tensor", "range": "search"}
    eight, four = (value(job, "frechet_paired", format=f, **at) for f in ("INT8", "E2M1"))
    assert eight < four


def test_learning_starts_from_nearest(network, weights, models):
    """Two iterations turn next to nothing: the directions are not the wrong way round."""
    network.load_state_dict(weights["zoo/digits-unconditional"])
    with coarse():
        quantised = quantise(network, lowbit.recipe(network, "E2M1"))
    nearest, learned = arms._nearest(quantised), models["e2m1-tensor"]
    same = [(nearest[name] == learned[name]).double().mean() for name in nearest]
    assert min(same) > 0.8


def test_nothing_turned_is_nearest(card, weights, models, jobs, network):
    """Shuffled directions of a rounding that turned nothing are those of nearest."""
    network.load_state_dict(weights["zoo/digits-unconditional"])
    plain = dict(models)
    for granularity in lowbit.GRANULARITIES:
        with coarse():
            quantised = quantise(network, lowbit.recipe(network, "E2M1", granularity=granularity))
        plain[f"e2m1-{granularity}"] = arms._nearest(quantised)
    params = small(card.arm_params("small", "shuffled"))
    smoke = card.arm_params("smoke", "full-precision")
    params |= {k: smoke[k] for k in ("network", "dataset", "classifier")}
    job, _ = execute(card, "shuffled", params, plain)
    for granularity in lowbit.GRANULARITIES:
        at = {"format": "E2M1", "granularity": granularity}
        shuffled = value(job, "eps_mse", aware="no", **at)
        nearest = value(jobs["nearest"], "eps_mse", range="search", **at)
        assert shuffled == pytest.approx(nearest, rel=1e-5)
        assert value(jobs["shuffled"], "eps_mse", aware="no", **at) > 0


def test_two_iterations_decide_nothing_and_the_cut_is_all_of_the_error(jobs):
    for form in ("E2M1", "INT4-asym"):
        at = {"format": form, "granularity": "tensor", "aware": "no"}
        every, worst = (
            value(jobs["convergence"], "undecided", layer=k, **at) for k in ("all", "worst")
        )
        assert 0.5 < every <= worst <= 1
        assert value(jobs["convergence"], "loss_ratio", over="soft", unit="median", **at) > 1.2
    kept = jobs["convergence"].arrays
    assert set(kept["layers-E2M1.tensor"]) == set(jobs["weights"].arrays["layers"])
    assert kept["undecided-E2M1.tensor"].max() <= 1


def test_four_bit_roundings_converge_on_every_grid(network, weights):
    """With the budget of a scale less than 1 % is left, where 60 iterations at 1e-2 leave most."""
    network.load_state_dict(weights["zoo/digits-unconditional"])
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in ("E2M1.tensor", "E2M1.tensor.aware", "INT4-asym.channel"):
        variant = lowbit.Variant.of(name)
        with coarse():
            copy = quantise(
                network, lowbit.recipe(network, variant.form, granularity=variant.granularity)
            )
        unit = units(copy)["up.0.block.0"]
        cache = capture(network, ["up.0.block.0"], (x, torch.arange(16)))["up.0.block.0"]
        shares = {}
        for iterations, lr, until in ((60, 1e-2, None), (100, 6e-2, 0.01)):
            ended = []
            learn_rounding(
                unit, cache, iterations, generator=torch.Generator().manual_seed(0), lr=lr,
                until=until, batch=8, scale_aware=variant.scale_aware, outcome=ended.append,
            )  # fmt: skip
            total = sum(ended[0].weights.values())
            shares[until] = (
                sum(share * ended[0].weights[n] for n, share in ended[0].undecided.items()) / total
            )
        assert shares[0.01] <= 0.01 and shares[None] > 0.3, (name, shares)


def test_kurtosis_of_another_layer_leaves_the_gains(jobs):
    for granularity in lowbit.GRANULARITIES:
        at = {"granularity": granularity, "error": "weights"}
        wins = [value(jobs[a], "float_wins", **at) for a in ("weights", "kurtosis-of-others")]
        assert wins[0] == wins[1]
        own, other = (
            value(jobs[a], "kurtosis_correlation", **at) for a in ("weights", "kurtosis-of-others")
        )
        assert own > other


def test_even_steps_gain_nothing(jobs):
    at = {"granularity": "tensor", "range": "search"}
    even, integer = (
        value(jobs["nearest-even"], "eps_mse", format=f, **at) for f in ("E1M6", "INT8")
    )
    assert even > integer / 1.19


def test_same_seed_same_bits(card, models):
    params = small(card.arm_params("smoke", "w4a8")) | {
        "pairs": [["E2M1", "FP8"]], "reference": "",
    }  # fmt: skip
    first, again, other = (
        execute(card, "w4a8", params, models, seed=s)[0].measured for s in (3, 3, 4)
    )
    assert first == again and first != other


@pytest.fixture(scope="module")
def results(card, jobs, tmp_path_factory):
    seeded = {(arm, 0): job for arm, job in jobs.items()}
    return results_of(card, seeded, tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("name", ["formats", "rounding", "ratios", "kurtosis", "samples"])
def test_figures_draw_what_was_measured(card, results, name):
    assert name in {figure.run.split(":")[1] for figure in card.experiment.figures}
    drawn = getattr(figures, name)(results)
    assert any(ax.has_data() for ax in drawn.axes)
