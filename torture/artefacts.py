"""Damage to what lies in a work folder: every place by every corruption.

A toy root with one tiny method is run once; each case damages a copy of its work folder and runs it
again, as `repro run` does or as one job of the DAG, and compares all that a person would read.
"""

from __future__ import annotations

import atexit
import errno
import functools
import gc
import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from repro.errors import ReproError
from torture.case import Case, Lost, Raw

# The toy ------------------------------------------------------------------------------------

PAPER = """
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
  - {id: identity, kind: theorem, statement: s, where: Eq. 1, evidence: derived,
     best_tier: exact}
"""

EXPERIMENT = """
paper: toy
models:
  net: {train: "methods.toy.arms:train", params: {width: null}, per_seed: true}
arms:
  ours: {run: "methods.toy.arms:run", models: [net], params: {gain: 1.0}}
  base: {run: "methods.toy.arms:run", models: [net], params: {gain: 2.0}}
  exact: {run: "methods.toy.arms:exact", deterministic: true}
measurements:
  loss: {direction: lower, at: {arms: [ours, base]}}
  error: {direction: lower, at: {arms: exact}}
scales:
  smoke: {seeds: 2, params: {width: 3}}
  small: {seeds: 2, params: {width: 4}}
"""

CHECKS = """
claims:
  smaller:
    checks:
      - {id: smaller, tier: reduced, expect: "loss[ours] < loss[base]", why: w}
  identity:
    checks:
      - {id: identity, tier: exact, expect: "error[exact] <= 1e-12", why: w}
"""

ARMS = """
import torch


def train(job):
    return {"w": torch.randn(job.params.width, generator=job.rng("init"))}


def run(job):
    w = job.model("net")["w"]
    job.scratch.mkdir(parents=True, exist_ok=True)
    (job.scratch / "half").write_text("of the work")
    job.measure("loss", job.params.gain + 0.01 * w.double().sum().item())
    job.save("w", w)


def exact(job):
    job.measure("error", 0.0)
"""

SCALE = "smoke"
RUNS = [("ours", 0), ("ours", 1), ("base", 0), ("base", 1), ("exact", 0)]


