"""The environment: what a kill, a move or another Python left is healed by the same command."""

import importlib.util
import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
import yaml

from repro.places import ROOT

spec = importlib.util.spec_from_file_location("make_env", ROOT / "tools" / "make_env.py")
make_env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_env)


class Killed(BaseException):
    pass


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A checkout with a lock file; pip and venv are played, and what they did is counted."""
    root = tmp_path / 'it\'s a "root" $HOME `x` {y}'
    root.mkdir()
    (root / "requirements.lock").write_text("package==1\n")
    monkeypatch.setattr(make_env, "ROOT", root)
    did = []
    real = subprocess.run

    def create(folder, with_pip):
        assert with_pip
        did.append("venv")
        venv.EnvBuilder(symlinks=True).create(folder)
        (folder / "has-pip").touch()

    def run(command, **options):
        if command[1:3] != ["-m", "pip"]:
            return real(command, **options)
        folder = Path(command[0]).parent.parent
        good = (folder / "has-pip").is_file() and Path(command[0]).exists()
        if command[3] == "install":
            did.append("install")
            (folder / "packages").touch()
            good = good and "package" in Path(command[-1]).read_text()
        if options.get("check") and not good:
            raise subprocess.CalledProcessError(1, command)
        return subprocess.CompletedProcess(command, int(not good), stdout="pip 1")

    monkeypatch.setattr(make_env.venv, "create", create)
    monkeypatch.setattr(make_env.subprocess, "run", run)
    return root, did


def whole(folder):
    python = folder / "bin" / "python"
    names = [folder / "has-pip", folder / "packages", folder / "bin" / "repro", python]
    return all(path.exists() for path in names) and not (folder / ".begun").exists()


def test_made_once(tree):
    root, did = tree
    make_env.main(root / ".venv")
    assert did == ["venv", "install"] and whole(root / ".venv")
    make_env.main(root / ".venv")
    assert did == ["venv", "install"]
    (root / "requirements.lock").write_text("package==2\n")
    make_env.main(root / ".venv")
    assert did == ["venv", "install", "install"]


STEPS = {
    "the folder": (Path, "mkdir"),
    "the marker": (Path, "touch"),
    "venv": (make_env.venv, "create"),
    "pip": (make_env, "install"),
    "the launchers": (make_env, "write_launchers"),
    "a launcher's mode": (Path, "chmod"),
}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_then_repeated(tree, monkeypatch, step, before):
    root, _ = tree
    owner, name = STEPS[step]
    real = getattr(owner, name)

    def dies(*arguments, **options):
        if not before:
            real(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Killed):
            make_env.main(root / ".venv")
    make_env.main(root / ".venv")
    assert whole(root / ".venv")


PARTS = ["empty", "folders", "no pip", "no python", "python of another", "no marker"]


@pytest.mark.parametrize("left", PARTS)
def test_what_a_killed_creation_left(tree, left):
    """Half a virtual environment, also of a version that set no marker."""
    root, _ = tree
    folder = root / ".venv"
    if left == "empty":
        folder.mkdir()
    elif left == "folders":
        for name in ("bin", "include", "lib"):
            (folder / name).mkdir(parents=True)
    else:
        venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    if left == "no python":
        python.unlink()
    if left == "python of another":
        (folder / "has-pip").touch()
        for path in (folder / "bin").glob("python*"):
            path.unlink()
            path.symlink_to("/nothing/bin/python3.9")
    make_env.main(folder)
    assert whole(folder)
    assert subprocess.run([python, "-c", ""]).returncode == 0


@pytest.mark.parametrize("said", [b"", b"\xff\xfe", b"other\n3 9 1\n/elsewhere", None])
def test_a_marker_that_says_nothing(tree, said):
    root, did = tree
    make_env.main(root / ".venv")
    ready = root / ".venv" / ".ready"
    ready.unlink()
    if said is None:
        ready.mkdir()
        with pytest.raises(SystemExit, match=r"\.ready|directory"):
            make_env.main(root / ".venv")
        return
    ready.write_bytes(said)
    make_env.main(root / ".venv")
    assert did == ["venv", "install", "install"] and whole(root / ".venv")


def test_a_moved_environment_gets_new_launchers(tree):
    root, did = tree
    make_env.main(root / ".venv")
    (root / ".venv").rename(root / "moved")
    make_env.main(root / "moved")
    assert did == ["venv", "install"]
    assert str(root / "moved") in (root / "moved/bin/repro").read_text().replace("'\"'\"'", "'")


@pytest.mark.parametrize("kind", ["a file", "other files", "a file on the way"])
def test_a_folder_that_is_not_ours(tree, kind):
    root, did = tree
    folder = root / "mine"
    if kind == "other files":
        folder.mkdir()
        (folder / "thesis.tex").write_text("x")
        (folder / "lib").mkdir()
    else:
        folder.write_text("x")
    with pytest.raises(SystemExit) as end:
        make_env.main(folder / "x" if kind == "a file on the way" else folder)
    assert len(str(end.value).splitlines()) == 1 and str(folder) in str(end.value)
    assert did == []
    assert (folder / "thesis.tex" if kind == "other files" else folder).read_text() == "x"


def test_a_path_that_PATH_cannot_hold(tree):
    root, did = tree
    with pytest.raises(SystemExit, match="move it"):
        make_env.main(root / "a:b")
    assert did == []


def test_a_package_without_its_list_of_files_is_installed_again(tree):
    root, _ = tree
    make_env.main(root / ".venv")
    (site,) = (root / ".venv").glob("lib/python*/site-packages")
    for name, record in {"half-1.dist-info": False, "whole-1.dist-info": True}.items():
        (site / name).mkdir()
        (site / name / "METADATA").touch()
        if record:
            (site / name / "RECORD").touch()
    (root / ".venv" / ".ready").unlink()
    make_env.main(root / ".venv")
    assert [path.name for path in site.glob("*.dist-info")] == ["whole-1.dist-info"]


def test_the_launcher_runs_from_anywhere(tree, tmp_path):
    """Whatever letters the path of the checkout and of the environment have."""
    root, _ = tree
    (root / "repro").mkdir()
    (root / "repro" / "__main__.py").write_text("import sys; print(__file__, sys.argv[1:])")
    make_env.main(root / ".venv")
    other = tmp_path / "other"
    other.mkdir()
    done = subprocess.run(
        [root / ".venv/bin/repro", "a b", "$HOME"],
        cwd=other,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(other)},
    )
    assert done.stdout == f"{root / 'repro' / '__main__.py'} ['a b', '$HOME']\n", done.stderr


def fake_environment(folder):
    """A light environment in place of the real one: its Python, with the packages of this one."""
    venv.EnvBuilder(symlinks=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    shutil.rmtree(site)
    site.symlink_to(Path(yaml.__file__).parent.parent)


NAMES = ["with space", "it's", 'a"b', "$HOME", "{scale} {x}", "<results>", "ü%`a`", "-dash", "#a"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The files that git tracks, in a folder whose name has every odd letter."""
    folder = tmp_path_factory.mktemp("odd") / " ".join(NAMES)
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    fake_environment(folder / ".venv")
    return folder


