"""What reruns after which edit, and a hunt for what a fingerprint misses."""

import copy
import importlib
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repro.errors import ReproError
from repro.job import Job, Params, reproducible
from repro.places import ROOT
from repro.suite import definitions, fingerprint, provenance
from repro.suite.cards import library
from tests.conftest import forget

SCALE = "small"


# Edits of the real tree ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    for name in ("repro", "methods"):
        ignored = shutil.ignore_patterns("weights", "__pycache__", "templates", "*.yaml")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    return root


@pytest.fixture
def stale(copied, monkeypatch):
    """A function: file, old text, new text → the runs and models whose code changed."""
    jobs = [
        (kind, method.slug, name, card.run if kind == "run" else card.train)
        for method in library.load_all()
        for kind, cards in (
            ("run", method.arms(SCALE)),
            ("model", method.experiment.models),
        )
        for name, card in cards.items()
    ]
    before = {job: fingerprint.code(job[3]) for job in jobs}
    for attribute in ("SUITE", "ROOT"):
        monkeypatch.setattr(definitions, attribute, copied)

    def after(file, old, new):
        path = copied / file
        text = path.read_text()
        assert old in text, f"{file} has no `{old}`"
        path.write_text(text.replace(old, new, 1))
        for cached in (definitions._module, fingerprint.code):
            cached.cache_clear()
        try:
            return {job for job in jobs if fingerprint.code(job[3]) != before[job]}, set(jobs)
        finally:
            path.write_text(text)

    yield after
    for cached in (definitions._module, fingerprint.code):
        cached.cache_clear()


NOTHING = {
    "the version": ("repro/__init__.py", '"0.1.0"', '"0.1.1"'),
    "the text of a progress bar": ("repro/display.py", "steps/s", "steps a second"),
    "a new name among the metrics": ("repro/metrics/fid.py", "\n\n\ndef ", "\n\nNEW = 1\n\n\ndef "),
    "a citation of a dataset": ("repro/data/sets/digits.py", "E. Alpaydin", "Alpaydin"),
    "where a dataset comes from": ("repro/data/sets/digits.py", "scikit-learn==", "scikit-learn>="),
    "an error text of the samplers": ("repro/diffusion/samplers.py", "sort the grid", "sort it"),
    "how verdicts are judged": ("repro/suite/inference.py", "PER_LOOK = 0.02", "PER_LOOK = 0.03"),
    "the page": ("repro/suite/report/site/html.py", "minimal sizes", "least sizes"),
    "a docstring of Job": ("repro/job.py", "Record one number.", "Keep one number."),
}


@pytest.mark.parametrize("edit", NOTHING)
def test_edits_that_rerun_nothing(stale, edit):
    found, _ = stale(*NOTHING[edit])
    assert not found


