"""The drawings of a page, as files beside it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from repro import store
from repro.errors import ReproError
from repro.places import short
from repro.suite.report import figures

FOLDER = "pictures"

LARGEST_SVG = 150_000
"""Bytes above which a drawing is shown as a picture instead."""

WIDEST = 1600
"""Pixels to which a picture is reduced; a page shows at most 940 units of width."""


@dataclass(frozen=True)
class Picture:
    """A drawing as a page shows it.

    Attributes:
        src: its file, relative to the page.
        size: width and height in pixels.
    """

    about: dict[str, Any]
    src: str
    size: tuple[int, int]
    wide: bool

    @property
    def id(self) -> str:
        return str(self.about["id"])


def show(drawings: Path, identity: str, site: Path, name: str) -> Picture:
    """Put a drawing beside a page.

    Args:
        drawings: folder where it lies.
        site: folder of the page.
        name: what its file is called, without ending.

    Raises:
        ReproError: there is none, or it is no picture.
    """
    about = figures.read_about(drawings, identity)
    try:
        kind, content, size = _content(drawings, identity)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ReproError(
            f"{short(drawings / identity)}.png: cannot be read ({why}); draw it again"
        ) from error
    with store.atomic(site / FOLDER / f"{name}.{kind}") as temporary:
        temporary.write_bytes(content)
    return Picture(about, f"{FOLDER}/{name}.{kind}", size, about["inches"] > 4.5)


def _content(folder: Path, name: str) -> tuple[str, bytes, tuple[int, int]]:
    """Ending, content and size of what is shown: SVG if there is a small one, else WebP."""
    png = (folder / f"{name}.png").read_bytes()
    picture = Image.open(io.BytesIO(png))
    size = picture.size
    drawing = folder / f"{name}.svg"
    if drawing.is_file() and drawing.stat().st_size <= LARGEST_SVG:
        return "svg", drawing.read_bytes(), size
    shown = picture.convert("RGB")
    shown.thumbnail((WIDEST, 4 * WIDEST))
    squeezed = io.BytesIO()
    shown.save(squeezed, "WEBP", quality=85)
    if squeezed.tell() < len(png):
        return "webp", squeezed.getvalue(), shown.size
    return "png", png, size
