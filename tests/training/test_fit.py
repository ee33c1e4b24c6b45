"""Training: resuming, averaging, schedules and the errors that a user can meet."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from repro.errors import ReproError
from repro.job import Job
from repro.training.fit import fit, fit_and_save
from repro.training.settings import Optimiser, ema_decay, learning_rate_factor
from tests.training.damage import DAMAGE

STEPS = 12


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 16), nn.SiLU(), nn.Dropout(0.2), nn.BatchNorm1d(16), nn.Linear(16, 6)
    )


def batch(step, generator):
    return torch.randn(8, 6, generator=generator)


def loss(net, x, generator):
    noise = torch.randn(x.shape, generator=generator)
    return (net(x + 0.1 * noise) - x).square().mean()


class Killed(Exception):
    pass


def killer(step: int):
    """A loss that stops the process, as far as a test can, in the given step."""

    calls = iter(range(10**6))

    def run(net, x, generator):
        if next(calls) == step:
            raise Killed
        return loss(net, x, generator)

    return run


def same_bits(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_killed_training_resumes_bit_for_bit(tmp_path, precision):
    optimiser = Optimiser(1e-2, warmup=3, schedule="cosine", weight_decay=0.1)
    options = dict(steps=STEPS, precision=precision)
    whole = fit(Job.for_test(scratch=tmp_path / "a"), network(), loss, batch, optimiser, **options)
    job = Job.for_test(scratch=tmp_path / "b")
    with pytest.raises(Killed):
        fit(job, network(), killer(8), batch, optimiser, checkpoint_steps=5, **options)
    calls = []

    def counting(net, x, generator):
        calls.append(1)
        return loss(net, x, generator)

    resumed = fit(job, network(), counting, batch, optimiser, checkpoint_steps=5, **options)
    assert len(calls) == STEPS - 5
    assert same_bits(whole.state_dict, resumed.state_dict)
    assert np.array_equal(whole.curve, resumed.curve)


def test_a_finished_training_is_not_repeated(tmp_path):
    job = Job.for_test(scratch=tmp_path)
    first = fit(job, network(), loss, batch, Optimiser(1e-2), steps=STEPS, checkpoint_steps=5)
    again = fit(job, network(), killer(0), batch, Optimiser(1e-2), steps=STEPS, checkpoint_steps=5)
    assert same_bits(first.state_dict, again.state_dict)


def test_other_settings_do_not_resume(tmp_path):
    job = Job.for_test(scratch=tmp_path)
    fit(job, network(), loss, batch, Optimiser(1e-2), steps=STEPS, checkpoint_steps=5)
    changed = fit(job, network(), loss, batch, Optimiser(2e-2), steps=STEPS, checkpoint_steps=5)
    fresh = fit(
        Job.for_test(scratch=tmp_path / "x"), network(), loss, batch, Optimiser(2e-2), steps=STEPS
    )
    assert same_bits(changed.state_dict, fresh.state_dict)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_noticed_and_training_begins_anew(tmp_path, caplog, damage):
    job = Job.for_test(scratch=tmp_path)
    whole = fit(job, network(), loss, batch, Optimiser(1e-2), steps=STEPS, checkpoint_steps=5)
    path = tmp_path / "fit.checkpoint"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with caplog.at_level("WARNING"):
        again = fit(job, network(), loss, batch, Optimiser(1e-2), steps=STEPS)
    assert "fit.checkpoint is damaged; training from the beginning" in caplog.text
    assert same_bits(again.state_dict, whole.state_dict)


def test_seed_decides_the_weights(tmp_path):
    def train(seed):
        job = Job.for_test(seed=seed, scratch=tmp_path / str(seed))
        return fit(job, network(), loss, batch, Optimiser(1e-2), steps=4).state_dict

    assert same_bits(train(1), train(1))
    assert not same_bits(train(1), train(2))


def test_global_generator_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    net = network()
    torch.manual_seed(5)
    fit(Job.for_test(scratch=tmp_path), net, loss, batch, Optimiser(1e-2), steps=3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_names_step_and_remedy(tmp_path, value):
    def bad(net, x, generator):
        bad.step += 1
        return loss(net, x, generator) * (float(value) if bad.step == 4 else 1.0)

    bad.step = -1
    with pytest.raises(ReproError, match=rf"loss is {value} at step 4 of 12.*lower the learning"):
        fit(
            Job.for_test(name="net", scratch=tmp_path),
            network(),
            bad,
            batch,
            Optimiser(1e-2),
            steps=STEPS,
        )


def test_average_has_its_closed_form(tmp_path):
    """With gradient -1 and no clipping Adam moves a weight by lr each step: θ_n = n lr."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    lr, limit = 0.5, 0.6
    fitted = fit(
        Job.for_test(scratch=tmp_path),
        net,
        lambda n, x, g: -n.weight.sum(),
        batch,
        Optimiser(lr, clip=None, ema=limit),
        steps=STEPS,
    )
    expected = 0.0
    for n in range(STEPS):
        d = min(limit, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * lr * (n + 1)
    assert fitted.state_dict["weight"].item() == pytest.approx(expected, rel=1e-5)
    assert fitted.curve[3] == pytest.approx(-3 * lr, rel=1e-5)
    assert net.weight.item() == fitted.state_dict["weight"].item() and not net.training


def test_without_average_the_last_weights_come_back(tmp_path):
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    fitted = fit(
        Job.for_test(scratch=tmp_path),
        net,
        lambda n, x, g: -n.weight.sum(),
        batch,
        Optimiser(0.5, clip=None, ema=None),
        steps=3,
    )
    assert fitted.state_dict["weight"].item() == pytest.approx(1.5, rel=1e-5)


def test_decay_warms_up():
    assert [ema_decay(n, 0.999) for n in (0, 10)] == [0.1, 0.55]
    assert ema_decay(10**6, 0.999) == 0.999


def test_learning_rate_factors():
    factors = [learning_rate_factor(n, 110, 10, "cosine") for n in range(110)]
    assert factors[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert factors[60] == pytest.approx(0.5)
    assert factors[109] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert learning_rate_factor(109, 110, 10, "constant") == 1.0


def test_gradient_is_clipped(tmp_path):
    """Adam ignores the gradient's scale but the clipped norm shows in its first moment."""
    seen = []
    net = nn.Linear(4, 1, bias=False)
    net.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p))
    original = nn.utils.clip_grad_norm_
    norms = []

    def spy(*args, **kwargs):
        before = original(*args, **kwargs)
        norms.append((float(before), float(seen[-1].grad.norm())))
        return before

    nn.utils.clip_grad_norm_ = spy
    try:
        fit(
            Job.for_test(scratch=tmp_path),
            net,
            lambda n, x, g: 100 * n.weight.sum(),
            batch,
            Optimiser(1e-3, clip=1.0),
            steps=2,
        )
    finally:
        nn.utils.clip_grad_norm_ = original
    assert norms[0][0] == pytest.approx(200.0) and norms[0][1] == pytest.approx(1.0, rel=1e-4)


