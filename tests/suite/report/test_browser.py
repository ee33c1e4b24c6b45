"""The site in a real browser: filters, widths, themes, accessibility, requests.

One start of the browser a theme loads a harness with a frame per case; the frames are as wide as a
phone or a desk, because a headless window has a least width of its own.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import threading
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NAMES = ("chromium", "google-chrome", "chromium-browser")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--virtual-time-budget=600000",
]
THEMES = {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}
GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 20, 25)"}
DESK, PHONE, SCREEN = 1280, 390, 844

CASES = {
    "plain": ("index.html", DESK),
    "contradicted": ("index.html#verdict=contradicted", DESK),
    "structure": ("index.html#paper=eight-bit&kind=structure", DESK),
    "words": ("index.html#q=CLOCK%20likelihood", DESK),
    "none": ("index.html#verdict=contradicted&paper=eight-bit", DESK),
    "phone": ("index.html", PHONE),
    "paper": ("masked-text.html", DESK),
    "paper-phone": ("masked-text.html#losses-differ", PHONE),
    "pictures": ("eight-bit.html", DESK),
    "row": ("masked-text.html#run-small-masked-text-cached-1", DESK),
    "two": ("two/index.html", PHONE),
    "spoilt": ("spoilt.html", PHONE),
}

LOOK = """
const look = async (frame) => {
  const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
  const timing = view.performance.getEntriesByType("navigation")[0];
  const visible = (e) => e.offsetHeight > 0;
  const result = {
    milliseconds: Math.round(timing.loadEventEnd),
    bytes: timing.encodedBodySize,
    scrollWidth: root.scrollWidth, clientWidth: root.clientWidth,
    ground: view.getComputedStyle(page.body).backgroundColor,
    local: page.querySelectorAll("a.local[href]").length,
    y: Math.round(view.scrollY),
  };
  const form = page.getElementById("filters");
  if (form) {
    const rows = [...page.querySelectorAll("tr.claim-row")].filter(visible);
    result.rows = rows.map((r) => [r.dataset.paper, r.dataset.verdict]);
    result.groups = [...page.querySelectorAll("tr.group")].filter(visible).length;
    result.count = page.getElementById("shown").textContent;
    result.nothing = visible(page.getElementById("nothing"));
    result.headline = Math.max(...[...page.querySelector(".headline").querySelectorAll("*")]
      .map((e) => e.getBoundingClientRect().bottom + view.scrollY));
  }
  const target = view.location.hash.length > 1 && page.getElementById(view.location.hash.slice(1));
  if (target) result.target = [visible(target), Math.round(target.getBoundingClientRect().top)];
  for (const box of page.querySelectorAll("details")) box.open = true;
  result.unfolded = root.scrollWidth;
  const wide = [...page.querySelectorAll("main *")].filter((e) =>
    !e.closest(".scroll") && !e.closest("svg") && !e.closest("pre") && !e.closest(".sr") &&
    e.getBoundingClientRect().right > root.clientWidth + 0.5);
  result.wide = wide.slice(0, 5).map((e) => `${e.tagName}.${e.className}`);
  const boxes = [...page.querySelectorAll(".scroll")]
    .filter((box) => box.scrollWidth > box.clientWidth + 4);
  result.fixed = boxes.every((box) => {
    box.scrollLeft = 60;
    const cell = box.querySelector("tbody th");
    const left = (e) => e.getBoundingClientRect().left;
    return !cell || Math.abs(left(cell) - left(box)) < 3;
  });
  const pictures = [...page.querySelectorAll("img")];
  for (const picture of pictures) picture.loading = "eager";
  await Promise.all(pictures.map((p) => p.decode().catch(() => null)));
  result.pictures = pictures.filter((p) => p.naturalWidth > 0).length;
  const anchor = page.querySelector("a[href]:not(.skip)");
  anchor.focus({focusVisible: true});
  result.focus = view.getComputedStyle(anchor).outlineStyle;
  if (window.axeSource && form === null || window.axeSource && !view.location.hash) {
    const script = page.createElement("script");
    script.textContent = window.axeSource;
    page.head.append(script);
    const found = await view.axe.run(page, {iframes: false, resultTypes: ["violations"]});
    const said = (n) => `${n.target.join(" ")}: ${n.html.slice(0, 160)}`;
    result.axe = found.violations.map((v) => [v.impact, v.id, v.nodes.slice(0, 3).map(said)]);
    result.rules = found.passes.length;
  }
  if (form) {
    form.elements.verdict.value = "untested";
    form.elements.verdict.dispatchEvent(new Event("input", {bubbles: true}));
    result.hash = view.location.hash;
    result.after = root.dataset.shown;
  }
  return result;
};
"""

HARNESS = """<!doctype html><body><pre id="found"></pre><script>%(axe)s</script><script>
const cases = %(cases)s;
const found = {};
%(look)s
(async () => {
  for (const [name, [url, width]] of Object.entries(cases)) {
    const frame = document.createElement("iframe");
    frame.style.cssText = `width:${width}px;height:844px;border:0`;
    const loaded = new Promise((resolve) => (frame.onload = resolve));
    frame.src = url;
    document.body.append(frame);
    await loaded;
    await new Promise((resolve) => setTimeout(resolve, 50));
    try { found[name] = await look(frame); } catch (error) { found[name] = {error: String(error)}; }
    frame.remove();
  }
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script></body>"""


def axe_source() -> str:
    """The text of axe-core, where the package that ships it is installed; else nothing."""
    spec = importlib.util.find_spec("axe_core_python")
    if spec is None or spec.origin is None:
        return ""
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def harness(cases: dict[str, tuple[str, int]]) -> str:
    source = json.dumps(axe_source()).replace("</", "<\\/")
    given = {"axe": f"window.axeSource = {source};", "cases": json.dumps(cases), "look": LOOK}
    return HARNESS % given


def browse(profile: Path, url: str, *flags: str) -> dict:
    """What the harness found; the browser runs until it has nothing left to do."""
    done = subprocess.run(
        [
            *(BROWSER, *FLAGS, *flags, f"--user-data-dir={profile}"),
            *("--window-size=1600,1000", "--dump-dom", url),
        ],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-500:]
    found = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout).group(1)))
    for name, result in found.items():
        assert "error" not in result, (name, result)
    return found


@pytest.fixture(scope="module")
def folder(invented, two_scales, tmp_path_factory) -> Path:
    """Both sites, one of them also spoilt, and the harness beside them."""
    folder = tmp_path_factory.mktemp("browser") / "site"
    shutil.copytree(invented.site, folder)
    shutil.copytree(two_scales, folder / "two")
    text = (folder / "index.html").read_text(encoding="utf-8")
    wide = (
        '<div style="width:900px">x<a href="x"></a></div><img src="http://elsewhere.invalid/x.png">'
    )
    spoilt = re.sub(r"(<main[^>]*>)", rf"\1{wide}", text)
    spoilt = spoilt.replace('http-equiv="Content-Security-Policy"', "")
    (folder / "spoilt.html").write_text(spoilt, encoding="utf-8")
    (folder / "harness.html").write_text(harness(CASES), encoding="utf-8")
    assert spoilt.count("900px") == 1
    local = {name: CASES[name] for name in ("plain", "pictures")}
    (folder / "local.html").write_text(harness(local), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browsed(folder, tmp_path_factory):
    """Theme → what was found, and what was asked for besides the site."""
    asked: list[tuple[str, str]] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_request(self, *_):
            # What the browser asks for on its own account names no page as its origin.
            headers = getattr(self, "headers", None)  # none where a request is broken
            if headers and headers["Referer"]:
                asked.append((headers["Host"], self.path))

        def log_message(self, *_):
            """Keep the output of the tests clean."""

    found = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"127.0.0.1:{server.server_port}"
        for theme, flags in THEMES.items():
            profile = tmp_path_factory.mktemp("profile")
            # whatever host it asks for over HTTP is answered here
            flags = [*flags, f"--host-resolver-rules=MAP * {here}"]
            found[theme] = browse(profile, f"http://{here}/harness.html", *flags)
        server.shutdown()
    for results in found.values():
        assert set(results) == set(CASES)
    foreign = {host for host, _ in asked} - {here}
    missing = [path for host, path in asked if host == here and not _is_there(folder, path)]
    return found, foreign, missing


def _is_there(folder: Path, path: str) -> bool:
    name = path.partition("?")[0].lstrip("/")
    return name == "favicon.ico" or (folder / name).exists()


@pytest.fixture
def found(browsed):
    return browsed[0]["light"]


def test_index_shows_everything_at_first(found):
    assert found["plain"]["count"] == "10 claims"
    assert len(found["plain"]["rows"]) == 10 and found["plain"]["groups"] == 2
    assert found["paper"]["pictures"] + found["pictures"]["pictures"] == 4


@pytest.mark.parametrize(
    ("case", "rows"),
    [
        ("contradicted", [["masked-text", "contradicted"]]),
        ("structure", [["eight-bit", "reproduced"]]),
        ("words", [["masked-text", "reproduced"]]),
        ("none", []),
    ],
)
def test_filters_from_the_address(found, case, rows):
    assert found[case]["rows"] == rows
    assert found[case]["groups"] == len(rows)
    assert found[case]["count"] == f"{len(rows)} of 10 claims"
    assert found[case]["nothing"] == (not rows)


def test_filters_go_into_the_address(found):
    assert found["plain"]["hash"] == "#verdict=untested"
    assert found["plain"]["after"] == "1"
    assert found["none"]["hash"] == "#paper=eight-bit&verdict=untested"
    assert found["none"]["after"] == "0"


def test_an_address_leads_to_its_claim_or_run(found):
    for case in ("paper-phone", "row"):
        visible, top = found[case]["target"]
        assert visible and -5 < top < SCREEN, found[case]


@pytest.mark.parametrize("case", ["plain", "phone", "paper", "paper-phone", "pictures", "two"])
@pytest.mark.parametrize("theme", THEMES)
def test_pages_are_no_wider_than_the_window(browsed, theme, case):
    result = browsed[0][theme][case]
    assert result["clientWidth"] == CASES[case][1]
    assert result["scrollWidth"] == result["unfolded"] == result["clientWidth"]
    assert result["wide"] == []
    assert result["fixed"]


@pytest.mark.parametrize("case", ["phone", "two"])
def test_the_first_screen_of_a_phone_shows_the_headline(found, case):
    assert found[case]["headline"] < SCREEN


def test_a_page_that_is_too_wide_would_be_noticed(found):
    assert found["spoilt"]["scrollWidth"] > found["spoilt"]["clientWidth"] == PHONE
    assert found["spoilt"]["wide"]


def test_pages_load_nothing_besides_the_site(browsed):
    # The one host is that of the spoilt page, which shows that requests would be noticed.
    assert browsed[1] == {"elsewhere.invalid"}
    assert browsed[2] == []


def test_themes_follow_the_system(browsed):
    for theme, ground in GROUNDS.items():
        assert browsed[0][theme]["plain"]["ground"] == ground


def test_focus_is_visible(browsed):
    for results in browsed[0].values():
        assert {result["focus"] for result in results.values()} == {"solid"}


@pytest.mark.skipif(not axe_source(), reason="axe-core-python is not installed")
@pytest.mark.parametrize("theme", THEMES)
def test_nothing_hinders_a_reader(browsed, theme):
    """No serious or critical finding of axe-core, everything unfolded."""
    looked = {name: r for name, r in browsed[0][theme].items() if "axe" in r and name != "spoilt"}
    assert {"plain", "phone", "paper", "pictures"} <= set(looked)
    bad = {n: [v for v in r["axe"] if v[0] in ("serious", "critical")] for n, r in looked.items()}
    assert not any(bad.values()), bad
    assert all(result["rules"] > 15 for result in looked.values())
    # the spoilt page has a link without a name and a picture without words
    spoilt = {identity for _, identity, _ in browsed[0][theme]["spoilt"]["axe"]}
    assert {"link-name", "image-alt"} <= spoilt


def test_links_to_files_of_the_tree_are_none_once_hosted(found):
    assert found["paper"]["local"] == 0


def test_it_opens_from_disk(folder, tmp_path):
    url = (folder / "local.html").as_uri()
    found = browse(tmp_path, url, "--allow-file-access-from-files")
    assert found["plain"]["count"] == "10 claims"
    assert found["pictures"]["pictures"] == 2
    assert found["pictures"]["local"] > 5
    for name, result in found.items():
        print(f"{name}: {result['bytes']} bytes, loaded after {result['milliseconds']} ms")
