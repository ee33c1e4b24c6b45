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
except ReproError as error:
    raise WorkflowError(str(error)) from None


def methods_at(scale):
    """The methods of a scale: those of its config that have a preset for it."""
    wanted = SCALES[scale]["methods"]
    for slug in [] if wanted == "all" else wanted:
        if slug not in METHODS:
            raise WorkflowError(
                f"workflow/config/{scale}.yaml names `{slug}`{cards.nearest(slug, METHODS)}, "
                "which is not under methods/"
            )
    return [
        slug
        for slug, method in METHODS.items()
        if scale in method.experiment.scales and (wanted == "all" or slug in wanted)
    ]


def repro(kind, *arguments):
    """The command of one job."""
    flags = " --retrain" if RETRAIN else ""
    return f"{sys.executable} -m repro job {kind} {' '.join(arguments)}{flags}"


def folder(ref, scale):
    return f"{WORK}/{scale}/models/{ref.owner}/{ref.name}/{ref.seed}"


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
