"""The command line around results: what it prints, and a paper's way from new to published."""

import shutil
import subprocess
import sys

import pytest

from repro.display import Output
from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import cli, judging, reporting, run
from repro.suite.cards import library
from tests.suite.results.conftest import edit, run_all, snapshot


@pytest.fixture
def command(published, monkeypatch, capsys):
    """Run a command in the toy's tree; returns what it printed."""
    monkeypatch.setattr(cli, "ROOT", published.root)
    # as wide as in a pipe, whatever COLUMNS the runner of the tests has
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(cli, "out", Output())

    def call(function, *arguments, **options):
        capsys.readouterr()
        function(*arguments, **options)
        return capsys.readouterr().out

    return call


def cells(printed, name):
    (line,) = [line for line in printed.splitlines() if line.startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_ledger_is_a_line_a_method(published, command):
    edit(
        published.root,
        lambda card: card["claims"]["identity"]["checks"].append(
            {"id": "identity-2", "tier": "exact", "expect": "error[count] <= -1", "why": "w"}
        ),
        "checks.yaml",
    )
    run_all(published.options)
    printed = command(cli.ledger, "small")
    assert len(printed.splitlines()) < 12
    assert cells(printed, "toy")[:-1] == ["toy", "0 of 1", "identity-2", "1", "1", "0", "0"]
    assert cells(printed, "all")[1:3] == ["0 of 1", "1"]
    assert "page: none yet; `repro report --scale small` makes it" in printed
    assert "identity-2: 0 > -1" not in printed
    assert "identity-2: 0 > -1" in command(cli.ledger, "small", claims=True)


def test_the_ledger_of_smoke_says_that_it_is_no_evidence(published, command):
    run_all(run.Options("smoke"))
    assert cells(command(cli.ledger, "smoke"), "toy")[:3] == ["toy", "1 of 1", ""]
    assert "it is not evidence" in command(cli.ledger, "smoke")


def test_the_ledger_names_methods_that_are_not_judged(published, command):
    shutil.copytree(published.root / "methods/toy", published.root / "methods/tee")
    for path in (published.root / "methods/tee").glob("*.yaml"):
        path.write_text(path.read_text().replace(": toy", ": tee"))
    assert cells(command(cli.ledger, "small"), "tee")[1] == "not judged"


def test_without_a_work_folder_ledger_and_page_are_those_of_the_committed_results(
    published, command
):
    shutil.rmtree(published.options.work)
    assert "none yet" in (printed := command(cli.ledger, "small"))
    assert cells(printed, "toy")[3:7] == ["1", "0", "0", "1"]
    assert "small/committed/index.html" in command(cli.report, "small").replace("\n", "")
    assert (published.options.base / "committed" / "index.html").is_file()
    assert "committed/index.html" in command(cli.ledger, "small").replace("\n", "")
    assert "work/site/index.html" in command(cli.report, None).replace("\n", "")
    assert (published.options.work / "site" / "toy.html").is_file()
    with pytest.raises(ReproError, match="--work needs the scale"):
        cli.report(None, work=True)
    with pytest.raises(ReproError, match="no verdicts at scale gpu"):
        cli.ledger("gpu")
    with pytest.raises(ReproError, match="no verdicts at scale small; run a method first"):
        cli.report("small", work=True)


def test_expressions_are_shown_with_their_brackets(command):
    assert "loss[ours, steps=4] <" in command(cli.show, "toy")


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
    assert "my-paper: " in repro("publish", "my-paper", "--scale", "small")
    assert "small/my-paper/tables/claims.md" in (clone / "results/README.md").read_text()

    # a fresh clone has no work folder
    shutil.rmtree(clone / "work")
    assert "every run from the code of today" in repro("check")
    assert "index.html" in repro("report", "--scale", "small")
    site = clone / "work/small/committed"
    assert 'href="my-paper.html"' in (site / "index.html").read_text()
    assert "Not drawn yet" not in (site / "my-paper.html").read_text()

    source = clone / "methods/my_paper/arms.py"
    text = source.read_text().replace("\n    evaluate(job,", "\n    1 + 1\n    evaluate(job,")
    source.write_text(text)
    commit()
    assert "stale run" in repro("check", status=1)
    said = repro(
        "carry", "my-paper", "--scale", "small", "--arm", "linear", "--reason", "an idle statement"
    )
    assert "declared" in said
    repro("unpublish", "my-paper", "--scale", "small")
    assert not (clone / "results/small").exists()


def test_what_was_just_judged_is_reported_without_its_file(published):
    """A DAG at work in the same folder removes verdicts in order to make them anew."""
    method, options = library.load("toy"), run.Options("small")
    tables = options.base / "report" / "tables" / "toy"
    reporting.report_method(method, options)
    before = snapshot(tables)
    judged = judging.judge(method, options)
    (options.base / "verdicts" / "toy.json").unlink()
    reporting.report_method(method, options, judged)
    assert snapshot(tables) == before
    with pytest.raises(ReproError, match="cannot be read"):
        reporting.report_method(method, options)
