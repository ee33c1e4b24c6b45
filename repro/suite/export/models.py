"""What the suite says to other programs: the shape of `--json` and of ``results/claims.json``.

Each output is one object whose ``format`` and ``version`` say what it is; a version changes when a
key goes or means something else, and stays when one is added. The docstring of a key is its
description in the JSON schema and in ``docs/json.md``. Numbers are finite or null.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from repro.suite.cards.base import Strict, Value
from repro.suite.words import Evidence, Kind, Scale, Tier, Verdict


class Part(Strict):
    """A part of an output; every key is always there."""

    model_config = ConfigDict(use_attribute_docstrings=True)


# Claims -----------------------------------------------------------------------------------------


class Need(Part):
    """A precondition of a check."""

    id: str
    """Its name in `checks.yaml`."""
    expect: str
    """The expression that has to hold at every seed."""
    holds: bool | None
    """Whether it does; null where this scale does not measure it."""
    observed: str
    """Means of its sides over the seeds; empty where nothing was measured."""


class Control(Part):
    """The check with a control in the place of the method: it must not be reproduced."""

    expect: str
    """The expression that must not hold; empty where this scale does not measure it."""
    verdict: Verdict
    """Of that expression; `untested` where the control is not run at this scale."""
    observed: str
    """Means of its sides; empty where it is not run."""


class CheckOfClaim(Part):
    """One check with its verdict and all that led to it."""

    id: str
    """Name of the check in `checks.yaml`."""
    tier: Tier
    """What it can show: `exact`, `structural`, `reduced` or `paper`."""
    verdict: Verdict
    """`reproduced`, `contradicted` or `inconclusive`."""
    expect: str
    """The expression over measurements that the claim predicts."""
    why: str
    """Where its threshold comes from."""
    observed: str
    """Means of the sides of the expression, with what holds between them."""
    by_ratio: bool
    """Whether margins are natural logarithms of the ratio of two positive sides; else they are
    differences in the unit of the measurement."""
    margin: float | None
    """Mean over the seeds of how far the sides lie on the predicted side of each other."""
    margin_low: float | None
    """Lower end of the interval of the margin, mean − T·s/√n; it leaves out 0 exactly when the
    seeds decide."""
    margin_high: float | None
    """Upper end of the interval of the margin."""
    effect: float | None
    """The margin as a reader thinks of it: a ratio (above 1 as predicted) where `by_ratio`, else
    the margin itself (above 0 as predicted)."""
    effect_low: float | None
    """Lower end of its interval."""
    effect_high: float | None
    """Upper end of its interval."""
    interval: str
    """Effect and interval as tables, figures and page print them."""
    least: float | None
    """The smallest effect that would matter, a ratio where `by_ratio` and else a difference;
    margins are what lies beyond it."""
    smallest_detectable: float | None
    """The smallest mean margin that this number of seeds decides in four of five cases."""
    p: float | None
    """Two-sided probability of such margins when nothing is there, in one look, uncorrected."""
    link: str
    """The link that decides, where the expression has several; else empty."""
    n_seeds: int
    """Number of seeds that decided."""
    margins: list[float]
    """One margin a seed, arms paired by seed."""
    needs: list[Need]
    """Preconditions; if one fails the check is inconclusive."""
    control: Control | None
    """The control; null where the check has none."""
    paper: str
    """The paper's number beside the check; empty where it prints none."""
    comparable: bool
    """Whether ours may be compared with the paper's number."""
    timing: bool
    """Whether it reads wall-clock figures, which differ from run to run."""
    reason: str
    """Why it is not decided, or how many seeds hold; else empty."""
    runs: list[str]
    """The runs that it reads, `arm/seed`: rows of `records`."""
    commits: list[str]
    """Commits of the code of these runs."""
    absent: dict[str, str]
    """Why a number is null, by its key."""


