"""What the CSV of a profile cannot say, from a YAML beside it; units are in the names.

Bounds are wide: what lies outside them is a slip of unit or of the pen, and is refused with the
slip that is likely.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from methods.diffusion_couple.method import (
    MolarVolume,
    excess_volume,
    ideal_volume,
    table_volume,
)
from repro.errors import ReproError
from repro.places import short
from repro.suite.cards.base import Strict
from repro.suite.cards.loading import read

CM3 = 1e-6
MOST_EXCESS = 0.3  # of the ideal volume; known solid solutions stay below 0.1
LEAST_DIFFERENCE = 1e-6  # between the end compositions; far below what is measured


def _number(value: Any) -> Any:
    if (
        isinstance(value, str)
        and value.replace(",", ".", 1).strip("+- ").replace(".", "").isdigit()
    ):
        raise ValueError("expected a number with a decimal point and without quotes")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a number (the unit is that of the key's name)")
    return value


def _within(low: float, high: float, hint: str) -> Callable[[float], float]:
    def check(value: float) -> float:
        if not low <= value <= high:  # NaN too
            raise ValueError(f"expected {low:g} to {high:g}; {hint}")
        return value

    return check


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Fraction = Annotated[Number, AfterValidator(_within(0, 1, "a mole fraction: divide % by 100"))]
Volume = Annotated[
    Number, AfterValidator(_within(1, 200, "cm3 per mole of atoms, which is 1e6 times m3/mol"))
]
Length = Annotated[Number, AfterValidator(_within(1e-4, 1e5, "micrometres"))]
Position = Annotated[Number, AfterValidator(_within(-1e6, 1e6, "micrometres"))]


class Measured(Strict):
    """A part of the YAML: an unknown key is an error, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class VolumeCard(Measured):
    """V_m(N): an excess parameter w (cm3/mol) over the ideal line, or a table of [N, cm3/mol]."""

    w: Number | None = None
    table: list[list[Number]] | None = None
    interpolation: Literal["linear", "pchip"] = "linear"

    @model_validator(mode="after")
    def _one(self) -> VolumeCard:
        if (self.w is None) == (self.table is None):
            raise ValueError("expected either `w` (excess, cm3/mol) or `table` ([N, cm3/mol] rows)")
        if self.table is None:
            return self
        if any(len(row) != 2 for row in self.table):
            raise ValueError("a row of `table` is [N, cm3/mol]")
        N, V = ([row[i] for row in self.table] for i in (0, 1))
        if len(N) < 2 or any(b <= a for a, b in zip(N, N[1:], strict=False)):
            raise ValueError("`table` needs two or more rows with N rising")
        if N[0] < 0 or N[-1] > 1:
            raise ValueError("N in `table` runs from 0 to 1; divide % by 100")
        if min(V) < 1 or max(V) > 200:
            raise ValueError("volumes in `table` are 1 to 200 cm3 per mole of atoms")
        return self


class LayerCard(Measured):
    """A line compound: composition, molar volume (cm3 per mole of atoms), thickness."""

    name: Annotated[str, Field(pattern=r"^\w[^|$=\x00-\x1f]*$", max_length=60)]
    N: Fraction
    V_m: Volume
    thickness_um: Length
    sd_um: Length | None = None
    x_left_um: Position | None = None

    @model_validator(mode="after")
    def _thicker_than_its_error(self) -> LayerCard:
        if self.sd_um is not None and self.sd_um > self.thickness_um / 2:
            raise ValueError("sd_um is more than half of thickness_um")
        return self


class Config(Measured):
    """What the CSV of a profile cannot say; units are in the names, volumes in cm3/mol."""

    t_s: Annotated[Number, AfterValidator(_within(1, 1e10, "seconds, 3600 to an hour"))]
    T_C: Annotated[Number, AfterValidator(_within(-273.15, 5000, "degrees Celsius"))]
    N_left: Fraction
    N_right: Fraction
    V_A: Volume
    V_B: Volume
    V_m: VolumeCard = VolumeCard(w=0.0)
    x_K_um: Position | None = None
    layers: list[LayerCard] = []

    @model_validator(mode="after")
    def _couple(self) -> Config:
        if self.N_left == self.N_right:
            raise ValueError("N_left equals N_right; a couple needs two compositions")
        if abs(self.N_left - self.N_right) < LEAST_DIFFERENCE:
            raise ValueError(
                f"N_left and N_right differ by less than {LEAST_DIFFERENCE:g}, which no mole "
                "fraction is measured to"
            )
        return self

    @model_validator(mode="after")
    def _ordered_layers(self) -> Config:
        compositions = [self.N_left, *(layer.N for layer in self.layers), self.N_right]
        steps = np.diff(compositions) * np.sign(self.N_right - self.N_left)
        if np.any(steps <= 0):
            raise ValueError(
                "the compositions of `layers` must run from N_left to N_right, left to right"
            )
        placed = [layer.x_left_um is not None for layer in self.layers]
        if any(placed) and not all(placed):
            raise ValueError("give `x_left_um` for all layers or for none")
        return self

    @model_validator(mode="after")
    def _possible_volume(self) -> Config:
        low, high = sorted((self.N_left, self.N_right))
        N = np.linspace(low, high, 201)
        V = self.volume()
        ideal = ideal_volume(self.V_A * CM3, self.V_B * CM3)
        if self.V_m.table is not None:
            ideal = V.ideal_between(low, high)
        bend = V(N) / ideal(N) - 1
        worst = int(np.argmax(np.abs(bend)))
        if abs(bend[worst]) > MOST_EXCESS:
            raise ValueError(
                f"V_m lies {100 * bend[worst]:+.0f} % off the ideal line at N = {N[worst]:.3g} (at "
                f"most {100 * MOST_EXCESS:.0f} %); w is in cm3/mol, usually within 1, and the "
                "volumes of a table are those of a mole of atoms"
            )
        parts = {"V_m": V(N), "V_A": V.partial("A", N), "V_B": V.partial("B", N)}
        for name, volume in parts.items():
            if np.any(volume <= 0):
                kind = "" if name == "V_m" else "partial "
                raise ValueError(
                    f"V_m gives a negative {kind}molar volume {name}, {1e6 * volume.min():.3g} "
                    f"cm3/mol at N = {N[np.argmin(volume)]:.3g}; check V_m, V_A and V_B"
                )
        return self

    def volume(self) -> MolarVolume:
        """V_m(N) in m^3/mol."""
        if self.V_m.table is not None:
            N, V = np.array(self.V_m.table).T
            return table_volume(N, V * CM3, self.V_m.interpolation)
        return excess_volume(self.V_A * CM3, self.V_B * CM3, (self.V_m.w or 0.0) * CM3)


def read_config(path: Path) -> Config:
    """Read the YAML of a profile.

    Raises:
        ReproError: one line with the file, the key and what was expected.
    """
    if not path.exists():
        raise ReproError(
            f"{short(path)} is missing; write it beside the profile with t_s, T_C, N_left, "
            "N_right, V_A, V_B (and V_m, x_K_um, layers if known), or name it with --config"
        )
    return read(path, Config)
