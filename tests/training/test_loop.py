"""The loop is Lightning's: its precision, its freezing, its callbacks, its checkpoints."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from repro.errors import ReproError
from repro.job import Job
from repro.training import loop
from repro.training.callbacks import AtomicCheckpoints, Average, Checkpoint, Losses
from repro.training.fit import fit, fit_alternating
from repro.training.progress import Progress
from repro.training.settings import Optimiser, Turn

OPTIMISER = Optimiser(1e-2)


def batch(step, generator):
    return torch.randn(4, 3, generator=generator)


def loss(net, x, generator):
    return (net(x).float() - x).square().mean()


@pytest.fixture
def trainers(monkeypatch):
    """Lightning's trainers, as they are made."""
    made, original = [], loop.trainer_of

    def spy(*arguments):
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "trainer_of", spy)
    return made


def test_plugins_and_callbacks_are_in_force(tmp_path, trainers):
    fit(Job.for_test(scratch=tmp_path), nn.Linear(3, 3), loss, batch, OPTIMISER, steps=5)
    (trainer,) = trainers
    assert not trainer.barebones and trainer.global_step == 5
    assert [type(c) for c in trainer.callbacks] == [Average, Losses, Checkpoint, Progress]
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpoints)
    assert not trainer.loggers


@pytest.mark.parametrize("alternating", [False, True])
def test_bfloat16_covers_a_step_or_its_losses(tmp_path, trainers, alternating):
    """Of a single network the backward pass too, of networks in turn the losses alone."""
    net, seen = nn.Linear(3, 3), {}
    net.weight.register_hook(lambda g: seen.update(backward=torch.is_autocast_enabled("cpu")))

    def watched(net, x, generator):
        out = net(x)
        seen["forward"] = out.dtype
        return (out.float() - x).square().mean()

    job, options = Job.for_test(scratch=tmp_path), dict(steps=2, precision="bf16-mixed")
    if alternating:
        turn = Turn(lambda nets, x, g, shared: watched(nets["a"], x, g), OPTIMISER)
        fit_alternating(job, {"a": net}, {"a": turn}, batch, **options)
    else:
        fit(job, net, watched, batch, OPTIMISER, **options)
    assert seen == {"forward": torch.bfloat16, "backward": not alternating}
    assert isinstance(trainers[0].precision_plugin, MixedPrecision)
    assert net.weight.dtype == torch.float32


def test_a_checkpoint_is_lightnings_and_holds_no_objects(tmp_path):
    job = Job.for_test(scratch=tmp_path)
    fit(job, nn.Linear(3, 3), loss, batch, OPTIMISER, steps=4, checkpoint_steps=1)
    saved = torch.load(tmp_path / "fit.checkpoint", weights_only=True)
    assert {"pytorch-lightning_version", "loops", "callbacks", "optimizer_states"} <= set(saved)
    assert saved["callbacks"]["Average"]["updates"] == {"network": 4}


def test_what_a_dead_writer_left_is_no_checkpoint(tmp_path):
    """A process that is killed while it writes leaves a part in a folder of its own."""
    job = Job.for_test(scratch=tmp_path)
    left = tmp_path / ".fit.checkpoint.0123456789ab.partial"
    left.mkdir()
    (left / "fit.checkpoint").write_bytes(b"half a checkpoint")
    whole = fit(job, seeded_linear(), loss, batch, OPTIMISER, steps=4, checkpoint_steps=3)
    again = fit(job, seeded_linear(), loss, batch, OPTIMISER, steps=4, checkpoint_steps=3)
    assert torch.equal(whole.state_dict["weight"], again.state_dict["weight"])
    assert [p.name for p in tmp_path.iterdir()] == ["fit.checkpoint"]


def test_a_disk_that_is_full_is_one_line_and_the_same_command_goes_on(tmp_path):
    """A limit on the size of files stands for it; what torch raises then has no number."""
    job = Job.for_test(scratch=tmp_path)
    whole = fit(job, seeded_linear(), loss, batch, OPTIMISER, steps=4)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(
            ReproError, match=r"fit\.checkpoint: cannot be written.*free some space"
        ):
            fit(job, seeded_linear(), loss, batch, OPTIMISER, steps=4, checkpoint_steps=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
    again = fit(job, seeded_linear(), loss, batch, OPTIMISER, steps=4, checkpoint_steps=1)
    assert torch.equal(whole.state_dict["weight"], again.state_dict["weight"])


def seeded_linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 3)


def test_a_loss_that_stops_iterating_is_no_result(tmp_path):
    """Lightning takes StopIteration for the end of something."""
    values = iter([1.0, 2.0])

    def bad(net, x, generator):
        return next(values) * loss(net, x, generator)

    with pytest.raises(ReproError, match="step 2 of 5 gave no loss"):
        fit(Job.for_test(scratch=tmp_path), nn.Linear(3, 3), bad, batch, OPTIMISER, steps=5)


def test_the_device_gets_the_batch_whatever_holds_it(tmp_path):
    seen = []

    def nested(step, generator):
        return {"x": (torch.randn(4, 3, generator=generator), 0.5), "n": None}

    def watched(net, data, generator):
        seen.append((data["x"][0].device.type, data["x"][1], data["n"]))
        return loss(net, data["x"][0], generator)

    fit(Job.for_test(scratch=tmp_path), nn.Linear(3, 3), watched, nested, OPTIMISER, steps=1)
    assert seen == [("cpu", 0.5, None)]


def test_lightning_is_imported_where_something_trains_alone():
    code = (
        "import importlib, pathlib, sys\n"
        "for path in sorted(pathlib.Path('methods').glob('*/arms.py')):\n"
        "    importlib.import_module('.'.join(path.with_suffix('').parts))\n"
        "import repro.zoo.train, repro.training.fit\n"
        "sys.exit('pytorch_lightning' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
