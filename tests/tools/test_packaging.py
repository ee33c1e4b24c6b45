"""What pip installs: the tree of a checkout in a folder of its own, and a command that finds it."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from repro.places import ROOT
from repro.suite import installed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
START = "import site, sys; site.addsitedir({site!r}); from repro.__main__ import main; main()"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages as the wheel fills it, inside a repository that is not the suite's."""
    outer = tmp_path_factory.mktemp("project")
    folder = outer / "site-packages"
    for name, target in WHEEL["sources"].items():
        assert f"/{name}" in WHEEL["include"]
        shutil.copytree(
            ROOT / name, folder / target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    for name, target in WHEEL["force-include"].items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / target)
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-C", str(outer)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another project"], check=True)
    return folder


def repro(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "REPRO_WORK")}
    return subprocess.run(
        [sys.executable, "-c", START.format(site=str(site)), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_build_takes_all_that_the_tree_reads():
    """Folders and files that the suite finds beside `repro` are in the wheel."""
    taken = {*WHEEL["sources"], *WHEEL["force-include"]}
    assert {"repro", "methods", "comparisons", "workflow", "results", "Snakefile"} <= taken
    assert {"CITATION.cff", "pyproject.toml", "LICENSE"} <= taken
    targets = [*WHEEL["sources"].values(), *WHEEL["force-include"].values()]
    assert all(t.startswith(f"{installed.FOLDER}/") for t in targets if not t.endswith(".pth"))
    pth = next(n for n, t in WHEEL["force-include"].items() if t == f"{installed.FOLDER}.pth")
    assert (ROOT / pth).read_text().strip() == installed.FOLDER
    assert PROJECT["project"]["scripts"] == {"repro": "repro.__main__:main"}


def test_python_versions():
    said = [c.rsplit(" ", 1)[1] for c in PROJECT["project"]["classifiers"] if "Python :: 3" in c]
    assert said == ["3.11", "3.12", "3.13"]
    tested = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert tested["jobs"]["package"]["strategy"]["matrix"]["python"] == said


def test_an_installed_copy_shows_and_runs(site, tmp_path):
    where = repro(site, tmp_path, "--where")
    assert where.stdout.strip() == str(site / installed.FOLDER), where.stderr
    shown = repro(site, tmp_path, "claims", "diffusion-couple", "--json")
    assert shown.returncode == 0 and '"reproduced"' in shown.stdout, shown.stderr
    done = repro(site, tmp_path, "run", "diffusion-couple", "--arm", "exact")
    assert done.returncode == 0, done.stderr
    record = tmp_path / "work" / "smoke" / "runs" / "diffusion-couple" / "exact" / "0"
    # not the commit of the project that it is installed in
    assert '"commit": "unknown"' in (record / "record.json").read_text()
    fingerprint = '"fingerprint": "'
    ours = repro_of_checkout(tmp_path / "other")
    theirs = (record / "record.json").read_text()
    assert ours.split(fingerprint)[1][:20] == theirs.split(fingerprint)[1][:20]


def repro_of_checkout(folder: Path) -> str:
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "repro", "run", "diffusion-couple", "--arm", "exact"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": "work"},
        check=True,
        capture_output=True,
    )
    return (folder / "work/smoke/runs/diffusion-couple/exact/0/record.json").read_text()


def test_an_installed_dag(site, tmp_path):
    """Snakemake finds rules, profile and plan where `repro --where` says."""
    tree = site / installed.FOLDER
    code = (
        f"import site, sys; site.addsitedir({str(site)!r}); from snakemake.cli import main; main()"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, "--snakefile", str(tree / "Snakefile")),
            *("--profile", str(tree / "workflow/profiles/local"), "-n", "smoke/diffusion-couple"),
        ],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "REPRO_WORK")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "run_batch" in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["new", "my-paper"],
        ["publish", "--scale", "small"],
        ["unpublish", "radd", "--scale", "small"],
        ["carry", "radd", "--scale", "small", "--arm", "exact", "--reason", "r"],
        ["schemas"],
        ["audit"],
    ],
)
def test_what_writes_into_the_tree_is_refused(site, tmp_path, arguments):
    done = repro(site, tmp_path, *arguments)
    assert done.returncode == 2 and "clone the repository" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_checkout_is_none(tmp_path):
    assert not installed.is_installed(ROOT)
    tree = tmp_path / installed.FOLDER  # a clone of that name
    tree.mkdir()
    assert not installed.is_installed(tree)


@pytest.mark.parametrize(
    ("text", "commit"),
    [
        ('{"url": "u", "vcs_info": {"vcs": "git", "commit_id": "abc"}}', "abc"),
        ('{"url": "file:///x", "dir_info": {}}', None),
        ("[1]", None),
        ("{", None),
        (None, None),
    ],
)
def test_the_commit_that_pip_says(monkeypatch, text, commit):
    class Distribution:
        def read_text(self, name):
            return text

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Distribution())
    assert installed.commit() == commit


@pytest.mark.parametrize(
    ("text", "commit"),
    [("a" * 40 + "\n", "a" * 40), ("", None), ("main", None), ("\xff", None), (None, None)],
)
def test_the_commit_of_an_image(tmp_path, text, commit):
    if text is not None:
        (tmp_path / installed.STAMP).write_bytes(text.encode("latin-1"))
    assert installed.stamped(tmp_path) == commit
    assert f"> {installed.STAMP}" in (ROOT / "Dockerfile").read_text()
