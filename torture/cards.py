"""Cards with values of another type, odd names, and what is well written but means nothing."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

# Imported before the cases are forked, not in each.
from repro.errors import ReproError
from repro.suite import scaffold
from repro.suite.cards import comparisons, library
from torture.case import Case

CARDS: dict[str, Any] = {
    "paper.yaml": {
        "slug": "toy",
        "short": "Toy",
        "title": "A toy",
        "authors": ["A. Nobody"],
        "venue": "Nowhere",
        "year": 2026,
        "field": "text",
        "summary": "Nothing.",
        "repository": {"url": "https://example.org/toy", "commit": "0a1b2c3"},
        "claims": [
            {
                "id": "smaller",
                "kind": "empirical",
                "statement": "s",
                "where": "Table 1",
                "evidence": "paper",
                "best_tier": "reduced",
                "method": 1,
            },
            {
                "id": "identity",
                "kind": "theorem",
                "statement": "s",
                "where": "Eq. 1",
                "evidence": "derived",
                "best_tier": "exact",
            },
        ],
        "tables": [
            {
                "id": "t",
                "title": "T",
                "where": "Table 1",
                "evidence": "paper",
                "columns": ["a", "b"],
                "rows": [["x", 1]],
            }
        ],
    },
    "experiment.yaml": {
        "paper": "toy",
        "models": {
            "net": {
                "train": "methods.toy.arms:train",
                "params": {"width": None, "lr": 0.001},
                "per_seed": True,
                "threads": 1,
            },
            "once": {"train": "methods.toy.arms:train", "data": ["digits"]},
        },
        "arms": {
            "ours": {
                "run": "methods.toy.arms:run",
                "models": ["net"],
                "data": ["digits"],
                "params": {"steps": [4], "gain": 1.0, "deep": {"rates": [0.1, 0.2]}},
            },
            "base": {
                "run": "methods.toy.arms:run",
                "models": ["net"],
                "params": {"steps": [4], "gain": 2.0},
            },
            "exact": {"run": "methods.toy.arms:exact", "deterministic": True, "models": ["once"]},
        },
        "measurements": {
            "loss": {
                "direction": "lower",
                "timing": False,
                "at": [{"arms": ["ours", "base"], "steps": "$steps", "part": 1}],
            },
            "error": {"direction": "lower", "at": [{"arms": ["exact"]}]},
        },
        "scales": {
            "smoke": {"seeds": 3, "params": {"width": 2, "steps": [4, 8]}},
            "small": {
                "seeds": [0, 1, 2],
                "params": {"width": 3},
                "without": {"arms": ["exact"]},
            },
        },
        "figures": [{"id": "f", "run": "methods.toy.figures:f", "title": "F", "caption": "c"}],
        "tables": [{"id": "t", "title": "T", "measurements": ["loss"], "at": {"part": 1}}],
    },
    "checks.yaml": {
        "claims": {
            "smaller": {
                "checks": [
                    {
                        "id": "smaller",
                        "tier": "reduced",
                        "expect": "loss[ours, steps=4, part=1] < loss[base, steps=4, part=1]",
                        "why": "w",
                        "comparable": False,
                    }
                ]
            },
            "identity": {
                "checks": [
                    {
                        "id": "identity",
                        "tier": "exact",
                        "expect": "error[exact] <= 1e-12",
                        "why": "w",
                    }
                ]
            },
        }
    },
}
"""A method without a fault."""

PLACEHOLDER = "planted-here"


def dump(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=10_000)


def write(folder: Path, cards: dict[str, Any], slug: str = "toy") -> Path:
    """Make ``methods/<slug>`` of cards (texts or their content); returns the root."""
    path = folder / "methods" / slug
    path.mkdir(parents=True)
    for name, content in cards.items():
        text = content if isinstance(content, str) else dump(content)
        (path / name).write_text(text, encoding="utf-8")
    return folder


def load(root: Path) -> Any:
    return library.load("toy", root)


def _set(content: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = value


def _planted(file: str, place: tuple[Any, ...], text: str) -> Callable[[Path], Any]:
    """Reads the cards with a raw YAML text at one place."""

    def run(folder: Path) -> Any:
        cards = copy.deepcopy(CARDS)
        _set(cards[file], place, PLACEHOLDER)
        cards[file] = dump(cards[file]).replace(PLACEHOLDER, text)
        method = load(write(folder, cards))
        card = {"paper.yaml": method.paper, "experiment.yaml": method.experiment}
        found: Any = card.get(file, method.expected)
        for key in place:
            found = found[key] if isinstance(found, dict | list) else getattr(found, key)
        return found

    return run


LARGE = "9" * 5000
NO_NUMBERS = {
    "nan": ".nan",
    "infinity": ".inf",
    "negative infinity": "-.inf",
    "1e999": "1e999",
    "5,000 digits": LARGE,
    "40 digits": "9" * 40,
    "underscores": "1_000",
    "hexadecimal": "0x10",
    "octal": "010",
    "base 60": "1:30",
    "yes": "yes",
    "on": "on",
    "an explicit date": "!!timestamp 2026-02-30",
    "bytes": "!!binary aGk=",
    "a set": "!!set {a, b}",
    "a Python object": "!!python/object/apply:os.getcwd []",
    "a key that is a list": "{[1]: 2}",
    "a key that is a number": "{1: 2}",
}
"""Texts that are no value of a card anywhere."""

NUMBERS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "a reference value": ("paper.yaml", ("claims", 0, "method")),
    "a cell of a table": ("paper.yaml", ("tables", 0, "rows", 0, 1)),
    "a parameter": ("experiment.yaml", ("arms", "ours", "params", "gain")),
    "a parameter of a model": ("experiment.yaml", ("models", "net", "params", "lr")),
    "a parameter in a list": ("experiment.yaml", ("arms", "ours", "params", "deep", "rates", 1)),
    "a parameter of a scale": ("experiment.yaml", ("scales", "small", "params", "width")),
    "a value in a list of a scale": (
        "experiment.yaml",
        ("scales", "smoke", "params", "steps", 1),
    ),
    "a coordinate": ("experiment.yaml", ("measurements", "loss", "at", 0, "part")),
}

WHOLE: dict[str, tuple[str, tuple[Any, ...]]] = {
    "the year": ("paper.yaml", ("year",)),
    "threads": ("experiment.yaml", ("models", "net", "threads")),
    "the number of seeds": ("experiment.yaml", ("scales", "smoke", "seeds")),
    "a seed": ("experiment.yaml", ("scales", "small", "seeds", 1)),
}
NOT_WHOLE = {
    "true": "true",
    "quoted": '"3"',
    "a float": "3.0",
    "an exponent": "1e1",
    "negative": "-1",
    "a float by tag": "!!float 3",
    "nothing": "null",
    "a list": "[[1]]",
    "a mapping": "{a: 1}",
    "a date": "2026-02-30",
    "nan": ".nan",
    "infinity": ".inf",
    "yes": "yes",
    "octal": "010",
    "base 60": "1:30",
    "5,000 digits": LARGE,
    "20 digits": "9" * 20,
}

SWITCHES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "per_seed": ("experiment.yaml", ("models", "net", "per_seed")),
    "deterministic": ("experiment.yaml", ("arms", "exact", "deterministic")),
    "timing": ("experiment.yaml", ("measurements", "loss", "timing")),
    "comparable": ("checks.yaml", ("claims", "smaller", "checks", 0, "comparable")),
}
NO_SWITCH = {
    "1": "1",
    "1.0": "1.0",
    "quoted": '"true"',
    "yes": "yes",
    "off": "off",
    "nothing": "null",
    "a list": "[true]",
}

TEXTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "the title": ("paper.yaml", ("title",)),
    "an author": ("paper.yaml", ("authors", 0)),
    "a statement": ("paper.yaml", ("claims", 0, "statement")),
    "the commit": ("paper.yaml", ("repository", "commit")),
    "an expression": ("checks.yaml", ("claims", "smaller", "checks", 0, "expect")),
    "a reason": ("checks.yaml", ("claims", "smaller", "checks", 0, "why")),
    "a dataset": ("experiment.yaml", ("arms", "ours", "data", 0)),
    "a function": ("experiment.yaml", ("arms", "ours", "run")),
}
NO_TEXT = {
    "a number": "5",
    "a commit that is a number": "1234567",
    "true": "true",
    "a list": "[a]",
    "a mapping": "{a: b}",
    "empty": '""',
    "a hidden direction": '"a\\u202eb"',
    "a NUL": '"a\\0b"',
    "an escape": '"a\\eb"',
}

ODD_NAMES = {
    "empty": "",
    "a dot": ".",
    "two dots": "..",
    "a path": "a/b",
    "a way out": "../../up",
    "an absolute path": "/up",
    "a backslash": "a\\b",
    "a dash first": "-rf",
    "300 letters": "a" * 300,
    "a new line": "a\nb",
    "a new line at the end": "a\n",
    "a blank": "a b",
    "an escape": "a\x1bb",
    "upper case": "Ours",
    "Cyrillic": "\u0430rm",
    "full width": "\uff41rm",
    "Turkish": "ar\u0131m",
    "combining": "a\u0301rm",
    "a hidden direction": "a\u202eb",
    "a star": "a*",
    "a comma": "a,b",
    "an equals sign": "a=b",
    "brackets": "a[b]",
    "a quote": "a'b",
    "a brace": "{scale}",
    "a dollar": "$HOME",
    "markup": "<script>",
}


def _renamed(place: str, name: str) -> Callable[[Path], Any]:
    """Reads the cards with one more thing of an odd name."""

    def run(folder: Path) -> Any:
        cards = copy.deepcopy(CARDS)
        experiment = cards["experiment.yaml"]
        if place in ("arms", "models", "measurements"):
            experiment[place][name] = list(experiment[place].values())[-1]
        elif place in ("figures", "tables"):
            experiment[place].append({**experiment[place][0], "id": name})
        elif place == "claims":
            claims = cards["paper.yaml"]["claims"]
            claims.append({**claims[0], "id": name})
        elif place == "coordinates":
            experiment["measurements"]["loss"]["at"][0][name] = 1
        else:
            checks = cards["checks.yaml"]["claims"]["smaller"]["checks"]
            checks.append({**checks[0], "id": name})
        return load(write(folder, cards)).slug

    return run


# Well written, without meaning -----------------------------------------------------------------


def _edited(change: Callable[[dict, dict, dict], Any]) -> Callable[[Path], Any]:
    """Reads the cards after an edit of (paper, experiment, checks)."""

    def run(folder: Path) -> Any:
        cards = copy.deepcopy(CARDS)
        change(cards["paper.yaml"], cards["experiment.yaml"], cards["checks.yaml"])
        method = load(write(folder, cards))
        for scale in method.experiment.scales:  # all that planning asks
            method.in_order(scale, method.models(scale))
            method.checks(scale)
            for arm in method.arms(scale):
                method.declared(scale, arm)
        return method.slug

    return run


def _expect(text: str) -> Callable[[dict, dict, dict], Any]:
    return lambda p, e, c: c["claims"]["smaller"]["checks"][0].update(expect=text)


def _scale(**changes: Any) -> Callable[[dict, dict, dict], Any]:
    return lambda p, e, c: e["scales"]["smoke"].update(changes)


def _models(models: dict[str, list[str]], **more: Any) -> Callable[[dict, dict, dict], Any]:
    train = "methods.toy.arms:train"

    def change(p: dict, e: dict, c: dict) -> None:
        e["models"].update({n: {"train": train, "models": m} for n, m in models.items()})
        e["scales"]["smoke"].update(more)

    return change


def _wide(p: dict, e: dict, c: dict) -> None:
    layers = [[f"m{layer}-{n}" for n in range(3)] for layer in range(16)]
    for before, layer in zip([[], *layers], layers, strict=False):
        _models({name: before for name in layer})(p, e, c)
    e["arms"]["exact"]["models"] = [*layers[-1], "once"]


def _grid(p: dict, e: dict, c: dict) -> None:
    at = e["measurements"]["loss"]["at"][0]
    at.update({key: list(range(300)) for key in ("u", "v", "w")})
    _expect("max(loss[ours, steps=4, part=1, u=*, v=*, w=*]) < 1")(p, e, c)


def _many(p: dict, e: dict, c: dict) -> None:
    e["measurements"]["loss"]["at"][0]["u"] = list(range(20_000))
    _expect("max(loss[ours, steps=4, part=1, u=*]) < 1")(p, e, c)


TOGETHER: dict[str, Callable[[dict, dict, dict], Any]] = {
    "no seeds": _scale(seeds=0),
    "an empty list of seeds": _scale(seeds=[]),
    "a seed twice": _scale(seeds=[1, 2, 1]),
    "a seed of 64 bits": _scale(seeds=[2**64]),
    "a million seeds": _scale(seeds=10**6),
    "a thousand threads and more": lambda p, e, c: e["arms"]["ours"].update(threads=10**6),
    "every arm left out": _scale(without={"arms": ["*"]}),
    "no arms": lambda p, e, c: e.update(arms={}),
    "a model replaced by itself": _scale(replace={"net": "net"}),
    "a dataset replaced by itself": _scale(replace={"digits": "digits"}),
    "a replacement that is replaced": _scale(replace={"net": "once", "once": None}),
    "a dataset replaced by a model": _scale(replace={"digits": "net"}),
    "a model replaced by a dataset": _scale(replace={"net": "digits"}),
    "a model replaced by an unknown one": _scale(replace={"net": "nett"}),
    "a replacement that is per seed": _scale(replace={"once": "net"}),
    "a circle by replacement": _models({"a": ["b"], "b": []}, replace={"b": "a"}),
    "a longer circle by replacement": _models(
        {"a": ["b"], "b": ["d"], "d": []}, replace={"d": "a"}
    ),
    "a model of itself": _models({"a": ["a"]}),
    "a circle of two models": _models({"a": ["b"], "b": ["a"]}),
    "a circle of three models": _models({"a": ["b"], "b": ["d"], "d": ["a"]}),
    "a model of its own name with the slug": _models({"a": ["toy/a"]}),
    "a model trained once from one per seed": _models({"a": ["net"]}),
    "another paper": lambda p, e, c: e.update(paper="toys"),
    "a slug of another folder": lambda p, e, c: (p.update(slug="toys"), e.update(paper="toys")),
    "a slug of one more folder": lambda p, e, c: (p.update(slug="t-oy"), e.update(paper="t-oy")),
    "a figure twice": lambda p, e, c: e["figures"].append(e["figures"][0]),
    "a table twice": lambda p, e, c: e["tables"].append(e["tables"][0]),
    "a claim twice": lambda p, e, c: p["claims"].append(p["claims"][0]),
    "a format as wide as memory": lambda p, e, c: e["measurements"]["loss"].update(
        format="99999999999.4g"
    ),
    "a format of 10^9 digits": lambda p, e, c: e["measurements"]["loss"].update(
        format=".999999999f"
    ),
    "a format of text": lambda p, e, c: e["measurements"]["loss"].update(format="s"),
    "a format that is none": lambda p, e, c: e["measurements"]["loss"].update(format="{0}"),
    "weights from elsewhere": lambda p, e, c: e["models"]["once"].update(
        shipped="../../../etc/passwd"
    ),
    "weights from the root": lambda p, e, c: e["models"]["once"].update(shipped="/etc/passwd"),
    "a repository of script": lambda p, e, c: p["repository"].update(url="javascript:alert(1)"),
    "a repository in a file": lambda p, e, c: p["repository"].update(url="file:///etc/passwd"),
    "a repository with markup": lambda p, e, c: p["repository"].update(
        url='https://x.org/"><script>'
    ),
    "a commit with a command": lambda p, e, c: p["repository"].update(commit="HEAD; true"),
    "a year before print": lambda p, e, c: p.update(year=12),
    "no authors": lambda p, e, c: p.update(authors=[]),
    "a table without columns": lambda p, e, c: p["tables"][0].update(columns=[], rows=[[]]),
    "a row too long": lambda p, e, c: p["tables"][0].update(rows=[["x", 1, 2]]),
    "a result table of nothing": lambda p, e, c: e["tables"][0].update(measurements=[]),
    "a function of another language": lambda p, e, c: e["arms"]["ours"].update(run="rm -rf"),
    "a function with dots": lambda p, e, c: e["arms"]["ours"].update(run="methods.toy.arms:a.b"),
    "a parameter that is a call": lambda p, e, c: e["arms"]["ours"]["params"].update(
        {"steps()": 1}
    ),
    "a coordinate with a comma": lambda p, e, c: e["measurements"]["loss"]["at"][0].update(
        part="1,steps=4"
    ),
    "a coordinate that is empty": lambda p, e, c: e["measurements"]["loss"]["at"][0].update(
        part=""
    ),
    "a coordinate of no parameter": lambda p, e, c: e["measurements"]["loss"]["at"][0].update(
        part="$nothing"
    ),
    "a coordinate of a mapping": lambda p, e, c: e["measurements"]["loss"]["at"][0].update(
        part="$deep"
    ),
    "27 million points": _grid,
    "20,000 points in a check": _many,
    "a check without reason": lambda p, e, c: c["claims"]["smaller"]["checks"][0].update(why=" "),
    "a check of numbers": _expect("1 < 2"),
    "a check of itself": _expect("error[exact] == error[exact]"),
    "a check of one value's minimum": _expect("min(error[exact]) < 1"),
    "a check with a coordinate twice": _expect("loss[ours, steps=4, steps=8, part=1] < 1"),
    "a check with digits of another script": _expect("loss[ours, steps=4, part=1] < \u0661"),
    "a check with a coordinate in another script": _expect("loss[ours, steps=\uff14, part=1] < 1"),
    "a check with underscores": _expect("loss[ours, steps=0_4, part=1] < 1"),
    "a check of 2,000 terms": _expect(" + ".join(["error[exact]"] * 2000) + " < 1"),
    "a check of 2,000 brackets": _expect("(" * 2000 + "error[exact]" + ")" * 2000 + " < 1"),
}


def _zoo(models: dict[str, Any], scales: dict[str, Any] | None = None) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        path = folder / "repro" / "zoo" / "zoo.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(dump({"models": models, "scales": scales or {}}), encoding="utf-8")
        return library.zoo(folder)

    return run


def _shared(**changes: Any) -> dict[str, Any]:
    return {"train": "repro.zoo.train:train", **changes}


ZOOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a circle": ({"a": _shared(models=["b"]), "b": _shared(models=["a"])}, {}),
    "a model of itself": ({"a": _shared(models=["zoo/a"])}, {}),
    "unknown data": ({"a": _shared(data=["digit"])}, {}),
    "an unknown model": ({"a": _shared(models=["b"])}, {}),
    "once from one per seed": (
        {"a": _shared(models=["b"]), "b": _shared(per_seed=True)},
        {},
    ),
    "parameters of an unknown model": ({"a": _shared()}, {"smoke": {"models": {"b": {}}}}),
    "an unknown replacement": ({"a": _shared()}, {"smoke": {"replace": {"zoo/a": "zoo/b"}}}),
}


# Comparisons -------------------------------------------------------------------------------------

COMPARISON: dict[str, Any] = {
    "title": "T",
    "caption": "c",
    "scales": ["small"],
    "measurements": ["loss"],
    "rows": [{"group": "g", "label": "l", "method": "toy", "arm": "ours", "at": {"part": 1}}],
}


def _comparison(change: Callable[[dict], Any], name: str = "c.yaml") -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        card = copy.deepcopy(COMPARISON)
        change(card)
        root = write(folder, CARDS)
        (root / "comparisons").mkdir()
        (root / "comparisons" / name).write_text(
            dump(card).replace(f"'{PLACEHOLDER}'", PLACEHOLDER).replace(PLACEHOLDER, ".inf"),
            encoding="utf-8",
        )
        return comparisons.load(root)

    return run


COMPARISONS: dict[str, Callable[[dict], Any]] = {
    "an unknown scale": lambda c: c.update(scales=["smal"]),
    "no rows": lambda c: c.update(rows=[]),
    "an infinite coordinate": lambda c: c["rows"][0]["at"].update(part=PLACEHOLDER),
    "an unknown method": lambda c: c["rows"][0].update(method="toys"),
    "no values to stand for": lambda c: c["rows"][0].update(each={"bits": []}),
    "an infinite value to stand for": lambda c: c["rows"][0].update(each={"bits": [PLACEHOLDER]}),
    "a coordinate fixed and varied": lambda c: c["rows"][0].update(each={"part": [1, 2]}),
    "a million rows in one": lambda c: c["rows"][0].update(
        each={name: [*range(100)] for name in "abc"}
    ),
    "a placeholder for nothing": lambda c: c["rows"][0].update(label="{bits}"),
    "the attribute of a placeholder": lambda c: c["rows"][0].update(label="{part.__class__}"),
    "a floor of nothing": lambda c: c.update(floor={"los": [{"method": "toy", "arm": "ours"}]}),
    "a floor nowhere": lambda c: c.update(floor={"loss": [{"method": "toy", "arm": "our"}]}),
    "two floors": lambda c: c.update(floor={"loss": [{"method": "toy", "arm": "ours"}] * 2}),
    "a word for no value": lambda c: c.update(words={"part": {"2": "second"}}),
    "none best": lambda c: c.update(best=0),
    "an unknown arm": lambda c: c["rows"][0].update(arm="our"),
    "an unknown model": lambda c: c["rows"][0].update(models=["nets"]),
    "a figure of nothing": lambda c: c.update(figure=["losses"]),
    "a number for a label": lambda c: c["rows"][0].update(label=5),
}


# A new folder ------------------------------------------------------------------------------------


def _new(slug: str, before: Callable[[Path], Any] = lambda root: None) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        (folder / "methods").mkdir()
        before(folder)
        scaffold.create(slug, folder)
        return sorted(path.name for path in (folder / "methods").rglob("*") if path.is_file())

    return run


def _killed(after: int) -> Callable[[Path], Any]:
    """A call that dies before its n-th rename, then the same again."""

    def run(folder: Path) -> Any:
        (folder / "methods").mkdir()
        rename, left = os.replace, iter(range(after))

        def killed(*places: Any) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            rename(*places)

        os.replace = killed
        try:
            scaffold.create("one-more", folder)
        except KeyboardInterrupt:
            pass  # repeated below
        os.replace = rename
        if (folder / "methods" / "one_more").exists():
            library.forget()
            return library.load("one-more", folder).slug
        try:
            scaffold.create("one-more", folder)
        except ReproError as error:
            return f"never again: {error}"
        return library.load("one-more", folder).slug

    return run


def _plant(*parts: str) -> Callable[[Path], Any]:
    def before(root: Path) -> None:
        path = root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine\n", encoding="utf-8")

    return before


SLUGS = {name: text for name, text in ODD_NAMES.items()} | {
    "a word of Python": "class",
    "another word of Python": "lambda",
    "the zoo": "zoo",
    "all": "all",
    "a scale": "smoke",
    "70 letters": "a" * 70,
    "a dash last": "paper-",
    "two dashes": "my--paper",
    "an underscore": "my_paper",
    "a digit first": "2paper",
    "dots": "my.paper",
    "a hidden file": ".paper",
}


def cases() -> Iterator[Case]:
    shape = "parseable but wrong shape"
    for where, (file, place) in NUMBERS.items():
        for what, text in NO_NUMBERS.items():
            yield Case(shape, f"{where}: {what}", _planted(file, place, text))
        if file == "paper.yaml":
            date = _planted(file, place, "2026-02-30")
            yield Case(shape, f"{where}: a date", date, lambda found: found == "2026-02-30")
    for where, (file, place) in WHOLE.items():
        for what, text in NOT_WHOLE.items():
            yield Case(shape, f"{where}: {what}", _planted(file, place, text))
    for where, (file, place) in SWITCHES.items():
        for what, text in NO_SWITCH.items():
            yield Case(shape, f"{where}: {what}", _planted(file, place, text))
    for where, (file, place) in TEXTS.items():
        for what, text in NO_TEXT.items():
            if (where, what) not in {("a statement", "empty")}:
                yield Case(shape, f"{where}: {what}", _planted(file, place, text))
    yield from _names()
    for what, change in TOGETHER.items():
        yield Case("cards without meaning", what, _edited(change), limit_s=20)
    yield Case(
        "cards without meaning",
        "3^16 ways between models",
        _edited(_wide),
        lambda s: s == "toy",
        limit_s=20,
    )
    for what, (models, scales) in ZOOS.items():
        yield Case("cards without meaning", f"the zoo: {what}", _zoo(models, scales))
    for what, edit in COMPARISONS.items():
        yield Case("cards without meaning", f"a comparison: {what}", _comparison(edit))
    for name in (".yaml", "..yaml", "A b.yaml", "<b>.yaml"):
        run = _comparison(lambda c: None, name)
        yield Case("odd names", f"a comparison: {name}", run, lambda found: found == {})
    yield from _folders()


def _names() -> Iterator[Case]:
    for place in ("arms", "models", "figures", "tables", "claims", "checks"):
        for what, name in ODD_NAMES.items():
            slow = place != "arms"
            yield Case("odd names", f"{place}: {what}", _renamed(place, name), slow=slow)
    fine = {"upper case", "a blank first"}
    for place in ("measurements", "coordinates"):
        for what, name in ODD_NAMES.items():
            if what not in fine:
                yield Case("odd names", f"{place}: {what}", _renamed(place, name))


def _folders() -> Iterator[Case]:
    kind = "a new folder"
    for what, slug in SLUGS.items():
        yield Case(kind, what, _new(slug))
    for what, place in {
        "its folder exists": ("methods", "one_more", "own.txt"),
        "its folder is a file": ("methods", "one_more"),
        "its tests exist": ("tests", "methods", "one_more", "test_one_more.py"),
        "the folder of tests is a file": ("tests", "methods", "one_more"),
    }.items():
        yield Case(kind, what, _new("one-more", _plant(*place)))
    for after in range(12):
        name = f"killed before rename {after}"
        yield Case(kind, name, _killed(after), lambda found: found == "one-more")
