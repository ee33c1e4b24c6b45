"""Images, CI and the workflow catalogue: what they name is there, and versions are of the lock."""

import re
import shlex
import subprocess
import sys

import pytest
import typer
import yaml

from repro.places import ROOT
from repro.suite import cli
from tools.packaging import cpu_lock

LOCK = (ROOT / "requirements.lock").read_text()
DOCKER = (ROOT / "Dockerfile").read_text()
APPTAINER = (ROOT / "repro.def").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
COMMANDS = set(typer.main.get_command(cli.app).commands)


def instructions():
    """The instructions of the Dockerfile, continued lines joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", DOCKER, flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


def copied_by_docker():
    """Source → target."""
    found = {}
    for word, rest in instructions():
        if word == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                inside = target.removeprefix("./")
                found[source] = (
                    f"{inside}{source.rsplit('/')[-1]}" if target.endswith("/") else inside
                )
    return found


def sections():
    """The sections of the Apptainer definition by name; the header under the empty name."""
    parts = re.split(r"^%(\w+)\n", APPTAINER, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def arguments_of_apptainer():
    lines = sections()["arguments"].split()
    return dict(line.split("=", 1) for line in lines)


# Images --------------------------------------------------------------------------------------


def test_the_dockerfile_is_one():
    known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "ENTRYPOINT", "CMD"}
    words = [word for word, _ in instructions()]
    assert set(words) == known and words[:2] == ["ARG", "FROM"]
    assert not re.search(r"\\[ \t]+\n", DOCKER)  # a continuation that is none


def test_what_is_copied_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split()
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for source, target in copied_by_docker().items():
        assert (ROOT / source).exists() and source == target, source
        assert source not in ignored
        assert any(name == source or name.startswith(f"{source}/") for name in tracked), source


def test_both_images_hold_the_same():
    pairs = [line.split() for line in sections()["files"].splitlines() if line.strip()]
    assert {s: t.removeprefix("/suite/") for s, t in pairs} == copied_by_docker()
    declared = [rest for word, rest in instructions() if word == "ARG"]
    assert arguments_of_apptainer() == dict(line.split("=", 1) for line in declared)
    (aptitude,) = re.findall(r"install -y (.*)", DOCKER)
    (apt,) = re.findall(r"install -y (.*)", APPTAINER)
    assert aptitude.removesuffix("\\").split() == apt.split()
    for image in (DOCKER, APPTAINER):
        assert "--no-deps --require-hashes -r requirements.lock" in image
        assert f"python:{'${PYTHON}' if image is DOCKER else '{{ PYTHON }}'}-slim" in image


def test_every_argument_of_the_definition_is_declared():
    assert set(re.findall(r"\{\{ (\w+) \}\}", APPTAINER)) == set(arguments_of_apptainer())
    assert sections()[""].startswith("Bootstrap: docker\nFrom: ")
    assert {"post", "environment", "runscript", "test"} <= set(sections())


@pytest.mark.parametrize("name", ["post", "runscript", "test", "environment"])
def test_the_scripts_of_the_definition_are_shell(name):
    script = re.sub(r"\{\{ (\w+) \}\}", "x", sections()[name])
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_dockerfile_are_shell():
    for word, rest in instructions():
        if word == "RUN":
            done = subprocess.run(["sh", "-n"], input=rest, capture_output=True, text=True)
            assert done.returncode == 0, f"{rest}: {done.stderr}"


def test_no_version_stands_outside_the_lock():
    for text in (DOCKER, APPTAINER, *(path.read_text() for path in WORKFLOWS)):
        assert not re.search(r"pip install [^\n]*==", text)


# The lock without CUDA -------------------------------------------------------------------------


def test_the_lock_without_cuda_keeps_the_rest_with_its_hashes():
    kept = cpu_lock.without_cuda(LOCK)
    names = set(cpu_lock.entries(LOCK))
    left_out = names - set(cpu_lock.entries(kept))
    assert {"torch", "torchvision", "triton"} <= left_out < names
    of_cuda = {n for n in left_out if n.startswith(("nvidia-", "cuda-"))}
    assert left_out == {"torch", "torchvision", "triton"} | of_cuda
    assert "pytorch-lightning" not in left_out and "torchmetrics" not in left_out
    for name, text in cpu_lock.entries(kept).items():
        assert "--hash=sha256:" in text, name
    # two versions of one package, by the version of Python
    assert kept.count("\nnumpy==") == LOCK.count("\nnumpy==") == 2


def test_torch_is_that_of_the_lock():
    torch, vision = cpu_lock.torch_of(LOCK).split()
    assert f"\n{torch} " in LOCK and f"\n{vision} " in LOCK
    assert (torch.split("==")[0], vision.split("==")[0]) == cpu_lock.TORCH


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.lock"], "error: nothing.lock"),
        (["pyproject.toml", "--torch"], "error: the lock has no torch"),
        ([], "requirements.lock"),
    ],
)
def test_a_lock_that_is_none(arguments, said):
    script = ROOT / "tools" / "packaging" / "cpu_lock.py"
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


# GitHub Actions --------------------------------------------------------------------------------


def steps(path):
    content = yaml.safe_load(path.read_text())
    assert True in content  # `on`, which YAML 1.1 takes for a truth value
    for job in content["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest" and job["timeout-minutes"] <= 360
        yield from job["steps"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_calls_is_there(path):
    makefile = (ROOT / "Makefile").read_text()
    declared = {rest.split("=")[0] for word, rest in instructions() if word == "ARG"}
    for step in steps(path):
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
            continue
        words = step["run"].split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), step["run"]
        elif words[0] == "repro":
            assert words[1] in COMMANDS
        elif words[:2] == ["docker", "build"]:
            given = {
                w.split("=")[0]
                for w, b in zip(words[1:], words, strict=False)
                if b == "--build-arg"
            }
            assert given <= declared
        else:
            assert words[:2] in (["pip", "install"], ["docker", "run"]), step["run"]


def test_the_workflows_test_and_build_the_page():
    runs = {path.stem: [s.get("run") for s in steps(path)] for path in WORKFLOWS}
    assert "make test" in runs["test"] and "make page" in runs["page"]
    (upload,) = [
        s for s in steps(ROOT / ".github/workflows/page.yml") if "upload" in s.get("uses", "")
    ]
    from repro.suite.reporting import index_of_all

    assert upload["with"]["path"] == str(index_of_all(ROOT / "work").parent.relative_to(ROOT))


# The workflow catalogue --------------------------------------------------------------------------


def test_the_conventions_of_the_catalogue():
    catalogue = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert set(catalogue) == {"usage"}
    usage = catalogue["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["software-stack-deployment"]) <= {"conda", "apptainer", "apptainer+conda"}
    flag, profile = usage["mandatory-flags"]["flags"].split()
    assert flag == "--profile" and (ROOT / profile / "config.yaml").is_file()
    for name in ("README.md", "LICENSE", "config/README.md", "workflow/Snakefile"):
        assert (ROOT / name).is_file()


def test_the_guide_to_the_configuration_names_what_is_there():
    text = (ROOT / "config" / "README.md").read_text()
    common = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    for key in re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE):
        assert f'config.get("{key}"' in common, key
    for link in re.findall(r"\]\((\.\./[^)]+)\)", text):
        assert (ROOT / "config" / link).exists(), link
