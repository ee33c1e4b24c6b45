"""The vocabulary of the suite: every word that cards, code and pages share stands here once."""

from typing import Literal, get_args

Scale = Literal["smoke", "small", "gpu", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)

Tier = Literal["exact", "structural", "reduced", "paper"]
TIERS: tuple[Tier, ...] = get_args(Tier)
CERTAIN: tuple[Tier, ...] = ("exact", "structural")
"""The tiers whose checks hold at every scale, smoke included, or something is wrong."""

Verdict = Literal["reproduced", "contradicted", "inconclusive", "untested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
ORDER: tuple[Verdict, ...] = ("contradicted", "inconclusive", "reproduced", "untested")
"""The verdict of a claim is the first of these that one of its checks has."""

Kind = Literal["empirical", "theorem", "structure", "code", "ours"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OF_THE_PAPER: tuple[Kind, ...] = ("empirical", "theorem", "structure")
"""The kinds of claims that a headline counts; `code` and `ours` are nobody's claims in print."""

Evidence = Literal["paper", "code", "secondary", "derived", "measured", "unsure"]

ZOO = "zoo"
"""Owner of the models that several methods share."""
