"""The site as text: links, pictures, words, sizes; test_browser sees it in a browser."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml

from repro.errors import ReproError
from repro.places import ROOT
from repro.suite.audit import table as audit
from repro.suite.report import figures, inputs, ledger, style, tables
from repro.suite.report.site import build, html, paper, pictures
from repro.suite.report.tables import Cell, Table
from repro.suite.words import SCALES, VERDICTS

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr", "use", "path", "circle"}
LARGEST_INDEX = 1_000_000
LARGEST_PAPER = 3_000_000
PAPERS, CLAIMS = 28, 20
"""What the index has to have room for, and how many claims a paper may have then."""


class Document(HTMLParser):
    """Elements with their attributes and text, and whether the tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        return [str(a["id"]) for _, a in self.elements if "id" in a]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def documents_of(site: Path) -> dict[str, Document]:
    return {p.name: Document(p.read_text(encoding="utf-8")) for p in sorted(site.glob("*.html"))}


@pytest.fixture(scope="module")
def documents(invented) -> dict[str, Document]:
    return documents_of(invented.site)


def remake(bare, name="site") -> dict[str, str]:
    scale = build.Scale(bare.source, inputs.load_all(bare.source))
    index = build.write([scale], bare.out / name)
    return {path.name: path.read_text(encoding="utf-8") for path in index.parent.glob("*.html")}


def dead_links(site: Path) -> list[str]:
    """Links of a site that lead to no file or to no element."""
    documents = documents_of(site)
    dead = []
    for name, document in documents.items():
        for attributes in [*document.all("a"), *document.all("img")]:
            href = attributes.get("href") or attributes.get("src") or ""
            if href.startswith("https://"):
                continue
            path, _, fragment = href.partition("#")
            target = (site / unquote(path)).resolve() if path else site / name
            if not target.is_file():
                dead.append(f"{name}: {href}")
            elif fragment and target.suffix == ".html" and "=" not in fragment:
                if fragment not in documents[target.name].ids:
                    dead.append(f"{name}: {href}")
    return dead


# The whole site ---------------------------------------------------------------------------------


def test_pages_nest_and_their_ids_are_unique(documents):
    assert list(documents) == ["eight-bit.html", "index.html", "masked-text.html"]
    for document in documents.values():
        assert document.open == []
        assert len(document.ids) == len(set(document.ids))


def test_every_link_leads_somewhere(invented, two_scales):
    assert dead_links(invented.site) == []
    assert dead_links(two_scales) == []


def test_a_dead_link_would_be_noticed(invented, tmp_path):
    text = (invented.site / "index.html").read_text(encoding="utf-8")
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    assert "index.html: masked-text.html" in dead_links(tmp_path)


def test_nothing_is_loaded_from_elsewhere(documents, invented):
    for name, document in documents.items():
        text = (invented.site / name).read_text(encoding="utf-8")
        for tag, attributes in document.elements:
            for key in ("src", "srcset", "data", "action", "poster"):
                assert not (attributes.get(key) or "").startswith(("http", "//")), (tag, attributes)
            if tag not in ("a", "use"):
                assert "href" not in attributes, (tag, attributes)
        assert not re.search(r"@import|url\((?!data:)", text)
        policy = next(a for a in document.all("meta") if "http-equiv" in a)
        assert policy["content"].startswith("default-src 'none'")
        links = [a["href"] for a in document.all("a") if (a["href"] or "").startswith("http")]
        assert all(re.match(r"https://(arxiv\.org/abs|doi\.org|example\.org)/", x) for x in links)
    assert any(a["href"].startswith("https") for a in documents["masked-text.html"].all("a"))


def test_pictures_have_words_and_sizes_and_lie_beside_the_page(documents, invented):
    shown = [a for document in documents.values() for a in document.all("img")]
    assert {a["src"] for a in shown} == {
        f"pictures/{p.name}" for p in (invented.site / "pictures").iterdir()
    }
    assert len({a["src"] for a in shown}) == 4
    assert all(len(a["alt"]) > 20 and int(a["width"]) > 100 and int(a["height"]) for a in shown)


def test_verdicts_are_words_and_drawings_say_what_they_show(documents, invented):
    for name, document in documents.items():
        text = (invented.site / name).read_text(encoding="utf-8")
        badges = re.findall(r'<span class="badge (\w+)"><span[^>]*>.</span> (\w+)', text)
        assert badges
        assert all(kind == word for kind, word in badges)
        for drawing in document.all("svg"):
            assert drawing.get("aria-hidden") == "true" or len(drawing["aria-label"]) > 10