def test_progress_goes_to_the_log(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="repro"):
        fit(Job.for_test(scratch=tmp_path), network(), loss, batch, Optimiser(1e-2), steps=3)
    assert "step 3 of 3" in caplog.text
    assert "barebones" not in caplog.text


def test_no_steps_is_an_error(tmp_path):
    with pytest.raises(ReproError, match="asks for 0 steps"):
        fit(Job.for_test(scratch=tmp_path), network(), loss, batch, Optimiser(1e-2), steps=0)


def test_the_curve_is_kept_with_the_job(tmp_path):
    expected = fit(
        Job.for_test(scratch=tmp_path / "a"), network(), loss, batch, Optimiser(1e-2), steps=3
    )
    job = Job.for_test(scratch=tmp_path / "b")
    state = fit_and_save(job, network(), loss, batch, Optimiser(1e-2), steps=3, curve="loss")
    assert same_bits(state, expected.state_dict)
    assert np.array_equal(job.arrays["loss"], expected.curve)


def test_unknown_words_are_errors(tmp_path):
    with pytest.raises(ReproError, match="no learning-rate schedule `cosin`.*cosine"):
        Optimiser(1e-2, schedule="cosin")
    job = Job.for_test(scratch=tmp_path)
    with pytest.raises(ReproError, match="no training precision `bf16`.*bf16-mixed"):
        fit(job, network(), loss, batch, Optimiser(1e-2), steps=1, precision="bf16")


def test_nothing_is_left_behind_but_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = Job.for_test(scratch=tmp_path / "scratch")
    fit(job, network(), loss, batch, Optimiser(1e-2), steps=3)
    assert not list(tmp_path.rglob("*"))
    fit(job, network(), loss, batch, Optimiser(1e-2), steps=3, checkpoint_steps=1)
    assert [p.name for p in tmp_path.rglob("*")] == ["scratch", "fit.checkpoint"]


def test_lightning_is_silent(tmp_path, capfd, recwarn):
    fit(Job.for_test(scratch=tmp_path), network(), loss, batch, Optimiser(1e-2), steps=3)
    said = capfd.readouterr()
    assert said.out == said.err == "" and not recwarn.list
