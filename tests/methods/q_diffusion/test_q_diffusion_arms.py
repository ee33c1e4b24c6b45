"""The arms on the digits network, at toy sizes, and the figures that they feed."""

import importlib

import pytest
import torch

from methods.q_diffusion import arms, deployed, figures
from methods.q_diffusion.drift import common_error
from repro.coordinates import at_key
from repro.errors import ReproError
from repro.quant import deploy, rounded
from repro.quant.calibration import Trajectory
from repro.suite import zoo
from repro.suite.cards import library
from tests.methods.making import results_of

TOY = {
    "steps": 4, "samples": 6, "eps_samples": 4, "batch": 8, "calibration_steps": 4, "per_step": 4,
    "initial": 8, "iterations": 3, "most": 4, "step_iterations": 2, "learning_batch": 4,
    "chains": 8,
}  # fmt: skip
DIGITS = "zoo/digits-unconditional"
JUDGED = {"frechet", "precision", "recall"}


@pytest.fixture(scope="module")
def card():
    return library.load("q-diffusion")


@pytest.fixture(scope="module")
def weights():
    return {DIGITS: zoo.shipped("digits-unconditional")[0]}


@pytest.fixture(scope="module")
def models(card, weights):
    """The models that arms share, learned as their card says."""
    found = dict(weights)
    for name in card.experiment.models:
        params = card.model_params("smoke", "q-diffusion", name)
        params |= {k: v for k, v in TOY.items() if k in params}
        module, function = card.experiment.models[name].train.split(":")
        job = zoo.job("q-diffusion", name, 0, params, weights)
        found[name] = getattr(importlib.import_module(module), function)(job)
    return found


@pytest.fixture(scope="module")
def run(card, models):
    def go(arm, seed=0, **params):
        resolved = card.arm_params("smoke", arm)
        resolved |= {k: v for k, v in (TOY | params).items() if k in resolved}
        declared = card.declared("gpu", arm, resolved)
        job = zoo.job("q-diffusion", arm, seed, resolved, models, declared)
        module, function = card.experiment.arms[arm].run.split(":")
        getattr(importlib.import_module(module), function)(job)
        return job

    return go


@pytest.fixture(scope="module")
def jobs(card, run):
    return {arm: run(arm) for arm in card.arms("smoke") if arm != "structure"}


def value(job, name, **at):
    [found] = [v for n, a, v in job.measured if n == name and a == at]
    return found


def lookup(job):
    found = {(n, tuple(sorted((k, str(v)) for k, v in a.items()))): v for n, a, v in job.measured}
    return lambda r: found[r.name, tuple(sorted(tuple(p.split("=")) for p in r.at.split(",")))]


@pytest.fixture(scope="module")
def structure(run):
    return run("structure")


@pytest.mark.parametrize("tier, arm, least", [("exact", "exact", 18), ("structural", None, 36)])
def test_checks_of_exact_and_structural_tier_hold(card, structure, jobs, tier, arm, least):
    find = lookup(jobs[arm] if arm else structure)
    checks = [c for c in card.checks("smoke").values() if c.tier == tier]
    assert len(checks) >= least
    for check in checks:
        assert check.parsed.holds(find), check.expect


@pytest.mark.parametrize(
    "item, most",
    [("layers-off", 0), ("off", 1e-5), ("sixteen-bit", 1e-3), ("exported", 0)],
)
def test_wrapped_copies_compute_what_the_network_computes(jobs, item, most):
    assert value(jobs["exact"], "error", item=item) <= most


@pytest.mark.parametrize(
    "model, sizes",
    [
        ("cifar10", (142.99, 35.75, 17.87)),
        ("bedroom", (1096.22, 274.06, 137.03)),
        ("church", (1179.87, 294.97, 147.48)),
    ],
)
def test_sizes_count_every_parameter_at_the_width(structure, model, sizes):
    found = [value(structure, "size", model=model, bits=b, rule="all") for b in (32, 8, 4)]
    assert found == pytest.approx(sizes, abs=0.006)


