"""What an arm sees: `Job` with its parameters, seed, inputs, random streams and measurements.

Everything here is part of every fingerprint. How jobs are planned, run and recorded is not; that
is `repro.suite`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from repro import display, store
from repro.coordinates import Grid, at_key, outside
from repro.errors import ReproError, nearest
from repro.places import work_root

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def reproducible(threads: int) -> None:
    """Set torch's threads and its deterministic algorithms for a job.

    With CUDA, operations without a deterministic form warn; on the CPU they are an error.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())


class Params:
    """Resolved parameters with attribute access; an unknown name gets a clear error."""

    def __init__(self, values: Mapping[str, Any], owner: str) -> None:
        self._values = dict(values)
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise ReproError(
                f"{self._owner} has no parameter `{name}`{nearest(name, self._values)}; declare it "
                "under `params` in its card"
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def as_dict(self) -> dict[str, Any]:
        return dict(self._values)

    def __repr__(self) -> str:
        return f"Params({self._values})"


@dataclass
class Job:
    """What the functions of a card receive: parameters, seed, inputs, and where results go."""

    method: str
    name: str
    seed: int
    scale: str
    params: Params
    threads: int = 1
    device_name: str = "cpu"
    scratch: Path = field(default_factory=lambda: work_root() / "scratch")
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("repro"))
    data_names: Sequence[str] | None = None
    """What `data` may read; None, in tests and notebooks, for everything."""
    model_paths: Mapping[str, Path] = field(default_factory=dict)
    declared: Mapping[str, Sequence[Grid]] | None = None
    measured: list[tuple[str, dict[str, Any], float]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    _states: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    _model_params: dict[str, Params] = field(default_factory=dict)

    @classmethod
    def for_test(
        cls,
        method: str = "test",
        name: str = "test",
        seed: int = 0,
        params: Mapping[str, Any] | None = None,
        models: Mapping[str, dict[str, torch.Tensor]] | None = None,
        declared: Mapping[str, Sequence[Grid]] | None = None,
        scratch: Path | None = None,
        scale: str = "smoke",
        device: str = "cpu",
        threads: int = 1,
        model_params: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Job:
        """A job outside the DAG, for tests and notebooks; nothing is written but ``scratch``."""
        job = cls(
            method,
            name,
            seed,
            scale,
            Params(params or {}, f"{method}/{name}"),
            threads=threads,
            device_name=device,
            declared=declared,
        )
        if scratch is not None:
            job.scratch = scratch
        job._states = dict(models or {})
        job._model_params = {k: Params(v, k) for k, v in (model_params or {}).items()}
        return job

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device(self.device_name)

    def rng(self, *stream: str | int) -> torch.Generator:
        """A CPU generator that depends on the seed and the named stream alone."""
        import torch

        return torch.Generator().manual_seed(self._stream_seed(stream))

    def numpy_rng(self, *stream: str | int) -> np.random.Generator:
        """Like :meth:`rng`, for NumPy."""
        return np.random.default_rng(self._stream_seed(stream))

    def _stream_seed(self, stream: tuple[str | int, ...]) -> int:
        text = "/".join(str(part) for part in (self.seed, *stream))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

    def data(self, name: str) -> Any:
        """A dataset of the card, fetched and verified if need be."""
        from repro.data import catalogue

        if self.data_names is not None and name not in self.data_names:
            raise ReproError(
                f"{self.method}/{self.name} reads dataset `{name}` but its card does not list it; "
                "add it to `data` in experiment.yaml"
            )
        return catalogue.load(name)

    def model(self, name: str) -> dict[str, torch.Tensor]:
        """The state dict of a model of the card."""
        if name not in self._states:
            if name not in self.model_paths:
                known = ", ".join(self.model_paths) or "none"
                raise ReproError(
                    f"{self.method}/{self.name} asks for model `{name}`; its card lists {known}"
                )
            self._states[name] = store.read_tensors(self.model_paths[name] / "model.safetensors")
        return self._states[name]

    def model_params(self, name: str) -> Params:
        """The parameters with which a model was trained."""
        if name not in self._model_params:
            record = self.model_record(name)
            self._model_params[name] = Params(record["params"], name)
        return self._model_params[name]

    def model_record(self, name: str) -> dict[str, Any]:
        return store.read_json(self.model_paths[name] / "record.json")

    def measure(self, name: str, value: Any, **at: Any) -> None:
        """Record one number.

        Raises:
            ReproError: undeclared name or coordinates, measured twice at the same place, NaN or
                infinite.
        """
        where = f"{name}[{self.name}{', ' + at_key(at) if at else ''}] at seed {self.seed}"
        if self.declared is not None:
            if name not in self.declared:
                raise ReproError(
                    f"{self.method}: measurement `{name}`{nearest(name, self.declared)} of arm "
                    f"`{self.name}` is not declared under `measurements` in experiment.yaml"
                )
            if why := outside(at, self.declared[name]):
                raise ReproError(
                    f"{self.method}: {where} is not declared under `measurements.{name}.at` in "
                    f"experiment.yaml: {why}"
                )
        number = float(value)
        if not math.isfinite(number):
            raise ReproError(
                f"{self.method}: {where} is {number}; the run is not recorded, its log shows why"
            )
        if any(n == name and at_key(a) == at_key(at) for n, a, _ in self.measured):
            raise ReproError(f"{self.method}: {where} is measured twice")
        self.measured.append((name, dict(at), number))

    def save(self, name: str, array: Any) -> None:
        """Keep an array with the run, for figures; strings become a Unicode array."""
        if hasattr(array, "detach"):
            array = array.detach().cpu().numpy()
        array = np.asarray(array)
        if array.dtype.hasobject:
            raise ReproError(f"{self.method}/{self.name}: array `{name}` holds objects")
        self.arrays[name] = array

    def progress(
        self, iterable: Iterable[T], description: str = "", total: int | None = None
    ) -> Iterator[T]:
        """Show how far a loop is: a bar on a terminal, a log line every 15 s elsewhere."""
        meter = display.Meter(description, display.length(iterable, total), self.log)
        try:
            for done, item in enumerate(iterable, 1):
                yield item
                meter.update(done)
        finally:
            meter.close()
