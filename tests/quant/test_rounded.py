"""Learned roundings travel from the model that learned them to the copies that use them."""

import pytest
import torch

from repro.errors import ReproError
from repro.nets.ldm import LatentUNet, LDMConfig
from repro.quant import rounded
from repro.quant.layers import activation_quantisers, calibrate, quantise, quantised_layers
from repro.quant.reconstruction import reconstruct_weights, units
from repro.quant.study import Study
from repro.suite import zoo

DIGITS = "zoo/digits-unconditional"
PARAMS = {
    "network": DIGITS, "steps": 4, "clip": 1.0, "batch": 8, "calibration_steps": 4, "per_step": 4,
    "bits": 4, "scale": "max", "split": True, "iterations": 4, "lr": 1e-2, "learning_batch": 8,
}  # fmt: skip


def job(seed=0, **params):
    weights = {DIGITS: zoo.shipped("digits-unconditional")[0]}
    return zoo.job("q-diffusion", "w4", seed, PARAMS | params, weights)


@pytest.fixture(scope="module")
def study():
    return Study(job())


@pytest.fixture(scope="module")
def state():
    return rounded.learn(job())


def copy(study, bits=4, **options):
    return quantise(study.network, rounded.recipe(study.network, bits, **options))


def output(network, study):
    x, t = study.noise(4, "test"), torch.full((4,), 500)
    with torch.no_grad():
        return network(x, t)


def test_state_holds_directions_steps_and_zero_points(study, state):
    names = {k.rpartition(".")[0] for k in state if k.endswith(".alpha")}
    layers = quantised_layers(copy(study))
    assert names == {f"{n}.{i}" for n, layer in layers.items() for i in range(len(layer.parts))}
    split = rounded.splits(study.network)
    assert split and all(f"{n}.1" in names for n in split)
    for name in names:
        assert state[f"{name}.alpha"].dtype == torch.uint8 and state[f"{name}.alpha"].max() <= 1
        assert len(state[f"{name}.delta"]) == len(state[f"{name}.alpha"])


def test_installed_weights_are_those_that_were_learned(study):
    network, p = copy(study), PARAMS
    reconstruct_weights(
        network, study.network, rounded.calibration(study), p["iterations"],
        generator=study.job.rng("rounding"), lr=p["lr"], batch=p["learning_batch"],
    )  # fmt: skip
    again = rounded.install(copy(study), rounded.export(network))
    for name, layer in quantised_layers(network).items():
        assert torch.equal(layer.weight, quantised_layers(again)[name].weight)
    assert torch.equal(output(network, study), output(again, study))


@pytest.mark.parametrize("kind", ["hard", "fixed"])
def test_both_kinds_compute_the_same_and_differ_from_the_nearest(study, state, kind):
    network = rounded.install(copy(study), state, kind)
    assert torch.equal(output(network, study), output(rounded.install(copy(study), state), study))
    assert not torch.equal(output(network, study), output(copy(study), study))
    weight = quantised_layers(network)["conv_in"].layer.weight.requires_grad_(True)
    quantised_layers(network)["conv_in"].weight.sum().backward()
    assert (weight.grad is not None and bool(weight.grad.any())) == (kind == "fixed")


def test_state_tells_how_learning_ended(study, state):
    found = {unit.name: unit for unit in rounded.learned_units(state)}
    assert set(found) == set(units(study.network))
    layers = quantised_layers(copy(study))
    assert {n for unit in found.values() for n in unit.undecided} == set(layers)
    for unit in found.values():
        assert unit.iterations == 4 and unit.soft < unit.before  # soft roundings change nothing
        assert unit.weights == {n: layers[n].layer.weight.numel() for n in unit.weights}
        assert all(0 <= share <= 1 for share in unit.undecided.values())
    plain = rounded.export(rounded.install(copy(study), state))
    with pytest.raises(ReproError, match="no record"):
        rounded.learned_units(plain)
    assert all(torch.equal(plain[k], state[k]) for k in plain)


def test_budget_and_share_come_from_the_card():
    found = rounded.learned_units(rounded.learn(job(most=6, until=1.0)))
    assert {unit.iterations for unit in found} == {4, 6}


def test_weights_of_round_to_nearest_export_as_they_are(study):
    network = copy(study)
    again = rounded.install(copy(study), rounded.export(network))
    assert torch.equal(output(network, study), output(again, study))


def test_a_seed_repeats_and_another_differs(state):
    again, other = rounded.learn(job()), rounded.learn(job(1))
    assert all(torch.equal(state[k], again[k]) for k in state)
    assert any(not torch.equal(state[k], other[k]) for k in state)


def test_what_does_not_fit_is_refused(study, state):
    with pytest.raises(ReproError, match="splits"):
        rounded.install(copy(study, split=False), state)
    with pytest.raises(ReproError, match="2 bits"):
        rounded.install(copy(study, bits=2), state)
    with pytest.raises(ReproError, match="max"):
        rounded.recipe(study.network, weight_scale="l2")
    with pytest.raises(ReproError, match="weight_bits"):
        rounded.export(copy(study, bits=None, activation_bits=8))
    with pytest.raises(ReproError, match="no batch"):
        rounded.first_batch()((8,)).grid(8)


def test_activation_steps_come_from_the_first_batch_alone(study):
    data = rounded.calibration(study)
    recipe = rounded.recipe(study.network, None, 8)
    one, two = (
        calibrate(quantise(study.network, recipe), [(b.x, b.t) for b in sets])
        for sets in ([data], [data, type(data)(9 * data.x, data.t)])
    )
    for name, quantiser in activation_quantisers(one).items():
        assert torch.equal(
            quantiser.grids[8].delta, activation_quantisers(two)[name].grids[8].delta
        )
    unsigned = quantise(
        study.network, rounded.recipe(study.network, None, 8, observer=rounded.first_batch("mse"))
    )
    calibrate(unsigned, data.batches(16))
    assert all(q.grids[8].lo == 0 for q in activation_quantisers(unsigned).values())


def test_latent_networks_are_split_too():
    config = LDMConfig(8, 3, 3, 8, (1, 2), (2,), blocks=1, heads=2, groups=4)
    network = LatentUNet(config).eval()
    copied = quantise(network, rounded.recipe(network, 4, 8))
    assert [n for n, m in quantised_layers(copied).items() if len(m.parts) == 2] == list(
        rounded.splits(network)
    )
