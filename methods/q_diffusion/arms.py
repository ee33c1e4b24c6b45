"""The arms of the experiment: glue between its card and `method`, `exact`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro.quant.layers import quantise
from repro.quant.rounded import install, recipe
from repro.quant.study import Study

if TYPE_CHECKING:
    from repro.job import Job


def adaround(job: Job) -> None:
    """Learned rounding of the weights, activations in float."""
    study = Study(job)
    network = install(quantise(study.network, recipe(study.network, 4)), job.model("w4"))
    study.evaluate(network, "adaround")
