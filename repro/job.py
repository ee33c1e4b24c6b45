"""What one node of the DAG does: train or load a model, run an arm, judge, report.

This module is the only reader and writer of artefacts. Everything lies under ``work/<scale>/``::

    models/<owner>/<model>/<seed>/{model.safetensors, record.json, arrays.npz}
    runs/<method>/<arm>/<seed>/{record.json, arrays.npz}     one folder a seed, whole on its own
    runs/<method>/<arm>.json                                 the seeds of the arm, with hashes
    models/<owner>.json, runs/<method>.json                  those of a batch, with hashes
    verdicts/<method>.json
    report/                                                  tables, figures, page, ledger

A record carries the fingerprint of all that it depends on (parameters, code, data, models). A job
whose record has the right fingerprint does nothing, so a killed run goes on where it was. A scale
whose YAML says ``batch: true`` has one process for the models of a method and one for its arms.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import yaml

from repro import cards, store, verdict
from repro.cards import Method, ModelRef, nearest
from repro.errors import ReproError
from repro.expression import at_key

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def work_root() -> Path:
    """Where regenerable artefacts go: ``$REPRO_WORK`` or ``work``."""
    return Path(os.environ.get("REPRO_WORK", "work"))


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
    declared: Iterable[str] | None = None
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
        measurements: Iterable[str] | None = None,
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
            declared=measurements,
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
            ReproError: undeclared name, measured twice at the same place, NaN or infinite.
        """
        where = f"{name}[{self.name}{', ' + at_key(at) if at else ''}] at seed {self.seed}"
        if self.declared is not None and name not in self.declared:
            raise ReproError(
                f"{self.method}: measurement `{name}`{nearest(name, self.declared)} is not "
                "declared under `measurements` in experiment.yaml"
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

    def progress(self, iterable: Iterable[T], description: str = "", total: int | None = None):
        """Show how far a loop is: a bar on a terminal, a log line every 15 s elsewhere."""
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)
        if sys.stderr.isatty():
            from rich.progress import track

            yield from track(iterable, description=description, total=total, transient=True)
            return
        last = time.monotonic()
        for number, item in enumerate(iterable, 1):
            yield item
            if time.monotonic() - last > 15:
                last = time.monotonic()
                self.log.info("%s %d%s", description, number, f"/{total}" if total else "")


# Running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """How to run, none of which changes what is computed."""

    scale: str
    work: Path = field(default_factory=work_root)
    retrain: bool = False
    force: bool = False
    device: str | None = None

    @property
    def base(self) -> Path:
        return self.work / self.scale


def scale_config(scale: str) -> dict[str, Any]:
    """The YAML of a scale: device, methods, description.

    Raises:
        ReproError: no such scale, or a mistake in its file.
    """
    path = cards.ROOT / "workflow" / "config" / f"{scale}.yaml"
    if scale not in cards.SCALES or not path.is_file():
        raise ReproError(
            f"no scale `{scale}`{nearest(scale, cards.SCALES)}; known: {', '.join(cards.SCALES)}"
        )
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    return validate(config, "config", path)


def methods_at(scale: str) -> list[Method]:
    """The methods of a scale: those that its YAML names and that have a preset for it.

    Raises:
        ReproError: the YAML names a method that is not there.
    """
    wanted = scale_config(scale)["methods"]
    known = {method.slug: method for method in cards.load_all()}
    for slug in [] if wanted == "all" else wanted:
        if slug not in known:
            raise ReproError(
                f"workflow/config/{scale}.yaml names `{slug}`{nearest(slug, known)}, "
                "which is not under methods/"
            )
    return [
        method
        for slug, method in known.items()
        if scale in method.experiment.scales and (wanted == "all" or slug in wanted)
    ]


def models_of(owner: str, scale: str, retrain: bool = False) -> list[ModelRef]:
    """The models of an owner that the methods of a scale need, each after those it needs."""
    found: dict[ModelRef, None] = {}
    for method in methods_at(scale):
        found.update(dict.fromkeys(method.in_order(scale, method.models(scale), retrain)))
    return [ref for ref in found if ref.owner == owner]


