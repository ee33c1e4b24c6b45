"""``repro new``: a folder for one more paper that runs, is judged and passes the tests as it is.

What it makes is a miniature with one of each thing that a real one needs: a network that is trained
to denoise digits, a linear baseline, an untrained control, three seeds, a closed form, a reduced
check, a figure and a table. The author replaces it piece by piece; the comments say where the rest
of the suite is found.
"""

from __future__ import annotations

import re
from pathlib import Path

from repro import store
from repro.errors import ReproError
from repro.suite.cards import library

TEMPLATES = Path(__file__).resolve().parent / "templates"


def create(slug: str, root: Path) -> list[Path]:
    """Make ``methods/<slug>/`` and its test.

    Raises:
        ReproError: not a slug, or one of the two folders exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        raise ReproError(f"`{slug}` is not a slug; use lower-case letters, digits and dashes")
    module = slug.replace("-", "_")
    if (root / "methods" / module).exists():
        raise ReproError(f"methods/{module} exists already; `repro show {slug}` shows it")
    if (root / "tests" / "methods" / module).exists():
        raise ReproError(f"tests/methods/{module} exists already; move it, or take another slug")
    made = []
    for template in sorted(TEMPLATES.glob("*.template")):
        text = _filled(template.read_text(encoding="utf-8"), slug)
        name = template.name.removesuffix(".template")
        in_tests = name.startswith("test_")
        folder = root / ("tests/methods" if in_tests else "methods") / module
        path = folder / (f"test_{module}.py" if in_tests else name)
        store.write_text(path, text)
        made.append(path)
    library.forget()
    return made


NEXT = """\
A miniature that runs. Replace it piece by piece, in methods/@module@/:
  paper.yaml       what the paper says: bibliography, licences, claims with their places
  method.py        its algorithm as it writes it; exact.py closed forms, networks.py networks
  checks.yaml      what must come out and why, written before the first run
  experiment.yaml  models, arms (method, baselines, controls), measurements, sizes of each scale
  arms.py          the functions that experiment.yaml names; figures.py draws
and in tests/methods/@module@/: every closed form with its number, the checks against the control.
Commands, each as often as you like (done stays done):
  .venv/bin/repro show @slug@                what the cards say; a mistake is one line
  .venv/bin/repro run @slug@ --scale smoke   seconds; --scale small is what gets published
  .venv/bin/python -m pytest tests/methods/@module@
  make lint
  .venv/bin/repro publish small @slug@   what was run of committed code; `make check` asks for it
README.md, "Add a paper", and docs/architecture.md say more."""


def next_steps(slug: str) -> str:
    """What the author does with a new folder."""
    return _filled(NEXT, slug)


def _filled(text: str, slug: str) -> str:
    return text.replace("@slug@", slug).replace("@module@", slug.replace("-", "_"))
