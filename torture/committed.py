"""Committed results: damage, forgery, kills between two steps, and what may not be published.

A tiny tree (two papers, a comparison, two figures) is run and published once a process that tries
cases; each case works on a copy of it.
"""

from __future__ import annotations

import atexit
import csv
import functools
import hashlib
import importlib
import io
import json
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torture.case import Case, Done, Lost, repro

COMMIT = "4e5e6e8f3a9b4e0c8d7f6a5b4c3d2e1f0a9b8c7d"

PAPER = """
slug: @
short: Paper @
title: A paper
authors: [A. Nobody]
venue: Nowhere
year: 2026
field: text
summary: Nothing.
repository: {url: "https://example.org/code"}
claims:
  - {id: smaller, kind: empirical, statement: It is smaller, where: Table 1, evidence: paper,
     best_tier: reduced}
  - {id: open, kind: empirical, statement: It is open, where: Table 2, evidence: paper,
     best_tier: paper}
tables:
  - {id: t, title: T, where: Table 1, evidence: paper, columns: [a, b], rows: [[x, 1]], note: n}
notes: [a note]
"""

EXPERIMENT = """
paper: @
models:
  net: {train: "methods.@.arms:train", params: {width: 3}, per_seed: true}
arms:
  ours: {run: "methods.@.arms:run", models: [net], params: {gain: 1.0}, title: Ours}
  base: {run: "methods.@.arms:run", models: [net], params: {gain: 2.0}, baseline: true}
  count: {run: "methods.@.arms:count", deterministic: true}
measurements:
  loss: {direction: lower, title: Loss, at: {arms: [ours, base], steps: [4, 8]}}
  error: {at: {arms: count}}
  latency: {timing: true, unit: ms, at: {arms: count}}
scales:
  small: {seeds: 3}
figures:
  - {id: curve, run: "methods.@.arms:curve", title: Curve, caption: By steps.}
tables:
  - {id: main, title: Main, caption: All of it., measurements: [loss]}
"""

CHECKS = """
claims:
  smaller:
    checks:
      - {id: smaller, tier: reduced, expect: "loss[ours, steps=4] < 0.9 * loss[base, steps=4]",
         why: It matters.}
    findings:
      - {text: The gain is smaller.}
"""

ARMS = """
import random


def train(job):
    import torch

    return {"w": torch.full((job.params.width,), float(job.seed))}


def run(job):
    for steps in (4, 8):
        noise = random.Random(f"{job.name} {job.seed} {steps}").random()
        job.measure("loss", job.params.gain + 0.01 * noise, steps=steps)


def count(job):
    job.measure("error", 0.25)
    job.measure("latency", 1.5)


def curve(results):
    from repro.suite.report import style

    figure, ax = style.subplots()
    for arm in ("ours", "base"):
        style.curve(ax, *results.sweep("loss", arm, "steps"), results.title(arm))
    ax.legend()
    return figure
"""

COMPARISON = """
title: Both
caption: Two papers.
measurements: [loss]
figure: [loss]
rows:
  - {group: four, label: first, method: alpha, arm: ours, at: {steps: 4}}
  - {group: four, label: second, method: beta, arm: ours, at: {steps: 4}}
"""

README = "# T\n\n<!-- ledger:begin -->\n<!-- ledger:end -->\n\nend\n"
METHODS = ("alpha", "beta")


@dataclass(frozen=True)
class Tree:
    """A copy of the tiny tree, which the suite in this process takes for its own."""

    root: Path
    work: Path

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def small(self) -> Path:
        return self.results / "small"

    @property
    def alpha(self) -> Path:
        return self.small / "alpha"

    @property
    def options(self) -> Any:
        from repro.suite.run import Options

        return Options("small", work=self.work)

    def check(self) -> list[str]:
        from repro.suite.results import check

        return check.check(self.results)

    def publish(self, *slugs: str) -> list[str]:
        from repro.suite.results import publish

        return publish.publish(self.options, self.results, slugs)

    def snapshot(self) -> dict[str, bytes | None]:
        """Content by path of what is committed; a folder has none, a link is as it is."""
        found: dict[str, bytes | None] = {"README.md": (self.root / "README.md").read_bytes()}
        for path in sorted(self.results.rglob("*")):
            plain = path.is_file() and not path.is_symlink()
            found[path.relative_to(self.root).as_posix()] = path.read_bytes() if plain else None
        for path in self.root.glob(".*.partial"):
            found[path.name] = None
        return found

    def record(self, place: str) -> Path:
        return self.work / "small" / place / "record.json"


def seal(folder: Path) -> None:
    """The manifest of a folder, as a careful forger would write it."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    digest = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    text = "".join(f"{digest[n]}  {n}\n" for n in names if n != "manifest.sha256")
    (folder / "manifest.sha256").write_text(text)


def use(root: Path) -> Tree:
    """Let the suite in this process take a folder for its tree."""
    from repro import places
    from repro.suite import definitions, fingerprint, plan, provenance
    from repro.suite.cards import comparisons, library

    for module in (places, definitions, fingerprint, library, plan, provenance, comparisons):
        if hasattr(module, "ROOT"):
            module.ROOT = root
    library.forget()
    for cached in (plan.scale_config, definitions._module, fingerprint.code):
        cached.cache_clear()
    provenance.commit = functools.cache(lambda function=None: COMMIT)
    for name in [name for name in sys.modules if name.split(".")[0] == "methods"]:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    work = root.parent / "work"
    os.environ["REPRO_WORK"] = str(work)
    return Tree(root, work)


def _kept_by(pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"torture-{pid}"


def _forget_kept(pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(_kept_by(pid), ignore_errors=True)


atexit.register(_forget_kept, os.getpid())


def _keep(name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first case that needs it makes, for all cases of a process."""
    kept = _kept_by(os.getppid())
    kept.mkdir(exist_ok=True)
    if not (kept / name).exists():
        made = Path(tempfile.mkdtemp(dir=kept))
        make(made)
        made.rename(kept / name)
    return kept / name