def validate(content: Any, schema: str, path: Path) -> Any:
    """Validate a hand-written YAML against ``workflow/schemas/<schema>.schema.yaml``."""
    import jsonschema

    text = (cards.ROOT / "workflow" / "schemas" / f"{schema}.schema.yaml").read_text("utf-8")
    try:
        jsonschema.validate(content, yaml.safe_load(text))
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "top level"
        raise ReproError(f"{path.name}: {where}: {error.message}") from error
    return content


def device_for(options: Options) -> str:
    """The device of a scale; checks that it is there.

    Raises:
        ReproError: the scale needs a GPU and there is none.
    """
    wanted = options.device or scale_config(options.scale)["device"]
    if wanted.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ReproError(
                f"scale {options.scale} needs a CUDA GPU and this machine shows none; run "
                "`--scale small`, or pass `--device cpu` if you can wait"
            )
    return wanted


def prepare_data(name: str, work: Path) -> None:
    """Fetch and verify a dataset; leave its manifest for the DAG."""
    from repro.data import catalogue

    catalogue.prepare(name)
    store.write_json(
        work / "data" / f"{name}.json", {"name": name, "fingerprint": catalogue.fingerprint(name)}
    )


def model_folder(ref: ModelRef, options: Options) -> Path:
    return options.base / "models" / ref.owner / ref.name / str(ref.seed)


def _paths(names: Sequence[str], refs: Sequence[ModelRef], options: Options) -> dict[str, Path]:
    """Folders by the names that a card uses; none for a model that is loaded, not trained."""
    return {name: model_folder(ref, options) for name, ref in zip(names, refs, strict=False)}


def run_model(method: Method, ref: ModelRef, options: Options) -> Path:
    """Train a model, or take the weights that come with the suite; returns its folder."""
    folder = model_folder(ref, options)
    fingerprint = method.model_fingerprint(options.scale, ref, options.retrain)
    if _is_current(folder, fingerprint, options, "model.safetensors"):
        return folder
    card = method.model(options.scale, ref.owner, ref.name)
    label = f"models/{ref.owner}/{ref.name}/{ref.seed}"
    with _logged(options, label) as log:
        load = card.shipped and not options.retrain
        job = Job(
            ref.owner,
            ref.name,
            ref.seed,
            options.scale,
            Params(method.model_params(options.scale, ref.owner, ref.name), label),
            threads=card.threads,
            device_name="cpu" if load else device_for(options),
            scratch=options.base / "scratch" / fingerprint,
            log=log,
            data_names=card.data,
            model_paths=_paths(
                card.models, method.model_models(options.scale, ref, options.retrain), options
            ),
        )
        code = commit(card.train)
        _restart_peak_memory(job.device_name)
        started = time.perf_counter()
        if load:
            from repro import zoo

            tensors, provenance = zoo.shipped(ref.name, cards.shipped_path(card.shipped))
        else:
            tensors, provenance = function(card.train, card.threads)(job), None
        record = _record(job, fingerprint, time.perf_counter() - started, code)
        if provenance is not None:
            record["shipped"] = provenance
        with store.atomic_folder(folder) as temporary:
            store.write_tensors(
                temporary / "model.safetensors", tensors, {"fingerprint": fingerprint}
            )
            if job.arrays:
                store.write_arrays(temporary / "arrays.npz", job.arrays)
            record["sha256"] = store.sha256(temporary / "model.safetensors")
            store.write_json(temporary / "record.json", record)
    return folder


def run_arm(
    method: Method, arm_name: str, options: Options, seeds: Sequence[int] | None = None
) -> list[Path]:
    """Run an arm for its seeds; each seed's record is whole on its own.

    Args:
        seeds: a subset of the arm's seeds; None runs all and writes the arm's summary.
    """
    card = method.arm(options.scale, arm_name)
    all_seeds = method.seeds(options.scale, arm_name)
    base = options.base / "runs" / method.slug
    folders = []
    for seed in all_seeds if seeds is None else seeds:
        folder = base / arm_name / str(seed)
        folders.append(folder)
        fingerprint = method.run_fingerprint(options.scale, arm_name, seed, options.retrain)
        if not _is_current(folder, fingerprint, options):
            _run_seed(method, arm_name, card, seed, folder, fingerprint, options)
    if seeds is None:
        summary = {
            "arm": arm_name,
            "fingerprints": {
                str(s): store.read_json(f / "record.json")["fingerprint"]
                for s, f in zip(all_seeds, folders, strict=True)
            },
        }
        store.write_json(base / f"{arm_name}.json", summary)
    return folders