class ClaimResult(Part):
    """One claim of a paper at one scale."""

    scale: Scale
    """`small`, `gpu` or `paper`; smoke is no evidence."""
    paper: str
    """Slug of the paper."""
    claim: str
    """Name of the claim in `paper.yaml`, unique within the paper."""
    kind: Kind
    """Whose it is: `empirical` (measured by the paper), `theorem`, `structure` (a printed count),
    `code` (what the released code does) or `ours`."""
    statement: str
    """The claim in a sentence."""
    metric: str
    """What it is about; may be empty."""
    unit: str
    """Unit of the paper's numbers; may be empty."""
    paper_baseline: Value
    """The paper's number of the baseline, a number or text; null where it prints none."""
    paper_method: Value
    """The paper's number of the method, a number or text; null where it prints none."""
    setting: str
    """Under which conditions the paper's numbers stand; may be empty."""
    where: str
    """Where in the paper."""
    evidence: Evidence
    """Where the paper's numbers are from; `unsure` ones nobody could verify."""
    best_tier: Tier
    """The most that could be shown of it."""
    tier: Tier | None
    """The most that its checks show here; null where it is untested."""
    verdict: Verdict
    """`reproduced` if all its checks are, `contradicted` if one is, `inconclusive`, or `untested`
    where no check judges it at this scale."""
    reason: str
    """Why it is not reproduced; else empty."""
    deciding: str | None
    """The check on which the verdict hangs; null where there is none."""
    checks: list[CheckOfClaim]
    """All checks of the claim, in the order of the card."""
    findings: list[str]
    """Why it came out as it did, as far as experiments show it."""
    records: str
    """The table of its runs, relative to the folder of the results: commit, device, parameters,
    versions and a hash of what each measured."""
    measurements: str
    """The table of all that its runs measured, relative to the folder of the results."""


class NotJudged(Part):
    """A paper whose committed runs the cards of today cannot judge."""

    scale: Scale
    """The scale."""
    paper: str
    """Slug of the paper."""
    reason: str
    """One line: what is missing."""


class Claims(Part):
    """Every claim of every committed scale (`repro claims --json`, `results/claims.json`)."""

    format: Literal["repro-claims"]
    """What this object is."""
    version: Literal[1]
    """Of the schema of this format."""
    claims: list[ClaimResult]
    """By scale, paper, and in the order of the paper's card."""
    not_judged: list[NotJudged]
    """What the list therefore lacks; empty in results that `repro check` accepts."""


# Papers -----------------------------------------------------------------------------------------


class PaperInList(Part):
    """One paper."""

    slug: str
    """Name by which every command knows it."""
    short: str
    """Its short name."""
    title: str
    """Title."""
    venue: str
    """Where it was published."""
    year: int
    """When."""
    field: str
    """What it is about, a word of a fixed list."""
    claims: int
    """Number of claims."""
    checks: int
    """Number of checks, over all scales."""
    arms: int
    """Number of method variants and baselines."""
    scales: list[Scale]
    """Scales that it has a preset for."""


class PaperList(Part):
    """Every paper in scope (`repro list --json`)."""

    format: Literal["repro-list"]
    """What this object is."""
    version: Literal[1]
    """Of the schema of this format."""
    papers: list[PaperInList]
    """In the order of their slugs."""


class Code(Part):
    """A repository."""

    url: str
    """Where it is."""
    commit: str | None
    """The commit that was read; null where none is named."""


class PaperClaim(Part):
    """A claim as its card has it."""

    id: str
    """Its name, unique within the paper."""
    kind: Kind
    """Whose it is."""
    statement: str
    """The claim in a sentence."""
    metric: str
    """What it is about; may be empty."""
    unit: str
    """Unit of the paper's numbers; may be empty."""
    paper_baseline: Value
    """The paper's number of the baseline; null where it prints none."""
    paper_method: Value
    """The paper's number of the method; null where it prints none."""
    setting: str
    """Under which conditions the paper's numbers stand; may be empty."""
    where: str
    """Where in the paper."""
    evidence: Evidence
    """Where the paper's numbers are from."""
    best_tier: Tier
    """The most that could be shown of it."""


class PaperArm(Part):
    """A method variant or a baseline."""

    id: str
    """Name of the method variant or baseline."""
    title: str
    """What it is; may be empty."""
    baseline: bool
    """Whether it is a baseline."""
    deterministic: bool
    """Whether it runs once, with seed 0."""
    scales: list[Scale]
    """Where it runs."""


