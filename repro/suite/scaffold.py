"""``repro new``: a folder for one more paper that runs, is judged and passes the tests as it is.

What it makes is a miniature with one of each thing that a real one needs: a network that is trained
to denoise digits, a linear baseline, an untrained control, three seeds, a closed form, a reduced
check, a figure and a table. The author replaces it piece by piece; the comments say where the rest
of the suite is found.
"""

from __future__ import annotations

import keyword
import os
import re
from pathlib import Path

from repro import documents, store
from repro.errors import ReproError
from repro.places import short
from repro.suite.cards import library
from repro.suite.cards.base import LONGEST
from repro.suite.words import SCALES, ZOO

TEMPLATES = Path(__file__).resolve().parent / "templates"


def create(slug: str, root: Path) -> list[Path]:
    """Make ``methods/<slug>/`` and its test, each whole or not at all, the method last.

    Where an earlier call was killed between the two, the same call makes what is missing.

    Raises:
        ReproError: not a slug, a name that is taken, or a folder that exists.
    """
    module = _module(slug)
    package, tests = root / "methods" / module, root / "tests" / "methods" / module
    if os.path.lexists(package):
        raise ReproError(f"methods/{module} exists already; `repro show {slug}` shows it")
    files: dict[Path, dict[str, str]] = {tests: {}, package: {}}
    for template in sorted(TEMPLATES.glob("*.template")):
        text = _filled(documents.read_text(template), slug)
        name = template.name.removesuffix(".template")
        if name.startswith("test_"):
            files[tests][f"test_{module}.py"] = text
        else:
            files[package][name] = text
    for folder, texts in files.items():
        if os.path.lexists(folder):
            _check_made(folder, texts)
            continue
        with store.atomic_folder(folder) as temporary:
            for name, text in texts.items():
                (temporary / name).write_text(text, encoding="utf-8")
    library.forget()
    return sorted(folder / name for folder, texts in files.items() for name in texts)


def _module(slug: str) -> str:
    """The package of a slug.

    Raises:
        ReproError: not a slug, or a word that means something else.
    """
    shown = documents.one_line(slug, 60)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        raise ReproError(
            f"`{shown}` is not a slug; use lower-case letters, digits and single dashes between "
            "them, as in `my-paper`"
        )
    if len(slug) > LONGEST:
        raise ReproError(f"`{shown}` has {len(slug)} letters; a slug has at most {LONGEST}")
    module = slug.replace("-", "_")
    if keyword.iskeyword(module) or slug in (ZOO, "all", *SCALES):
        raise ReproError(f"`{slug}` is a word of Python or of the suite; choose another slug")
    return module


def _check_made(folder: Path, texts: dict[str, str]) -> None:
    """Raises ReproError where a folder is not what a call that was killed has made."""
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or documents.read_text(path) != text:
            raise ReproError(f"{short(folder)} exists already; move it away or choose another slug")


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
  .venv/bin/repro publish @slug@ --scale small   what was run of committed code, for `make check`
README.md, "Add a paper", and docs/architecture.md say more."""


def next_steps(slug: str) -> str:
    """What the author does with a new folder."""
    return _filled(NEXT, slug)


def _filled(text: str, slug: str) -> str:
    return text.replace("@slug@", slug).replace("@module@", slug.replace("-", "_"))
