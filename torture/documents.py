"""Every reader of YAML, JSON and sources, on files that are not what it expects."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from methods.diffusion_couple import profile

# Imported before the cases are forked, not in each.
from repro import store
from repro.job import Job
from repro.places import ROOT
from repro.suite import definitions, plan
from repro.suite.cards import comparisons, library
from torture.cards import CARDS, COMPARISON, dump, load, write
from torture.case import Case

COUPLE = """\
t_s: 3600
T_C: 1000
N_left: 0
N_right: 1
V_A: 7.1
V_B: 6.6
"""
ZOO = "models:\n  net: {train: 'repro.zoo.train:train', data: [digits]}\n"
SCALE = "scale: small\ndescription: d\ndevice: cpu\nmethods: all\n"


def _methods(folder: Path) -> Path:
    return write(folder, CARDS) / "methods" / "toy"


def _scale_config(folder: Path) -> Any:
    plan.ROOT = folder
    plan.scale_config.cache_clear()
    return plan.scale_config("small")


def _config(folder: Path) -> Path:
    schema = folder / "workflow" / "schemas" / "config.schema.yaml"
    schema.parent.mkdir(parents=True)
    schema.write_text((ROOT / "workflow" / "schemas" / schema.name).read_text("utf-8"), "utf-8")
    (folder / "workflow" / "config").mkdir()
    return folder / "workflow" / "config"


def _folder(*parts: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        path = root.joinpath(*parts)
        path.mkdir(parents=True)
        return path

    return make


def _compared(folder: Path) -> Path:
    return _folder("comparisons")(write(folder, CARDS))


Reader = tuple[Callable[[Path], Path], str, str, Callable[[Path], Any]]
YAML: dict[str, Reader] = {
    "paper.yaml": (_methods, "paper.yaml", dump(CARDS["paper.yaml"]), load),
    "experiment.yaml": (_methods, "experiment.yaml", dump(CARDS["experiment.yaml"]), load),
    "checks.yaml": (_methods, "checks.yaml", dump(CARDS["checks.yaml"]), load),
    "zoo.yaml": (_folder("repro", "zoo"), "zoo.yaml", ZOO, library.zoo),
    "a comparison": (_compared, "c.yaml", dump(COMPARISON), comparisons.load),
    "a scale": (_config, "small.yaml", SCALE, _scale_config),
    "a couple": (
        lambda folder: folder,
        "couple.yaml",
        COUPLE,
        lambda folder: profile.read_config(folder / "couple.yaml"),
    ),
}
"""Reader → how to make its folder, its file, a valid text, and what reads it."""

ALIKE = ("experiment.yaml", "checks.yaml", "zoo.yaml")
"""Read as `paper.yaml` is; only in the campaign."""

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
MERGES = "a0: &a0 {x0: 1, y0: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], x{n}: 1}}\n" for n in range(1, 10)
)
CHAIN = "c0: &c0 [1]\n" + "".join(f"c{n}: &c{n} [*c{n - 1}]\n" for n in range(1, 3000))

MALFORMED: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda s: "",
    "a comment": lambda s: "# nothing\n",
    "a marker": lambda s: "---\n",
    "null": lambda s: "null\n",
    "a list": lambda s: "[1, 2]\n",
    "a list of mappings": lambda s: "- a: 1\n",
    "a number": lambda s: "3\n",
    "a text": lambda s: "hello\n",
    "true": lambda s: "true\n",
    "a date": lambda s: "2026-02-30\n",
    "two documents": lambda s: f"{s}---\n{s}",
    "Latin-1": lambda s: f"# d\u00e9j\u00e0\n{s}".encode("latin-1"),
    "UTF-16": lambda s: s.encode("utf-16"),
    "UTF-16 without mark": lambda s: s.encode("utf-16-le"),
    "UTF-32": lambda s: s.encode("utf-32"),
    "NUL": lambda s: s[:20] + "\0" + s[20:],
    "NUL at the end": lambda s: f"{s}\0",
    "noise": lambda s: bytes(range(256)),
    "a PNG": lambda s: b"\x89PNG\r\n\x1a\n" + bytes(64),
    "a web page": lambda s: "<!doctype html><html><body>404</body></html>\n",
    "a pointer": lambda s: "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "a conflict": lambda s: f"<<<<<<< HEAD\n{s}=======\n{s}>>>>>>> other\n",
    "an escape": lambda s: f"\x1b[31m{s}",
    "cut off": lambda s: s[: len(s) // 2] + " {",
    "an open bracket": lambda s: f"{s}odd: [1, 2\n",
    "an open quote": lambda s: f'{s}odd: "1\n',
    "tabs": lambda s: f"{s}odd:\n\t- 1\n",
    "a key twice": lambda s: s + s[: s.index("\n") + 1],
    "a key twice within": lambda s: f"{s}odd: {{a: {{b: 1, b: 2}}}}\n",
    "a key twice in quotes": lambda s: f"{s}odd: {{a: 1, 'a': 2}}\n",
    "a list for a key": lambda s: f"{s}? [1]\n: 2\n",
    "a mapping for a key": lambda s: f"{s}? {{a: b}}\n: 2\n",
    "a list for a key within": lambda s: f"{s}odd: {{[1]: 2}}\n",
    "a number for a key": lambda s: f"{s}1: 2\n",
    "null for a key": lambda s: f"{s}~: 2\n",
    "true for a key": lambda s: f"{s}true: 2\n",
    "infinity for a key": lambda s: f"{s}.inf: 2\n",
    "a key of 2 KB": lambda s: f"{s}{'k' * 2000}: 2\n",
    "a Python object": lambda s: f"{s}odd: !!python/object/apply:os.getcwd []\n",
    "a Python name": lambda s: f"{s}odd: !!python/name:os.getcwd\n",
    "an unknown tag": lambda s: f"{s}odd: !mine 1\n",
    "a number by tag": lambda s: f"{s}odd: !!int abc\n",
    "a float by tag": lambda s: f"{s}odd: !!float abc\n",
    "a date by tag": lambda s: f"{s}odd: !!timestamp abc\n",
    "an impossible date": lambda s: f"{s}odd: 2026-02-30\n",
    "bytes by tag": lambda s: f"{s}odd: !!binary '*'\n",
    "an ordered mapping": lambda s: f"{s}odd: !!omap [a, b]\n",
    "5,000 digits": lambda s: f"{s}odd: {'9' * 5000}\n",
    "base 60": lambda s: f"{s}odd: {'1:' * 3000}30\n",
    "an unknown alias": lambda s: f"{s}odd: *nothing\n",
    "an alias of itself": lambda s: f"{s}odd: &odd [*odd]\n",
    "an alias of itself in a mapping": lambda s: f"{s}odd: &odd {{a: *odd}}\n",
    "a merge of itself": lambda s: f"{s}odd: &odd {{<<: *odd}}\n",
    "a merge of a number": lambda s: f"{s}odd: {{<<: 3}}\n",
    "a merge of a list of numbers": lambda s: f"{s}odd: {{<<: [3]}}\n",
    "an alias bomb": lambda s: f"{BOMB}{s}",
    "a merge bomb": lambda s: f"{MERGES}{s}",
    "a chain of 3,000 aliases": lambda s: f"{CHAIN}{s}",
    "100 lists deep": lambda s: f"{s}odd: {'[' * 100}{']' * 100}\n",
    "100,000 lists deep": lambda s: f"{s}odd: {'[' * 100_000}{']' * 100_000}\n",
    "100,000 mappings deep": lambda s: f"{s}odd: {'{a: ' * 100_000}1{'}' * 100_000}\n",
    "20,000 blocks deep": lambda s: f"{s}odd:\n  {'- ' * 20_000}1\n",
    "100,000 open lists": lambda s: f"{s}odd: {'[' * 100_000}\n",
    "5 MB": lambda s: f"{s}#{'x' * 5_000_000}\n",
    "an unknown directive": lambda s: f"%YAML 7.0\n---\n{s}",
}
"""What is put in the place of a valid text."""

FINE: dict[str, Callable[[str], str | bytes]] = {
    "a byte-order mark": lambda s: b"\xef\xbb\xbf" + s.encode(),
    "CRLF": lambda s: s.replace("\n", "\r\n"),
    "no end of line": lambda s: s.rstrip("\n"),
    "a comment in another script": lambda s: f"# \u0434\u0430\n{s}",
}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


NO_FILES: dict[str, Callable[[Path], Any]] = {
    "a folder": Path.mkdir,
    "a pipe": _fifo,
    "a link to itself": _loop,
    "a link to nowhere": _nowhere,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
}


def _put(path: Path, content: str | bytes) -> None:
    path.write_bytes(
        content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    )


def _yaml(reader: Reader, make: Callable[[str], str | bytes]) -> Callable[[Path], Any]:
    folder, name, text, read = reader

    def run(root: Path) -> Any:
        path = folder(root) / name
        _put(path, make(text))
        return read(root)

    return run


def _same(reader: Reader, make: Callable[[str], str | bytes]) -> Callable[[Path], Any]:
    """Whether a harmless change of the bytes is read as the plain text is."""
    folder, name, text, read = reader

    def run(root: Path) -> Any:
        path = folder(root) / name
        found = []
        for content in (text, make(text)):
            _put(path, content)
            library.forget()
            found.append(repr(read(root)))
        return found

    return run


def _no_file(reader: Reader, plant: Callable[[Path], Any]) -> Callable[[Path], Any]:
    folder, name, _, read = reader

    def run(root: Path) -> Any:
        path = folder(root) / name
        path.unlink(missing_ok=True)
        plant(path)
        return read(root)

    return run


# JSON ---------------------------------------------------------------------------------------


def _record(folder: Path) -> Any:
    job = Job("toy", "ours", 0, "smoke", None, model_paths={"net": folder})  # type: ignore[arg-type]
    return job.model_record("net")


JSON: dict[str, Callable[[Path], Any]] = {
    "an artefact": lambda folder: store.read_json(folder / "record.json"),
    "the record of a model": _record,
}
VALID = json.dumps({"params": {"a": 1.5, "b": [1, 2]}, "seed": 0})
WRONG: dict[str, str | bytes] = {
    "empty": "",
    "blank": " \n",
    "null": "null",
    "true": "true",
    "a list": "[]",
    "a number": "3",
    "a text": '"a"',
    "cut off": VALID[:-5],
    "twice": VALID * 2,
    "a key twice": '{"a": 1, "a": 2}',
    "a key twice within": '{"a": {"b": 1, "b": 1}}',
    "NaN": '{"a": NaN}',
    "infinity": '{"a": Infinity}',
    "negative infinity": '{"a": -Infinity}',
    "1e999": '{"a": 1e999}',
    "5,000 digits": f'{{"a": {"9" * 5000}}}',
    "a comma too many": '{"a": 1,}',
    "single quotes": "{'a': 1}",
    "YAML": "a: 1\n",
    "half a pair": '{"a": "\\ud800"}',
    "NUL": VALID + "\0",
    "Latin-1": '{"a": "\u00e9"}'.encode("latin-1"),
    "UTF-16": VALID.encode("utf-16"),
    "noise": bytes(range(256)),
    "100 lists deep": f'{{"a": {"[" * 100}1{"]" * 100}}}',
    "100,000 lists deep": f'{{"a": {"[" * 100_000}1{"]" * 100_000}}}',
    "100,000 open mappings": '{"a": ' * 100_000,
    "a web page": "<!doctype html><html></html>",
}


def _json(read: Callable[[Path], Any], content: str | bytes) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        _put(folder / "record.json", content)
        return read(folder)

    return run


def _json_no_file(read: Callable[[Path], Any], plant: Callable[[Path], Any]):
    def run(folder: Path) -> Any:
        plant(folder / "record.json")
        return read(folder)

    return run


# The memory of what sources say -----------------------------------------------------------------

SOURCE = (
    "LIMIT = 3\n\ndef run(job):\n    return other(job) + LIMIT\n\ndef other(job):\n    return 1\n"
)


def _sources(folder: Path, text: str | bytes) -> Path:
    package = folder / "methods" / "toy"
    package.mkdir(parents=True)
    (folder / "methods" / "__init__.py").touch()
    (package / "__init__.py").touch()
    _put(package / "arms.py", text)
    definitions.ROOT = folder
    os.environ["REPRO_WORK"] = str(folder / "work")
    _forget()
    return folder / "work" / "plan" / "definitions.json"


def _forget() -> None:
    definitions._index.cache_clear()
    definitions._module.cache_clear()


def _reached() -> dict[str, str]:
    return definitions.closure(["methods.toy.arms:run"])


def _remembered(damage: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """What is reached before and after a damage of the file that keeps it."""

    def run(folder: Path) -> Any:
        path = _sources(folder, SOURCE)
        before = _reached()
        definitions._keep()
        assert path.is_file()
        damage(path)
        _forget()
        after = _reached()
        definitions._keep()
        _forget()
        return [before, after, _reached()]

    return run


def _swapped(old: str, new: str) -> Callable[[Path], Any]:
    def damage(path: Path) -> None:
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    return damage


def _inside(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text("utf-8"))
        change(content)
        path.write_text(json.dumps(content), "utf-8")

    return damage


def _digest_changed(path: Path) -> None:
    """Another digest for what the function means: one hexadecimal digit of every digest."""
    text = path.read_text("utf-8")
    changed = re.sub(
        r'(?<=")[0-9a-f](?=[0-9a-f]{15}\\?")', lambda m: "0" if m[0] != "0" else "1", text
    )
    assert changed != text
    path.write_text(changed, "utf-8")


def _exchanged(content: dict[str, Any]) -> None:
    modules = content["modules"]
    keys = [*modules]
    content["modules"] = dict(zip(keys, reversed(modules.values()), strict=True))


def _replace_file(plant: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def damage(path: Path) -> None:
        path.unlink()
        plant(path)

    return damage


DAMAGE: dict[str, Callable[[Path], Any]] = {
    **{f"it is {name}": partial(_put, content=content) for name, content in WRONG.items()},
    **{f"it is {name}": _replace_file(plant) for name, plant in NO_FILES.items()},
    "no reader": _inside(lambda c: c.pop("reader")),
    "another reader": _inside(lambda c: c.update(reader="x")),
    "no modules": _inside(lambda c: c.pop("modules")),
    "modules are a list": _inside(lambda c: c.update(modules=[1])),
    "modules are null": _inside(lambda c: c.update(modules=None)),
    "a module is null": _inside(lambda c: c["modules"].update(dict.fromkeys(c["modules"]))),
    "a module is a list": _inside(lambda c: c["modules"].update(dict.fromkeys(c["modules"], []))),
    "a module is empty": _inside(lambda c: c["modules"].update(dict.fromkeys(c["modules"], {}))),
    "modules exchanged": _inside(_exchanged),
    "digests changed": _digest_changed,
    "a name changed": _swapped("other", "othex"),
    "references lost": _swapped("LIMIT", "LIMIX"),
}

NO_SOURCES: dict[str, str | bytes] = {
    "an open bracket": "def run(:\n",
    "an open quote": 'def run(job):\n    return "\n',
    "cut off": SOURCE[:24],
    "a tab": "def run(job):\n\treturn 1\n        return 2\n",
    "NUL": SOURCE + "\0",
    "Latin-1": f"{SOURCE}\nd\u00e9 = 1\n".encode("latin-1"),
    "UTF-16": SOURCE.encode("utf-16"),
    "an unknown coding": f"# -*- coding: nothing -*-\n{SOURCE}",
    "noise": bytes(range(256)),
    "a conflict": f"<<<<<<< HEAD\n{SOURCE}=======\n{SOURCE}>>>>>>> other\n",
    "5,000 digits": f"{SOURCE}\nN = {'9' * 5000}\n",
    "2,000 brackets": f"{SOURCE}\nN = {'(' * 2000}1{')' * 2000}\n",
    "100,000 signs": f"{SOURCE}\nN = {'-' * 100_000}1\n",
    "100,000 terms": f"{SOURCE}\nN = {'1 + ' * 100_000}1\n",
    "3,000 attributes": f"{SOURCE}\nN = LIMIT{'[0]' * 3000}\n",
    "Python 2": 'print "run"\n',
    "a web page": "<!doctype html><html></html>",
    "without the function": "def walk(job):\n    return 1\n",
    "empty": "",
}


def _source(text: str | bytes) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        _sources(folder, text)
        return _reached()

    return run


def cases() -> Iterator[Case]:
    shape = "parseable but wrong shape"
    for where, reader in YAML.items():
        for what, make in MALFORMED.items():
            run, slow = _yaml(reader, make), where in ALIKE
            yield Case(shape, f"{where}: {what}", run, slow=slow, limit_s=20)
        for what, make in FINE.items():
            same = _same(reader, make)
            yield Case(shape, f"{where}: {what}", same, lambda found: found[0] == found[1])
        for what, plant in NO_FILES.items():
            run, slow = _no_file(reader, plant), where in ALIKE
            yield Case(shape, f"{where}: {what}", run, slow=slow, limit_s=20)
    for where, read in JSON.items():
        for what, content in WRONG.items():
            yield Case(shape, f"{where}: {what}", _json(read, content), limit_s=20)
        for what, plant in NO_FILES.items():
            yield Case(shape, f"{where}: {what}", _json_no_file(read, plant), limit_s=20)
        yield Case(shape, f"{where}: whole", _json(read, VALID), lambda r: r == json.loads(VALID))
    for what, damage in DAMAGE.items():
        yield Case(
            "memory of sources",
            what,
            _remembered(damage),
            lambda found: found[0] == found[1] == found[2] and len(found[0]) == 3,
            limit_s=20,
        )
    for what, text in NO_SOURCES.items():
        yield Case("sources that are not Python", what, _source(text), limit_s=20)