class Toy:
    """The toy root in a folder, taken for the repository by this process, and its work folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self.work = folder / "root", folder / "work"
        self.base = self.work / SCALE

    def write(self) -> Toy:
        from repro.places import ROOT

        methods = self.root / "methods"
        (methods / "toy").mkdir(parents=True)
        for name, text in {
            "paper.yaml": PAPER,
            "experiment.yaml": EXPERIMENT,
            "checks.yaml": CHECKS,
            "arms.py": ARMS,
            "__init__.py": "",
        }.items():
            (methods / "toy" / name).write_text(text)
        (methods / "__init__.py").write_text("")
        shutil.copytree(ROOT / "workflow", self.root / "workflow")
        return self

    def enter(self) -> Toy:
        """Let this process read the toy for the repository."""
        from repro import places
        from repro.suite import definitions, fingerprint, plan, provenance
        from repro.suite.cards import library

        for module in (places, definitions, fingerprint, library, plan, provenance):
            if hasattr(module, "ROOT"):
                module.ROOT = self.root  # type: ignore[attr-defined]
        for name in [n for n in sys.modules if n.split(".")[0] == "methods"]:
            del sys.modules[name]
        sys.path.insert(0, str(self.root))
        os.environ["REPRO_WORK"] = str(self.work)
        library.forget()
        for cached in (plan.scale_config, fingerprint.code, provenance.commit):
            cached.cache_clear()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        return self

    def options(self, **given: Any) -> Any:
        from repro.suite.run import Options

        return Options(SCALE, **given)

    def method(self) -> Any:
        from repro.suite.cards import library

        return library.load("toy")

    def run(self, **given: Any) -> None:
        """What `repro run toy` does."""
        from repro.suite import run

        run.run_method(self.method(), self.options(**given))
        self.judge()
        self.report()

    def batch(self) -> None:
        """What the jobs of a DAG in batches do."""
        from repro.suite import run

        run.run_models("toy", self.options())
        run.run_arms(self.method(), self.options())
        self.judge()
        self.report()

    def judge(self) -> None:
        from repro.suite import judging

        judging.judge(self.method(), self.options())

    def report(self) -> None:
        from repro.suite import reporting

        reporting.report_method(self.method(), self.options())

    def arm(self, name: str) -> None:
        from repro.suite import run

        run.run_arm(self.method(), name, self.options())

    def record(self, arm: str, seed: int) -> Path:
        return self.base / "runs" / "toy" / arm / str(seed)

    def model(self, seed: int) -> Path:
        return self.base / "models" / "toy" / "net" / str(seed)

    def answer(self) -> dict[str, Any]:
        """All that a person would read: numbers, weights, arrays, verdicts, tables."""
        from repro.suite.report import inputs

        report = inputs.load("toy", inputs.Work(SCALE, self.base))
        tables = self.base / "report" / "tables" / "toy"
        return {
            "numbers": [
                [r["arm"], r["seed"], [[m["name"], m["value"]] for m in r["measurements"]]]
                for r in report.results.records
            ],
            "arrays": [
                report.results.array(arm, seed, "w").tolist()
                for arm, seed in RUNS
                if seed < 2
                if arm != "exact"
            ],
            "weights": [_hash(self.model(seed) / "model.safetensors") for seed in (0, 1)],
            "params": [[r["arm"], r["params"]] for r in report.results.model_records],
            "verdicts": [report.checks, report.claims],
            "tables": {
                path.name: _hash(path)
                for path in sorted(tables.iterdir())
                if "cost" not in path.name
            },
        }


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def template() -> Path:
    """A folder with the toy after a whole run, and its answer."""
    return made(_make)


def made(make: Callable[[Path], None]) -> Path:
    """A folder that a child fills, for the time of this process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(_remove, folder, os.getpid())
    child = multiprocessing.get_context("fork").Process(target=make, args=(folder,))
    child.start()
    child.join()
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder)


def _make(folder: Path) -> None:
    toy = Toy(folder).write().enter()
    toy.run()
    (folder / "answer.json").write_text(json.dumps(toy.answer()))


def warm() -> None:
    """Import what takes seconds once, in the process of which the cases are forks."""
    import scipy.stats  # noqa: F401
    import torch

    import repro.suite.reporting
    import repro.suite.run  # noqa: F401
    from repro.suite import definitions, fingerprint

    torch.set_num_threads(1)
    definitions.closure(fingerprint.ALWAYS)
    gc.freeze()  # a collection in a fork would copy all of it


def copied(folder: Path) -> tuple[Toy, dict[str, Any]]:
    """A toy of one's own after a whole run, and the answer that it must give."""
    shutil.copytree(template(), folder, dirs_exist_ok=True)
    return Toy(folder).enter(), json.loads((folder / "answer.json").read_text())


def same(found: tuple[Any, Any]) -> bool:
    """Whether the answer is the expected one."""
    return json.loads(json.dumps(found[0])) == found[1]


# Corruptions --------------------------------------------------------------------------------


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text)


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(change(path.read_bytes())), None)[1]