def test_site_is_the_same_twice(invented, tmp_path):
    started = time.perf_counter()
    scale = build.Scale(invented.source, inputs.load_all(invented.source))
    again = build.write([scale], invented.out / "site").parent
    print(f"a site of two papers took {time.perf_counter() - started:.1f} s")
    before = {path.name: path.read_bytes() for path in again.glob("*.html")}
    build.write([scale], again)
    assert before == {path.name: path.read_bytes() for path in again.glob("*.html")}


def test_a_site_is_replaced_as_a_whole(bare):
    remake(bare)
    stray = bare.out / "site" / "gone.html"
    stray.write_text("of a paper that is no more")
    remake(bare)
    assert not stray.exists()


# Sizes ------------------------------------------------------------------------------------------


def weight(site: Path, page: str) -> int:
    """Bytes of a page with the pictures that it shows."""
    document = documents_of(site)[page]
    shown = {a["src"] for a in document.all("img")}
    return (site / page).stat().st_size + sum((site / name).stat().st_size for name in shown)


def test_the_index_has_room_for_all_papers(two_scales):
    """A claim's share of the index, at two scales, leaves room for as many as there will be."""
    text = (two_scales / "index.html").read_text(encoding="utf-8")
    claims = text.count('class="claim-row')
    shared = len(html.raw("site.css")) + len(html.raw("site.js")) + 12_000
    share = (len(text.encode()) - shared) / claims
    print(f"index: {len(text.encode())} bytes, {share:.0f} a claim")
    assert claims == 10
    assert shared + PAPERS * CLAIMS * share < LARGEST_INDEX


def test_sizes_of_the_committed_site(tmp_path):
    sources = [inputs.Committed(scale, ROOT / "results" / scale) for scale in SCALES]
    try:
        scales = build.scales_of(sources)
    except ReproError as error:
        pytest.skip(f"`repro check` refuses the committed results: {error}")
    site = build.write(scales, tmp_path / "site").parent
    sizes = {path.name: weight(site, path.name) for path in site.glob("*.html")}
    print(sizes)
    assert sizes.pop("index.html") < LARGEST_INDEX
    assert max(sizes.values()) < LARGEST_PAPER
    assert dead_links(site) == []


def test_large_pictures_are_squeezed(tmp_path):
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 0.8, 256)[None, :, None, None] + 0.1 * rng.random((2, 256, 256, 3))
    figure = style.image_grid(slope, 1, 2)
    figures.save(figure, tmp_path, "grain", {"title": "t", "caption": "c"}, ["png"])
    shown = pictures.show(tmp_path, "grain", tmp_path / "site", "grain")
    assert shown.src == "pictures/grain.webp"
    squeezed = (tmp_path / "site" / shown.src).stat().st_size
    assert squeezed < (tmp_path / "grain.png").stat().st_size / 2


def test_a_picture_that_is_none_is_named(tmp_path):
    figures.save(style.figure("half", 1), tmp_path, "f", {"title": "t", "caption": "c"}, ["png"])
    (tmp_path / "f.png").write_bytes(b"no picture")
    with pytest.raises(ReproError, match=r"f.png: cannot be read .*; draw it again"):
        pictures.show(tmp_path, "f", tmp_path / "site", "f")


# The index --------------------------------------------------------------------------------------


def test_the_index_counts_as_the_ledger_does(invented, documents):
    reports = inputs.load_all(invented.source)
    cells = inputs.headline(pair for report in reports for pair in report.verdicts())
    words = documents["index.html"].words
    tiles = [f"{cells[i]}{inputs.SYMBOLS[v]} {v}" for i, v in enumerate(VERDICTS)]
    shown = re.findall(r"\d+[✓✗≈–] \w+", words)
    assert shown[:4] == tiles
    assert f"Theorems{cells[4]} hold" in words and f"Printed counts{cells[5]} hold" in words
    assert ledger.COUNTED in words


def test_the_index_names_what_was_seen(documents):
    words = documents["index.html"].words
    for part in (
        "The fourth loss gives clearly better models than the first.",
        "for Cached against",
        "predicted higher by 0.5 or more, but falls short.",
        "needs the paper's own models or data (tier paper)",
        "How the judge is tested",
    ):
        assert part in words, part
    assert "exercises the code" not in words


def test_a_claim_has_its_verdict_at_each_scale(two_scales):
    text = (two_scales / "index.html").read_text(encoding="utf-8")
    row = text[text.index('data-paper="eight-bit"') :].split("</tr>")[0]
    assert re.findall(r"<small>(\w+)</small>", row) == ["small", "gpu"]
    assert text.index("Headline at scale small") < text.index("Headline at scale gpu")
    page = (two_scales / "eight-bit.html").read_text(encoding="utf-8")
    assert 'id="runs-small"' in page and 'id="runs-gpu"' in page