def test_sizes_with_the_rest_in_floats(structure):
    found = [value(structure, "size", model="cifar10", bits=b, rule="weights") for b in (8, 4)]
    assert found == pytest.approx((35.91, 18.07), abs=0.006)


@pytest.mark.parametrize(
    "model, billions, within",
    [
        ("cifar10", (6582.7, 2289.6, 1144.8, 796.4, 398.2), 0.06),
        ("bedroom", (107_070, 37_240, 18_620, 12_950, 6480), 5.5),
        ("church", (22_140, 7700, 3850, 2680, 1340), 5.5),
    ],
)
def test_bit_operations_are_twice_the_multiplications_times_both_widths(
    structure, model, billions, within
):
    widths = ("W32A32", "W8A32", "W4A32", "W8A8", "W4A8")
    found = [value(structure, "gbops", model=model, bits=bits) for bits in widths]
    assert found == pytest.approx(billions, abs=within)


def test_the_error_of_one_step_is_that_of_the_first_and_no_other(jobs):
    at = {"bits": "W4A8", "scale": "max"}
    first, alone = (
        value(jobs[arm], "state_error", done="first", **at) for arm in ("linear", "one-step")
    )
    assert first == alone > 0
    assert value(jobs["one-step"], "state_error", done="all", **at) < value(
        jobs["linear"], "state_error", done="all", **at
    )


def test_few_iterations_leave_roundings_undecided_and_the_cut_shows(jobs):
    for model in ("w4", "w4-mse", "w4-unsplit"):
        at = {"model": model}
        every, worst = (
            value(jobs["rounding"], "undecided", layer=k, **at) for k in ("all", "worst")
        )
        assert 0.5 < every < worst <= 1
        # Soft roundings start where weights are as they were: the cut is all of the error.
        assert value(jobs["rounding"], "loss_ratio", over="soft", unit="median", **at) > 1.5
    assert len(jobs["rounding"].arrays["layers-w4"]) == len(jobs["rounding"].arrays["undecided-w4"])


def test_tensors_of_the_full_precision_model_can_be_written(models):
    """No two share memory, which the file format refuses."""
    places = [tensor.untyped_storage().data_ptr() for tensor in models["reference"].values()]
    assert len(set(places)) == len(places)


def test_arms_read_the_full_precision_samples_of_the_model(card, models):
    params = card.arm_params("smoke", "full-precision")
    params |= {k: v for k, v in TOY.items() if k in params}
    kept, own = (
        arms.Protocol(zoo.job("q-diffusion", "x", 0, params | {"reference": name}, models))
        for name in ("reference", "")
    )
    assert torch.equal(kept.x_T, own.x_T)
    for one, two in ((kept.run, own.run), (kept.reference, own.reference)):
        assert all(
            torch.equal(getattr(one, k), getattr(two, k)) for k in ("x", "eps", "t", "final")
        )
    assert torch.equal(kept.final, own.final)
    few = arms.Protocol(zoo.job("q-diffusion", "x", 0, params | {"samples": 4}, models))
    assert torch.equal(few.final, kept.final[:4])
    other = arms.Protocol(zoo.job("q-diffusion", "x", 0, params | {"clip": None}, models))
    with pytest.raises(ReproError, match="another sampler"):
        other.final  # noqa: B018


def test_the_last_layer_alone_is_learned(jobs):
    found = {
        name: value(jobs["last-layer"], "eps_mse", learned=name)
        for name in ("none", "conv_out", "conv_in")
    }
    assert len(set(found.values())) == 3
    assert 0 < value(jobs["last-layer"], "undecided", learned="conv_out") <= 1


def test_both_range_rules_have_weights_and_steps_of_their_own(jobs):
    for arms_ in (("adaround", "adaround-searched"), ("q-diffusion", "q-diffusion-searched")):
        at = {"rounding": "learned"} if "adaround" in arms_[0] else {"bits": "W4A8", "split": "yes"}
        assert len({value(jobs[arm], "eps_mse", **at) for arm in arms_}) == 2