class PaperCheck(Part):
    """A check as its card has it."""

    claim: str
    """The claim that predicts it."""
    id: str
    """Its name, unique within the paper."""
    tier: Tier
    """What it can show."""
    expect: str
    """The expression over measurements that has to hold."""
    why: str
    """Where its threshold comes from."""
    least: float | None
    """The smallest effect that would matter, a ratio of positive sides or else a difference;
    null where the card names none."""
    needs: list[str]
    """Names of its preconditions."""
    scales: list[Scale]
    """Where it is judged."""


class Data(Part):
    """A dataset."""

    name: str
    """Name by which `repro data` knows it."""
    title: str
    """What it is."""
    licence: str
    """Its licence."""
    citation: str
    """How to cite it."""
    megabytes: float
    """What is fetched."""
    here: bool
    """Whether it is in the cache of this machine."""


class PaperShown(Part):
    """A paper's facts, claims, experiment and data (`repro show --json`)."""

    format: Literal["repro-show"]
    """What this object is."""
    version: Literal[1]
    """Of the schema of this format."""
    slug: str
    """Name by which every command knows it."""
    short: str
    """Its short name."""
    title: str
    """Title."""
    authors: list[str]
    """In the order of the publication."""
    venue: str
    """Where it was published."""
    year: int
    """When."""
    arxiv: str | None
    """Number at arXiv; null where it has none."""
    doi: str | None
    """Null where it has none."""
    citation: str
    """One line of text."""
    field: str
    """What it is about, a word of a fixed list."""
    summary: str
    """What it does, in a few sentences."""
    code: Code | None
    """The released code; null where there is none."""
    licence: dict[str, str]
    """Licences of code, weights and data, as far as there are any."""
    claims: list[PaperClaim]
    """In the order of the card."""
    arms: list[PaperArm]
    """Method variants and baselines."""
    checks: list[PaperCheck]
    """At all scales."""
    data: list[Data]
    """What its models and arms read."""


# Check and machine ------------------------------------------------------------------------------


class Checked(Part):
    """What `repro check --json` found; the exit status is 1 where there is a difference."""

    format: Literal["repro-check"]
    """What this object is."""
    version: Literal[1]
    """Of the schema of this format."""
    results: str
    """The folder."""
    ok: bool
    """Whether there is no difference."""
    differences: list[str]
    """A line for each place and kind of difference."""


class Client(Part):
    """A program."""

    name: str
    """The program."""
    here: bool
    """Whether it is on the path."""
    use: str
    """What it is needed for."""


class DataHere(Part):
    """A dataset of the suite."""

    name: str
    """Name by which `repro data` knows it."""
    here: bool
    """Whether it is in the cache."""


class OfficialData(Part):
    """Official files that are published together."""

    name: str
    """Its name."""
    title: str
    """What it is."""
    here: bool
    """Whether all its files are there."""
    state: Literal["have", "fetch", "ask", "by hand"]
    """Whether it is here, will be fetched, has terms to agree to, or is brought by a person."""
    folder: str
    """Where its files go."""
    files: list[str]
    """Names of its files; of what a person brings patterns, where `a|b` means either."""
    obtain: str
    """Where it is published, or what a person has to do."""
    licence: str
    """Its licence, as far as it is stated."""
    asks: str
    """What a person has to agree to before it is fetched; empty if nothing."""
    megabytes: float | None
    """Size, as far as it is known."""
    papers: list[str]
    """The papers that it belongs to."""
    arms: list[str]
    """The arms that read it at the scale in question."""
    wrong: list[str]
    """What lies in a file's place and is not it."""


class Machine(Part):
    """What this machine can run (`repro doctor --json`)."""

    format: Literal["repro-doctor"]
    """What this object is."""
    version: Literal[1]
    """Of the schema of this format."""
    suite: str
    """Version of the suite."""
    python: str
    """Version of Python."""
    cores: int
    """Cores of the machine."""
    free_disk_gb: float
    """Free space where the command runs, in 10⁹ bytes."""
    torch: str | None
    """Version; null where it is missing."""
    gpu: str | None
    """Name of the first CUDA GPU; null where there is none."""
    clients: list[Client]
    """Programs that something needs."""
    data_cache: str
    """Folder of the data; `REPRO_DATA` moves it."""
    data: list[DataHere]
    """Every dataset of the suite."""
    official: list[OfficialData]
    """The official files of the papers, and which arms of the scale `paper` read them."""


