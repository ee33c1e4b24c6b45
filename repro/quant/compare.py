"""One measurement of :class:`repro.quant.study.Study` alone, where sampling would cost too much."""

from __future__ import annotations

import torch
from torch import nn

from repro.quant.study import Study


@torch.no_grad()
def measure_eps(study: Study, network: nn.Module, **at: object) -> None:
    """`eps_mse`, the error of ε on the full-precision trajectory, as `Study.evaluate` measures it.

    network: (x, t) -> ε. at: coordinates of the measurement.
    """
    run = study.reference
    some = min(study.p.eps_samples, run.x.shape[1])
    squared = [
        (network(x[:some], t.expand(some)) - eps[:some]).square().mean()
        for x, t, eps in zip(run.x, run.t, run.eps, strict=True)
    ]
    study.job.measure("eps_mse", torch.stack(squared).mean(), **at)
