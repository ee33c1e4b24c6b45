from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from repro.errors import ReproError
from repro.suite.report import figures, inputs, page, style
from repro.suite.words import VERDICTS

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr", "rect", "line", "circle"}


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
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def html(invented) -> str:
    return invented.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def document(html) -> Document:
    return Document(html)


def test_tags_nest_and_ids_are_unique(document):
    assert document.open == []
    ids = [a["id"] for _, a in document.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_links_inside_the_page_lead_somewhere(document):
    ids = {a["id"] for _, a in document.elements if "id" in a}
    inside = [a["href"][1:] for a in document.all("a") if a.get("href", "").startswith("#")]
    assert len(inside) > 15
    assert [name for name in inside if "=" not in name and name not in ids] == []


def test_nothing_is_loaded_from_elsewhere(document, html):
    for tag, attributes in document.elements:
        for key in ("src", "srcset", "data", "action", "poster"):
            assert not (attributes.get(key) or "").startswith(("http", "//")), (tag, attributes)
        if tag != "a":
            assert "href" not in attributes, (tag, attributes)
    assert not re.search(r"@import|url\((?!data:)", html)
    policy = next(a for a in document.all("meta") if "http-equiv" in a)
    assert policy["content"].startswith("default-src 'none'")
    links = [a["href"] for a in document.all("a") if a["href"].startswith("http")]
    assert links
    assert all(re.match(r"https://(arxiv\.org/abs|doi\.org|example\.org)/", x) for x in links)


def test_every_picture_has_words(document):
    pictures = document.all("img")
    assert len(pictures) == 4
    assert all(len(a["alt"]) > 20 and a["src"].startswith("data:image/") for a in pictures)
    drawings = [a for a in document.all("svg")]
    assert drawings
    assert all(a["role"] == "img" and a["aria-label"].startswith("margin") for a in drawings)


def test_verdicts_are_words_and_tables_have_headers(document, html):
    assert html.count('<th scope="col"') > 20
    badges = re.findall(r'<span class="badge (\w+)"><span[^>]*>.</span> (\w+)</span>', html)
    assert badges
    assert all(kind == word for kind, word in badges)


def test_content(document):
    text = " ".join("".join(document.text).split())
    for part in (
        "10 claims of 2 papers",
        "The fourth loss gives clearly better models than the first.",
        "swapping the draw of the noise level",
        "The formula gives 0.635 when steps equal tokens",
        "61.99 → 61.52",
        "unverified",
        "Copy BibTeX",
        "needs the official weights and data (tier paper)",
        "The paper's weight decay is 0.03",
        "Invented CPU at 2.4 GHz",
        "torch 2.14.1",
    ):
        assert part in text, part
    assert "exercises the code" not in text


def test_smoke_page_says_that_it_is_no_evidence(invented):
    source = inputs.Work("smoke", invented.work, invented.root)
    text = page.render(source, inputs.load_all(invented.source))
    banner = re.search(r'<p class="banner" role="note">(.*?)</p>', text).group(1)
    assert banner == "<strong>smoke scale:</strong> exercises the code, is not evidence"


def test_text_of_cards_is_escaped(bare):
    path = bare.root / "methods" / "eight_bit" / "paper.yaml"
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    card["summary"] = "<script>alert(1)</script> and `a < b`"
    path.write_text(yaml.safe_dump(card, allow_unicode=True), encoding="utf-8")
    inputs.library.forget()
    text = page.render(bare.source, inputs.load_all(bare.source))
    assert "alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<code>a &lt; b</code>" in text
    assert "Not drawn yet: Samples from the same noise." in text


def test_page_is_the_same_twice_and_small_and_fast(invented, html):
    started = time.perf_counter()
    again = page.render(invented.source, inputs.load_all(invented.source))
    assert time.perf_counter() - started < 3
    assert again == html
    assert len(html) < 1_000_000


def test_interval_is_drawn_against_the_threshold():
    def xs(**check):
        svg = page.interval_svg(check, "reproduced")
        mean = float(re.search(r'class="mean" cx="([\d.]+)"', svg).group(1))
        bar = re.search(r'class="bar" x1="([\d.]+)" x2="([\d.]+)"', svg)
        return mean, bar and (float(bar.group(1)), float(bar.group(2)))

    mean, (low, high) = xs(margin=1.0, margin_low=0.5, margin_high=2.0, margins=[0.4, 2.0])
    assert 130 < low < mean < high < 260
    assert (mean - 130) / (high - 130) == pytest.approx(0.5, abs=0.01)
    assert xs(margin=-3.0, margin_low=-3.0, margin_high=-3.0) == (7.0, None)
    assert xs(margin=0.0, margin_low=0.0, margin_high=0.0) == (130.0, None)
    label = page.interval_svg({"margin": 1.0, "margin_low": 0.5, "margin_high": 2.0}, "reproduced")
    assert "margin 1 [0.5, 2]; the predicted side is above 0" in label


def test_large_pictures_are_squeezed(tmp_path):
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 0.8, 256)[None, :, None, None] + 0.1 * rng.random((2, 256, 256, 3))
    figure = style.image_grid(slope, 1, 2)
    figure.savefig(tmp_path / "grain.png", dpi=200)
    size = (tmp_path / "grain.png").stat().st_size
    uri = page._data_uri(tmp_path, "grain")
    assert size > page.LARGEST_PICTURE
    assert uri.startswith("data:image/webp;base64,")
    assert len(uri) < size / 2


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
    css = str(page._include_raw("page.css"))
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
