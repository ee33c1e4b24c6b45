import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import scaffold


@pytest.fixture
def clone(tmp_path):
    """The suite without its weights, so that a new folder does not land in the checkout."""
    root = tmp_path / "clone"
    shutil.copytree(
        ROOT / "repro",
        root / "repro",
        ignore=shutil.ignore_patterns("weights", "__pycache__"),
    )
    shutil.copytree(ROOT / "workflow", root / "workflow")
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "methods").mkdir()
    (root / "methods" / "__init__.py").touch()
    return root


def run(root, *command):
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=root, capture_output=True, text=True
    )


def verdicts(clone, scale, slug):
    judged = json.loads((clone / f"work/{scale}/verdicts/{slug}.json").read_text())
    return {check["id"]: check["verdict"] for check in judged["checks"]}


def test_a_new_folder_is_clean(clone):
    made = run(clone, "repro", "new", "my-paper")
    assert made.returncode == 0, made.stderr
    for named in re.findall(r"[a-z]+\.(?:py|yaml)", made.stdout.split("A miniature")[1]):
        assert (clone / "methods/my_paper" / named).is_file()
    for command in (("check",), ("format", "--check")):
        lint = run(clone, "ruff", *command, "methods", "tests")
        assert lint.returncode == 0, lint.stdout
    contracts = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert contracts.returncode == 0, contracts.stdout
    targets = run(clone, "snakemake", "--list")
    assert "small/my-paper" in targets.stdout, targets.stderr


@pytest.mark.slow
def test_a_new_folder_type_checks(clone):
    pytest.importorskip("mypy")
    assert run(clone, "repro", "new", "my-paper").returncode == 0
    types = run(clone, "mypy", "-p", "methods", "--follow-imports", "silent")
    assert types.returncode == 0, types.stdout


@pytest.mark.slow
def test_a_new_folder_runs_and_passes_its_tests(clone):
    assert run(clone, "repro", "new", "my-paper").returncode == 0
    done = run(clone, "repro", "run", "my-paper", "--scale", "smoke")
    assert done.returncode == 0, done.stderr
    found = verdicts(clone, "smoke", "my-paper")
    assert found == {"beats-linear": "reproduced", "tweedie-formula": "reproduced"}
    for kind in ("tables/my-paper/quality.md", "figures/my-paper/quality.png"):
        assert (clone / "work/smoke/report" / kind).is_file()
    tests = run(clone, "pytest", "-q", "-p", "no:cacheprovider", "tests/methods/my_paper")
    assert tests.returncode == 0, tests.stdout


@pytest.mark.dag
@pytest.mark.parametrize(("batch", "rule"), [(True, "run_batch"), (False, "run")])
def test_a_changed_preset_reruns_just_what_depends_on_it(clone, batch, rule):
    def counted(plan):
        rules = r"^(run|run_batch|verdict|tables|page)\s+(\d+)$"
        return dict(re.findall(rules, plan, re.MULTILINE))

    def snakemake(*arguments):
        profile = ("--profile", "workflow/profiles/local", "--cores", "2")
        done = run(clone, "snakemake", *profile, *arguments, "--config", f"batch={batch}")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout + done.stderr

    for slug in ("first", "second"):
        assert run(clone, "repro", "new", slug).returncode == 0
        card = clone / "methods" / slug / "experiment.yaml"
        # every model and seed is a process without batches
        short = (
            card.read_text().replace("seeds: 3", "seeds: 1", 1).replace("steps: 300", "steps: 5")
        )
        card.write_text(short)
    snakemake("smoke")
    assert "Nothing to be done" in snakemake("-n", "smoke")

    card = clone / "methods" / "first" / "experiment.yaml"
    card.write_text(card.read_text().replace("points: 1000", "points: 500"))
    planned = counted(snakemake("-n", "smoke"))
    assert planned == {rule: "1", "verdict": "1", "tables": "1", "page": "1"}

    # Snakemake's own memory may be lost: what the marks say counts
    shutil.rmtree(clone / ".snakemake" / "metadata")
    assert counted(snakemake("-n", "smoke")) == planned
    stale = run(clone, "repro", "job", "verdict", "smoke", "first")
    assert stale.returncode == 2 and "(parameters) changed since the run" in stale.stderr
    snakemake("smoke")
    assert "Nothing to be done" in snakemake("-n", "smoke")

    # a threshold is judged anew, nothing is run anew
    checks = card.with_name("checks.yaml")
    checks.write_text(checks.read_text().replace("<= 1e-12", "<= 1e-11"))
    counts = counted(snakemake("-n", "smoke"))
    assert counts == {"verdict": "1", "tables": "1", "page": "1"}
    snakemake("smoke")

    snakemake("smoke", "--report", "report.zip")
    assert (clone / "report.zip").stat().st_size > 10_000


@pytest.mark.parametrize("slug", ["My Paper", "../x", "a_b", "9x"])
def test_bad_slugs(slug, tmp_path):
    with pytest.raises(ReproError, match="is not a slug"):
        scaffold.create(slug, tmp_path)


def test_existing_folder_is_kept():
    with pytest.raises(ReproError, match="exists already"):
        scaffold.create("radd", ROOT)
