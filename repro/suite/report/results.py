"""The measurements of one method at one scale, as figure functions and tables read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from repro import store
from repro.coordinates import at_key, from_key
from repro.errors import ReproError
from repro.suite import records
from repro.suite.records import Record

COLUMNS = ["arm", "seed", "measurement", "at", "at_key", "value"]


class NotKept(ReproError):
    """The arrays of a run are asked for where only its measurements are (committed results)."""


def at_sort(at: Mapping[str, Any]) -> tuple:
    """Sort key of coordinates: by key, numbers by size and before words."""
    return tuple((key, *_rank(at[key])) for key in sorted(at))


def _rank(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, str(value))


def _same(a: Any, b: Any) -> bool:
    return at_key({"": a}) == at_key({"": b})


def _frame(records: Iterable[Record], order: list[str], first: str) -> pd.DataFrame:
    rows = []
    for record in records:
        name = record["arm"]
        for measured in record["measurements"] or ():
            key = at_key(measured["at"])
            # read back from its text, so that it is the same whether or not it was committed
            at, value = from_key(key), float(measured["value"])
            rows.append((name, record["seed"], measured["name"], at, key, value))
    place = {name: index for index, name in enumerate(order)}
    rows.sort(key=lambda r: (place.get(r[0], len(place)), r[0], r[1]))
    return pd.DataFrame(rows, columns=[first, *COLUMNS[1:]])


class Results:
    """Measurements and arrays of all runs of one method at one scale.

    Attributes:
        paper: the Paper card.
        experiment: the Experiment card.
        scale: name of the scale.
        frame: DataFrame with columns arm, seed, measurement, at (dict), at_key
            ("batch=1,steps=64"), value.
        models: the same for the models that the method trains, with the column model for arm.
        records: the raw run records (see `repro.suite.records`), sorted by arm and seed.
        model_records: the raw records of the models.
    """

    def __init__(
        self,
        paper: Any,
        experiment: Any,
        scale: str,
        records: list[Record],
        model_records: list[Record] | None = None,
    ) -> None:
        self.paper = paper
        self.experiment = experiment
        self.scale = scale
        arms = list(experiment.arms)
        place = {arm: index for index, arm in enumerate(arms)}
        self.records = sorted(
            records,
            key=lambda r: (place.get(r["arm"], len(place)), r["seed"]),
        )
        self.model_records = list(model_records or [])
        self.frame = _frame(self.records, arms, "arm")
        self.models = _frame(self.model_records, list(experiment.models), "model")

    def arms(self) -> list[str]:
        """Arms that have runs, in the order of the card."""
        return list(dict.fromkeys(r["arm"] for r in self.records))

    def seeds(self, arm: str | None = None) -> list[int]:
        """Seeds that were run, of one arm or of any."""
        return sorted({r["seed"] for r in self.records if arm is None or r["arm"] == arm})

    def title(self, arm: str) -> str:
        """Display name of an arm."""
        card = self.experiment.arms.get(arm)
        return (getattr(card, "title", None) or arm) if card is not None else arm

    def measurement(self, name: str) -> Any:
        """Card of a measurement: title, unit, direction, format, timing.

        Raises:
            ReproError: the card does not declare it.
        """
        try:
            return self.experiment.measurements[name]
        except KeyError:
            raise ReproError(
                f"{self.paper.slug}: measurement {name!r} is not declared; "
                f"declared are {', '.join(self.experiment.measurements)}"
            ) from None

    def _select(self, frame: pd.DataFrame, column: str, measurement: str, name: str, at: Mapping):
        rows = frame[(frame["measurement"] == measurement) & (frame[column] == name)]
        if at:
            keep = [
                all(key in have and _same(have[key], want) for key, want in at.items())
                for have in rows["at"]
            ]
            rows = rows[keep]
        if rows.empty:
            known = frame[frame["measurement"] == measurement]
            have = sorted(
                {
                    f"[{n}, {k}]" if k else f"[{n}]"
                    for n, k in zip(known[column], known["at_key"], strict=True)
                }
            )
            wanted = f"[{name}, {at_key(dict(at))}]" if at else f"[{name}]"
            shown = ", ".join(have[:6]) + (" …" if len(have) > 6 else "")
            raise ReproError(
                f"{self.paper.slug} at scale {self.scale}: "
                f"nothing measured as {measurement}{wanted}; "
                f"there is {shown or 'no ' + measurement + ' at all'}"
            )
        return rows

    def has(self, measurement: str, arm: str, **at: Any) -> bool:
        """Whether an arm has a measurement (at the given coordinates)."""
        rows = self.frame[(self.frame["measurement"] == measurement) & (self.frame["arm"] == arm)]
        return any(
            all(key in have and _same(have[key], want) for key, want in at.items())
            for have in rows["at"]
        )

    def values(self, measurement: str, arm: str, **at: Any) -> np.ndarray:
        """Values over seeds, ascending by seed, shape (n_seeds,).

        Args:
            measurement: declared name.
            arm: name of an arm.
            at: coordinates; they must leave one value per seed.

        Raises:
            ReproError: nothing was measured there, or several values per seed remain.
        """
        rows = self._select(self.frame, "arm", measurement, arm, at)
        if rows["seed"].duplicated().any():
            choices = ", ".join(sorted(set(rows["at_key"])))
            raise ReproError(
                f"{self.paper.slug}: {measurement}[{arm}] has several values per seed ({choices}); "
                "give the coordinates"
            )
        return rows.sort_values("seed")["value"].to_numpy()

    def sweep(
        self, measurement: str, arm: str, key: str, **at: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values along one coordinate.

        Args:
            measurement: declared name.
            arm: name of an arm.
            key: coordinate to sweep.
            at: fixes the other coordinates.

        Returns:
            x of shape (n_x,), ascending if numeric and else in order of appearance, and values of
            shape (n_x, n_seeds), NaN where a seed lacks a point.

        Raises:
            ReproError: nothing was measured, or other coordinates still vary.
        """
        rows = self._select(self.frame, "arm", measurement, arm, at)
        return self._sweep(rows, f"{measurement}[{arm}]", key)

    def model_sweep(
        self, measurement: str, model: str, key: str, **at: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Like `sweep`, for what a model measured while it was trained, such as its loss curve."""
        rows = self._select(self.models, "model", measurement, model, at)
        return self._sweep(rows, f"{measurement}[{model}]", key)

    def _sweep(self, rows: pd.DataFrame, what: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        rows = rows[[key in at for at in rows["at"]]]
        if rows.empty:
            raise ReproError(f"{self.paper.slug}: {what} is not measured along {key!r}")
        xs = [at[key] for at in rows["at"]]
        numeric = all(_rank(x)[0] == 0 for x in xs)
        points = sorted(set(xs)) if numeric else list(dict.fromkeys(xs))
        seeds = sorted(set(rows["seed"]))
        values = np.full((len(points), len(seeds)), np.nan)
        taken = set()
        for x, seed, value in zip(xs, rows["seed"], rows["value"], strict=True):
            place = (points.index(x), seeds.index(seed))
            if place in taken:
                raise ReproError(
                    f"{self.paper.slug}: {what} varies along more than {key!r}; "
                    "fix the other coordinates"
                )
            taken.add(place)
            values[place] = value
        return np.asarray(points), values

    def saved(self, arm: str, seed: int) -> list[str]:
        """Names of the arrays that a run saved.

        Raises:
            NotKept: its arrays are not here.
            ReproError: that run does not exist.
        """
        return list(self._kept(arm, seed)["arrays"])

    def array(self, arm: str, seed: int, name: str) -> np.ndarray:
        """Array that a run saved.

        Raises:
            NotKept: its arrays are not here.
            ReproError: that run does not exist or saved no such array.
        """
        record = self._kept(arm, seed)
        path = record["folder"] / "arrays.npz"
        records.verify(record, f"run `repro run {self.paper.slug} --scale {self.scale}`")
        found = store.read_arrays(path) if path.exists() else {}
        if name in found:
            return found[name]
        raise ReproError(
            f"{path}: no array {name!r}; the run saved "
            f"{', '.join(record.get('arrays') or []) or 'none'}"
        )

    def _kept(self, arm: str, seed: int) -> Record:
        """The record of a run whose arrays are here."""
        for record in self.records:
            if (record["arm"], record["seed"]) == (arm, seed):
                if record["folder"] is None:
                    raise NotKept(
                        f"{self.paper.slug} at scale {self.scale}: the arrays of {arm} with seed "
                        f"{seed} are not committed; run it again"
                    )
                return record
        raise ReproError(
            f"{self.paper.slug} at scale {self.scale}: no run of {arm} with seed {seed}; "
            f"seeds are {', '.join(map(str, self.seeds(arm))) or 'none'}"
        )