def test_one_deciding_effect_a_claim_is_drawn(invented, documents):
    text = (invented.site / "index.html").read_text(encoding="utf-8")
    strips = re.findall(r'<svg class="fx strip"[^>]*aria-label="(\d+) effects', text)
    rows = re.findall(r'data-kind="empirical".*?</tr>', text, re.DOTALL)
    assert sum(map(int, strips)) == sum("<svg" in row for row in rows) > 2


def test_the_table_of_the_audit_stands_at_the_end(invented, tmp_path, monkeypatch):
    scale = build.Scale(invented.source, inputs.load_all(invented.source))
    monkeypatch.setattr(audit, "JSON", tmp_path / "table.json")
    kinds = [{"mutation": "constant", "tried": 7, "noticed": 6}]
    families = [{"family": "wrong schedule", "tried": 3, "judge": 2, "tests": 3, "either": 3}]
    content = {"records": {"scale": "small", "kinds": kinds}, "faults": {"families": families}}
    (tmp_path / "table.json").write_text(json.dumps(content))
    index = build.write([scale], tmp_path / "site")
    said = index.read_text(encoding="utf-8").partition('id="judge"')[2]
    assert '<th scope="row">constant</th><td>7</td><td>6</td>' in said
    assert "planted fault: wrong schedule</th><td>3</td><td>2</td><td>3</td>" in said
    (tmp_path / "table.json").write_text(json.dumps({**content, "faults": {}}))
    with pytest.raises(ReproError, match="is not the table of an audit"):
        build.write([scale], tmp_path / "site")


def test_smoke_says_that_it_is_no_evidence(invented, tmp_path):
    source = dataclasses.replace(invented.source, scale="smoke")
    index = build.write([build.Scale(source, [])], tmp_path / "site")
    banner = re.search(r'<p class="banner" role="note">(.*?)</p>', index.read_text("utf-8")).group(
        1
    )
    assert banner == "<strong>smoke scale:</strong> exercises the code, is not evidence"


# A paper ----------------------------------------------------------------------------------------


def article(text: str, claim: str) -> str:
    here = text.index(f'id="{claim}" aria')
    return text[text.rindex("<article", 0, here) :].partition("</article>")[0] + "</article>"


def test_a_paper_page_says_all_of_a_claim(invented):
    text = (invented.site / "masked-text.html").read_text(encoding="utf-8")
    words = Document(article(text, "losses-differ")).words
    for part in (
        "Paper: 61.99 → 61.52",
        "contradicted",
        "but falls short",
        "swapping the draw of the noise level",
        "half a nat is what a reader would see",
        "the draws of the arms, and the training of denoiser",
        "Cached (3 seeds)",
        "entropy[cached] - entropy[baseline] >= 0.5",
        "Likelihood and entropy: Cached",
    ):
        assert part in words, part
    words = Document(text).words
    for part in (
        "unverified",
        "Copy BibTeX",
        "The paper's weight decay is 0.03",
        "Invented CPU at 2.4 GHz",
        "torch 2.14.1",
        "4e5e6e8f3a",
    ):
        assert part in words, part


def test_the_finding_stands_before_how_it_was_judged(invented):
    text = article((invented.site / "masked-text.html").read_text("utf-8"), "losses-differ")
    order = ["badge contradicted", 'class="sentence"', "Finding.", "How check", "Threshold"]
    places = [text.index(word) for word in order]
    assert places == sorted(places)


def test_the_deciding_check_comes_first(invented):
    text = article((invented.site / "masked-text.html").read_text("utf-8"), "fewer-evaluations")
    report = inputs.load("masked-text", invented.source)
    checks = report.claim_checks("fewer-evaluations")
    assert len(checks) == 2
    nearest = min(checks, key=lambda check: check["margin"])
    assert re.search(r"How check <code>(.*?)</code>", text).group(1) == nearest["id"]


def test_runs_lead_to_their_records(invented):
    document = documents_of(invented.site)["masked-text.html"]
    records = [a["href"] for a in document.all("a") if (a["href"] or "").endswith("record.json")]
    assert len(records) == 2 * 3 + 1 + 3
    paths = [(invented.site / href).resolve() for href in records]
    assert all(json.loads(path.read_text())["method"] == "masked-text" for path in paths)


def test_claims_of_code_and_ours_stand_apart(bare):
    path = bare.root / "methods" / "eight_bit" / "paper.yaml"
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    card["claims"][1]["kind"] = "ours"
    path.write_text(yaml.safe_dump(card, allow_unicode=True), encoding="utf-8")
    inputs.library.forget()
    text = remake(bare)["eight-bit.html"]
    own, _, beside = text.partition('id="beside"')
    assert 'id="biased-best"' in beside and 'id="biased-best"' not in own
    assert 'id="maintains"' in own


