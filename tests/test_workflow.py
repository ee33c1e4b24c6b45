"""The DAG as a person runs it, in a folder of its own."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from repro.places import ROOT
from repro.suite.cards import library
from repro.suite.words import SCALES

FAST = "smoke/diffusion-couple"


def command(*targets: str, cores: int = 2) -> list[str]:
    profile = ROOT / "workflow" / "profiles" / "local"
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--profile", str(profile), "--cores", str(cores)),
        *targets,
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": "work"}


def snakemake(folder: Path, *targets: str, cores: int = 2) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*targets, cores=cores),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )


def tables(folder: Path) -> dict[str, str]:
    """Hash of every table but those of costs, which hold wall-clock figures."""
    base = folder / "work" / "smoke" / "report" / "tables"
    return {
        str(path.relative_to(base)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(base.rglob("*"))
        if path.is_file() and "cost" not in path.name and not path.name.startswith(".")
    }


@pytest.mark.dag
@pytest.mark.timeout(3000)
def test_smoke_of_every_method(tmp_path):
    """Every method goes from data to verdict, and its exact and structural checks hold.

    What a paper says of its own architecture may be wrong; then the card has a finding that says
    so at every scale.
    """
    done = snakemake(tmp_path, "smoke")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    page = tmp_path / "work" / "smoke" / "report" / "site" / "index.html"
    assert page.stat().st_size > 10_000
    for method in library.load_all():
        path = tmp_path / "work" / "smoke" / "verdicts" / f"{method.slug}.json"
        judged = json.loads(path.read_text())
        explained = {
            claim
            for claim, expected in method.expected.claims.items()
            if any(f.scale is None for f in expected.findings)
        }
        failed = [
            f"{check['expect']}: {check['observed']}"
            for check in judged["checks"]
            if check["tier"] in ("exact", "structural")
            and check["verdict"] != "reproduced"
            and not (check["tier"] == "structural" and check["claim"] in explained)
        ]
        assert not failed, f"{method.slug}: {failed}"
        assert set(method.checks("smoke")) == {check["id"] for check in judged["checks"]}
    again = time.perf_counter()
    nothing = snakemake(tmp_path, "smoke")
    print(f"a rerun with nothing to do took {time.perf_counter() - again:.1f} s")
    assert nothing.returncode == 0
    assert "Nothing to be done" in nothing.stdout + nothing.stderr


@pytest.mark.dag
def test_listing_is_quick_and_names_every_target():
    done = snakemake(ROOT, "--list")
    assert done.returncode == 0, done.stderr
    names = set(done.stdout.split())
    slugs = {method.slug for method in library.load_all()}
    assert {*SCALES} <= names and {f"smoke/{slug}" for slug in slugs} <= names


@pytest.mark.dag
def test_same_artefacts_with_and_without_snakemake(tmp_path):
    assert snakemake(tmp_path, FAST).returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    slug = FAST.split("/")[1]
    done = subprocess.run(
        [sys.executable, "-m", "repro", "run", slug, "--scale", "smoke"],
        cwd=other,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert tables(tmp_path) == tables(other) != {}
    ours, theirs = (
        {
            path.parent.parent.name + path.parent.name: json.loads(path.read_text())["measurements"]
            for path in folder.glob("work/smoke/runs/*/*/*/record.json")
        }
        for folder in (tmp_path, other)
    )
    assert ours == theirs != {}


@pytest.mark.dag
@pytest.mark.timeout(1000)
def test_two_runs_at_once(tmp_path):
    """Two of the DAG and one of `repro run`, in one work folder: a clear refusal, right tables."""
    first = subprocess.Popen(
        command(FAST),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "work" / "smoke" / "locks").exists():
        assert first.poll() is None
        time.sleep(0.05)
    slug = FAST.split("/")[1]
    beside = subprocess.Popen(
        [sys.executable, "-m", "repro", "run", slug, "--scale", "smoke"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    second = snakemake(tmp_path, FAST)
    said = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
    if first.poll() is None:
        assert second.returncode == 1 and "another run of the DAG is at work" in said[0]
    assert len(said) == second.returncode
    _, of_beside = beside.communicate()
    assert beside.returncode == 0, of_beside
    assert first.wait() == 0
    whole = tmp_path / "whole"
    whole.mkdir()
    assert snakemake(whole, FAST).returncode == 0
    assert tables(tmp_path) == tables(whole) != {}


@pytest.mark.dag
@pytest.mark.timeout(3000)
def test_killed_at_random_instants(tmp_path):
    """SIGKILL to the process group, then the same command again: bit-identical tables.

    Every other folder runs one job an arm, as the larger scales do, instead of one for all. Three
    kills in the suite; KILLS=20 (``make kill-test``) for the long form.
    """
    kills = int(os.environ.get("KILLS", "3"))
    whole = tmp_path / "whole"
    whole.mkdir()
    started = time.perf_counter()
    assert snakemake(whole, FAST).returncode == 0
    duration = time.perf_counter() - started
    expected = tables(whole)
    assert expected

    rng = np.random.default_rng(kills)
    killed, attempt = 0, 0
    while killed < kills:
        folder = tmp_path / f"killed-{attempt}"
        folder.mkdir()
        target = (FAST, "--config", f"batch={attempt % 2 == 0}")
        # several kills in a row on one folder, each later than the last resume began
        for _ in range(int(rng.integers(1, 4))):
            process = subprocess.Popen(
                command(*target),
                cwd=folder,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                process.wait(timeout=float(rng.uniform(0.3, 0.95 * duration)))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed += 1
        resumed = snakemake(folder, *target)
        assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr[-2000:]
        assert tables(folder) == expected
        left = list((folder / "work" / "smoke" / "report").rglob("*.partial"))
        assert not left, f"an interrupted write was left behind: {left}"
        attempt += 1
    print(f"{killed} kills, {attempt} resumes, all tables bit-identical")


SLEEPERS = """
import sys
from pathlib import Path
WORK = "work"
rule all:
    input: expand("slept/{i}", i=range(12))
include: "ALONE"
rule sleeper:
    output: "slept/{i}"
    shell: "sleep 0.5; touch {output}"
"""


@pytest.mark.dag
def test_the_scheduler_sleeps_while_jobs_run(tmp_path):
    """It looks once for each job that ended, however many did."""
    alone = ROOT / "workflow" / "rules" / "alone.smk"
    (tmp_path / "Snakefile").write_text(SLEEPERS.replace("ALONE", str(alone)))
    (tmp_path / "work").mkdir()
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock", "--verbose"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert len(list((tmp_path / "slept").iterdir())) == 12
    assert run.stderr.count("Ready jobs: ") <= 14


@pytest.mark.dag
def test_single_arms_by_their_files(tmp_path):
    """Two targets of one folder, whose marks the plan writes while Snakemake reads the folder."""
    arms = [f"work/smoke/runs/diffusion-couple/{arm}.json" for arm in ("exact", "hall")]
    done = snakemake(tmp_path, "-n", "--config", "batch=false", "--", *arms)
    assert done.returncode == 0, done.stderr
