"""Hostile cards and artefacts: addresses, texts, names, formulas, a user's matplotlibrc."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from torture.case import Case, repro
from torture.committed import Tree, _clone, refused_whole, tree, use, warm

# Texts --------------------------------------------------------------------------------------

TEXTS = {
    "html": (
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "</code></td></table></pre></textarea></title><script>alert(1)</script>",
        '" onmouseover="alert(1)',
        "' autofocus onfocus='alert(1)",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "{{ 7 * 7 }} {% raw %} {# x #}",
        "<!-- x",
        "]]><svg/onload=alert(1)>",
    ),
    "markdown": (
        "a | b || c",
        "two\nlines\n\n# heading\n\n<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "![x](http://example.org/x.png)",
        "[x][y] [y]: javascript:alert(1)",
        "<javascript:alert(1)>",
        "` <script>alert(1)</script>",
        "``x` <script>alert(1)</script> `",
        "\\` <script>alert(1)</script> `",
        "\\<script>alert(1)</script>",
        "\\\\[x](javascript:alert(1))",
        "\\| <b>x</b> \\|",
        "`a | b` and `c",
        "# heading",
        "---",
        "> quotation",
        "```\ncode",
        "    <b>x</b>",
        "line\r\nline\u2028line\x0bline",
    ),
    "mathematics": ("$x$", "$$x$$", "\\(x\\)", "$\\href{javascript:alert(1)}{x}$", "a $ b"),
    "formula": (
        "=1+1",
        "=cmd|' /C calc'!A0",
        '=HYPERLINK("http://example.org","x")',
        "+1+cmd|' /C calc'!A0",
        "-2+3+cmd|' /C calc'!A0",
        "+SUM(1,2)",
        "-A1",
        "@SUM(1,2)",
        "\t=1+1",
        "\r=1+1",
        "=",
        "'=1+1",
    ),
}

PAPER = (
    "short", "title", "venue", "summary", "authors.0", "claims.0.statement", "claims.0.metric",
    "claims.0.unit", "claims.0.method", "claims.0.setting", "claims.0.where", "tables.0.title",
    "tables.0.where", "tables.0.unit", "tables.0.columns.0", "tables.0.rows.0.0", "tables.0.note",
    "notes.0", "licence.code", "repository.commit", "doi", "arxiv",
)  # fmt: skip
EXPERIMENT = (
    "arms.ours.title", "measurements.loss.title", "measurements.loss.unit", "tables.0.title",
    "tables.0.caption", "figures.0.title", "figures.0.caption", "models.net.title",
)  # fmt: skip
CHECKS = (
    "claims.smaller.checks.0.why",
    "claims.smaller.checks.0.paper",
    "claims.smaller.findings.0.text",
)
COMPARISON = ("title", "caption", "rows.0.group", "rows.0.label")
RECORD = ("device", "commit", "params.gain", "versions.torch", "started")

PLACES = {
    **{f"paper.yaml {place}": ("alpha/paper.yaml", place) for place in PAPER},
    **{f"experiment.yaml {place}": ("alpha/experiment.yaml", place) for place in EXPERIMENT},
    **{f"checks.yaml {place}": ("alpha/checks.yaml", place) for place in CHECKS},
    **{f"comparison {place}": ("both.yaml", place) for place in COMPARISON},
    **{f"record {place}": ("record", place) for place in RECORD},
}


def put(card: Any, place: str, value: Any) -> None:
    """Put a value where dots lead."""
    *way, last = place.split(".")
    for key in way:
        card = card[int(key)] if isinstance(card, list) else card.setdefault(key, {})
    card[int(last) if isinstance(card, list) else last] = value


def edit(path: Path, place: str, value: Any) -> None:
    card = yaml.safe_load(path.read_text())
    put(card, place, value)
    path.write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True))


def _sources(here: Tree, file: str, place: str, text: str) -> tuple[Any, list[Any]]:
    """The committed results of the tiny tree under a card or record with a text."""
    from repro.suite.cards import library
    from repro.suite.report import inputs

    if file != "record":
        folder = here.root / ("comparisons" if file == "both.yaml" else "methods")
        edit(folder / file, place, text)
    library.forget()
    source = inputs.Committed("small", here.small)
    reports = inputs.load_all(source)
    if file == "record":
        for record in reports[0].results.records:
            put(record, place, text)
    found = inputs.findings_of(reports[0].method, "small")
    reports[0] = dataclasses.replace(reports[0], published_findings=found)
    return source, reports


def page_of(source: Any, reports: list[Any]) -> str:
    """All pages of the site, one after the other."""
    from repro.suite.report.site import build

    with tempfile.TemporaryDirectory() as folder:
        index = build.write([build.Scale(source, reports)], Path(folder) / "site")
        return "".join(path.read_text() for path in sorted(index.parent.glob("*.html")))


def files_of(reports: list[Any]) -> dict[str, str]:
    """What is committed of the reports, by path."""
    from repro.suite.report import comparisons
    from repro.suite.results import layout

    texts = {f"small/{n}": t for n, t in layout.of_scale("small", reports).items()}
    for report in reports:
        own = layout.of_method(report)
        texts |= {f"small/{report.paper.slug}/{name}": text for name, text in own.items()}
    for identity, compared in comparisons.ran(reports):
        made = comparisons.files(identity, compared)
        texts |= {f"small/comparisons/tables/{name}": text for name, text in made.items()}
    return texts


class Elements(html.parser.HTMLParser):
    """Counts of elements, and whatever may run or lead elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.bad: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            link = (value or "").strip().lower()
            if name.startswith("on") or name in ("autofocus", "formaction", "srcdoc"):
                self.bad.append(f"{tag} {name}={value}")
            if (
                name in ("href", "src", "action", "data")
                and not link.startswith(("http://", "https://", "#", "data:image/"))
                and not OWN.match(link)
            ):
                self.bad.append(f"{tag} {name}={value}")


