"""``repro new``: a folder for one more paper that runs, is judged and passes the tests as it is.

What it makes is a complete, honest miniature: one closed-form identity of Gaussian diffusion,
measured and judged. The author replaces it piece by piece.
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
        ReproError: not a slug, or the folder exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        raise ReproError(f"`{slug}` is not a slug; use lower-case letters, digits and dashes")
    module = slug.replace("-", "_")
    if (root / "methods" / module).exists():
        raise ReproError(f"methods/{module} exists already; `repro show {slug}` shows it")
    made = []
    for template in sorted(TEMPLATES.glob("*.template")):
        text = template.read_text(encoding="utf-8")
        text = text.replace("@slug@", slug).replace("@module@", module)
        name = template.name.removesuffix(".template")
        in_tests = name.startswith("test_")
        folder = root / ("tests/methods" if in_tests else "methods") / module
        path = folder / (f"test_{module}.py" if in_tests else name)
        store.write_text(path, text)
        made.append(path)
    library.forget()
    return made