def test_the_whole_protocol_learns_both_on_the_states_that_are_named(jobs):
    found = [value(jobs["states"], "eps_mse", times=t, stage="learned")
             for t in ("uniform", "last-quarter")]  # fmt: skip
    assert found[0] != found[1]
    assert 0 < value(jobs["states"], "undecided", times="uniform") <= 1


def test_every_arm_of_a_check_is_measured_at_its_coordinates(card, jobs):
    """No check of the reduced tier refers to what its arm never measures."""
    smoke = {f"stage={s},times=uniform-double" for s in ("initial", "learned")}
    smoke |= {"times=uniform-double"}
    for check in card.checks("gpu").values():
        if check.tier != "reduced":
            continue
        for reference in check.parsed.references():
            if reference.arm == "deployed" or reference.name in JUDGED:
                continue
            places = {at_key(a) for n, a, _ in jobs[reference.arm].measured
                      if n == reference.name}  # fmt: skip
            assert reference.at in places | smoke, str(reference)


def test_eight_bits_are_closer_than_four(jobs):
    wide, narrow = (value(jobs["linear"], "eps_mse", scale="max", bits=b) for b in ("W8A8", "W4A8"))
    assert 0 < wide < narrow


def test_installed_weights_are_used(jobs):
    nearest, learned = (
        value(jobs["adaround"], "eps_mse", rounding=r) for r in ("nearest", "learned")
    )
    assert nearest != learned and abs(learned / nearest - 1) < 0.5


def test_split_and_not_split_differ(jobs):
    found = [
        value(jobs[arm], "eps_mse", bits="W4A8", split=s)
        for arm, s in (("q-diffusion", "yes"), ("unsplit", "no"))
    ]
    assert found[0] != found[1]


def test_error_alone_is_that_of_the_whole_evaluation(card, models):
    params = card.arm_params("smoke", "full-precision") | {
        k: v for k, v in TOY.items() if k in card.arm_params("smoke", "full-precision")
    }
    job = zoo.job("q-diffusion", "x", 0, params, models)
    protocol = arms.Protocol(job)
    network = protocol.started("W8A6", protocol.states())
    protocol.measure_eps(network, of="alone")
    protocol.judge(network, "all", of="all")
    assert value(job, "eps_mse", of="alone") == value(job, "eps_mse", of="all")
    curve = job.arrays["curve-all"]
    assert curve[0] == 0 and value(job, "state_error", of="all", done="all") == curve[-1]
    assert value(job, "state_error", of="all", done="first") == curve[1]


def test_same_seed_same_bits_and_another_seed_differs(run):
    options = {"times": ["uniform", "first-step"]}
    first, again, other = (run("calibration", seed, **options).measured for seed in (3, 3, 4))
    assert first == again and first != other


def test_settings_of_an_arm_do_not_depend_on_each_other(run):
    alone, beside = (run("departures", changes=c) for c in (["none"], ["plain-inputs", "none"]))
    assert value(alone, "eps_mse", change="none") == value(beside, "eps_mse", change="none")


def test_learning_reads_no_data_and_a_reader_is_counted(card, weights, monkeypatch):
    from methods.q_diffusion import exact

    params = card.model_params("smoke", "q-diffusion", "w4")
    job = zoo.job("q-diffusion", "x", 0, params, weights)
    monkeypatch.setattr(rounded, "learn", lambda job: job.data("digits"))
    assert exact.reads_of_learning(job) == 1
    assert "data" not in vars(job)


def test_widths():
    assert arms.floats("W4A32") == (4, None) and arms.floats("W32A8") == (None, 8)
    with pytest.raises(ReproError, match="W8A8"):
        arms.floats("4/8")


# Deployment ---------------------------------------------------------------------------------------


def deployment(card, weights, folder):
    params = card.arm_params("small", "deployed") | {
        "network": DIGITS, "repeats": 2, "reference": ""
    }  # fmt: skip
    params |= {k: v for k, v in TOY.items() if k in params}
    declared = card.declared("small", "deployed", params)
    return zoo.job("q-diffusion", "deployed", 0, params, weights, declared, folder)