class OfficialList(Part):
    """The official files that papers need (`repro fetch --json`)."""

    format: Literal["repro-fetch"]
    """What this object is."""
    version: Literal[1]
    """Of the format; a change that a reader would notice counts it up."""
    files: list[OfficialData]
    """One for each publication."""


# Citations --------------------------------------------------------------------------------------


class CitedPaper(Part):
    """A paper."""

    slug: str
    """Name by which every command knows it."""
    title: str
    """Title."""
    authors: list[str]
    """In the order of the publication."""
    venue: str
    """Where it was published."""
    year: int
    """When."""
    arxiv: str | None
    """Number at arXiv; null where it has none."""
    doi: str | None
    """Null where it has none."""
    citation: str
    """One line of text."""
    bibtex: str
    """The entry."""


class CitedSuite(Part):
    """The suite."""

    title: str
    """Title."""
    authors: list[str]
    """In the order of the publication."""
    version: str
    """Version of the suite."""
    licence: str
    """SPDX identifier."""
    keywords: list[str]
    """What it is about."""
    bibtex: str
    """The entry."""


class Cited(Part):
    """What to cite (`repro cite --json`)."""

    format: Literal["repro-cite"]
    """What this object is."""
    version: Literal[1]
    """Of the schema of this format."""
    suite: CitedSuite
    """As `CITATION.cff` has it."""
    papers: list[CitedPaper]
    """Those named, or those whose numbers stand in what was named."""


# A person's images ------------------------------------------------------------------------------


MetricId = Literal["fid", "kid", "precision", "recall"]


class MetricOfImages(Part):
    """One metric of a set of images."""

    id: MetricId
    """Its name."""
    title: str
    """What it is with these features; only Inception's give an FID and a KID."""
    value: float
    """Of the images as they are."""
    low: float
    """Lower end of its 95 % interval over the choice of the images (jackknife over ten groups);
    the reference is taken as it is."""
    high: float
    """Upper end of the interval."""
    floor: float
    """The same metric of real images in the place of these, `n_floor` of them."""
    above_floor: float
    """`value` − `floor`."""
    lower_is_better: bool
    """Whether a lower value is a better one."""
    n: int
    """How many of the images it takes."""
    n_reference: int
    """How many of the reference."""


class Measured(Part):
    """A person's images against a reference (`repro measure --json`)."""

    format: Literal["repro-measure"]
    """What this object is."""
    version: Literal[1]
    """Of the schema of this format."""
    images: str
    """The folder or file, as it was named."""
    n: int
    """Number of images."""
    images_sha256: str
    """Over what the network was fed, in any order."""
    against: str
    """The reference: a data set and its split, or a folder or file."""
    n_reference: int
    """Number of its images."""
    features: str
    """The network whose features are compared."""
    features_sha256: str
    """Of its weights."""
    n_floor: int
    """Number of real images that gave the floor."""
    metrics: list[MetricOfImages]
    """In the order in which they were asked for."""
    copies_of_reference: int
    """Images that are one of the reference, pixel by pixel."""
    copies_within: int
    """Images that stand more than once."""
    notes: list[str]
    """What was done to the images, and what to mind."""


# Results that go to another clone ---------------------------------------------------------------


class Exported(Part):
    """``export.json`` in an archive of `repro export`."""

    format: Literal["repro-export"]
    """What this object is."""
    version: Literal[1]
    """Of the schema of this format."""
    machine: str
    """What the machine calls itself."""
    suite: str
    """Version of the suite."""
    scale: Literal["small", "gpu", "paper"]
    """Of all its results."""
    made: str
    """When."""
    files: dict[str, str]
    """SHA-256 of every other file, by its path."""


OUTPUTS: dict[str, type[Part]] = {
    "claims": Claims,
    "list": PaperList,
    "show": PaperShown,
    "check": Checked,
    "doctor": Machine,
    "fetch": OfficialList,
    "cite": Cited,
    "measure": Measured,
}
"""Commands with `--json` and what they print."""