OWN = re.compile(r"(\.\./|pictures/)[\w./%-]+(#l\d+)?$|[a-z0-9-]+\.html(#[\w.-]+)?$")
"""Links of the site to its own pages, to its pictures and to files of the repository."""

DANGEROUS = ("script", "img", "svg", "iframe", "b", "table", "h1", "h2", "a", "form", "input")


def _page(file: str, place: str, texts: tuple[str, ...]) -> Callable[[Path], Any]:
    def run(folder: Path) -> list[str]:
        here = tree(folder)
        wrong = []
        plain = Elements(page_of(*_sources(here, file, place, "plain")))
        for text in texts:
            found = Elements(page_of(*_sources(here, file, place, text)))
            more = [t for t in DANGEROUS if found.tags.get(t, 0) != plain.tags.get(t, 0)]
            if found.bad or more:
                wrong.append(f"{text!r}: {found.bad} {more}")
        return wrong

    return run


def _of_markdown(text: str) -> Elements:
    """The elements that a renderer of Markdown makes of a text, its own links left out."""
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    renderer.validateLink = lambda url: True  # type: ignore[method-assign]
    found = Elements(renderer.render(text))
    own = re.compile(r"a href=(small|results)/")
    found.bad = [bad for bad in found.bad if not own.match(bad)]
    return found


def _mathematics(text: str) -> bool:
    outside = re.sub(r"(?<![\\`])`[^`\n]+`", "", text)
    return re.search(r"(?<!\\)\$", outside) is not None


def _markdown(file: str, place: str, texts: tuple[str, ...]) -> Callable[[Path], Any]:
    def run(folder: Path) -> list[str]:
        from repro.suite.report import ledger

        here = tree(folder)
        wrong: list[str] = []

        def made(text: str) -> dict[str, str]:
            _, reports = _sources(here, file, place, text)
            own = {n: t for n, t in files_of(reports).items() if n.endswith(".md")}
            return own | {
                "README.md": ledger.readme(here.results),
                "overview": ledger.overview(here.results),
            }

        shape = ("td", "tr", "th", "script", "img", "b", "table", "a", "h1", "h2", "pre", "hr",
                 "blockquote", "ul", "svg")  # fmt: skip
        plain = {name: _of_markdown(text) for name, text in made("plain").items()}
        for text in texts:
            for name, written in made(text).items():
                found = _of_markdown(written)
                more = [t for t in shape if found.tags.get(t, 0) != plain[name].tags.get(t, 0)]
                if found.bad or more or _mathematics(written):
                    wrong.append(f"{name}: {text!r}: {found.bad} {more}")
        return wrong

    return run


