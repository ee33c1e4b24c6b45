"""The models of the experiment: learned roundings, trained once per seed and shared by arms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.lowbit_fp import method as lowbit
from repro.quant.rounded import calibration
from repro.quant.study import Study

if TYPE_CHECKING:
    from torch import Tensor

    from repro.job import Job
    from repro.quant.reconstruction import UnitReport


def learn(job: Job) -> dict[str, Tensor]:
    """Train function of the card: directions of all weights, `<layer>` -> uint8.

    Its card declares `network`, `steps`, `clip`, `batch` (see `Study`), `calibration_steps`,
    `per_step` (the calibration set), `variant` (see `method.Variant`), `iterations` of each block,
    `lr` and `learning_batch`. All models of a seed have one calibration set and draw one sequence
    of batches from it.
    """
    study, p = Study(job), job.params

    def log(unit: UnitReport, done: int, total: int) -> None:
        job.log.info("%d/%d %s: %.4g -> %.4g", done, total, unit.name, unit.before, unit.after)

    return lowbit.learn(
        study.network,
        lowbit.Variant.of(p.variant),
        calibration(study),
        p.iterations,
        generator=job.rng("rounding"),
        lr=p.lr,
        batch=p.learning_batch,
        progress=log,
    )
