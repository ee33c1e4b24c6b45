"""Where a number comes from: commit, machine, versions, memory, and the record that says so."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from repro.job import Job
from repro.places import ROOT
from repro.suite import fingerprint, installed


def record(job: Job, depends_on: dict[str, str], wall: float, code: str) -> dict[str, Any]:
    return {
        "method": job.method,
        "arm": job.name,
        "seed": job.seed,
        "scale": job.scale,
        "params": job.params.as_dict(),
        "fingerprint": fingerprint.digest(depends_on),
        "depends_on": depends_on,
        "wall_s": round(wall, 3),
        "peak_memory_mb": round(peak_memory_mb(job.device_name), 1),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": job.threads,
        "device": device_description(job.device_name),
        "commit": code,
        "versions": versions(),
        "measurements": [{"name": n, "at": at, "value": v} for n, at, v in job.measured],
        "arrays": sorted(job.arrays),
    }


def peak_memory_mb(device: str) -> float:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def restart_peak_memory(device: str) -> None:
    """Let the peak begin at what is resident now: several jobs may share a process."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
    # Linux alone has this; elsewhere the peak is that of the process.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@cache
def device_description(device: str) -> str:
    """The processor or GPU by its model name; never a machine's own name."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


@cache
def commit(function: str | None = None) -> str:
    """Git commit of the code, with ``+changes`` if a source that a job depends on differs from it.

    Args:
        function: ``module:function`` of the job; its module and all it imports are compared.
            None compares nothing.
    """
    if installed.is_installed(ROOT):
        # the commit of a repository around it, such as a project with its environment, is not ours
        return installed.commit() or "unknown"
    try:
        head = _git("rev-parse", "HEAD")
        files = fingerprint.sources(function) if function else ()
        changed = files and _git("status", "--porcelain", "--", *map(str, files))
    except (OSError, subprocess.CalledProcessError):
        return installed.stamped(ROOT) or "unknown"
    return head + ("+changes" if changed else "")


def _git(*arguments: str) -> str:
    """What git says; it takes no lock, which a killed process would leave in the repository."""
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@cache
def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in (
        "torch",
        "numpy",
        "scipy",
        "pytorch-lightning",
        "diffusers",
        "scikit-image",
        "scikit-learn",
        "snakemake",
    ):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