def _is_formula(cell: str) -> bool:
    """Whether a spreadsheet would compute a cell; a sign before a number is none."""
    if cell[:1] in ("=", "@", "\t", "\r", "\n"):
        return True
    return cell[:1] in ("+", "-") and (
        not re.match(r"[+-][\d.∞]", cell) or any(c in cell for c in "(|!")
    )


def _csv(file: str, place: str, texts: tuple[str, ...]) -> Callable[[Path], Any]:
    def run(folder: Path) -> list[str]:
        here = tree(folder)
        wrong = []
        for text in texts:
            _, reports = _sources(here, file, place, text)
            for name, written in files_of(reports).items():
                if name.endswith(".csv"):
                    cells = [c for row in csv.reader(io.StringIO(written)) for c in row]
                    wrong += [f"{name}: {cell!r}" for cell in cells if _is_formula(cell)]
        return wrong

    return run


def _bibtex(texts: tuple[str, ...]) -> Callable[[Path], Any]:
    def run(folder: Path) -> list[str]:
        from repro.suite.cards import library

        here = tree(folder)
        wrong = []
        for place in ("title", "authors.0", "venue"):
            for text in texts:
                edit(here.root / "methods/alpha/paper.yaml", place, text)
                library.forget()
                made = library.load("alpha").paper.bibtex()
                depth = 0
                for mark in re.findall(r"(?<!\\)[{}]", made):
                    depth += 1 if mark == "{" else -1
                bare = re.search(r"(?<!\\)[$%#&]|\\(?![$%#&_{}]|text\w+\{\})", made)
                if depth or bare or made.count("\n") != 5:
                    wrong.append(f"{place}: {text!r}")
        return wrong

    return run


def _texts() -> Iterator[Case]:
    kind = "hostile card or artefact: text"
    quick = ("paper.yaml claims.0.statement", "experiment.yaml arms.ours.title")
    for name, (file, place) in PLACES.items():
        for group, texts in TEXTS.items():
            slow = name not in quick
            yield Case(
                kind, f"page: {name}: {group}", _page(file, place, texts), lambda w: not w,
                slow=slow or group != "html",
            )  # fmt: skip
            if group in ("html", "markdown", "mathematics"):
                yield Case(
                    kind, f"Markdown: {name}: {group}", _markdown(file, place, texts),
                    lambda w: not w, slow=slow or group != "markdown",
                )  # fmt: skip
        formulas = TEXTS["formula"]
        yield Case(
            "hostile card or artefact: formula", f"CSV: {name}", _csv(file, place, formulas),
            lambda w: not w, slow=name not in quick,
        )  # fmt: skip
    braces = ("{", "}", "{}}", "a}, note = {x", "100 %", "a & b", "$x$", "\\input{x}", "#1", "a\nb")
    yield Case(kind, "BibTeX", _bibtex(braces), lambda wrong: not wrong)


# Formulas in what is committed --------------------------------------------------------------


def _round_trip(text: str) -> Callable[[Path], Any]:
    """A device of that name comes back as it was."""

    def run(folder: Path) -> bool:
        from repro.suite import records

        (folder / "x.csv").write_text(
            records.to_csv([{"a": text, "b": 1.5}], ("a", "b")), newline=""
        )
        (row,) = records.read_rows(folder / "x.csv", ("a", "b"))
        written = next(csv.DictReader((folder / "x.csv").open(newline="")))["a"]
        return row["a"] == text.replace("\r", "\n") and not _is_formula(written)

    return run


UNTOUCHED = (
    "-0.5", "+1.35 dB", "-257 .. 256", "-0.35 <= x[a, b=c] - y[a] <= -0.2", "-1, 0, 1", "-∞",
    "plain", "", "a=b", "a-b", "'quoted'", "'", "–", "1e-5", "-1e-5",
)  # fmt: skip


