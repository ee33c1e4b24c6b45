"""Signals: an interrupted training never passes for a result, and goes on to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from repro.job import Job
from repro.stopping import Stopped
from repro.training.fit import fit
from repro.training.settings import Optimiser

STEPS = 12


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 4))


def batch(step, generator):
    return torch.randn(8, 4, generator=generator)


def loss(net, x, generator):
    return (net(x) - x).square().mean()


def train(scratch, batch=batch, **options):
    optimiser = Optimiser(1e-2, warmup=3, schedule="cosine")
    return fit(
        Job.for_test(scratch=scratch), network(), loss, batch, optimiser, steps=STEPS, **options
    )


def same(a, b) -> bool:
    return np.array_equal(a.curve, b.curve) and all(
        torch.equal(a.state_dict[k], b.state_dict[k]) for k in a.state_dict
    )


@pytest.fixture
def handlers():
    """The signal handlers of a process of its own; a worker of the tests has others."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield wanted
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("step", [0, 5, STEPS - 1])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_one_line_and_the_rest_follows(tmp_path, handlers, sent, step):
    def signalling(n, generator):
        if n == step:
            os.kill(os.getpid(), sent)
        return batch(n, generator)

    with pytest.raises(Stopped) as end:
        train(tmp_path / "b", signalling)
    assert end.value.said == "training 'fit' of test was interrupted; run it again to resume"
    assert end.value.code == 128 + sent
    # Asked to end, it keeps what it has; interrupted in the middle of a step, it does not.
    assert (tmp_path / "b" / "fit.checkpoint").exists() == (sent == signal.SIGTERM)
    drawn = []

    def counting(n, generator):
        drawn.append(n)
        return batch(n, generator)

    resumed = train(tmp_path / "b", counting)
    assert drawn == list(range(step + 1 if sent == signal.SIGTERM else 0, STEPS))
    assert same(resumed, train(tmp_path / "a"))
    assert {number: signal.getsignal(number) for number in handlers} == handlers


CHILD = """
import os, sys
from pathlib import Path
import torch
folder, scratch, out, until, sent = sys.argv[1:]
sys.path.insert(0, folder)
import test_interruption as t

def batch(step, generator):
    print(step, flush=True)
    if step == int(until):
        os.kill(os.getpid(), int(sent))
    return t.batch(step, generator)

fitted = t.train(Path(scratch), batch, checkpoint_steps=2)
torch.save([fitted.state_dict, torch.tensor(fitted.curve)], out)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_and_one_that_is_asked_to_end(tmp_path):
    """SIGKILL in step 5, then SIGTERM in step 8, then to the end: the bits of one run."""
    out = tmp_path / "out.pt"

    def run(until: int, sent: int = 0) -> tuple[list[int], int, str]:
        arguments = [Path(__file__).parent, tmp_path / "b", out, until, int(sent)]
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CHILD, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
        return [int(line) for line in child.stdout.split()], child.returncode, child.stderr

    steps, code, _ = run(5, signal.SIGKILL)
    assert steps == [0, 1, 2, 3, 4, 5] and code == -signal.SIGKILL
    steps, code, said = run(8, signal.SIGTERM)
    assert steps == [4, 5, 6, 7, 8] and code == 128 + signal.SIGTERM and not out.exists()
    assert "training 'fit' of test was interrupted; run it again to resume" in said
    assert "Traceback" not in said
    steps, code, _ = run(-1)
    assert steps == [9, 10, 11] and code == 0
    state, curve = torch.load(out, weights_only=True)
    whole = train(tmp_path / "a")
    assert torch.equal(curve, torch.tensor(whole.curve))
    assert all(torch.equal(state[k], whole.state_dict[k]) for k in state)
