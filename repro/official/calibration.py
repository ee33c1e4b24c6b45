"""Calibration sets of Q-Diffusion: what a sampler met on its way, with or without contexts.

A dictionary of the tensors ``xs`` and ``ts`` and, of a conditional network, ``cs`` and ``ucs``.
Source: Li et al., ICCV 2023, section 3.2, and its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.official.reader import Layout, OfficialFile
from repro.quant.calibration import CalibrationSet

LAYOUT = Layout("a calibration file with xs, ts and maybe cs and ucs")
WHOLE = (torch.int32, torch.int64)


@dataclass(frozen=True)
class CalibrationFile:
    """Inputs met while sampling, in the order of the sampler.

    xs (S, B, C, H, W), ts (S, B); cs, ucs (S, B, ...) context and null context, or None.
    """

    xs: Tensor
    ts: Tensor
    cs: Tensor | None = None
    ucs: Tensor | None = None

    def uniform(self, steps: int, per_step: int) -> tuple[Tensor, ...]:
        """``steps`` steps at stride S // steps from the first, the first ``per_step`` samples each.

        Returns x (N, C, H, W), t (N,) and, where the file has contexts, c (N, ...), with
        N = steps · per_step; with contexts N is twice that, first all contexts, then all null
        contexts, over the same x and t. Source: Q-Diffusion, section 3.2 and its released code.
        Raises ReproError: the file has fewer steps or samples.
        """
        total, samples = self.ts.shape
        if not 0 < steps <= total or not 0 < per_step <= samples:
            raise ReproError(
                f"cannot take {per_step} samples of {steps} steps from a calibration file of "
                f"{samples} samples and {total} steps; ask for fewer"
            )
        index = torch.arange(steps) * (total // steps)

        def take(values: Tensor) -> Tensor:
            return values[index, :per_step].flatten(0, 1)

        x, t = take(self.xs), take(self.ts)
        if self.cs is None or self.ucs is None:
            return x, t
        return torch.cat([x, x]), torch.cat([t, t]), torch.cat([take(self.cs), take(self.ucs)])

    def calibration_set(self, steps: int, per_step: int) -> CalibrationSet:
        """`uniform` of an unconditional file as the suite's `CalibrationSet`."""
        if self.cs is not None:
            raise ReproError("the calibration file has contexts; take its `uniform` batches")
        return CalibrationSet(*self.uniform(steps, per_step))


def load_calibration(path: str | Path) -> CalibrationFile:
    """Reads a calibration file; float32, and ts as stored where it holds whole numbers.

    Raises ReproError: missing, damaged, other keys, or shapes that do not belong together.
    """
    file = OfficialFile.open(path, LAYOUT)
    found = file.tensors()
    contexts = ("cs", "ucs")
    file.match_names(("xs", "ts", *(contexts if found.keys() & contexts else ())), found)
    values = {name: file.value(name, found[name]) for name in found if name != "ts"}
    kind = found["ts"].dtype
    values["ts"] = file.value("ts", found["ts"], dtype=kind if kind in WHOLE else torch.float32)
    _check_shapes(file, values)
    return CalibrationFile(**values)


def _check_shapes(file: OfficialFile, values: dict[str, Tensor]) -> None:
    xs, ts = values["xs"], values["ts"]
    if xs.ndim != 5 or not xs.numel():
        raise file.refusal(
            f"`xs` has shape {tuple(xs.shape)}, expected (steps, samples, channels, height, width)"
        )
    for name, value in values.items():
        if value.shape[:2] != xs.shape[:2]:
            raise file.refusal(
                f"`{name}` has shape {tuple(value.shape)}, which does not begin like that of xs, "
                f"{tuple(xs.shape[:2])}"
            )
    if ts.ndim != 2:
        raise file.refusal(f"`ts` has shape {tuple(ts.shape)}, expected {tuple(xs.shape[:2])}")
    if "cs" in values and values["cs"].shape != values["ucs"].shape:
        cs, ucs = (tuple(values[k].shape) for k in ("cs", "ucs"))
        raise file.refusal(f"`cs` has shape {cs}, but `ucs` {ucs}")
