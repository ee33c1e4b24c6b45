"""The models of the experiment: learned roundings, trained once per seed and shared by arms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.lowbit_fp import method as lowbit
from repro.quant.rounded import calibration, record_of
from repro.quant.study import Study

if TYPE_CHECKING:
    from torch import Tensor

    from repro.job import Job
    from repro.quant.reconstruction import UnitReport


def learn(job: Job) -> dict[str, Tensor]:
    """Train function of the card: directions of all weights, `<layer>` -> uint8, and how it ended.

    Its card declares `network`, `steps`, `clip`, `batch` (see `Study`), `calibration_steps`,
    `per_step` (the calibration set), `variant` (see `method.Variant`), `iterations` of each block
    and `most` of a cheap one, `until` (largest share of undecided roundings), `lr` and
    `learning_batch`. All models of a seed have one calibration set and draw one sequence of batches
    from it. How learning ended is kept as `repro.quant.rounded.record_of` says.
    """
    study, p = Study(job), job.params
    units: list[UnitReport] = []

    def progress(unit: UnitReport, done: int, total: int) -> None:
        units.append(unit)
        share = max(unit.undecided.values())
        job.log.info(
            "%d/%d %s: %.4g -> %.4g, %.2g undecided",
            done, total, unit.name, unit.before, unit.after, share,
        )  # fmt: skip

    directions = lowbit.learn(
        study.network,
        lowbit.Variant.of(p.variant),
        calibration(study),
        p.iterations,
        generator=job.rng("rounding"),
        lr=p.lr,
        batch=p.learning_batch,
        most=p.most,
        until=p.until,
        progress=progress,
    )
    return directions | record_of(units)
