"""What every rule needs: the plan, the targets, the command line and the log of a job."""

import contextlib
import hashlib
import shlex
from pathlib import Path

from repro import environment
from repro.errors import ReproError
from repro.suite import fingerprint, looks
from repro.suite.cards import library
from repro.suite.cards.models import ModelRef
from repro.suite.plan import Plan, mark, methods_at, scale_config
from repro.suite.words import SCALES

report: "../report/workflow.rst"


def plain(folder):
    """A name of a folder without what Snakemake takes for wildcards or path variables."""
    if not set("{}<>") & set(str(folder)):
        return str(folder)
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    link = Path(".snakemake") / f"work-{name}"
    link.parent.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(folder.absolute())
    return str(link)


try:
    WORK = plain(environment.work())
except (ReproError, OSError) as error:
    raise WorkflowError(str(error)) from None

RETRAIN = str(config.get("retrain", "false")).lower() == "true"

try:
    METHODS = {
        method.slug: looks.everywhere(method, Path(WORK)) for method in library.load_all()
    }
    METHODS_AT = {scale: [method.slug for method in methods_at(scale)] for scale in SCALES}
except ReproError as error:
    raise WorkflowError(str(error)) from None


def plan(scale):
    return Plan(scale, RETRAIN, Path(WORK))


def in_batches(scale):
    """Whether a scale runs the models of a method in one job, and its arms in another."""
    return str(config.get("batch", scale_config(scale).get("batch", False))).lower() == "true"


def repro(kind, *arguments):
    """The command of one job."""
    flags = ["--retrain"] if RETRAIN else []
    return shlex.join([sys.executable, "-m", "repro", "job", kind, *arguments, *flags])


def depends_on(scale, name, content):
    """A file whose change makes a job run again: what its output depends on besides its inputs."""
    try:
        return mark(Path(WORK) / "plan" / scale / f"{name}.json", content)
    except ReproError as error:
        raise WorkflowError(str(error)) from None


def log_of(name):
    return f"{WORK}/{{scale}}/logs/jobs/{name}.log"


def folder(ref, scale):
    return f"{WORK}/{scale}/models/{ref.owner}/{ref.name}/{ref.seed}"


def model_files(refs, scale):
    """What a job that needs these models waits for."""
    if in_batches(scale):
        return sorted({f"{WORK}/{scale}/models/{ref.owner}.json" for ref in refs})
    return sorted({f"{folder(ref, scale)}/record.json" for ref in refs})


def official_files(method, scale, arms):
    """What of the official files arms wait for."""
    names = {name for arm in arms for name in method.official(scale, arm)}
    return [f"{WORK}/data/official/{name}.json" for name in sorted(names)]


def data_files(names):
    return sorted({f"{WORK}/data/{name}.json" for name in names})


def gpu_of(card, scale):
    return int(card.gpu and scale_config(scale)["device"].startswith("cuda"))


wildcard_constraints:
    scale="|".join(SCALES),
    name="[a-z0-9][a-z0-9.-]*",
    method="[a-z0-9][a-z0-9.-]*",
    owner="[a-z0-9][a-z0-9.-]*",
    model="[a-z0-9][a-z0-9.-]*",
    arm="[a-z0-9][a-z0-9.-]*",
    seed="[0-9]+",