def test_missing_packages_are_named(card, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "missing", lambda: ["openvino"])
    with pytest.raises(ReproError, match="pip install openvino"):
        deployed.deployed(deployment(card, weights, tmp_path))


class Kernels:
    """Stands in for the int8 runtime, which tests/quant/test_deploy.py covers: a little off."""

    made = {}

    def __init__(self, path, threads=1):
        self.network = self.made[path.name]

    def __call__(self, x, t):
        with torch.no_grad():
            return self.network(x, t) * 1.001

    def kernels(self, batch):
        return {("Convolution", "u8"): 9, ("MatMul", "f32"): 1}


def test_deployed_network_is_measured(card, weights, tmp_path, monkeypatch):
    def export(network, path, example):
        Kernels.made[path.name] = network
        path.write_bytes(b"x" * 100)

    monkeypatch.setattr(deploy, "all_threads", lambda: 1)
    monkeypatch.setattr(deploy, "missing", lambda: [])
    monkeypatch.setattr(deploy, "export", export)
    monkeypatch.setattr(deploy, "export_float", export)
    monkeypatch.setattr(deploy, "Deployed", Kernels)
    monkeypatch.setattr(deployed, "peak_mb", lambda path, shape: 1.0)
    before = torch.get_num_threads()
    job = deployment(card, weights, tmp_path / "new")
    deployed.deployed(job)
    assert torch.get_num_threads() == before
    assert value(job, "relative_error", of="simulation") == pytest.approx(1e-3, rel=1e-2)
    assert value(job, "relative_error", of="quantisation") > 1e-3
    assert value(job, "file_size", runtime="openvino-int8") == 1e-4
    assert value(job, "kernels", kind="int8") == 9 and value(job, "kernels", kind="all") == 10
    at = {"runtime": "openvino-int8", "threads": "one", "batch": 1}
    assert value(job, "latency_ratio", over="openvino-float32", **at) > 0


# Figures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(card, jobs, tmp_path_factory):
    seeded = {(arm, 0): job for arm, job in jobs.items()}
    return results_of(card, seeded, tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("name", ["growth", "errors", "choices", "shortcuts", "samples"])
def test_figures_draw_what_was_measured(card, results, name):
    assert name in {figure.run.split(":")[1] for figure in card.experiment.figures}
    drawn = getattr(figures, name)(results)
    axes = [ax for ax in drawn.axes if ax.has_data()]
    assert axes
    if name == "errors":
        assert len(drawn.axes[0].get_yticklabels()) == 4 + 2 + 2 + 4 + 3 + 1
    if name == "choices":
        assert [len(ax.get_yticklabels()) for ax in drawn.axes] == [4, 3, 3, 5]
    if name == "shortcuts":
        assert len(drawn.axes[0].patches) == 8


def test_common_error_is_that_of_a_constant_shift(card, models):
    params = card.arm_params("smoke", "drift")
    params |= {k: v for k, v in TOY.items() if k in params}
    protocol = arms.Protocol(zoo.job("q-diffusion", "x", 0, params, models))
    run = rounded.chains(protocol)
    shift = torch.linspace(-1, 1, run.eps[0, 0].numel()).view(run.eps[0, 0].shape)
    common, share = common_error(lambda x, t: protocol.network(x, t) + shift, run)
    assert torch.allclose(common, shift.expand_as(common), atol=1e-5)
    assert torch.allclose(share, torch.ones(len(share)), atol=1e-5)
    noise = torch.randn(len(run.t), 400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = Trajectory(noise, torch.zeros_like(noise), run.t, noise[0])
    _, share = common_error(lambda x, t: x, noisy)
    assert share.abs().max() < 0.02


def test_without_the_common_error_samples_are_nearer(run):
    job = run("drift", samples=16, batch=16, per_step=16, reference="")
    for rounding in ("nearest", "learned", "squant"):
        assert value(job, "common_share", rounding=rounding, half="noisy") <= 1
    before, after = (
        value(job, "trajectory_mse", rounding="nearest", corrected=name) for name in ("no", "yes")
    )
    assert after < before