def run_models(owner: str, options: Options) -> None:
    """All models of an owner that a scale needs, in this process, and a summary of them."""
    method = cards.owner(owner)
    refs = models_of(owner, options.scale, options.retrain)
    for ref in refs:
        run_model(method, ref, options)
    summary = {
        f"{ref.name}/{ref.seed}": method.model_fingerprint(options.scale, ref, options.retrain)
        for ref in refs
    }
    store.write_json(options.base / "models" / f"{owner}.json", summary)


def run_arms(method: Method, options: Options) -> None:
    """All arms of a method but those that want the machine for themselves, in this process.

    An arm that fails does not keep the others from running.

    Raises:
        ReproError: the first failure, and how many there are.
    """
    failures, summary = [], {}
    for name, card in method.arms(options.scale).items():
        if card.machine:
            continue
        try:
            folders = run_arm(method, name, options)
        except ReproError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failures.append(error)
        else:
            summary[name] = [store.read_json(f / "record.json")["fingerprint"] for f in folders]
    if failures:
        more = f" (and {len(failures) - 1} more, above)" if len(failures) > 1 else ""
        raise ReproError(f"{failures[0]}{more}")
    store.write_json(options.base / "runs" / f"{method.slug}.json", summary)


def _run_seed(method, arm_name, card, seed, folder, fingerprint, options) -> None:
    params = method.arm_params(options.scale, arm_name)
    refs = method.arm_models(options.scale, arm_name, seed)
    label = f"runs/{method.slug}/{arm_name}/{seed}"
    with _logged(options, label) as log:
        job = Job(
            method.slug,
            arm_name,
            seed,
            options.scale,
            Params(params, f"{method.slug}/{arm_name}"),
            threads=card.threads,
            device_name=device_for(options),
            scratch=options.base / "scratch" / fingerprint,
            log=log,
            data_names=card.data,
            model_paths=_paths(card.models, refs, options),
            declared=list(method.experiment.measurements),
        )
        arm = function(card.run, card.threads)
        code = commit(card.run)
        _restart_peak_memory(job.device_name)
        started = time.perf_counter()
        arm(job)
        wall = time.perf_counter() - started
        if not job.measured:
            raise ReproError(f"{method.slug}/{arm_name} measured nothing at seed {seed}")
        record = _record(job, fingerprint, wall, code)
        with store.atomic_folder(folder) as temporary:
            if job.arrays:
                store.write_arrays(temporary / "arrays.npz", job.arrays)
            store.write_json(temporary / "record.json", record)


def _is_current(folder: Path, fingerprint: str, options: Options, *files: str) -> bool:
    if options.force or not all((folder / f).is_file() for f in ("record.json", *files)):
        return False
    record = store.read_json(folder / "record.json")
    return record.get("fingerprint") == fingerprint


