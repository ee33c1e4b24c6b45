"""The stand-in inside a process that was started under it: installs it, and tells what it saw.

`environment` starts such a process; `install` comes before anything else that uses torch's CUDA.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from repro.errors import ReproError
from tools.rehearsal import build

NONDETERMINISTIC = """
_adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward _ctc_loss_backward _embedding_bag
_histc _upsample_bicubic2d_aa_backward _upsample_bilinear2d_aa_backward adaptive_max_pool2d_backward
avg_pool3d_backward bincount fractional_max_pool2d_backward fractional_max_pool3d_backward
grid_sampler_2d_backward grid_sampler_3d_backward histc max_unpool2d max_unpool3d median.dim
median.dim_values nanmedian.dim nanmedian.dim_values nll_loss2d_backward nll_loss2d_forward put_
reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward
upsample_bicubic2d_backward upsample_bilinear2d_backward upsample_linear1d_backward
upsample_trilinear3d_backward
""".split()
"""Operators that CUDA refuses under `torch.use_deterministic_algorithms`, by its documentation in
the locked version (where a sum of floats, `cumsum`, has a deterministic form)."""

TIMED = ("repro.", "methods.")
UNTIMED = ("repro.suite", "repro.display", "repro.training.callbacks", "repro.store", "repro.data")
"""Who reads a clock to measure, and who reads it to say how far a job is."""


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process that is to see the stand-in; `folder` is that of `build`."""
    preloaded = ":".join(str(folder / name) for name in build.PRELOADED)
    return {**os.environ, "LD_PRELOAD": preloaded, "REPRO_REHEARSAL_LIBRARIES": str(folder)}


@dataclass
class Seen:
    """What a job did to the device.

    launches: kernels; nondeterministic: operator → kernels without a deterministic form.
    clocks: place in the code → clocks read while kernels were pending.
    """

    launches: int = 0
    nondeterministic: dict[str, int] = field(default_factory=dict)
    clocks: dict[str, int] = field(default_factory=dict)
    reseeded: bool = False


class Device:
    """The stand-in of this process."""

    def __init__(self, kernels: ctypes.CDLL, replaced: int) -> None:
        self.kernels, self.replaced = kernels, replaced
        self._clocks: Counter[str] = Counter()
        self._seed = 0

    def forget(self) -> None:
        """Begin to count anew."""
        import torch

        self.kernels.rehearsal_forget()
        self._clocks.clear()
        self._seed = torch.cuda.initial_seed()

    def seen(self) -> Seen:
        """What was counted since."""
        import torch

        seen = Seen(clocks=dict(self._clocks), reseeded=torch.cuda.initial_seed() != self._seed)
        for line in self.kernels.rehearsal_counts().decode().splitlines():
            name, launches, random = line.split()
            seen.launches += int(launches)
            if int(random):
                seen.nondeterministic[name.removeprefix("aten::")] = int(random)
        return seen

    def pending(self) -> int:
        """Kernels launched since the host last waited for the device."""
        return self.kernels.rehearsal_pending()

    def watch_clocks(self) -> None:
        """Note the clocks that are read to measure something while kernels are pending."""
        for name in ("perf_counter", "process_time", "time"):
            setattr(time, name, self._watched(name, getattr(time, name)))

    def _watched(self, name: str, clock: Callable[[], float]) -> Callable[[], float]:
        @functools.wraps(clock)
        def read() -> float:
            frame = sys._getframe(1)
            module = frame.f_globals.get("__name__", "")
            # The CPU's seconds say nothing of a device's work, whether or not it is awaited.
            if module.startswith(TIMED) and not module.startswith(UNTIMED):
                if self.pending() or name == "process_time":
                    where = module.replace(".", "/") + f".py:{frame.f_lineno}"
                    self._clocks[f"{name} at {where}"] += 1
            return clock()

        return read


def install() -> Device:
    """Put the stand-in's kernels into torch.

    Raises:
        ReproError: the process was not started under the stand-in.
    """
    folder = os.environ.pop("REPRO_REHEARSAL_LIBRARIES", "")
    if not folder or "stand-in" not in os.environ.pop("LD_PRELOAD", ""):
        raise ReproError("this process has no stand-in; start it by `python -m tools.rehearsal`")
    import torch

    kernels = ctypes.CDLL(str(Path(folder) / build.KERNELS), mode=ctypes.RTLD_GLOBAL)
    kernels.rehearsal_counts.restype = ctypes.c_char_p
    kernels.rehearsal_pending.restype = ctypes.c_longlong
    torch.cuda.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every kernel is replaced on purpose
        replaced = kernels.rehearsal_install()
    for name in NONDETERMINISTIC:
        kernels.rehearsal_list_nondeterministic(f"aten::{name}".encode())
    # Flash attention and cuDNN have no twin among the CPU's kernels; the formulas have.
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cudnn.enabled = False
    device = Device(kernels, replaced)
    device.forget()
    return device