EVERYTHING = {
    "every random stream": ("repro/job.py", 'digest()[:7], "big"', 'digest()[:6], "big"'),
    "determinism": ("repro/job.py", "algorithms(True", "algorithms(False"),
    "threads": ("repro/job.py", "set_num_threads(threads)", "set_num_threads(2 * threads)"),
    "how a number is recorded": ("repro/job.py", "= float(value)", "= float(value) + 1"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EVERYTHING)
def test_edits_that_rerun_everything(stale, edit):
    found, jobs = stale(*EVERYTHING[edit])
    assert found == jobs


def test_an_edit_of_the_exact_identities_reruns_their_arms_alone(stale):
    for folder in sorted((ROOT / "methods").glob("*/exact.py")):
        slug = folder.parent.name.replace("_", "-")
        name = next(
            n for n, node in inspect.getmembers(
                importlib.import_module(f"methods.{folder.parent.name}.exact"), inspect.isfunction
            )
            if node.__module__.endswith(".exact") and not n.startswith("_")
        )  # fmt: skip
        found, jobs = stale(
            f"methods/{folder.parent.name}/exact.py", f"def {name}(", f"def {name}(extra=0, *more, "
        )
        assert found and {job[1] for job in found} == {slug}
        assert len(found) < len([job for job in jobs if job[1] == slug]) / 2, (slug, name, found)


def test_an_edit_of_one_sampler_reruns_those_that_use_it(stale):
    found, jobs = stale("repro/diffusion/samplers.py", "def heun(\n", "def heun(\n    _: int,\n")
    users = {job[1] for job in found}
    assert len(found) < len(jobs) / 4 and "radd" not in users and "diffusion-couple" not in users


def test_a_new_paper_reruns_nothing(stale, copied):
    (copied / "methods" / "new_paper").mkdir(exist_ok=True)
    (copied / "methods" / "new_paper" / "arms.py").write_text("def run(job):\n    pass\n")
    found, _ = stale("repro/__init__.py", "Benchmarking", "Benchmarks")
    assert not found


# The hunt -----------------------------------------------------------------------------------

CHEAP = [
    ("slimflow", "exact"),
    ("msd", "exact"),
    ("radd", "structure"),
    ("radd", "draws"),
    ("lowbit-fp", "structure"),
    ("diffusion-couple", "constant-volume"),
    ("diffusion-couple", "boltzmann-matano"),
    ("quest", "structure"),
]


def measured(slug, arm, seed=0):
    """Run an arm as the DAG does, without models; returns its numbers."""
    method = library.load(slug)
    card = method.arm("smoke", arm)
    assert not card.models
    job = Job(
        slug,
        arm,
        seed,
        "smoke",
        Params(method.arm_params("smoke", arm), arm),
        data_names=card.data,
    )
    module, function = card.run.split(":")
    getattr(importlib.import_module(module), function)(job)
    timing = {n for n, m in method.experiment.measurements.items() if m.timing}
    return [(n, sorted(at.items()), v) for n, at, v in job.measured if n not in timing]


def label_of(code):
    """``module:definition`` of a piece of running code of this tree, or None."""
    path = Path(code.co_filename)
    if not path.is_relative_to(ROOT) or path.parts[len(ROOT.parts)] not in definitions.PACKAGES:
        return None
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    if module.startswith((*definitions.REMARKS, *definitions.VERIFIED)):
        return None
    # fetching is verified by its checksum; what is built from it is the dataset's own entry
    if module.startswith("repro.data"):
        return None
    first = code.co_firstlineno
    for name, (start, end) in lines_of(module).items():
        if start <= first <= end:
            return f"{module}:{name}"
    return None


def lines_of(module, known={}):  # noqa: B006
    if module not in known:
        import ast

        tree = ast.parse(definitions.module_path(module).read_text())
        known[module] = {
            node.name: (
                min([node.lineno, *(d.lineno for d in node.decorator_list)]),
                node.end_lineno,
            )
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
    return known[module]


@pytest.mark.parametrize(("slug", "arm"), CHEAP)
def test_all_that_runs_is_in_the_closure(slug, arm):
    """The definitions whose code an arm executes are among those that its fingerprint covers."""
    method = library.load(slug)
    run = method.arm("smoke", arm).run
    measured(slug, arm)
    executed = set()

    def watch(frame, event, _):
        if event == "call":
            executed.add(frame.f_code)

    sys.setprofile(watch)
    try:
        measured(slug, arm)
    finally:
        sys.setprofile(None)
    ran = {label for code in executed if (label := label_of(code))}
    covered = set(definitions.closure([run, *fingerprint.ALWAYS]))
    assert ran and ran <= covered, sorted(ran - covered)


def mutations(modules):
    """Definitions of modules, each with a way to change what it does and to undo that."""
    for module in modules:
        for name, value in list(vars(module).items()):
            if name.startswith("__") or inspect.ismodule(value):
                continue
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                yield module, name, [value]
            elif inspect.isclass(value) and value.__module__ == module.__name__:
                methods = [f for f in vars(value).values() if inspect.isfunction(f)]
                yield module, name, methods
            elif definitions._module(module.__name__).definitions.get(name):
                yield module, name, None


class Mutated(Exception):
    pass


def broken(*_, **__):
    raise Mutated


def other(value):
    """A constant like another one but for its value; None where there is no obvious other."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple) and value and type(value) is tuple:
        return (other(value[0]), *value[1:])
    if isinstance(value, dict) and value:
        changed = copy.copy(value)
        key = next(iter(changed))
        changed[key] = other(changed[key])
        return changed
    return None


def holders(value, name):
    """The modules of this tree that hold a value under a name: an import copies the binding."""
    return [
        m for n, m in list(sys.modules.items())
        if n.split(".")[0] in definitions.PACKAGES and vars(m).get(name) is value
    ]  # fmt: skip


@pytest.mark.parametrize(("slug", "arm"), CHEAP[:1])
def test_no_dependency_is_missed(slug, arm):
    """Change each definition of every loaded module: where numbers change, so does the code."""
    expected = measured(slug, arm)
    covered = set(
        definitions.closure([library.load(slug).arm("smoke", arm).run, *fingerprint.ALWAYS])
    )
    loaded = [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith(("repro.", f"methods.{slug.replace('-', '_')}"))
        and definitions.module_path(name)
        and not name.startswith((*definitions.REMARKS, *definitions.VERIFIED, "repro.data"))
    ]
    tried, missed = 0, []
    for module, name, functions in mutations(loaded):
        with pytest.MonkeyPatch.context() as patch:
            if functions is not None:
                for function in functions:
                    if not function.__code__.co_freevars:
                        patch.setattr(function, "__code__", broken.__code__)
                        patch.setattr(function, "__kwdefaults__", None)
            else:
                value = vars(module)[name]
                changed = other(value)
                if changed is None:
                    continue
                for holder in holders(value, name):
                    patch.setattr(holder, name, changed)
            tried += 1
            try:
                same = measured(slug, arm) == expected
            except Exception:
                same = False
        if not same and f"{module.__name__}:{name}" not in covered:
            missed.append(f"{module.__name__}:{name}")
    assert tried > 50 and not missed
    assert measured(slug, arm) == expected


# Fingerprints of the toy -----------------------------------------------------------------------


def prints():
    forget()
    method = library.load("toy")
    return {a: fingerprint.of_run(method, "smoke", a, 0) for a in method.arms("smoke")}


def test_fingerprints_follow_what_a_run_depends_on(toy):
    def edit(file, old, new):
        path = toy / "methods" / "toy" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    before = prints()
    assert before == prints()
    edit("experiment.yaml", "gain: 2.0", "gain: 2.5")
    after = prints()
    assert {a for a in before if before[a] != after[a]} == {"base"}
    edit("experiment.yaml", "lr: 1e-3", "lr: 1e-1")
    before, after = after, prints()
    assert {a for a in before if before[a] != after[a]} == {"ours", "base"}
    edit("arms.py", "job.model(name)", "2 * job.model(name)")
    before, after = after, prints()
    assert {a for a in before if before[a] != after[a]} == {"ours", "base"}
    edit("arms.py", '"error", 0.0', '"error", 1.0')
    before, after = after, prints()
    assert {a for a in before if before[a] != after[a]} == {"exact"}


def test_shipped_weights_that_are_gone_are_named(monkeypatch):
    fingerprint.shipped_hash.cache_clear()
    with pytest.raises(ReproError, match="shipped weights cannot be read.*git checkout"):
        fingerprint.shipped_hash("weights/nothing.safetensors")


def test_determinism_is_set():
    import torch

    threads = torch.get_num_threads()
    reproducible(1)
    assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1
    torch.set_num_threads(threads)


def test_asking_git_leaves_no_lock(monkeypatch):
    """A process that is killed while git holds its lock would stop the user's next git command."""
    asked = []

    def run(command, **how):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    provenance._git("status", "--porcelain")
    assert asked[0][:2] == ["git", "--no-optional-locks"]