def _untouched(text: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> bool:
        from repro.suite import records

        return next(csv.reader([records.to_csv([{"a": text}], ("a",)).split("\n", 1)[1] or "\n"]),
                    [""])[:1] in ([text], [])  # fmt: skip

    return run


def _formulas() -> Iterator[Case]:
    kind = "hostile card or artefact: formula"
    for text in TEXTS["formula"]:
        if text != "'=1+1":
            yield Case(kind, f"written and read back: {text!r}", _round_trip(text), bool)
    for text in UNTOUCHED:
        yield Case(kind, f"as it is: {text!r}", _untouched(text), bool)


# Addresses ----------------------------------------------------------------------------------

ADDRESSES = (
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    " javascript:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "data:text/html;base64,PHNjcmlwdD4=",
    "vbscript:x",
    "file:///etc/passwd",
    "ftp://example.org/x",
    "//example.org/x",
    "example.org/x",
    "../x",
    "https:example.org",
    "https://",
    'https://example.org/" onclick="alert(1)',
    "https://example.org/' x='",
    "https://example.org/<script>",
    "https://example.org/a b",
    "https://example.org/a\njavascript:alert(1)",
    "https://example.org\\@evil.org",
    "http://example.org/`x`",
    "",
    3,
    None,
    ["https://example.org"],
)


def _address(url: Any) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        here = tree(folder)
        edit(here.root / "methods/alpha/paper.yaml", "repository.url", url)
        from repro.suite.cards import library

        library.forget()
        return str(library.load("alpha").paper.repository)

    return run


def _address_on_the_page(url: Any) -> Callable[[Path], Any]:
    """An address that came past the reading of the card."""

    def run(folder: Path) -> list[str]:
        here = tree(folder)
        source, reports = _sources(here, "alpha/paper.yaml", "summary", "plain")
        object.__setattr__(reports[0].paper.repository, "url", url)
        return Elements(page_of(source, reports)).bad

    return run


def _addresses() -> Iterator[Case]:
    kind = "hostile card or artefact: address"
    for number, url in enumerate(ADDRESSES):
        shown = f"{number} {str(url)[:30]!r}"
        yield Case(kind, f"card: {shown}", _address(url), slow=number > 1)
        if isinstance(url, str):
            yield Case(
                kind, f"page: {shown}", _address_on_the_page(url), lambda bad: not bad,
                slow=number > 0,
            )  # fmt: skip
    for url in (
        "https://github.com/a/b",
        "http://example.org",
        "https://example.org/a?b=c&d=%20#e",
    ):
        yield Case(
            kind, f"card: {url}", _address(url), lambda said, url=url: url in said, slow=True
        )


# Folders and names --------------------------------------------------------------------------


def _without(*names: str) -> Callable[[Tree], Any]:
    return lambda t: [(t.root / "methods/beta" / name).unlink() for name in names]


CARDS = ("paper.yaml", "experiment.yaml", "checks.yaml")
FOLDERS: dict[str, Callable[[Tree], Any]] = {
    "without paper.yaml": _without("paper.yaml"),
    "without experiment.yaml": _without("experiment.yaml"),
    "without checks.yaml": _without("checks.yaml"),
    "with arms.py alone": _without(*CARDS),
    "with experiment.yaml alone": _without("paper.yaml", "checks.yaml", "arms.py"),
    "with paper.yml": lambda t: (t.root / "methods/beta/paper.yaml").rename(
        t.root / "methods/beta/paper.yml"
    ),
    "with Paper.yaml": lambda t: (t.root / "methods/beta/paper.yaml").rename(
        t.root / "methods/beta/Paper.yaml"
    ),
    "whose paper.yaml is a folder": lambda t: [
        _without("paper.yaml")(t),
        (t.root / "methods/beta/paper.yaml").mkdir(),
    ],
    "whose paper.yaml leads nowhere": lambda t: [
        _without("paper.yaml")(t),
        (t.root / "methods/beta/paper.yaml").symlink_to("nowhere"),
    ],
    "named with a dash": lambda t: (t.root / "methods/beta").rename(t.root / "methods/be-ta"),
    "named in capitals": lambda t: (t.root / "methods/beta").rename(t.root / "methods/Beta"),
    "named with a space": lambda t: (t.root / "methods/beta").rename(t.root / "methods/be ta"),
    "named otherwise than its card": lambda t: (t.root / "methods/beta").rename(
        t.root / "methods/gamma"
    ),
    "named comparisons": lambda t: _renamed(t, "comparisons"),
    "named zoo": lambda t: _renamed(t, "zoo"),
    "named by 200 letters": lambda t: _renamed(t, "x" * 200),
    "of another method's slug": lambda t: _renamed(t, "beta", slug="alpha"),
}


def _renamed(here: Tree, name: str, slug: str | None = None) -> None:
    folder = here.root / "methods" / name
    if name != "beta":
        (here.root / "methods/beta").rename(folder)
    for card in CARDS:
        path = folder / card
        path.write_text(re.sub(r"\bbeta\b", slug or name, path.read_text()))


STRAY: dict[str, Callable[[Tree], Any]] = {
    "an empty folder": lambda t: (t.root / "methods/old").mkdir(),
    "a folder of Python's cache": lambda t: (t.root / "methods/__pycache__").mkdir(exist_ok=True),
    "a method of which the cache is left": lambda t: [
        (t.root / "methods/old/__pycache__").mkdir(parents=True),
        (t.root / "methods/old/__pycache__/arms.cpython-311.pyc").write_bytes(b"x"),
    ],
    "a hidden folder": lambda t: shutil.copytree(t.root / "methods/beta", t.root / "methods/.beta"),
    "a file": lambda t: (t.root / "methods/notes.txt").write_text("x"),
}


def _slugs(plant: Callable[[Tree], Any]) -> Callable[[Path], Any]:
    def run(folder: Path) -> list[str]:
        from repro.suite.plan import methods_at

        here = tree(folder)
        plant(here)
        use(here.root)
        return [method.slug for method in methods_at("small")]

    return run


def _loaded(slug: Any) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro.suite.cards import library

        tree(folder)
        return library.load(slug).slug

    return run


def _identity(file: str, place: str, value: Any) -> Callable[[Path], Any]:
    """A card with an odd name is published, or not at all."""

    def run(folder: Path) -> Any:
        here = tree(folder)
        folder = here.root / ("comparisons" if file == "both.yaml" else "methods")
        edit(folder / file, place, value)
        use(here.root)
        return refused_whole(here, lambda: here.publish("alpha"))

    return run


def _named_comparison(name: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        here = tree(folder)
        path = here.root / "comparisons" / "both.yaml"
        path.rename(path.with_name(f"{name}.yaml"))
        use(here.root)
        return refused_whole(here, lambda: here.publish("alpha"))

    return run


def _folders() -> Iterator[Case]:
    kind = "hostile card or artefact: names"
    for name, plant in FOLDERS.items():
        yield Case(kind, f"a method {name}", _slugs(plant), slow="alone" in name)
    for name, plant in STRAY.items():
        yield Case(
            kind, f"beside the methods: {name}", _slugs(plant),
            lambda found: found == ["alpha", "beta"],
        )  # fmt: skip
    for number, slug in enumerate(
        ("", ".", "..", "../methods/alpha", "alpha/", "alpha/../beta", "x" * 300, "a\0b", "ALPHA",
         "al_pha", " alpha", "alpha\n", "*", "[red]")
    ):  # fmt: skip
        yield Case(kind, f"load {number} {slug[:16]!r}", _loaded(slug), slow=number > 6)
    long, odd = "x" * 300, ("../x", ".x", "a/b", "a b", "", "A", "a\nb", "<b>")
    for number, value in enumerate((long, *odd)):
        for file, place in (
            ("alpha/experiment.yaml", "figures.0.id"),
            ("alpha/experiment.yaml", "tables.0.id"),
            ("alpha/checks.yaml", "claims.smaller.checks.0.id"),
            ("alpha/paper.yaml", "claims.0.id"),
            ("alpha/paper.yaml", "slug"),
        ):
            if value == long and "id" in place and "tables" not in place and "fig" not in place:
                continue
            yield Case(
                kind, f"{file} {place} is {number} {value[:9]!r}", _identity(file, place, value),
                slow=True,
            )  # fmt: skip
    for name in ("../both", "x" * 240, "A b", "<b>", "=x"):
        if "/" not in name:
            yield Case(kind, f"comparison named {name[:9]!r}", _named_comparison(name), slow=True)
    for place, value in {
        "rows.0.at": {"steps": 5},
        "rows.0.at.stops": 4,
        "scales": ["smal"],
        "rows": [],
        "rows.0.models": ["nett"],
    }.items():
        yield Case(
            kind, f"comparison whose {place} is {value!r}", _identity("both.yaml", place, value),
            slow=True,
        )  # fmt: skip


# Verdicts and figures of a work folder ------------------------------------------------------


def _edit_json(path: Path, place: str, value: Any) -> None:
    content = json.loads(path.read_text())
    put(content, place, value)
    path.write_text(json.dumps(content))


def _work_page(path: str, place: str, value: Any) -> Callable[[Path], Any]:
    def run(folder: Path) -> list[str]:
        from repro.suite import reporting
        from repro.suite.cards import library

        here = tree(folder)
        reporting.report_method(library.load("alpha"), here.options)
        _edit_json(here.work / "small" / path, place, value)
        page = reporting.report_scale(here.options, require_all=False)
        pages = sorted(page.parent.glob("*.html"))
        return [bad for one in pages for bad in Elements(one.read_text()).bad]

    return run


SCRIPT = '"><script>alert(1)</script>'
VERDICTS: Mapping[str, tuple[Any, ...]] = {
    "checks.0.verdict": (SCRIPT, "splendid", None, 3, [], "reproduced "),
    "claims.0.verdict": (SCRIPT, "splendid", None),
    "checks.0.tier": (SCRIPT, "best", None),
    "checks.0.margin": (SCRIPT, None, "NaN", []),
    "checks.0.margins": (SCRIPT, None, [SCRIPT], [None]),
    "checks.0.claim": (SCRIPT, "lost", None),
    "checks.0.expect": (None, 3, []),
    "checks.0.observed": (None, 3, []),
    "checks": (None, {}, 3, [None], "x"),
    "claims": (None, {}, 3, [None], "x"),
}
ABOUTS: Mapping[str, tuple[Any, ...]] = {
    "inches": (SCRIPT, None, [], -1, 0, True, 1e9),
    "title": (None, 3, []),
    "caption": (None, {}),
    "alt": (None, []),
    "id": ("other", None),
}


def _artefacts() -> Iterator[Case]:
    kind = "hostile card or artefact: verdicts and figures"
    for place, values in VERDICTS.items():
        for value in values:
            yield Case(
                kind, f"verdicts of a work folder: {place} is {value!r}",
                _work_page("verdicts/alpha.json", place, value), lambda bad: not bad, slow=True,
            )  # fmt: skip
    for place, values in ABOUTS.items():
        for number, value in enumerate(values):
            yield Case(
                kind, f"a figure's {place} is {value!r}",
                _work_page("report/figures/alpha/curve.json", place, value),
                slow=place != "inches" or (number != 0 and value is not True),
            )  # fmt: skip
    for text in ("$", "$x", "$\\frac{$", "$\\nonsense$", "\\", "$\\unknown{x}$"):
        yield Case(
            "hostile card or artefact: text", f"a figure with an arm called {text!r}", _drawn(text),
            lambda drawn: drawn, slow=text != "$\\frac{$",
        )  # fmt: skip


def _drawn(title: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> bool:
        from repro.suite.cards import library
        from repro.suite.report import figures, inputs

        here = tree(folder)
        edit(here.root / "methods/alpha/experiment.yaml", "arms.ours.title", title)
        library.forget()
        report = inputs.load("alpha", inputs.Committed("small", here.small))
        figures.write(report, folder / "figures")
        return (folder / "figures/curve.png").is_file()

    return run


# A user's matplotlibrc ----------------------------------------------------------------------

RC = {
    "sizes": "figure.dpi: 40\nsavefig.dpi: 33\nfont.size: 30\nfigure.figsize: 1, 1\n",
    "cropping": "savefig.bbox: tight\nsavefig.pad_inches: 2\nsavefig.transparent: True\n",
    "lines": "lines.linewidth: 9\nlines.dashed_pattern: 1, 9\nlines.antialiased: False\n",
    "ticks": "xtick.direction: in\nxtick.top: True\nytick.right: True\nxtick.minor.visible: True\n",
    "axes": "axes.facecolor: red\naxes.xmargin: 0.5\naxes.autolimit_mode: round_numbers\n",
    "formats": "axes.formatter.useoffset: False\naxes.formatter.limits: -1, 1\n"
    "axes.unicode_minus: False\naxes.formatter.use_locale: True\n",
    "legend": "legend.loc: lower left\nlegend.shadow: True\nlegend.fancybox: False\n",
    "paths": "path.simplify: False\npath.sketch: 3, 100, 2\npath.snap: False\n",
    "LaTeX": "text.usetex: True\n",
    "mathematics": "mathtext.fontset: cm\nmathtext.default: bf\n",
    "hinting": "text.hinting: none\ntext.hinting_factor: 1\ntext.antialiased: False\n",
    "layout": "figure.autolayout: True\nfigure.constrained_layout.h_pad: 1\n",
    "back end": "backend: TkAgg\n",
    "errors": "this is: no setting\nfont.size: large as a house\n",
}
PIXELS = ("backend", "date.epoch")


def _under_rc(text: str) -> Callable[[Path], Any]:
    """A figure under a user's settings has the bytes of that without."""

    def run(folder: Path) -> bool:
        import matplotlib

        from repro.suite.report import figures, inputs

        here = tree(folder)
        report = inputs.load("alpha", inputs.Committed("small", here.small))
        path = folder / "matplotlibrc"
        path.write_text(text)
        settings = matplotlib.rc_params_from_file(path, use_default_template=False)
        matplotlib.rcParams.update(
            {key: value for key, value in settings.items() if key not in PIXELS}
        )
        figures.write(report, folder / "figures")
        names = ("curve.png", "curve.svg", "curve.json")
        committed = here.alpha / "figures"
        return all(
            (folder / "figures" / n).read_bytes() == (committed / n).read_bytes() for n in names
        )

    return run


DRAW = """
import sys
from pathlib import Path
from repro.suite.report import figures, style
figure, ax = style.subplots()
with style.context():
    ax.plot([1, 2, 3], [0.1, -0.2, 0.3], label="x")
    ax.legend()
    figures.save(figure, Path(sys.argv[1]), "x", {"title": "x", "caption": "x"}, ["png", "svg"])
"""


def _in_a_process(folder: Path, name: str, environment: Mapping[str, str], at: Path) -> bytes:
    import subprocess
    import sys

    from torture.case import ROOT, Done

    out = folder / name
    own = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(out)], cwd=at, env=own, capture_output=True, text=True
    )
    Done(done.returncode, done.stdout, done.stderr).answer()
    return (out / "x.png").read_bytes() + (out / "x.svg").read_bytes()


def _process(how: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> bool:
        empty, home = folder / "empty", folder / "home"
        (home / ".config/matplotlib").mkdir(parents=True)
        empty.mkdir()
        plain = _in_a_process(folder, "plain", {}, empty)
        text = RC["sizes"] + RC["cropping"] + RC["lines"] + RC["ticks"]
        file = folder / "file"
        file.write_text("x")
        places = {
            "MATPLOTLIBRC": (folder / "rc", {"MATPLOTLIBRC": str(folder / "rc")}),
            "MPLCONFIGDIR": (home / "matplotlibrc", {"MPLCONFIGDIR": str(home)}),
            "home": (
                home / ".config/matplotlib/matplotlibrc",
                {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")},
            ),
            "the folder it runs in": (empty / "matplotlibrc", {}),
            "MPLCONFIGDIR that is a file": (None, {"MPLCONFIGDIR": str(file)}),
            "HOME that is a file": (None, {"HOME": str(file), "XDG_CONFIG_HOME": str(file)}),
            "HOME that is not there": (None, {"HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere"}),
            "MPLBACKEND of a window": (None, {"MPLBACKEND": "TkAgg"}),
        }
        path, environment = places[how]
        if path is not None:
            path.write_text(text)
        return _in_a_process(folder, "other", environment, empty) == plain

    return run


def _matplotlibrc() -> Iterator[Case]:
    kind = "environment variables: figures depend on a user's matplotlibrc"
    for name, text in RC.items():
        yield Case(kind, f"settings of {name}", _under_rc(text), bool, slow=name != "cropping")
    for how in (
        "MATPLOTLIBRC",
        "MPLCONFIGDIR",
        "home",
        "the folder it runs in",
        "MPLCONFIGDIR that is a file",
        "HOME that is a file",
        "HOME that is not there",
        "MPLBACKEND of a window",
    ):
        yield Case(kind, f"a process with {how}", _process(how), bool, slow=True)


# The command --------------------------------------------------------------------------------


def _command(plant: Callable[[Tree], Any]) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        here = tree(folder)
        _clone(here)
        plant(here)
        done = repro(folder, "list", environment={"PYTHONPATH": str(here.root)})
        return done.answer()

    return run


def _commands() -> Iterator[Case]:
    for name in ("without paper.yaml", "without experiment.yaml"):
        yield Case(
            "hostile card or artefact: names", f"repro list with a method {name}",
            _command(FOLDERS[name]), slow=True,
        )  # fmt: skip


def cases() -> Iterator[Case]:
    warm()
    yield from _texts()
    yield from _formulas()
    yield from _addresses()
    yield from _folders()
    yield from _artefacts()
    yield from _matplotlibrc()
    yield from _commands()
