"""The vocabulary of the suite: every word that cards, code and pages share stands here once."""

from typing import Literal, get_args

Scale = Literal["smoke", "small", "gpu", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)

Tier = Literal["exact", "structural", "reduced", "paper"]
TIERS: tuple[Tier, ...] = get_args(Tier)

Verdict = Literal["reproduced", "contradicted", "inconclusive", "untested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
ORDER: tuple[Verdict, ...] = ("contradicted", "inconclusive", "reproduced", "untested")
"""The verdict of a claim is the first of these that one of its checks has."""

Evidence = Literal["paper", "code", "secondary", "derived", "measured", "unsure"]

ZOO = "zoo"
"""Owner of the models that several methods share."""
