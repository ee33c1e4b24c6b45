"""The page in a real browser: filters, widths, and that it loads nothing else.

One start of the browser loads a harness with a frame per case; the frames are as wide as a phone
or a desk, because a headless window has a least width of its own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

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
]

CASES = {
    "plain": ("index.html", 1400),
    "contradicted": ("index.html#verdict=contradicted", 1400),
    "structural": ("index.html#paper=eight-bit&tier=structural", 1400),
    "words": ("index.html#q=CLOCK%20likelihood", 1400),
    "none": ("index.html#verdict=contradicted&paper=eight-bit", 1400),
    "phone": ("index.html", 390),
    "phone-claim": ("index.html#masked-text.losses-differ", 390),
    "wide-content": ("wide.html", 390),
}

HARNESS = """<!doctype html><body><pre id="found"></pre><script>
const cases = %s;
const found = {};
const look = (frame) => {
  const page = frame.contentDocument, root = page.documentElement;
  const all = [...page.querySelectorAll("table.ledger tbody tr")];
  const rows = all.filter((row) => row.offsetHeight > 0);
  const result = {
    rows: rows.map((r) => [r.dataset.paper, r.dataset.verdict]),
    count: page.getElementById("shown").textContent,
    nothing: page.getElementById("nothing").offsetHeight > 0,
    shown: root.dataset.shown, scrollWidth: root.scrollWidth, clientWidth: root.clientWidth,
    measured: [root.dataset.scrollWidth, root.dataset.clientWidth],
  };
  for (const box of page.querySelectorAll("details")) box.open = true;
  result.unfolded = root.scrollWidth;
  const select = page.getElementById("filters").elements.verdict;
  select.value = "untested";
  select.dispatchEvent(new Event("input", {bubbles: true}));
  result.hash = frame.contentWindow.location.hash;
  result.after = root.dataset.shown;
  const sizes = [...page.querySelectorAll("img")].map((i) => i.naturalWidth);
  result.pictures = sizes.filter((w) => w > 0).length;
  return result;
};
for (const [name, [url, width]] of Object.entries(cases)) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    try { found[name] = look(frame); } catch (error) { found[name] = {error: String(error)}; }
    document.getElementById("found").textContent = JSON.stringify(found);
  };
  frame.src = url;
  document.body.append(frame);
}
</script></body>"""


@pytest.fixture(scope="module")
def browsed(invented, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    text = invented.page.read_text(encoding="utf-8")
    wide = text.replace(
        "<main>", '<main><div style="width:900px">x</div><img src="http://elsewhere.invalid/x.png">'
    )
    wide = wide.replace('http-equiv="Content-Security-Policy"', "")
    (folder / "index.html").write_text(text, encoding="utf-8")
    (folder / "wide.html").write_text(wide, encoding="utf-8")
    (folder / "harness.html").write_text(HARNESS % json.dumps(CASES), encoding="utf-8")
    asked: list[tuple[str, str]] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_request(self, *_):
            # What the browser asks for on its own account names no page as its origin.
            if self.headers["Referer"]:
                asked.append((self.headers["Host"], self.path))

        def log_message(self, *_):
            """Keep the output of the tests clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"127.0.0.1:{server.server_port}"
        done = browse(folder / "profile", here, f"http://{here}/harness.html")
        server.shutdown()
    assert done.returncode == 0, done.stderr[-500:]
    found = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout).group(1)))
    assert set(found) == set(CASES)
    for name, result in found.items():
        assert "error" not in result, (name, result)
    own = {"/harness.html", "/index.html", "/wide.html", "/favicon.ico"}
    return found, [request for request in asked if request[1] not in own]


def browse(profile, here, url) -> subprocess.CompletedProcess:
    """Run the browser; whatever host it asks for over HTTP is answered by `here`."""
    return subprocess.run(
        [
            BROWSER,
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--host-resolver-rules=MAP * {here}",
            "--window-size=1600,1000",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.fixture
def found(browsed):
    return browsed[0]


def test_ledger_shows_everything_at_first(found):
    assert found["plain"]["count"] == "10 claims"
    assert len(found["plain"]["rows"]) == 10
    assert found["plain"]["pictures"] == 4


@pytest.mark.parametrize(
    ("case", "rows"),
    [
        ("contradicted", [["masked-text", "contradicted"]]),
        ("structural", [["eight-bit", "reproduced"]]),
        ("words", [["masked-text", "reproduced"]]),
        ("none", []),
    ],
)
def test_filters_from_the_address(found, case, rows):
    assert found[case]["rows"] == rows
    assert found[case]["shown"] == str(len(rows))
    assert found[case]["count"] == f"{len(rows)} of 10 claims"
    assert found[case]["nothing"] == (not rows)


def test_filters_go_into_the_address(found):
    assert found["plain"]["hash"] == "#verdict=untested"
    assert found["plain"]["after"] == "1"
    assert found["none"]["hash"] == "#paper=eight-bit&verdict=untested"
    assert found["none"]["after"] == "0"


def test_a_link_to_a_claim_filters_nothing(found):
    assert len(found["phone-claim"]["rows"]) == 10


@pytest.mark.parametrize("case", ["plain", "phone"])
def test_page_is_no_wider_than_the_window(found, case):
    result = found[case]
    assert result["clientWidth"] == CASES[case][1]
    assert result["scrollWidth"] == result["clientWidth"]
    assert result["unfolded"] == result["clientWidth"]
    assert result["measured"] == [str(CASES[case][1])] * 2


def test_page_loads_nothing_besides_itself(browsed):
    # The one request is that of the spoilt page, which shows that requests would be noticed.
    assert set(browsed[1]) == {("elsewhere.invalid", "/x.png")}


def test_a_page_that_is_too_wide_would_be_noticed(found):
    assert found["wide-content"]["scrollWidth"] > found["wide-content"]["clientWidth"] == 390
