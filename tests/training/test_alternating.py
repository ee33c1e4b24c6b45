"""Training in turn: resuming, isolation of the turns, schedules, averages and errors."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from repro.errors import ReproError
from repro.job import Job
from repro.training.fit import fit, fit_alternating
from repro.training.settings import Optimiser, Turn, ema_decay, learning_rate_factor
from tests.training.damage import DAMAGE

STEPS = 12


class Killed(Exception):
    pass


def pair() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    generator = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    critic = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1))
    return {"generator": generator, "critic": critic}


def batch(step, generator):
    z = torch.randn(8, 4, generator=generator)
    return z, torch.randn(8, 2, generator=generator)


def generate(networks, data, rng, shared):
    x = networks["generator"](data[0])
    shared["x"] = x.detach()
    return nn.functional.softplus(-networks["critic"](x)).mean()


def criticise(networks, data, rng, shared):
    with torch.no_grad():
        x = shared.get("x", networks["generator"](data[0]))
    x = x + 0.01 * torch.randn(x.shape, generator=rng)
    critic = networks["critic"]
    return (
        nn.functional.softplus(critic(x)).mean() + nn.functional.softplus(-critic(data[1])).mean()
    )


def turns(generator=generate, critic=criticise, clip=10.0) -> dict[str, Turn]:
    first = Optimiser(1e-2, warmup=3, schedule="cosine", clip=clip, ema=0.9)
    second = Optimiser(
        1e-2, weight_decay=0.1, betas=(0.5, 0.9), schedule="linear", clip=10.0, ema=None
    )
    return {"generator": Turn(generator, first, every=2), "critic": Turn(critic, second)}


def killer(loss, call: int):
    calls = iter(range(10**6))

    def run(*args):
        if next(calls) == call:
            raise Killed
        return loss(*args)

    return run


def same_bits(a, b) -> bool:
    return a.keys() == b.keys() and all(
        a[n].keys() == b[n].keys() and all(torch.equal(a[n][k], b[n][k]) for k in a[n]) for n in a
    )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("killed", ["generator", "critic"])
def test_a_killed_training_resumes_bit_for_bit(tmp_path, precision, killed):
    options = dict(steps=STEPS, precision=precision)
    whole = fit_alternating(Job.for_test(scratch=tmp_path / "a"), pair(), turns(), batch, **options)
    job = Job.for_test(scratch=tmp_path / "b")
    losses = {"generator": generate, "critic": criticise}
    # The generator's fifth and the critic's ninth call both fall into step 8.
    losses[killed] = killer(losses[killed], 4 if killed == "generator" else 8)
    with pytest.raises(Killed):
        fit_alternating(job, pair(), turns(**losses), batch, checkpoint_steps=5, **options)
    calls = []

    def counting(*args):
        calls.append(1)
        return criticise(*args)

    resumed = fit_alternating(
        job, pair(), turns(critic=counting), batch, checkpoint_steps=5, **options
    )
    assert len(calls) == STEPS - 5
    assert same_bits(whole.state_dicts, resumed.state_dicts)
    for name, curve in whole.curves.items():
        assert np.array_equal(curve, resumed.curves[name], equal_nan=True)


def test_one_network_trains_as_fit_does(tmp_path):
    """With one turn this is `fit`, bit for bit."""

    def loss(network, x, rng):
        return (network(x[0]) - x[1] + torch.randn(x[1].shape, generator=rng)).square().mean()

    optimiser = Optimiser(1e-2, warmup=2, schedule="cosine", clip=1.0, ema=0.9, weight_decay=0.1)
    expected = fit(
        Job.for_test(scratch=tmp_path / "a"), pair()["generator"], loss, batch, optimiser, steps=8
    )
    turn = Turn(lambda nets, x, rng, shared: loss(nets["net"], x, rng), optimiser)
    found = fit_alternating(
        Job.for_test(scratch=tmp_path / "b"),
        {"net": pair()["generator"]},
        {"net": turn},
        batch,
        steps=8,
    )
    assert same_bits({"net": expected.state_dict}, found.state_dicts)
    assert np.array_equal(expected.curve, found.curves["net"])


def test_a_turn_moves_its_own_network_alone(tmp_path):
    networks = pair()
    before = {k: v.clone() for k, v in networks["critic"].state_dict().items()}
    frozen = Turn(lambda *a: criticise(*a) * 0.0, Optimiser(0.0))
    seen = []

    def loss(nets, data, rng, shared):
        seen.append(
            [any(p.requires_grad for p in nets[k].parameters()) for k in ("generator", "critic")]
        )
        return generate(nets, data, rng, shared)

    fit_alternating(
        Job.for_test(scratch=tmp_path),
        networks,
        {"generator": Turn(loss, Optimiser(1e-2)), "critic": frozen},
        batch,
        steps=3,
    )
    assert seen == [[True, False]] * 3
    weights = {k: v for k, v in networks["critic"].named_parameters()}
    assert all(torch.equal(before[k], v) for k, v in weights.items())
    assert all(p.requires_grad and p.grad is None for p in weights.values())


def test_turns_are_skipped_and_the_step_is_shared(tmp_path):
    seen = []

    def critic(networks, data, rng, shared):
        seen.append("x" in shared)
        return criticise(networks, data, rng, shared)

    found = fit_alternating(
        Job.for_test(scratch=tmp_path), pair(), turns(critic=critic), batch, steps=5
    )
    assert seen == [True, False, True, False, True]
    assert np.isnan(found.curves["generator"]).tolist() == [False, True, False, True, False]
    assert not np.isnan(found.curves["critic"]).any()


def test_average_counts_its_own_updates(tmp_path):
    """Gradient -1 moves a weight by lr a turn: the third average follows from three decays."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    optimiser = Optimiser(0.5, clip=None, ema=0.6)
    turn = Turn(lambda n, x, g, s: -n["a"].weight.sum(), optimiser, every=2)
    found = fit_alternating(Job.for_test(scratch=tmp_path), {"a": net}, {"a": turn}, batch, steps=6)
    expected = 0.0
    for n in range(3):
        d = ema_decay(n, 0.6)
        expected = d * expected + (1 - d) * 0.5 * (n + 1)
    assert found.state_dicts["a"]["weight"].item() == pytest.approx(expected, rel=1e-5)
    assert net.weight.item() == found.state_dicts["a"]["weight"].item() and not net.training