def in_copy(copied, *command, **variables):
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "REPRO_WORK")}
    return subprocess.run(
        command, cwd=copied, env={**own, **variables}, capture_output=True, text=True
    )


SNAKEMAKE = ("-m", "snakemake", "--profile", "workflow/profiles/local", "--cores", "2")


@pytest.mark.dag
@pytest.mark.parametrize("name", [*NAMES, "~/a b"])
def test_the_dag_under_any_path_with_any_work_folder(copied, name):
    done = in_copy(
        copied,
        *(copied / ".venv/bin/python", *SNAKEMAKE, "-n", "smoke/diffusion-couple"),
        REPRO_WORK=name,
        HOME=str(copied / "home {}"),
    )
    assert done.returncode == 0, done.stderr
    assert "run_batch" in done.stdout + done.stderr


@pytest.mark.dag
@pytest.mark.slow
def test_a_method_under_any_path(copied):
    """Through make's own words, and with a work folder that holds braces."""
    done = in_copy(
        copied,
        *(copied / ".venv/bin/python", *SNAKEMAKE, "smoke/diffusion-couple"),
        REPRO_WORK="- {scale} <logs>",
    )
    assert done.returncode == 0, done.stderr
    base = copied / "- {scale} <logs>" / "smoke"
    assert (base / "verdicts" / "diffusion-couple.json").is_file()
    assert list((base / "report" / "tables" / "diffusion-couple").glob("*.md"))


@pytest.mark.parametrize("folder", [".venv", "my env", "it's $HOME", 'a"b'])
def test_make_quotes_what_it_runs(tmp_path, folder):
    """Every recipe, with a program that notes its arguments in the place of Python."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s|" "$0" "$@" >> noted; echo >> noted; echo 2\n')
    python.chmod(0o755)
    value = folder.replace("$", "$$")
    for target in ("smoke", "page", "lint", "test", "bench", "check", "torture", "kill-test"):
        (tmp_path / "noted").unlink(missing_ok=True)
        done = subprocess.run(
            ["make", f"VENV={value}", f"PYTHON={value}/bin/python", target],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "noted").read_text().splitlines()
        assert len(lines) > 1
        assert all(line.startswith(f"{folder}/bin/python|") for line in lines)
        assert f"{folder}/bin/python|tools/make_env.py|{folder}|" in lines
