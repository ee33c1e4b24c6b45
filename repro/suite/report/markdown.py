"""Text in Markdown: what a card or a record says is shown, and never becomes markup.

Only `code` between single backticks stays code. HTML, links, images, mathematics and entities are
escaped where they would begin, so that ordinary text stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

_CODE = re.compile(r"((?<!`)`(?!`)[^`]+(?<!`)`(?!`))")
_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_MARKUP = re.compile(
    r"\\(?=[!-/:-@\[-`{-~]|$)"  # would escape what follows
    r"|<(?=[A-Za-z/!?])"  # HTML, or a link
    r"|&(?=#?\w+;)"  # an entity
    r"|\](?=[(\[:])"  # a link, an image, the definition of one
    r"|[$`]"  # mathematics; a backtick without its other
)
_AT_START = re.compile(r"[#>+*=~|-]|\d+[.)]")


class Markdown(str):
    """Markdown as it stands."""


def inline(text: str) -> Markdown:
    """Text of any kind on one line."""
    parts = _CODE.split(_BREAKS.sub(" ", text))
    return Markdown(
        "".join(p if i % 2 else _MARKUP.sub(r"\\\g<0>", p) for i, p in enumerate(parts))
    )


def block(text: str) -> Markdown:
    """Text as a paragraph, never a heading, a list, a quotation or a rule."""
    line = inline(text).strip()
    return Markdown(f"\\{line}" if _AT_START.match(line) else line)


def code(text: str) -> Markdown:
    """Text as code."""
    line = _BREAKS.sub(" ", text).replace("`", "'")
    return Markdown(f"`{line}`" if line.strip() else "")


def label(text: str) -> Markdown:
    """Text that a link shows."""
    return Markdown(re.sub(r"(?<!\\)[\[\]]", r"\\\g<0>", inline(text)))


def cell(text: str) -> str:
    """Text in a cell of a table."""
    written = text if isinstance(text, Markdown) else inline(text)
    return written.replace("|", "\\|")


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str], numeric: Sequence[bool]) -> str:
    """A table of GitHub's Markdown; columns of numbers are aligned to the right."""
    return tabulate(
        [[cell(c if isinstance(c, str) else str(c)) for c in row] for row in rows],
        [cell(header) for header in headers],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if number else "left" for number in numeric],
    )