def test_a_rate_moves_in_steps_without_its_turn(tmp_path):
    """Gradient -1 moves a weight by the learning rate: 1 and 1 - 2/4 of the peak in two turns."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    optimiser = Optimiser(0.5, schedule="linear", clip=None, ema=None)
    turn = Turn(lambda n, x, g, s: -n["a"].weight.sum(), optimiser, every=2)
    fit_alternating(Job.for_test(scratch=tmp_path), {"a": net}, {"a": turn}, batch, steps=4)
    assert net.weight.item() == pytest.approx(0.75, rel=1e-5)


def test_learning_rate_factors():
    factors = [learning_rate_factor(n, 110, 10, "linear") for n in (0, 9, 10, 60, 109)]
    assert factors == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.01])


def test_global_generator_is_left_alone(tmp_path):
    networks = pair()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_alternating(Job.for_test(scratch=tmp_path), networks, turns(), batch, steps=3)
    assert torch.equal(torch.rand(3), expected)


def test_a_finished_training_is_not_repeated(tmp_path):
    job = Job.for_test(scratch=tmp_path)
    first = fit_alternating(job, pair(), turns(), batch, steps=STEPS, checkpoint_steps=5)
    dead = turns(generator=killer(generate, 0), critic=killer(criticise, 0))
    again = fit_alternating(job, pair(), dead, batch, steps=STEPS, checkpoint_steps=5)
    assert same_bits(first.state_dicts, again.state_dicts)


def test_other_settings_do_not_resume(tmp_path):
    job = Job.for_test(scratch=tmp_path)
    fit_alternating(job, pair(), turns(), batch, steps=STEPS, checkpoint_steps=5)
    changed = fit_alternating(job, pair(), turns(clip=0.1), batch, steps=STEPS, checkpoint_steps=5)
    fresh = fit_alternating(
        Job.for_test(scratch=tmp_path / "x"), pair(), turns(clip=0.1), batch, steps=STEPS
    )
    assert same_bits(changed.state_dicts, fresh.state_dicts)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_noticed_and_training_begins_anew(tmp_path, caplog, damage):
    job = Job.for_test(scratch=tmp_path)
    whole = fit_alternating(job, pair(), turns(), batch, steps=STEPS, checkpoint_steps=5)
    path = tmp_path / "fit.checkpoint"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with caplog.at_level("WARNING"):
        again = fit_alternating(job, pair(), turns(), batch, steps=STEPS)
    assert "fit.checkpoint is damaged; training from the beginning" in caplog.text
    assert same_bits(again.state_dicts, whole.state_dicts)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_names_network_step_and_remedy(tmp_path, value):
    calls = iter(range(100))

    def bad(*args):
        return criticise(*args) * (float(value) if next(calls) == 4 else 1.0)

    with pytest.raises(ReproError, match=rf"'critic' is {value} at step 4 of 12.*lower the"):
        fit_alternating(
            Job.for_test(name="net", scratch=tmp_path),
            pair(),
            turns(critic=bad),
            batch,
            steps=STEPS,
        )


def test_names_have_to_agree_and_steps_to_be_positive(tmp_path):
    job = Job.for_test(scratch=tmp_path)
    with pytest.raises(ReproError, match="give each network one turn"):
        fit_alternating(job, pair(), {"generator": Turn(generate, Optimiser(1e-2))}, batch, steps=1)
    with pytest.raises(ReproError, match="asks for 0 steps"):
        fit_alternating(job, pair(), turns(), batch, steps=0)


def test_progress_goes_to_the_log(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="repro"):
        fit_alternating(Job.for_test(scratch=tmp_path), pair(), turns(), batch, steps=3)
    assert "step 3 of 3" in caplog.text and "critic" in caplog.text
