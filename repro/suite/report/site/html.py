"""Templates and what they share: words, numbers, the text of cards as HTML."""

from __future__ import annotations

import functools
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from repro.suite.cards.base import WEB_ADDRESS
from repro.suite.report.formatting import number, seconds
from repro.suite.report.inputs import EVIDENCE, KIND_MEANINGS, MEANINGS, SYMBOLS, TIER_MEANINGS
from repro.suite.words import TIERS, VERDICTS

SCALE_MEANINGS = {
    "smoke": "minimal sizes that exercise the code",
    "small": "small models and small real data, up to an hour of a processor per method",
    "gpu": "larger models and data, minutes of one GPU per method",
    "paper": "the paper's own models or data",
}


def render(template: str, **given: Any) -> str:
    """The text of a template of the report."""
    return _templates().get_template(template).render(**given)


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("repro.suite.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "prose": prose,
        "breakable": breakable,
        "number": number,
        "seconds": seconds,
        "symbol": lambda verdict: SYMBOLS[verdict],
        "evidence": lambda mark: EVIDENCE[mark],
        "minute": lambda stamp: (stamp or "unknown")[:16].replace("T", " "),
        "day": lambda stamp: (stamp or "")[:10] or "unknown",
    }
    environment.tests |= {"web": lambda url: WEB_ADDRESS.fullmatch(url) is not None}
    environment.globals |= {
        "include_raw": raw,
        "verdicts": VERDICTS,
        "tiers": TIERS,
        "meanings": MEANINGS,
        "tier_meanings": TIER_MEANINGS,
        "kind_meanings": KIND_MEANINGS,
        "scale_meanings": SCALE_MEANINGS,
    }
    return environment


def raw(name: str) -> Markup:
    """A style sheet or script as it stands; both are ours and hold no closing tag."""
    source, _, _ = PackageLoader("repro.suite.report").get_source(_templates(), name)
    return Markup(source)


def prose(text: object) -> Markup:
    """Escaped text with `code` between backticks."""
    parts = re.split(r"`([^`]+)`", " ".join(str(text).split()))
    return Markup("").join(
        Markup("<code>{}</code>").format(breakable(part)) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def breakable(text: object) -> Markup:
    """Escaped text that may break after punctuation (long names, paths, expressions)."""
    safe = re.sub(r"([/_,=](?=\w)|[.-](?=[a-z]))", r"\1<wbr>", str(escape(text)))
    return Markup(re.sub(r"(\b\d[\d.]*e-\d+)", r'<span class="number">\1</span>', safe))
