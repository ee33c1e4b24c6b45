"""What several methods' tests make: the results of jobs that ran in the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from repro.job import Job
from repro.suite.cards.method import Method
from repro.suite.report.results import Results


def results_of(method: Method, jobs: Mapping[tuple[str, int], Job], work: Path) -> Results:
    """What figures and tables read, of jobs by arm and seed; kept under a folder."""
    records = []
    for (arm, seed), job in jobs.items():
        folder = work / "runs" / method.slug / arm / str(seed)
        folder.mkdir(parents=True)
        measured = [{"name": n, "at": a, "value": v} for n, a, v in job.measured]
        record = {"arm": arm, "seed": seed, "measurements": measured, "arrays": list(job.arrays)}
        records.append({**record, "folder": folder})
        np.savez(folder / "arrays.npz", **job.arrays)
    return Results(method.paper, method.experiment, "smoke", records)