def function(dotted: str, threads: int = 1):
    """Import the function a card names; torch, if it is used, gets its threads and determinism."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    module_name, name = dotted.split(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ReproError(f"the card names `{dotted}`: {error}") from error
    if not hasattr(module, name):
        raise ReproError(
            f"the card names `{dotted}`; the module has no `{name}`{nearest(name, dir(module))}"
        )
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    return getattr(module, name)


def _record(job: Job, fingerprint: str, wall: float, code: str) -> dict[str, Any]:
    return {
        "method": job.method,
        "arm": job.name,
        "seed": job.seed,
        "scale": job.scale,
        "params": job.params.as_dict(),
        "fingerprint": fingerprint,
        "wall_s": round(wall, 3),
        "peak_memory_mb": round(_peak_memory_mb(job.device_name), 1),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": job.threads,
        "device": device_description(job.device_name),
        "commit": code,
        "versions": versions(),
        "measurements": [{"name": n, "at": at, "value": v} for n, at, v in job.measured],
        "arrays": sorted(job.arrays),
    }


def _peak_memory_mb(device: str) -> float:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _restart_peak_memory(device: str) -> None:
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
    try:
        head = _git("rev-parse", "HEAD")
        files = cards.code_files(function.split(":")[0]).values() if function else ()
        changed = files and _git("status", "--porcelain", "--", *map(str, files))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(cards.ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


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


@contextlib.contextmanager
def _logged(options: Options, label: str) -> Iterator[logging.Logger]:
    """Log a job to ``logs/<label>.log`` and say where that is when it fails."""
    path = options.base / "logs" / f"{label}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise ReproError(
            f"{path}: cannot be written ({error.strerror}); make the folder writable or set "
            "REPRO_WORK to another one"
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger(f"repro.{label.replace('/', '.')}")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    print(f"{label}  (log: {path})", file=sys.stderr, flush=True)
    started = time.perf_counter()
    log.info("start, commit %s", commit())
    try:
        yield log
    except ReproError as error:
        log.error("%s", error)
        raise
    except Exception as error:
        log.exception("failed")
        raise ReproError(
            f"{label} failed: {type(error).__name__}: {_one_line(error)}; traceback in {path}"
        ) from error
    finally:
        log.info("end after %.1f s", time.perf_counter() - started)
        log.removeHandler(handler)
        handler.close()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# Judging and reporting ------------------------------------------------------------------------


def records_of(method: Method, options: Options) -> list[dict[str, Any]]:
    """The run records of a method; stale or missing ones are an error."""
    records = []
    for arm in method.arms(options.scale):
        for seed in method.seeds(options.scale, arm):
            path = options.base / "runs" / method.slug / arm / str(seed) / "record.json"
            records.append(store.read_json(path))
    return records


def judge(method: Method, options: Options) -> dict[str, Any]:
    result = verdict.judge(method, options.scale, records_of(method, options))
    store.write_json(options.base / "verdicts" / f"{method.slug}.json", result)
    return result


def run_method(
    method: Method,
    options: Options,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> None:
    """All jobs of a method in dependency order in this process, without Snakemake."""
    device_for(options)
    chosen = list(arms or method.arms(options.scale))
    known = {seed for arm in chosen for seed in method.seeds(options.scale, arm)}
    for seed in seeds or []:
        if seed not in known:
            raise ReproError(
                f"{method.slug} has no seed {seed} at scale {options.scale}; it has "
                f"{', '.join(map(str, sorted(known)))}"
            )
    data = {d for arm in chosen for d in method.arm(options.scale, arm).data}
    refs: dict[ModelRef, None] = {}
    for arm in chosen:
        for seed in seeds if seeds is not None else method.seeds(options.scale, arm):
            refs.update(dict.fromkeys(method.arm_models(options.scale, arm, seed)))
    ordered = method.in_order(options.scale, refs, options.retrain)
    for ref in ordered:
        card = method.model(options.scale, ref.owner, ref.name)
        if not card.shipped or options.retrain:
            data.update(card.data)
    for name in sorted(data):
        prepare_data(name, options.work)
    for ref in ordered:
        run_model(method, ref, options)
    for arm in chosen:
        own = None if seeds is None else [s for s in method.seeds(options.scale, arm) if s in seeds]
        run_arm(method, arm, options, own)
    if arms is None and seeds is None:
        judge(method, options)


def report_method(method: Method, options: Options) -> None:
    """Tables and figures of a method that is judged."""
    from repro import report

    out = options.base / "report"
    _swept(out / "tables" / method.slug, out / "figures" / method.slug)
    report.write_tables(method.slug, options.scale, options.base, out)
    report.write_figures(method.slug, options.scale, options.base, out)
    for kind in ("tables", "figures"):
        (out / kind / method.slug).mkdir(parents=True, exist_ok=True)


def _swept(*folders: Path) -> None:
    import shutil

    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def report_scale(options: Options, require_all: bool) -> Path:
    """Page and ledger of a scale; returns the page.

    Args:
        require_all: every method of the scale has to be judged; otherwise those that are.
    """
    from repro import report

    out = options.base / "report"
    judged = {path.stem for path in (options.base / "verdicts").glob("*.json")}
    if not judged:
        raise ReproError(f"no verdicts at scale {options.scale}; run a method first")
    for method in methods_at(options.scale) if require_all else ():
        if method.slug not in judged:
            raise ReproError(
                f"{options.base / 'verdicts' / method.slug}.json is missing; run "
                f"`make {options.scale}` to make it"
            )
    report.write_ledger(options.scale, options.base, out)
    _swept(out / "tables" / "comparisons", out / "figures" / "comparisons")
    report.write_comparisons(options.scale, options.base, out)
    return report.write_page(options.scale, options.base, out)
