"""From a new paper to its published page, through the command line, in a clone of its own."""

import csv
import shutil
import subprocess
import sys

import pytest

from repro.places import ROOT


@pytest.fixture
def clone(tmp_path):
    """The suite under git, without its weights and its papers."""
    root = tmp_path / "clone"
    unwanted = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(ROOT / "repro", root / "repro", ignore=unwanted)
    shutil.copytree(ROOT / "workflow", root / "workflow")
    for name in ("README.md", ".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "methods").mkdir()
    (root / "methods" / "__init__.py").touch()
    return root


@pytest.mark.slow
def test_a_new_paper_is_run_published_shown_and_checked(clone):
    def repro(*arguments, status=0):
        done = subprocess.run(
            [sys.executable, "-m", "repro", *arguments], cwd=clone, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit():
        name = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        for command in (("add", "-A"), ("commit", "-qm", "x")):
            subprocess.run(["git", *name, *command], cwd=clone, check=True)

    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    repro("new", "my-paper")
    commit()
    repro("run", "my-paper", "--scale", "small")
    assert "my-paper: " in repro("publish", "small", "my-paper")
    assert "small/my-paper/tables/claims.md" in (clone / "results/README.md").read_text()

    # a fresh clone has no work folder
    shutil.rmtree(clone / "work")
    assert "every run from the code of today" in repro("check")
    assert "index.html" in repro("report", "small")
    page = (clone / "work/small/committed/index.html").read_text()
    assert 'id="my-paper"' in page and "Not drawn yet" not in page

    with (clone / "results/small/my-paper/records.csv").open(newline="") as handle:
        arm = next(csv.DictReader(handle))["arm"]
    source = clone / "methods/my_paper/arms.py"
    source.write_text(
        source.read_text().replace("\n    job.measure(", "\n    1 + 1\n    job.measure(")
    )
    commit()
    assert "stale run" in repro("check", status=1)
    said = repro("carry", "small", "my-paper", "--arm", arm, "--reason", "an idle statement")
    assert "declared" in said
    repro("unpublish", "small", "my-paper")
    assert not (clone / "results/small").exists()