def tree(folder: Path) -> Tree:
    """A copy of the tiny tree in a folder."""
    shutil.copytree(_keep("tree", _make), folder, dirs_exist_ok=True)
    return use(folder / "root")


def write_cards(root: Path) -> None:
    """The sources of the tiny tree."""
    from torture.case import ROOT

    for slug in METHODS:
        folder = root / "methods" / slug
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        for name, text in {
            "paper.yaml": PAPER,
            "experiment.yaml": EXPERIMENT,
            "checks.yaml": CHECKS,
            "arms.py": ARMS,
        }.items():
            (folder / name).write_text(text.replace("@", slug))
    (root / "methods" / "__init__.py").touch()
    (root / "comparisons").mkdir()
    (root / "comparisons" / "both.yaml").write_text(COMPARISON)
    (root / "README.md").write_text(README)
    shutil.copytree(ROOT / "workflow", root / "workflow")


def _make(folder: Path) -> None:
    from repro.suite import judging, run
    from repro.suite.cards import library

    write_cards(folder / "root")
    made = use(folder / "root")
    for slug in METHODS:
        run.run_method(library.load(slug), made.options)
        judging.judge(library.load(slug), made.options)
    made.publish()


# Damage -------------------------------------------------------------------------------------


def _rows(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def _digit(content: bytes) -> bytes:
    """The last digit changed, or the last byte where there is none."""
    for place in range(len(content) - 1, -1, -1):
        if chr(content[place]).isdigit():
            other = (content[place] - 48 + 1) % 10 + 48
            return content[:place] + bytes([other]) + content[place + 1 :]
    return content[:-1] + bytes([content[-1] ^ 1])


def _shifted(content: bytes) -> bytes:
    """The last row one column to the right."""
    rows = _rows(content)
    return b"".join([*rows[:-1], b"," + rows[-1]])


CONTENT: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda c: c[: len(c) // 2],
    "empty": lambda c: b"",
    "UTF-16": lambda c: b"\xff\xfe" + c.replace(b"", b"\0")[1:],
    "latin-1": lambda c: c + "é".encode("latin-1"),
    "byte-order mark": lambda c: b"\xef\xbb\xbf" + c,
    "carriage returns": lambda c: c.replace(b"\n", b"\r\n") if b"\n" in c else c + b"\r\n",
    "NUL": lambda c: c[: len(c) // 3] + b"\0" + c[len(c) // 3 :],
    "a digit changed": _digit,
    "a row lost": lambda c: b"".join(_rows(c)[:-1]),
    "a row doubled": lambda c: c + _rows(c)[-1],
    "two rows swapped": lambda c: b"".join([*_rows(c)[:-2], *reversed(_rows(c)[-2:])]) + b"\n",
    "a row shifted": _shifted,
    "random bytes": lambda c: bytes((i * 167 + 13) % 256 for i in range(len(c))),
}


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_link(path: Path) -> None:
    target = Path(os.environ["REPRO_WORK"]) / f"{path.name}.aside"
    shutil.move(path, target)
    path.symlink_to(target)


def _unreadable(path: Path) -> None:
    path.chmod(0)


PLACE: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "a folder in its place": _as_folder,
    "a link in its place": _as_link,
    **({} if os.getuid() == 0 else {"unreadable": _unreadable}),
}

FILES = (
    "README.md",
    "results/README.md",
    *(f"results/claims.{kind}" for kind in ("json", "csv")),
    *(f"results/small/{name}" for name in ("environment.json", "ledger.md")),
    *(
        f"results/small/comparisons/{name}"
        for name in (
            "tables/both.md",
            "tables/both.csv",
            "figures/both.png",
            "figures/both.json",
            "manifest.sha256",
        )
    ),
    *(
        f"results/small/alpha/{name}"
        for name in (
            "runs.csv",
            "records.csv",
            "models.csv",
            "claims.csv",
            "carried.csv",
            "findings.json",
            "manifest.sha256",
            "tables/claims.md",
            "tables/claims.csv",
            "tables/measurements.csv",
            "tables/main.csv",
            "tables/cost.csv",
            "figures/curve.png",
            "figures/curve.svg",
            "figures/curve.json",
        )
    ),
)
QUICK_FILES = ("runs.csv", "records.csv", "manifest.sha256", "curve.json", "environment.json")
QUICK_DAMAGE = ("truncated", "UTF-16", "a digit changed", "a folder in its place", "gone")


READABLE = ("truncated", "empty", "UTF-16", "latin-1", "random bytes")


def damage(path: Path, how: str) -> None:
    if how in PLACE:
        PLACE[how](path)
    else:
        before = path.read_bytes()
        path.write_bytes(CONTENT[how](before))
        assert path.read_bytes() != before, "the damage does nothing"


def _carry(folder: Path) -> Tree:
    """The tiny tree with a declaration of carried results."""
    from repro.suite.cards import library
    from repro.suite.results import carry

    here = tree(folder)
    path = here.root / "methods" / "alpha" / "arms.py"
    _replace(path, 'job.measure("error", 0.25)', 'e = 0.25; job.measure("error", e)')
    here = use(here.root)
    carry.carry(library.load("alpha"), "small", here.results, "count", "a name")
    return here


def _damaged(name: str, how: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> list[str]:
        here = _carry(folder) if name.endswith("carried.csv") else tree(folder)
        damage(here.root / name, how)
        return here.check()

    return run


def _lines(found: list[str]) -> bool:
    """Differences, a line each."""
    return bool(found) and all(len(line.splitlines()) == 1 for line in found)


def _damages() -> Iterator[Case]:
    for name in FILES:
        for how in (*CONTENT, *PLACE):
            if name == "README.md" and how not in READABLE:
                continue  # the tree may have none; outside of the ledger it may say anything
            quick = name.endswith(QUICK_FILES) and how in QUICK_DAMAGE
            yield Case(
                "exit status lies: damage",
                f"check: {name}: {how}",
                _damaged(name, how),
                _lines,
                slow=not quick,
            )


# Damage that other readers meet -------------------------------------------------------------


def _page_of(name: str, how: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> str:
        from repro.suite import reporting

        here = tree(folder)
        damage(here.root / name, how)
        return str(reporting.report_committed(here.options, here.results))

    return run


def _published_over(name: str, how: str, work: bool) -> Callable[[Path], Any]:
    """A method is published again over damage; only what was published may come out."""

    def run(folder: Path) -> bool:
        here = tree(folder)
        before = here.snapshot()
        if not work:
            shutil.rmtree(here.work)
        damage(here.root / name, how)
        here.publish("alpha")
        return here.snapshot() == before

    return run


def _other_readers() -> Iterator[Case]:
    kind = "stored content not verified"
    for name in FILES:
        own = name.startswith("results/small/alpha/") and not name.endswith("carried.csv")
        for how in ("truncated", "a digit changed", "a row lost", "gone"):
            if name == "README.md" or (how == "a row lost" and not name.endswith(".csv")):
                continue
            if own:
                yield Case(
                    kind, f"page: {name}: {how}", _page_of(name, how), slow="runs" not in name
                )
            if name.endswith("carried.csv"):
                continue
            for work in (True, False):
                yield Case(
                    kind,
                    f"publish {'with' if work else 'without'} work over {name}: {how}",
                    _published_over(name, how, work),
                    bool,
                    slow=True,
                )


# Forgery: content that is sealed, and of the wrong shape ------------------------------------

JSON = {
    "null": "null",
    "a number": "3",
    "a text": '"x"',
    "true": "true",
    "a list": "[]",
    "an object": "{}",
    "a list of null": "[null]",
    "a list of lists": "[[1]]",
    "an object of null": '{"claim": null, "text": null, "devices": null}',
    "NaN": "NaN",
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep object": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "a number of 5,000 digits": "9" * 5000,
    "a key of 5,000 letters": '{"' + "a" * 5000 + '": 1}',
    "half of a surrogate": '["\\ud800"]',
    "two documents": "{} {}",
}

CELLS = {
    ("runs.csv", "value"): ["", "much", "nan", "inf", "-inf", "9" * 5000, "0x10", "1_0", "1e999"],
    ("runs.csv", "at"): [
        "steps",
        "=4",
        "steps=4,steps=8",
        ",",
        "steps=4.0",
        "steps=\n4",
        "a" * 300,
    ],
    ("runs.csv", "seed"): ["", "-1", "0.5", "9" * 5000, "٣", " 0", "None", "true"],
    ("runs.csv", "arm"): ["", "../ours", "ours\nbase", "x" * 300, "<b>", "=1+1"],
    ("runs.csv", "measurement"): ["", "lost", "loss[ours]", "x" * 300],
    ("runs.csv", "method"): ["", "beta", "../beta"],
    ("records.csv", "params"): ["null", "[]", "3", '"x"', '[["gain", 1]]', "{", "[" * 100_000],
    ("records.csv", "versions"): ["null", "[]", "3", '["torch"]', '{"torch": null}', "{"],
    ("records.csv", "arrays"): ["{}", "3", '"w"', "[null]", "["],
    ("records.csv", "started"): ["now", "2026-13-45T00:00:00+00:00", "0", "2026-02-30", "T"],
    ("records.csv", "wall_s"): ["nan", "-1.0", "inf", "long", "1e999"],
    ("records.csv", "peak_memory_mb"): ["nan", "-1.0", "much"],
    ("records.csv", "threads"): ["many", "1.5", "9" * 5000],
    ("records.csv", "commit"): [
        "",
        "unknown",
        f"{COMMIT}+changes",
        "main",
        COMMIT[:10],
        COMMIT * 2,
    ],
    ("records.csv", "fingerprint"): ["", "0" * 20, "x\ny"],
    ("records.csv", "measured_sha256"): ["", "0" * 64],
    ("records.csv", "seed"): ["", "7", "-1", "0.0"],
    ("models.csv", "measured"): ["{}", "3", "[[1]]", '[["loss", 3, 1.0]]', '[["loss", {}, "x"]]'],
    ("models.csv", "commit"): ["unknown", f"{COMMIT}+changes"],
    ("models.csv", "params"): ["[]", "3"],
    ("models.csv", "seed"): ["", "x", "9" * 5000],
    ("claims.csv", "verdict"): ["", "contradicted", "splendid", "reproduced\n"],
    ("claims.csv", "method"): ["beta", ""],
    ("claims.csv", "observed"): ["`", "<script>", "0 < 1"],
}


def _forged_json(name: str, text: str, reader: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        here = tree(folder)
        path = here.small / name
        path.write_text(text)
        if path.parent != here.small:
            seal(here.small / name.split("/")[0])
        if reader == "check":
            return here.check()
        from repro.suite import reporting

        return str(reporting.report_committed(here.options, here.results))

    return run


def _forged_cell(name: str, column: str, text: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> list[str]:
        here = tree(folder)
        path = here.alpha / name
        with path.open(newline="") as handle:
            reader = csv.DictReader(handle)
            columns, rows = list(reader.fieldnames or ()), list(reader)
        rows[0][column] = text
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(out.getvalue(), newline="")
        seal(here.alpha)
        return here.check()

    return run


def _huge_field(folder: Path) -> list[str]:
    here = tree(folder)
    path = here.alpha / "runs.csv"
    path.write_text(path.read_text() + f"alpha,ours,0,{'x' * 200_000},,1.0,,false\n")
    seal(here.alpha)
    return here.check()


def _forgeries() -> Iterator[Case]:
    kind = "parseable but wrong shape"
    for name in ("alpha/findings.json", "alpha/figures/curve.json", "environment.json"):
        for what, text in JSON.items():
            yield Case(
                kind, f"check: {name} is {what}", _forged_json(name, text, "check"), _lines,
                slow=what not in ("null", "a list of null", "deep"),
            )  # fmt: skip
            if name != "environment.json" and (name, what) != ("alpha/findings.json", "a list"):
                yield Case(
                    kind, f"page: {name} is {what}", _forged_json(name, text, "page"), slow=True
                )
    for (name, column), texts in CELLS.items():
        for number, text in enumerate(texts):
            shown = f"{number} {text[:20]!r}"
            yield Case(
                kind, f"check: {name} {column} is {shown}", _forged_cell(name, column, text),
                _lines, slow=number > 0 and text != "[null]",
            )  # fmt: skip
    yield Case(kind, "check: a field over the limit of the csv module", _huge_field, _lines)


KEYS = (
    "", "a", "=", "=1", "a=", "a==", "a=1,a=2", "a=1,,b=2", ",", "a=1,", ",a=1", "a=\n", "a=nan",
    "a=1e999", "a=" + "9" * 5000, "a" * 5000 + "=1", "b=1,a=2", "a=01", "a=1.0", "a=1e3", "a=١",
    "a=true", "a=True", "a= 1", " a=1", "a=1 ", "a=0x10", "a=1_0", "a=-0", "a=-0.0", "\0=1",
    "a=" + ",b=".join("1" * 3), "a;b=1",
)  # fmt: skip


def _key(key: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> bool:
        from repro.coordinates import at_key, from_key

        at = from_key(key)
        again = from_key(at_key(at))
        return at_key(again) == at_key(at) and len(at) == key.count(",") + 1 if key else at == {}

    return run


def _keys() -> Iterator[Case]:
    for number, key in enumerate(KEYS):
        yield Case(
            "parseable but wrong shape",
            f"coordinates {number} {key[:20]!r}",
            _key(key),
            bool,
            (ValueError,),
        )


# What is no evidence ------------------------------------------------------------------------


def change(path: Path, **values: Any) -> None:
    """Change some keys of a record; `...` takes one out."""
    record = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


def measurements(path: Path, number: int = 0, **values: Any) -> None:
    """Change a measurement of a record."""
    record = json.loads(path.read_text())
    record["measurements"][number] |= values
    path.write_text(json.dumps(record))


def _other_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)


RUN, MODEL = "runs/alpha/ours/1", "models/alpha/net/1"
NO_COMMIT = ("unknown", f"{COMMIT}+changes", "", None, ..., "main", COMMIT[:12], 7, [COMMIT])

WEAK: dict[str, Callable[[Tree], Any]] = {
    "nothing was run": lambda t: shutil.rmtree(t.work),
    "an empty work folder": lambda t: [shutil.rmtree(t.work), t.work.mkdir()],
    "no runs": lambda t: shutil.rmtree(t.work / "small" / "runs"),
    "no models": lambda t: shutil.rmtree(t.work / "small" / "models"),
    "no verdicts": lambda t: shutil.rmtree(t.work / "small" / "verdicts"),
    "one run less": lambda t: t.record(RUN).unlink(),
    "one model less": lambda t: t.record(MODEL).unlink(),
    **{
        f"{what} of commit {code!r}": functools.partial(
            lambda place, code, t: change(t.record(place), commit=code), place, code
        )
        for what, place in {"run": RUN, "model": MODEL}.items()
        for code in NO_COMMIT
    },
    **{
        f"{what} whose {key} is {value!r}": functools.partial(
            lambda place, key, value, t: change(t.record(place), **{key: value}), place, key, value
        )
        for what, place in {"run": RUN, "model": MODEL}.items()
        for key, value in (
            ("scale", "gpu"),
            ("scale", "smoke"),
            ("scale", ...),
            ("method", "beta"),
            ("method", ...),
            ("arm", "base"),
            ("seed", 0),
            ("seed", 7),
        )
    },
    **{
        f"measurements are {value!r}": functools.partial(
            lambda value, t: change(t.record(RUN), measurements=value), value
        )
        for value in ([], None, ..., {}, "x", 3, [None], [[]], [{"name": "loss"}], ["loss"])
    },
    **{
        f"a measurement with {values!r}": functools.partial(
            lambda values, t: measurements(t.record(RUN), **values), values
        )
        for values in (
            {"value": float("nan")},
            {"value": float("inf")},
            {"value": None},
            {"value": "1.0"},
            {"value": True},
            {"name": "lost"},
            {"name": "error"},
            {"name": None},
            {"at": {}},
            {"at": None},
            {"at": {"steps": 5}},
            {"at": {"stops": 4}},
            {"at": [["steps", 4]]},
        )
    },
    "a measurement less than the other seeds": lambda t: change(
        t.record(RUN), measurements=json.loads(t.record(RUN).read_text())["measurements"][:1]
    ),
    **{
        f"a record that is {what}": functools.partial(
            lambda content, t: _other_file(t.record(RUN), content), content
        )
        for what, content in {
            "empty": b"",
            "cut": b'{"arm": "ours", "se',
            "null": b"null",
            "a list": b"[]",
            "UTF-16": b"\xff\xfe{\0}\0",
            "binary": bytes(range(256)),
        }.items()
    },
    "a record that is a folder": lambda t: _as_folder(t.record(RUN)),
    "another seed's folder copied": lambda t: [
        shutil.rmtree(t.record(RUN).parent),
        shutil.copytree(t.record("runs/alpha/ours/0").parent, t.record(RUN).parent),
    ],
    "another arm's folder copied": lambda t: [
        shutil.rmtree(t.record(RUN).parent),
        shutil.copytree(t.record("runs/alpha/base/1").parent, t.record(RUN).parent),
    ],
    "another method's folder copied": lambda t: [
        shutil.rmtree(t.record(RUN).parent),
        shutil.copytree(t.record("runs/beta/ours/1").parent, t.record(RUN).parent),
    ],
    "weights with a flipped bit": lambda t: _flip(t.record(MODEL).with_name("model.safetensors")),
    "weights of another seed": lambda t: shutil.copy(
        t.record("models/alpha/net/0").with_name("model.safetensors"), t.record(MODEL).parent
    ),
    **{
        f"verdicts that are {what}": functools.partial(
            lambda content, t: _other_file(t.work / "small/verdicts/alpha.json", content), content
        )
        for what, content in {
            "empty": b"",
            "null": b"null",
            "a list": b"[]",
            "an object": b"{}",
            "another thing": b'{"checks": null, "claims": 3}',
        }.items()
    },
    "verdicts of another method": lambda t: shutil.copy(
        t.work / "small/verdicts/beta.json", t.work / "small/verdicts/alpha.json"
    ),
    "a verdict that was edited": lambda t: _replace(
        t.work / "small/verdicts/alpha.json", '"reproduced"', '"contradicted"'
    ),
    "verdicts of other thresholds": lambda t: _replace(
        t.root / "methods/alpha/checks.yaml", "0.9 *", "0.95 *"
    ),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused_whole(here: Tree, do: Callable[[], Any]) -> Any:
    """What a command gives; raises `Lost` where it is refused after it has written something."""
    from repro.errors import ReproError

    before = here.snapshot() if here.results.exists() else {}
    try:
        return do()
    except ReproError:
        if (here.snapshot() if here.results.exists() else {}) != before:
            raise Lost("refused, and yet something was written") from None
        raise


def _weak(plant: Callable[[Tree], Any], clean: bool) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        here = tree(folder)
        if clean:
            shutil.rmtree(here.results)
        plant(here)
        return refused_whole(use(here.root), lambda: here.publish("alpha"))

    return run


def _kept_without_evidence(name: str, column: str, text: str) -> Callable[[Path], Any]:
    """A committed record that is forged is kept by a publication of other runs."""

    def run(folder: Path) -> Any:
        here = tree(folder)
        _forged_cell_in(here, name, column, text)
        shutil.rmtree(here.work / "small/runs/alpha/base")
        shutil.rmtree(here.work / "small/models/alpha")
        return refused_whole(here, lambda: here.publish("alpha"))

    return run


def _forged_cell_in(here: Tree, name: str, column: str, text: str) -> None:
    path = here.alpha / name
    with path.open(newline="") as handle:
        reader = csv.DictReader(handle)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    for row in rows:
        if row.get("arm", "base") == "base" and row["seed"] == "1":
            row[column] = text
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue(), newline="")
    seal(here.alpha)


SCALES = (
    "",
    ".",
    "..",
    "smoke",
    "Small",
    "small/alpha",
    "small/",
    "../small",
    "x" * 300,
    "small\0",
)


def _odd_scale(command: str, scale: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro.suite.cards import library
        from repro.suite.results import carry, publish
        from repro.suite.run import Options

        here = tree(folder)
        do = {
            "publish": lambda: publish.publish(
                Options(scale, work=here.work), here.results, ["alpha"]
            ),
            "publish all": lambda: publish.publish(Options(scale, work=here.work), here.results),
            "unpublish": lambda: publish.unpublish(scale, "alpha", here.results),
            "carry": lambda: carry.carry(
                library.load("alpha"), scale, here.results, "count", "why"
            ),
        }[command]
        return refused_whole(here, do)

    return run


def _odd_method(command: str, slug: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro.suite.results import publish

        here = tree(folder)
        do = {
            "publish": lambda: here.publish(slug),
            "unpublish": lambda: publish.unpublish("small", slug, here.results),
        }[command]
        return refused_whole(here, do)

    return run


def _nothing_at(scale: str) -> Callable[[Path], Any]:
    """No method has a preset of a scale."""

    def run(folder: Path) -> Any:
        from repro.suite.results import publish
        from repro.suite.run import Options

        here = tree(folder)
        return refused_whole(
            here, lambda: publish.publish(Options(scale, work=here.work), here.results)
        )

    return run


def _no_arm(folder: Path) -> Any:
    here = tree(folder)
    shutil.rmtree(here.results)
    _replace(
        here.root / "methods/alpha/experiment.yaml",
        "small: {seeds: 3}",
        'small: {seeds: 3, without: {arms: ["*"], checks: ["*"], figures: ["*"]}}',
    )
    return refused_whole(use(here.root), lambda: here.publish("alpha"))


def _another_slug(folder: Path) -> Any:
    """A method whose card says that it is another would be published over that one."""
    here = tree(folder)
    shutil.copytree(here.root / "methods/beta", here.root / "methods/gamma")
    return refused_whole(use(here.root), lambda: here.publish("gamma"))


def _no_evidence() -> Iterator[Case]:
    kind = "publish without evidence"
    quick = ("nothing was run", "no verdicts", "another seed's folder copied")
    for name, plant in WEAK.items():
        slow = name not in quick and "unknown" not in name and "[]" not in name
        yield Case(kind, f"{name}", _weak(plant, clean=True), slow=slow)
        if name.startswith(("run ", "model ", "measurements", "a measurement", "a record")):
            over = f"{name}, over committed results"
            slow = name != "a record that is a folder"
            yield Case(kind, over, _weak(plant, clean=False), slow=slow)
    for column, text in (
        ("commit", "unknown"),
        ("commit", f"{COMMIT}+changes"),
        ("commit", "main"),
        ("measured_sha256", "0" * 64),
        ("seed", "7"),
    ):
        yield Case(
            kind,
            f"a committed run of {column} {text[:12]} is kept",
            _kept_without_evidence("records.csv", column, text),
            slow=True,
        )
    yield Case(
        kind,
        "a committed value that was edited is kept",
        _kept_without_evidence("runs.csv", "value", "0.5"),
    )
    yield Case(
        kind,
        "a committed model of commit unknown is kept",
        _kept_without_evidence("models.csv", "commit", "unknown"),
    )
    yield Case(kind, "no method has the scale gpu", _nothing_at("gpu"))
    yield Case(kind, "no method has the scale paper", _nothing_at("paper"), slow=True)
    yield Case(kind, "a scale that leaves every arm out", _no_arm)
    yield Case("publish without evidence: names", "a card with another's slug", _another_slug)
    for command in ("publish", "publish all", "unpublish", "carry"):
        for number, scale in enumerate(SCALES):
            yield Case(
                "publish without evidence: names",
                f"{command} at scale {number} {scale[:12]!r}",
                _odd_scale(command, scale),
                slow=number > 2,
            )
    for command in ("publish", "unpublish"):
        for number, slug in enumerate(
            (".", "..", "comparisons", "environment.json", "../small/alpha", "x" * 300, "", "\0")
        ):
            yield Case(
                "publish without evidence: names",
                f"{command} the method {number} {slug[:16]!r}",
                _odd_method(command, slug),
                slow=number > 2,
            )


# Kills between two steps --------------------------------------------------------------------


def _die_at(number: int, root: Path, inside: bool) -> None:
    """Let this process end without a word before its n-th step, or inside of the n-th folder."""
    from repro import store

    count = 0

    def step(*paths: Any) -> None:
        nonlocal count
        places = [Path(path) for path in paths if isinstance(path, str | os.PathLike)]
        here = [path for path in places if path.is_relative_to(root)]
        hidden = any(part.endswith(".partial") for path in here for part in path.parent.parts)
        if not here or hidden is not inside:
            return
        if count == number:
            os._exit(77)
        count += 1

    def watched(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            beside = [Path(options["dir"]) / "new"] if "dir" in options else []
            step(*arguments, *beside)
            return original(*arguments, **options)

        setattr(module, name, call)

    for module, name in (
        (os, "replace"),
        (os, "rename"),
        (store, "_exchange"),
        (shutil, "rmtree"),
        (tempfile, "mkdtemp"),
        (tempfile, "mkstemp"),
        (os, "unlink"),
    ):
        watched(module, name)


def _forked(do: Callable[[], Any]) -> int:
    """Exit status of a function in a process of its own."""
    pid = os.fork()
    if pid == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            try:
                do()
            except BaseException:
                os._exit(1)
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _command_on(here: Tree, command: str) -> Callable[[], Any]:
    from repro.suite.cards import library
    from repro.suite.results import carry, publish

    return {
        "first publish": lambda: here.publish(),
        "publish": lambda: here.publish("alpha"),
        "publish of a part": lambda: here.publish("alpha"),
        "unpublish": lambda: publish.unpublish("small", "alpha", here.results),
        "unpublish the last": lambda: publish.unpublish("small", "beta", here.results),
        "carry": lambda: carry.carry(
            library.load("alpha"), "small", here.results, "count", "a name"
        ),
    }[command]


def _prepare(here: Tree, command: str) -> None:
    """Bring a tree to where a command changes much."""
    from repro.suite import judging, run
    from repro.suite.cards import library
    from repro.suite.results import publish

    path = here.root / "methods" / "alpha" / "arms.py"
    if command == "first publish":
        shutil.rmtree(here.results)
        (here.root / "README.md").write_text(README)
    elif command == "unpublish the last":
        publish.unpublish("small", "alpha", here.results)
    elif command == "carry":
        _replace(path, 'job.measure("error", 0.25)', 'e = 0.25; job.measure("error", e)')
    elif command.startswith("publish"):
        _replace(path, '"error", 0.25', '"error", 0.5')
        use(here.root)
        run.run_method(library.load("alpha"), here.options, ["count"])
        judging.judge(library.load("alpha"), here.options)
        if command == "publish of a part":  # what is committed of the other arms is nowhere else
            for name in ("ours", "base"):
                shutil.rmtree(here.work / "small" / "runs" / "alpha" / name)


def _prepared(folder: Path, command: str) -> tuple[Tree, dict[str, bytes | None]]:
    """A tree where a command may begin, and what is committed when nothing interrupts it."""

    def make(made: Path) -> None:
        _prepare(tree(made / "before"), command)
        shutil.copytree(made / "before", made / "after")
        after = use(made / "after" / "root")
        _command_on(after, command)()
        (made / "wanted").write_bytes(pickle.dumps(after.snapshot()))

    kept = _keep(command, make)
    shutil.copytree(kept / "before", folder, dirs_exist_ok=True)
    return use(folder / "root"), pickle.loads((kept / "wanted").read_bytes())


REMEDIES = ("repro publish", "run that command again", "make small", "publish a method again")


def _killed(command: str, number: int, exchange: bool, inside: bool) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro import store
        from repro.errors import ReproError

        if not exchange:
            store._exchange = lambda one, other: False
        here, wanted = _prepared(folder, command)
        again = _command_on(here, command)

        def dying() -> None:
            _die_at(number, here.root, inside)
            again()

        if _forked(dying) not in (0, 77):
            return "the command failed where it should have been killed"
        try:
            between = here.check()
        except ReproError as error:
            between = [str(error)]
        between = [line for line in between if ": stale " not in line]  # as before the command
        unhelpful = [line for line in between if not any(r in line for r in REMEDIES)]
        left = [n for n in here.snapshot() if ".partial" in n]
        if left and not between:
            return f"nobody names {left[0]}"
        if unhelpful and left:
            return f"no remedy: {unhelpful[0]}"
        if unhelpful and not any("`repro publish" in line for line in between):
            return f"no remedy: {unhelpful[0]}"
        try:
            again()
        except ReproError as error:
            if here.snapshot() != wanted:
                raise Lost(f"refused a second time: {error}") from error
        found = here.snapshot()
        if found != wanted:
            differing = sorted(
                n for n in {*found, *wanted} if found.get(n, b"-") != wanted.get(n, b"-")
            )
            raise Lost(f"another result after the second time: {differing[:4]}")
        return "as uninterrupted"

    return run


STEPS = {
    "first publish": 23,
    "publish": 20,
    "publish of a part": 20,
    "unpublish": 20,
    "unpublish the last": 14,
    "carry": 6,
}
"""More than each takes."""
BY_RENAMES = ("publish of a part", "unpublish", "carry")
"""Commands that are also tried without an exchange of folders in one step."""


def _kills() -> Iterator[Case]:
    for command, steps in STEPS.items():
        for exchange in (True, False) if command in BY_RENAMES else (True,):
            for number in range(steps):
                how = "exchange" if exchange else "two renames"
                yield Case(
                    "leftovers of a killed write read as results",
                    f"{command}, {how}, killed before step {number}",
                    _killed(command, number, exchange, inside=False),
                    lambda said: said == "as uninterrupted",
                    slow=not (command == "unpublish" and number in (2, 4)),
                )
        for number in (0, 7, 20, 33):
            yield Case(
                "leftovers of a killed write read as results",
                f"{command}, killed before step {number} inside of a new folder",
                _killed(command, number, exchange=True, inside=True),
                lambda said: said == "as uninterrupted",
                slow=True,
            )


# Strays -------------------------------------------------------------------------------------


def _stray_copy(t: Tree) -> None:
    shutil.copytree(t.alpha, t.small / "alpha-copy")
    _replace(t.small / "alpha-copy/claims.csv", "reproduced", "contradicted")


STRAYS: dict[str, Callable[[Tree], Any]] = {
    "a copy of a method": _stray_copy,
    "a hidden copy of a method": lambda t: shutil.copytree(t.alpha, t.small / ".alpha.old"),
    "a partial copy of a method": lambda t: shutil.copytree(t.alpha, t.small / ".alpha.x.partial"),
    "a partial scale": lambda t: shutil.copytree(t.small, t.results / ".small.x.partial"),
    "a partial file of a scale": lambda t: (t.small / ".ledger.md.x.partial").write_text("x"),
    "a partial file of the results": lambda t: (t.results / ".README.md.x.partial").touch(),
    "a partial file of a method": lambda t: (t.alpha / ".runs.csv.x.partial").write_text("x"),
    "a partial README": lambda t: (t.root / ".README.md.x.partial").write_text("x"),
    "an empty folder": lambda t: (t.small / "gamma").mkdir(),
    "an empty folder in a method": lambda t: (t.alpha / "more").mkdir(),
    "a file beside the methods": lambda t: (t.small / "notes.txt").write_text("x"),
    "a file beside the scales": lambda t: (t.results / "notes.txt").write_text("x"),
    "a scale that is none": lambda t: (t.results / "large").mkdir(),
    "a table that no card has": lambda t: (t.alpha / "tables/more.md").write_text("x"),
    "a figure that no card has": lambda t: shutil.copy(
        t.alpha / "figures/curve.png", t.alpha / "figures/more.png"
    ),
    "a hidden file in a method": lambda t: (t.alpha / ".DS_Store").write_text("x"),
    "a method that is a link": lambda t: _as_link(t.alpha),
    "a method that is a file": lambda t: [shutil.rmtree(t.alpha), t.alpha.write_text("x")],
    "a scale that is a file": lambda t: [shutil.rmtree(t.small), t.small.write_text("x")],
    "a scale that is a link": lambda t: _as_link(t.small),
    "a pipe in a method": lambda t: os.mkfifo(t.alpha / "pipe"),
    "an endless link": lambda t: (t.alpha / "loop").symlink_to("loop"),
}


def _stray(plant: Callable[[Tree], Any]) -> Callable[[Path], Any]:
    def run(folder: Path) -> list[str]:
        here = tree(folder)
        plant(here)
        return here.check()

    return run


def _stray_in_readme(plant: Callable[[Tree], Any]) -> Callable[[Path], Any]:
    def run(folder: Path) -> bool:
        here = tree(folder)
        names = ("README.md", "results/README.md", "results/small/ledger.md")
        before = {name: (here.root / name).read_bytes() for name in names}
        plant(here)
        here.publish("beta")
        return {name: (here.root / name).read_bytes() for name in names} == before

    return run


def _strays() -> Iterator[Case]:
    kind = "leftovers of a killed write read as results"
    for name, plant in STRAYS.items():
        yield Case(kind, f"check names {name}", _stray(plant), _lines)
        slow = name != "a method that is a file"
        yield Case(kind, f"publish beside {name}", _stray_in_readme(plant), bool, slow=slow)


def _two_at_once(folder: Path) -> Any:
    """Two commands at once: each is right or refused, and the results are those of one."""
    here = tree(folder)
    wanted = here.snapshot()
    for _ in range(3):
        pids = []
        for slug in METHODS:
            pid = os.fork()
            if pid == 0:
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), 2)
                    from repro.errors import ReproError

                    try:
                        here.publish(slug)
                    except ReproError:
                        os._exit(0)
                    except BaseException:
                        os._exit(3)
                os._exit(0)
            pids.append(pid)
        if any(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids):
            return "a traceback"
    here.publish()
    return "the same" if here.snapshot() == wanted else "another result"


# The command --------------------------------------------------------------------------------


def _clone(here: Tree) -> None:
    """The suite beside the tiny tree, so that a command takes it for its own."""
    from torture.case import ROOT

    if not (here.root / "repro").exists():
        unwanted = shutil.ignore_patterns("weights", "__pycache__", "zoo.yaml")
        shutil.copytree(ROOT / "repro", here.root / "repro", ignore=unwanted)


def _command(plant: Callable[[Tree], Any] | None) -> Callable[[Path], Any]:
    """The exit status of `repro check` on a copy of the results, given by its option."""

    def run(folder: Path) -> Done:
        here = tree(folder)
        _clone(here)
        if plant is not None:
            plant(here)
        return repro(
            folder, "check", "--results", here.results, environment={"PYTHONPATH": str(here.root)}
        )

    return run


def _one(done: Done) -> bool:
    clear = "Traceback" not in done.err + done.out and bool(done.err.strip())
    return done.status == 1 and clear and "every file follows" not in done.out


COMMANDS: dict[str, Callable[[Tree], Any]] = {
    "a digit of runs.csv": lambda t: damage(t.alpha / "runs.csv", "a digit changed"),
    "a lost run": lambda t: damage(t.alpha / "records.csv", "a row lost"),
    "an edited verdict": lambda t: _replace(t.alpha / "claims.csv", "reproduced", "contradicted"),
    "an edited finding": lambda t: _replace(t.alpha / "findings.json", "smaller.", "larger."),
    "an edited figure": lambda t: damage(t.alpha / "figures/curve.png", "a digit changed"),
    "no manifest": lambda t: (t.alpha / "manifest.sha256").unlink(),
    "an edited ledger": lambda t: damage(t.small / "ledger.md", "a row lost"),
    "no environment": lambda t: (t.small / "environment.json").unlink(),
    "a README of the results in UTF-16": lambda t: damage(t.results / "README.md", "UTF-16"),
    "a README of the tree in UTF-16": lambda t: damage(t.root / "README.md", "UTF-16"),
    "no method": lambda t: shutil.rmtree(t.alpha),
    "a stray method": _stray_copy,
    "a partial method": STRAYS["a partial copy of a method"],
    "another threshold": lambda t: _replace(t.root / "methods/alpha/checks.yaml", "0.9", "0.4"),
    "another code": lambda t: _replace(t.root / "methods/alpha/arms.py", "0.25", "0.5"),
    "a scale that is a file": STRAYS["a scale that is a file"],
}


def _commands() -> Iterator[Case]:
    kind = "exit status lies: command"
    yield Case(
        kind, "check of whole results ends with 0", _command(None),
        lambda done: done.status == 0 and "every file follows" in done.out, slow=True,
    )  # fmt: skip
    for name, plant in COMMANDS.items():
        slow = name not in ("a digit of runs.csv", "no manifest")
        yield Case(kind, f"check with {name} ends with 1", _command(plant), _one, slow=slow)
    yield Case(
        kind, "check with no results ends with 2", _command(lambda t: shutil.rmtree(t.results)),
        lambda done: done.status == 2 and "no committed results" in done.err, slow=True,
    )  # fmt: skip


def warm() -> None:
    """Import what the cases need before they fork, once instead of in each."""
    for name in ("results.check", "results.carry", "reporting", "judging"):
        importlib.import_module(f"repro.suite.{name}")


def cases() -> Iterator[Case]:
    warm()
    yield from _damages()
    yield from _other_readers()
    yield from _forgeries()
    yield from _keys()
    yield from _no_evidence()
    yield from _kills()
    yield from _strays()
    yield Case("leftovers of a killed write read as results", "two publications at once",
               _two_at_once, lambda said: said == "the same", slow=True)  # fmt: skip
    yield from _commands()
