"""Builds the stand-in with g++ into ``$XDG_CACHE_HOME/repro-rehearsal/<key>``, once a version.

The key is a hash of the sources, torch and the compiler. A folder is there whole or not at all.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from repro import store
from repro.errors import ReproError

TORCH = "2.14.1"
"""The version whose operators and headers the sources know. A new lock asks for a new number here:
run ``python -m tools.rehearsal --check``, mend what it names, then raise it."""

HERE = Path(__file__).parent
SOURCES = ("driver.c", "runtime.cpp", "kernels.cpp")
RUNTIME, DRIVER, KERNELS = "libcudart-stand-in.so", "libcuda.so.1", "libkernels.so"
PRELOADED = (RUNTIME, DRIVER)


def locked() -> str:
    """The version of torch in ``requirements.lock``."""
    text = (HERE.parents[1] / "requirements.lock").read_text(encoding="utf-8")
    found = re.search(r"^torch==(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


@functools.cache
def obstacle() -> str | None:
    """Why the stand-in cannot be built here, and what would help; None where it can."""
    machine = f"{platform.system()} on {platform.machine()}"
    if machine != "Linux on x86_64":
        return f"the stand-in for a CUDA device is made for Linux on x86_64, this is {machine}"
    try:
        version = importlib.metadata.version("torch").partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "torch is not installed; run `make env`"
    if version != TORCH:
        return f"the stand-in knows torch {TORCH}, this is {version}; run `make env`"
    for name in ("gcc", "g++"):
        if shutil.which(name) is None:
            return f"{name} is not there; install it (Debian: `apt install g++`)"
    for folder, file in zip(_includes(), ("cuda_runtime_api.h", "crt/host_defines.h"), strict=True):
        if not (folder / file).is_file():
            return (
                f"{folder / file} is missing: this torch has no CUDA; install the locked wheels "
                "(`make env`)"
            )
    return None


def folder() -> Path:
    """The folder of the built libraries; builds them if need be (half a minute).

    Raises:
        ReproError: it cannot be built here, and why; or the compiler fails.
    """
    if why := obstacle():
        raise ReproError(f"no rehearsal of a GPU here: {why}")
    root = _cache()
    place = root / _key()
    if not place.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{place.name}.lock"):
            if not place.is_dir():
                print(f"builds the stand-in into {place} (once, half a minute)", file=sys.stderr)
                with store.atomic_folder(place, durable=False) as temporary:
                    _build(temporary)
    return place


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repro-rehearsal"


def _key() -> str:
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout
    seen = hashlib.sha256(f"{importlib.metadata.version('torch')}\n{compiler}".encode())
    for content in (inspect.getsource(_build).encode(), *map(_source, SOURCES)):
        seen.update(content)
    return seen.hexdigest()[:16]


def _source(name: str) -> bytes:
    return (HERE / name).read_bytes()


def _torch() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _includes() -> tuple[Path, Path]:
    """The folders of CUDA's headers, those that come in torch's wheels."""
    site = _torch().parent
    return site / "nvidia" / "cu13" / "include", site / "triton" / "backends" / "nvidia" / "include"


def _build(to: Path) -> None:
    torch, shared = _torch(), ["-fPIC", "-shared", "-w"]
    cuda = [f"-I{folder}" for folder in _includes()]
    own = [f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
    driver, runtime, kernels = (str(HERE / name) for name in SOURCES)
    name = f"-Wl,-soname,{DRIVER}"
    _compile(["gcc", "-O1", *shared, name, driver, "-o", str(to / DRIVER)])
    _compile(["g++", "-O1", *shared, *cuda, runtime, "-o", str(to / RUNTIME)])
    out = ["-o", str(to / KERNELS)]
    _compile(["g++", "-O1", "-std=c++20", *shared, *own, kernels, *out, *libraries])


def _compile(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise ReproError(f"the stand-in cannot be built: {command[0]}: {lines[0].strip()[:300]}")