def test_tables_of_dashes_fold():
    cells = [[Cell("a"), Cell("–")], [Cell("b"), Cell("")]]
    empty = Table("t", "Nothing", "", ["Arm", "x"], [False, True], cells)
    full = Table("u", "Something", "", ["Arm", "x"], [False, True], [[Cell("a"), Cell("1")]])
    macro = (
        '{% import "macros.html.j2" as m %}{% for t in made %}{{ m.result_table(t) }}{% endfor %}'
    )
    made = [paper._table("small", table) for table in (empty, full)]
    text = html._templates().from_string(macro).render(made=made)
    folds = Document(text).all("details")
    assert [fold["id"] for fold in folds] == ["table-small-t"]
    assert "nothing measured" in text.partition('id="table-small-u"')[0]


def test_a_table_of_mostly_dashes_becomes_a_list(bare):
    """Each arm measures at points of its own: a row for each instead of a grid of dashes."""

    report = inputs.load("masked-text", bare.source)
    frame = report.results.frame
    own = (frame["measurement"] == "nfe") & (frame["arm"] == "cached")
    for index in frame.index[own]:
        steps = frame.at[index, "at"]["steps"] + 1
        frame.at[index, "at"], frame.at[index, "at_key"] = {"steps": steps}, f"steps={steps}"
    (grid,) = [t for t in tables.measurement_tables(report) if t.id == "measurements-nfe"]
    assert paper._empty_share(grid) == 0.5
    made = paper._filled(report, grid)
    assert made.columns == ["Arm", "steps", "Evaluations ↓"]
    assert paper._empty_share(made) == 0 and len(made.rows) == 10
    assert made.keys[0] == ("cached", "steps=9")


def test_text_of_cards_is_escaped(bare):
    path = bare.root / "methods" / "eight_bit" / "paper.yaml"
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    card["summary"] = "<script>alert(1)</script> and `a < b`"
    card["claims"][0]["statement"] = "<b>bold</b> & `x_y`"
    path.write_text(yaml.safe_dump(card, allow_unicode=True), encoding="utf-8")
    inputs.library.forget()
    made = remake(bare)
    text = made["eight-bit.html"]
    assert "alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<code>a &lt; b</code>" in text
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; <code>x_<wbr>y</code>" in made["index.html"]
    assert "Not drawn yet: Samples from the same noise." in text


def test_figures_come_with_words(invented):
    folder = invented.out / "figures"
    about = json.loads((folder / "masked-text" / "evaluations.json").read_text("utf-8"))
    assert about["alt"] == (
        "network evaluations against sampling steps (logarithmic x); "
        "Cached, With clock, sequence length."
    )
    assert about["inches"] == 3.5
    assert (folder / "masked-text" / "evaluations.svg").is_file()
    assert not (folder / "eight-bit" / "samples.svg").exists()
    bars = json.loads((folder / "eight-bit" / "distances.json").read_text("utf-8"))
    assert "Full precision" in bars["alt"]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("tests.suite.report.drawings:broken", "failed: ValueError: cannot be drawn"),
        ("tests.suite.report.drawings:absent", "cannot be loaded"),
        ("tests.suite.report.nowhere:draw", "cannot be loaded"),
        ("builtins:id", "returned int; return a matplotlib Figure"),
    ],
)
def test_a_figure_that_fails_is_named(bare, run, message):
    path = bare.root / "methods" / "eight_bit" / "experiment.yaml"
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    card["figures"][0]["run"] = run
    path.write_text(yaml.safe_dump(card, allow_unicode=True), encoding="utf-8")
    inputs.library.forget()
    with pytest.raises(ReproError, match=f"eight-bit: figure 'samples' .*{message}"):
        figures.write(inputs.load("eight-bit", bare.source), bare.out)


def test_colours_contrast_in_both_themes():
    css = str(html.raw("site.css"))
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", b)) for b in css.split(":root {")[1:3])

    def luminance(colour):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for theme in (light, light | dark):
        pairs = [(word, ground) for word in ("ink", "muted", "link") for ground in ("bg", "raised")]
        pairs += [(v, ground) for v in VERDICTS for ground in (f"{v}-bg", "bg", "raised")]
        poor = {pair: contrast(*(theme[c] for c in pair)) for pair in pairs}
        assert min(poor.values()) >= 4.5, poor
        marks = {v: contrast(theme[f"{v}-solid"], theme["bg"]) for v in VERDICTS[:3]}
        assert min(marks.values()) >= 3, marks