def _json(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")

    return damage


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _linked_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


ANY: dict[str, Callable[[Path], None]] = {
    "is missing": lambda path: path.unlink(),
    "is empty": _text(""),
    "is cut in half": _bytes(lambda b: b[: len(b) // 2]),
    "lacks its last byte": _bytes(lambda b: b[:-1]),
    "has a byte more": _bytes(lambda b: b + b"\\0"),
    "has a flipped bit in the middle": _bytes(
        lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :]
    ),
    "is zeros": _bytes(lambda b: bytes(len(b))),
    "is a web page": _text("<html><body>404</body></html>"),
    "is a folder": _folder,
    "is a dangling link": _dangling,
    "is a link to itself": _linked_to_itself,
}

JSON: dict[str, Callable[[Path], None]] = {
    "is a list": _text("[]"),
    "is null": _text("null"),
    "is a number": _text("3"),
    "is a text": _text('"x"'),
    "is an empty object": _text("{}"),
    "is UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "is Latin-1": lambda path: path.write_bytes('{"a": "é"}'.encode("latin-1")),
    "is nested 100,000 deep": _text("[" * 100_000),
    "is an integer of 10,000 digits": _text("9" * 10_000),
    "has a NUL": lambda path: path.write_bytes(path.read_bytes()[:-3] + b"\\0}\\n"),
}

RECORD: dict[str, Callable[[Path], None]] = {
    "has another number": _json(lambda r: r["measurements"][0].update(value=0.125)),
    "has a number of the last bit": _json(
        lambda r: r["measurements"][0].update(value=np.nextafter(r["measurements"][0]["value"], 9))
    ),
    "has NaN": _json(lambda r: r["measurements"][0].update(value=float("nan"))),
    "has a number as text": _json(lambda r: r["measurements"][0].update(value="0.125")),
    "has a huge number": _json(lambda r: r["measurements"][0].update(value=10**400)),
    "lacks a measurement": _json(lambda r: r["measurements"].clear()),
    "has a measurement twice": _json(lambda r: r["measurements"].append(r["measurements"][0])),
    "has other coordinates": _json(lambda r: r["measurements"][0].update(at={"x": 1})),
    "has measurements null": _json(lambda r: r.update(measurements=None)),
    "has a measurement that is no object": _json(lambda r: r.update(measurements=[3])),
}

PROVENANCE: dict[str, Callable[[Path], None]] = {
    "is of another seed": _json(lambda r: r.update(seed=7)),
    "is of another arm": _json(lambda r: r.update(arm="other")),
    "is of another method": _json(lambda r: r.update(method="other")),
    "is of another scale": _json(lambda r: r.update(scale="small")),
    "has a seed that is a text": _json(lambda r: r.update(seed="x")),
    "has a seed that is infinite": _json(lambda r: r.update(seed=float("inf"))),
    "has no seed": _json(lambda r: r.pop("seed")),
    "has other parameters": _json(lambda r: r["params"].update(width=5, gain=9.0)),
    "has parameters null": _json(lambda r: r.update(params=None)),
    "has another fingerprint": _json(lambda r: r.update(fingerprint="0" * 20)),
    "has no fingerprint": _json(lambda r: r.pop("fingerprint")),
    "is of code without digests": _json(
        lambda r: [r.pop(k, None) for k in ("digest", "arrays_sha256")]
    ),
    "has another digest": _json(lambda r: r.update(digest="0" * 64)),
    "has a digest null": _json(lambda r: r.update(digest=None)),
}


def _exponent(path: Path) -> None:
    """Flip the highest bit of the exponent of the first weight."""
    content = bytearray(path.read_bytes())
    (header,) = struct.unpack("<Q", content[:8])
    content[8 + header + 3] ^= 0x40
    path.write_bytes(content)


def _tensors(change: Callable[[Any], Any], name: str = "w") -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        from safetensors.torch import load_file, save_file

        save_file({name: change(load_file(path)["w"]).contiguous()}, path)

    return damage


WEIGHTS: dict[str, Callable[[Path], None]] = {
    "has a flipped bit of an exponent": _exponent,
    "has other weights of the same shape": _tensors(lambda w: -w),
    "is of another type": _tensors(lambda w: w.half()),
    "has another shape": _tensors(lambda w: w[:2]),
    "has a NaN": _tensors(lambda w: w / 0 * 0),
    "has another name": _tensors(lambda w: w, "v"),
}


def _npz(change: Callable[[np.ndarray], Any], name: str = "w") -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with np.load(path) as archive:
            array = archive["w"]
        with path.open("wb") as handle:
            np.savez(handle, **{name: change(array)})

    return damage


ARRAYS: dict[str, Callable[[Path], None]] = {
    "has other numbers": _npz(lambda w: w + 1),
    "has its numbers in another order": _npz(lambda w: w[::-1].copy()),
    "is of another type": _npz(lambda w: w.astype(np.float16)),
    "has another shape": _npz(lambda w: w[:1]),
    "has another name": _npz(lambda w: w, "v"),
    "has objects": _npz(lambda w: np.array([{}], dtype=object)),
    "has no array": lambda path: np.savez(path.open("wb")),
}

VERDICT: dict[str, Callable[[Path], None]] = {
    "has a verdict turned": _json(lambda v: v["claims"][0].update(verdict="contradicted")),
    "has another observation": _json(lambda v: v["checks"][0].update(observed="99 %")),
    "lacks a check": _json(lambda v: v["checks"].pop()),
    "lacks its checks": _json(lambda v: v.pop("checks")),
    "has claims null": _json(lambda v: v.update(claims=None)),
    "has claims without id": _json(lambda v: v["claims"][0].pop("id")),
    "is without digest": _json(lambda v: v.pop("digest", None) and v["checks"].reverse()),
}

# Places, and what then runs -----------------------------------------------------------------

Damage = Callable[[Toy], None]

FILES: dict[str, tuple[Callable[[Toy], Path], dict[str, Callable[[Path], None]]]] = {
    "record of a run": (
        lambda toy: toy.record("ours", 1) / "record.json",
        ANY | JSON | RECORD | PROVENANCE,
    ),
    "record of a model": (
        lambda toy: toy.model(1) / "record.json",
        {k: v for k, v in (ANY | JSON | PROVENANCE).items()},
    ),
    "weights": (lambda toy: toy.model(1) / "model.safetensors", ANY | WEIGHTS),
    "arrays": (lambda toy: toy.record("ours", 1) / "arrays.npz", ANY | ARRAYS),
    "verdicts": (lambda toy: toy.base / "verdicts" / "toy.json", ANY | JSON | VERDICT),
    "summary of an arm": (lambda toy: toy.base / "runs" / "toy" / "ours.json", ANY | JSON),
}


def _of_file(where: Callable[[Toy], Path], corrupt: Callable[[Path], None]) -> Damage:
    return lambda toy: corrupt(where(toy))


def _copy(one: Callable[[Toy], Path], other: Callable[[Toy], Path]) -> Damage:
    def damage(toy: Toy) -> None:
        shutil.rmtree(other(toy), ignore_errors=True)
        shutil.copytree(one(toy), other(toy))

    return damage


def _swap_seeds(toy: Toy) -> None:
    a, b, aside = toy.record("ours", 0), toy.record("ours", 1), toy.record("ours", 9)
    a.rename(aside)
    b.rename(a)
    aside.rename(b)


def _swap_weights(toy: Toy) -> None:
    a, b = (toy.model(seed) / "model.safetensors" for seed in (0, 1))
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)


def _is_file(where: Callable[[Toy], Path]) -> Damage:
    def damage(toy: Toy) -> None:
        shutil.rmtree(where(toy))
        where(toy).write_text("x")

    return damage


def _partial(kind: str) -> Damage:
    """What a write leaves that is killed between its two renames, or before the first."""

    def damage(toy: Toy) -> None:
        folder = toy.record("ours", 1) if kind == "runs" else toy.model(1)
        left = folder.with_name(".1.0a1b2c3d.partial")
        shutil.copytree(folder, left)
        record = json.loads((left / "record.json").read_text())
        record["measurements"] = [{**m, "value": 0.5} for m in record["measurements"]]
        (left / "record.json").write_text(json.dumps(record))

    return damage


PLACES: dict[str, Damage] = {
    "a copied seed": _copy(lambda t: t.record("ours", 1), lambda t: t.record("ours", 7)),
    "a seed in the place of another": _copy(
        lambda t: t.record("ours", 1), lambda t: t.record("ours", 0)
    ),
    "an arm in the place of another": _copy(
        lambda t: t.record("base", 1), lambda t: t.record("ours", 1)
    ),
    "two seeds that changed places": _swap_seeds,
    "a copied arm": _copy(
        lambda t: t.record("ours", 1).parent, lambda t: t.record("other", 1).parent
    ),
    "a copied model": _copy(lambda t: t.model(1), lambda t: t.model(7)),
    "a model in the place of another": _copy(lambda t: t.model(1), lambda t: t.model(0)),
    "weights that changed places": _swap_weights,
    "a partial folder of a run": _partial("runs"),
    "a partial folder of a model": _partial("models"),
    "a file in the place of a seed": _is_file(lambda t: t.record("ours", 1)),
    "a file in the place of a model": _is_file(lambda t: t.model(1)),
    "an empty folder in the place of a seed": lambda t: (
        shutil.rmtree(t.record("ours", 1)),
        t.record("ours", 1).mkdir(),
    ),
    "a stray file among the seeds": lambda t: (
        t.record("ours", 1).with_name("notes.txt").write_text("x")
    ),
    "a stray folder with a list for a record": lambda t: (
        t.record("stray", 0).mkdir(parents=True),
        (t.record("stray", 0) / "record.json").write_text("[]"),
    ),
    "a stray folder with a record of its own": _copy(
        lambda t: t.record("exact", 0), lambda t: t.record("stray", 0)
    ),
    "a state of an earlier call in scratch": lambda t: (
        (t.base / "scratch" / "runs" / "toy" / "ours" / "1" / "x").mkdir(parents=True),
        t.record("ours", 1).rename(t.base / "gone"),
    ),
    "a file for scratch": lambda t: (
        shutil.rmtree(t.base / "scratch", ignore_errors=True),
        (t.base / "scratch").write_text("x"),
        shutil.rmtree(t.record("ours", 1)),
    ),
    "a folder for a log": lambda t: (
        (t.base / "logs" / "runs" / "toy" / "ours" / "1.log").unlink(),
        (t.base / "logs" / "runs" / "toy" / "ours" / "1.log").mkdir(),
        shutil.rmtree(t.record("ours", 1)),
    ),
    "a file for the logs": lambda t: (
        shutil.rmtree(t.base / "logs"),
        (t.base / "logs").write_text("x"),
        shutil.rmtree(t.record("ours", 1)),
    ),
    "a file for the tables": lambda t: (
        shutil.rmtree(t.base / "report"),
        (t.base / "report").write_text("x"),
    ),
    "a stray table": lambda t: (t.base / "report" / "tables" / "toy" / "old.md").write_text(
        "| 99 |\\n"
    ),
}


def _anew(toy: Toy) -> None:
    toy.run()


def _from_the_model(toy: Toy) -> None:
    """An arm is run again from the models that lie there: by itself, as the DAG does."""
    for seed in (0, 1):
        if toy.record("base", seed).is_dir():
            shutil.rmtree(toy.record("base", seed))
    toy.arm("base")
    toy.judge()
    toy.report()


def _judged(toy: Toy) -> None:
    toy.judge()
    toy.report()


def _reported(toy: Toy) -> None:
    toy.report()


THEN: dict[str, Callable[[Toy], None]] = {
    "run": _anew,
    "an arm again": _from_the_model,
    "judge": _judged,
    "report": _reported,
}


def _case(damage: Damage, then: Callable[[Toy], None]) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        toy, expected = copied(folder)
        others = [toy.record("base", 0), toy.record("exact", 0)]
        before = [path.stat().st_ino for path in others]
        damage(toy)
        try:
            then(toy)
            found = toy.answer()
        except ReproError as error:
            if then is _anew or len(str(error).splitlines()) > 1:
                raise
            # What a refusal of one job names has to work.
            toy.run()
            found = toy.answer()
        except AttributeError as error:  # of what is no record; nothing that is used is absent
            raise Raw(str(error)) from error
        if then in (_judged, _reported):
            toy.run()  # who judges reads no weights; who runs next does
            found = {**found, "weights": toy.answer()["weights"]}
        if then is not _from_the_model and [p.stat().st_ino for p in others] != before:
            raise Lost("what was whole was run again")
        return found, expected

    return run


# The disk ------------------------------------------------------------------------------------


def _never_run(folder: Path) -> tuple[Toy, dict[str, Any]]:
    toy, expected = copied(folder)
    shutil.rmtree(toy.work)
    return toy, expected


def _refused(act: Callable[[], object]) -> None:
    """Act; it may end well, or say on one line why not."""
    try:
        act()
    except ReproError as error:
        if len(str(error).splitlines()) != 1:
            raise Raw(f"not one line: {error}") from error


def _full(size: int, batch: bool) -> Callable[[Path], Any]:
    """No file may grow over a size, as on a disk that fills; then there is space again."""

    def run(folder: Path) -> Any:
        toy, expected = _never_run(folder)
        act = toy.batch if batch else toy.run
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        _refused(act)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        act()
        return toy.answer(), expected

    return run


def _failing(call: str, number: int, at: int) -> Callable[[Path], Any]:
    """A call of the system fails once; then the same command goes on."""

    def run(folder: Path) -> Any:
        toy, expected = _never_run(folder)
        original, calls = getattr(os, call), itertools.count()

        def failing(*arguments: Any, **given: Any) -> Any:
            if next(calls) == at:
                raise OSError(number, os.strerror(number))
            return original(*arguments, **given)

        setattr(os, call, failing)
        _refused(toy.run)
        setattr(os, call, original)
        toy.run()
        return toy.answer(), expected

    return run


def _rights(umask: int) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        toy, _ = _never_run(folder)
        os.umask(umask)
        toy.run()
        return [
            f"{path.relative_to(toy.work)} {path.stat().st_mode & 0o777:o}"
            for path in toy.work.rglob("*")
            if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
        ]

    return run


def _of_the_disk() -> Iterator[Case]:
    for size, batch in itertools.product(
        (0, 10, 60, 100, 150, 250, 500, 900, 1300, 2000, 4000, 20_000), (False, True)
    ):
        yield Case(
            "raw OS errors",
            f"files of {size} bytes at most{', in batches' if batch else ''}",
            _full(size, batch),
            same,
            slow=batch,
        )
    for call, number, at in itertools.product(
        ("replace", "fsync", "mkdir"),
        (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO),
        (0, 3, 7, 12),
    ):
        yield Case(
            "raw OS errors",
            f"call {at} of {call} fails with {errno.errorcode[number]}",
            _failing(call, number, at),
            same,
            slow=at not in (0, 7) or number == errno.EROFS,
        )
    for umask in (0o077, 0o027, 0o022, 0o002):
        yield Case(
            "files forced to 0644", f"umask {umask:03o}", _rights(umask), lambda found: found == []
        )


def cases() -> Iterator[Case]:
    warm()
    template()
    yield from _of_the_disk()
    for place, (where, corruptions) in FILES.items():
        thens = {"weights": ("run", "an arm again"), "verdicts": ("run", "report")}.get(
            place, ("run", "judge", "report")
        )
        for what, corrupt in corruptions.items():
            for then in thens:
                yield Case(
                    "content that is not verified",
                    f"{place} {what}, then {then}",
                    _case(_of_file(where, corrupt), THEN[then]),
                    same,
                    slow=then != ("report" if place == "verdicts" else "run"),
                )
    for what, damage in PLACES.items():
        for then in ("run", "judge", "report", "an arm again"):
            yield Case(
                "leftovers and strays",
                f"{what}, then {then}",
                _case(damage, THEN[then]),
                same,
                slow=then in ("judge", "report"),
            )
