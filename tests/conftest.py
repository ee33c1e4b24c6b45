import os
import shutil
import sys

import pytest
from hypothesis import HealthCheck, settings

from repro import places
from repro.suite import definitions, fingerprint, plan, provenance
from repro.suite.cards import library
from torture.case import hear_signals

os.environ.setdefault("OMP_NUM_THREADS", "1")
hear_signals()
# A busy machine draws examples slowly; that says nothing about the code. The same code meets the
# same examples, so that a red run is its own doing; `--hypothesis-profile=explore` draws new ones.
slow = [HealthCheck.too_slow]
settings.register_profile("explore", deadline=None, suppress_health_check=slow)
settings.register_profile("same", settings.get_profile("explore"), derandomize=True)
settings.load_profile("same")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A root folder with one complete small method, `toy`, read instead of the repository's."""
    root = tmp_path / "root"
    folder = root / "methods" / "toy"
    folder.mkdir(parents=True)
    (folder / "paper.yaml").write_text(TOY_PAPER)
    (folder / "experiment.yaml").write_text(TOY_EXPERIMENT)
    (folder / "checks.yaml").write_text(TOY_CHECKS)
    (folder / "arms.py").write_text(TOY_ARMS)
    (folder / "__init__.py").write_text("")
    (root / "methods" / "__init__.py").write_text("")
    shutil.copytree(places.ROOT / "workflow", root / "workflow")
    for module in (places, definitions, fingerprint, library, plan, provenance):
        monkeypatch.setattr(module, "ROOT", root, raising=False)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setenv("REPRO_WORK", str(tmp_path / "work"))
    for name in [n for n in sys.modules if n == "methods" or n.startswith("methods.")]:
        monkeypatch.delitem(sys.modules, name)
    forget()
    yield root
    forget()
    for name in [n for n in sys.modules if n == "methods" or n.startswith("methods.")]:
        del sys.modules[name]


def forget():
    """Let cards and sources be read again."""
    library.forget()
    for cached in (
        plan.scale_config,
        definitions._module,
        definitions.uses_device,
        fingerprint.code,
        provenance.commit,
    ):
        cached.cache_clear()


TOY_PAPER = """
slug: toy
short: Toy
title: A toy
authors: [A. Nobody]
venue: Nowhere
year: 2026
field: text
summary: Nothing.
claims:
  - {id: smaller, kind: empirical, statement: s, where: Table 1, evidence: paper,
     best_tier: reduced, method: 1}
  - {id: identity, kind: theorem, statement: s, where: Eq. 1, evidence: derived, best_tier: exact}
tables:
  - {id: t, title: T, where: Table 1, evidence: paper, columns: [a, b], rows: [[x, 1]]}
"""

TOY_EXPERIMENT = """
paper: toy
models:
  net: {train: "methods.toy.arms:train", params: {width: null, lr: 1e-3}, per_seed: true}
arms:
  ours: {run: "methods.toy.arms:run", models: [net], params: {steps: [4], gain: 1.0}}
  base: {run: "methods.toy.arms:run", models: [net], params: {steps: [4], gain: 2.0}}
  exact: {run: "methods.toy.arms:exact", deterministic: true}
measurements:
  loss: {direction: lower, at: {arms: [ours, base], steps: $steps}}
  error: {direction: lower, at: {arms: exact}}
scales:
  smoke: {seeds: 3, params: {width: 2, steps: [4, 8]}}
  small: {seeds: 4, params: {width: 3}, arms: {base: {gain: 3.0}}, without: {arms: [exact]}}
"""

TOY_CHECKS = """
claims:
  smaller:
    checks:
      - id: smaller
        tier: reduced
        expect: loss[ours, steps=4] < loss[base, steps=4]
        why: w
  identity:
    checks:
      - {id: identity, tier: exact, expect: "error[exact] <= 1e-12", why: w}
"""

TOY_ARMS = """
import torch


def train(job):
    return {"w": torch.randn(job.params.width, generator=job.rng("init")) * job.params.lr}


def distil(job):
    return {"w": 2 * job.model("net")["w"]}


def run(job):
    noise = torch.randn((), generator=job.rng("noise")).item()
    for steps in job.params.steps:
        job.measure("loss", job.params.gain + 0.01 * noise, steps=steps)
    (name,) = job.model_paths
    job.save("w", job.model(name)["w"])


def exact(job):
    job.measure("error", 0.0)
"""
