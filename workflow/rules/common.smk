"""What every rule needs: the cards, the targets, the command line of a job."""

import os
from pathlib import Path

from repro import cards, job
from repro.errors import ReproError

report: "../report/workflow.rst"

WORK = os.environ.get("REPRO_WORK", "work")
RETRAIN = str(config.get("retrain", "false")).lower() == "true"
METHODS_ROOT = os.environ.get("REPRO_METHODS")

try:
    METHODS = {method.slug: method for method in cards.load_all()}
    SCALES = {scale: job.scale_config(scale) for scale in cards.SCALES}
    METHODS_AT = {scale: [method.slug for method in job.methods_at(scale)] for scale in SCALES}
except ReproError as error:
    raise WorkflowError(str(error)) from None


def in_batches(scale):
    """Whether a scale runs the models of a method in one job, and its arms in another."""
    return str(config.get("batch", SCALES[scale].get("batch", False))).lower() == "true"


def repro(kind, *arguments):
    """The command of one job."""
    flags = " --retrain" if RETRAIN else ""
    return f"{sys.executable} -m repro job {kind} {' '.join(arguments)}{flags}"


def folder(ref, scale):
    return f"{WORK}/{scale}/models/{ref.owner}/{ref.name}/{ref.seed}"


def model_files(refs, scale):
    """What a job that needs these models waits for."""
    if in_batches(scale):
        return sorted({f"{WORK}/{scale}/models/{ref.owner}.json" for ref in refs})
    return sorted({f"{folder(ref, scale)}/record.json" for ref in refs})


def data_files(names):
    return sorted({f"{WORK}/data/{name}.json" for name in names})


def is_loaded(card):
    """Whether a model comes with the suite and is not trained."""
    return bool(card.shipped) and not RETRAIN


def gpu_of(card, scale):
    return int(card.gpu and SCALES[scale]["device"].startswith("cuda"))


wildcard_constraints:
    scale="|".join(cards.SCALES),
    method="[a-z0-9][a-z0-9.-]*",
    owner="[a-z0-9][a-z0-9.-]*",
    model="[a-z0-9][a-z0-9.-]*",
    arm="[a-z0-9][a-z0-9.-]*",
    seed="[0-9]+",
