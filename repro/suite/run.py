"""What one node of the DAG does: fetch data, train or load a model, run an arm.

Everything lies under ``work/<scale>/``::

    models/<owner>/<model>/<seed>/{model.safetensors, record.json, arrays.npz}
    runs/<method>/<arm>/<seed>/{record.json, arrays.npz}     one folder a seed, whole on its own
    runs/<method>/<arm>.json                                 the seeds of the arm, with fingerprints
    models/<owner>.json, runs/<method>.json                  those of a batch, with fingerprints
    logs/<job>.log, locks/<job>.lock
    scratch/<job>/<fingerprint>/                             gone when the job has ended well

A record carries the fingerprint of all that it depends on (parameters, definitions, data, models),
a digest of itself and the hashes of the files beside it. A job whose record has the right
fingerprint, and is whole, does nothing, so a killed run goes on where it was; one that is damaged
is made anew. Of two processes with the same job one waits for the other. A scale whose YAML says
``batch: true`` has one process for the models of a method and one for its arms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from repro import store
from repro.data import catalogue, items
from repro.errors import ReproError, nearest
from repro.job import Job, Params, reproducible
from repro.places import work_root
from repro.suite import fingerprint, official, provenance, reads, records
from repro.suite.cards import library
from repro.suite.cards.experiment import Arm
from repro.suite.cards.method import Method
from repro.suite.cards.models import ModelRef, Owner
from repro.suite.plan import Plan, scale_config

KEPT_S = 30 * 24 * 3600
"""How long the state of a job that was interrupted waits in scratch for its next run."""


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

    @property
    def plan(self) -> Plan:
        return Plan(self.scale, self.retrain, self.work)


def device_for(options: Options) -> str:
    """The device of a scale; checks that it is there.

    Raises:
        ReproError: no device of this suite, or one that this machine has not.
    """
    asked = options.device
    wanted = scale_config(options.scale)["device"] if asked is None else asked
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", wanted):
        raise ReproError(f"no device `{wanted}`; `--device` takes cpu, cuda or cuda:<number>")
    if wanted == "cpu":
        return wanted
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    needs = f"scale {options.scale}" if asked is None else f"`--device {asked}`"
    if not count:
        raise ReproError(
            f"{needs} needs a CUDA GPU and this machine shows none; run `--scale small`, or pass "
            "`--device cpu` if you can wait"
        )
    if int(wanted.partition(":")[2] or 0) >= count:
        raise ReproError(f"{needs}: this machine shows {count} CUDA GPUs, counted from 0")
    return wanted


def prepare_data(name: str, work: Path) -> None:
    """Fetch and verify a dataset; leave its manifest for the DAG."""
    catalogue.prepare(name)
    store.write_json(
        work / "data" / f"{name}.json", {"name": name, "fingerprint": catalogue.fingerprint(name)}
    )


def prepare_official(name: str, work: Path) -> None:
    """Fetch and verify official files; leave their identity for the DAG."""
    official.prepare(name)
    identity = fingerprint.of_official([name])
    store.write_json(
        work / "data" / "official" / f"{name}.json", {"name": name, "fingerprint": identity}
    )


def model_folder(ref: ModelRef, options: Options) -> Path:
    return options.base / "models" / ref.owner / ref.name / str(ref.seed)


def _paths(names: Sequence[str], refs: Sequence[ModelRef], options: Options) -> dict[str, Path]:
    """Folders by the names that a card uses; none for a model that is loaded, not trained."""
    return {name: model_folder(ref, options) for name, ref in zip(names, refs, strict=False)}


def run_model(method: Owner, ref: ModelRef, options: Options) -> Path:
    """Train a model, or take the weights that come with the suite; returns its folder."""
    folder = model_folder(ref, options)
    parts = fingerprint.parts_of_model(method, options.scale, ref, options.retrain)
    identity = fingerprint.digest(parts)
    label = f"models/{ref.owner}/{ref.name}/{ref.seed}"
    with _job(options, label, folder, identity) as log:
        if log is not None:
            _train(method, ref, folder, parts, label, options, log)
    return folder


def _train(
    method: Owner,
    ref: ModelRef,
    folder: Path,
    parts: dict[str, str],
    label: str,
    options: Options,
    log: logging.Logger,
) -> None:
    identity, card = fingerprint.digest(parts), options.plan.card(ref)
    load, before = not options.plan.is_trained(ref), options.plan.before(ref)
    _have_models([] if load else before, options)
    job = Job(
        ref.owner,
        ref.name,
        ref.seed,
        options.scale,
        Params(method.model_params(options.scale, ref.owner, ref.name), label),
        threads=card.threads,
        device_name="cpu" if load else device_for(options),
        scratch=_scratch(options, label) / identity,
        log=log,
        data_names=card.data,
        model_paths=_paths(card.models, before, options),
    )
    code = provenance.commit(card.train)
    provenance.restart_peak_memory(job.device_name)
    started = time.perf_counter()
    if load:
        from repro.zoo import pretrained  # imports torch

        tensors, origin = pretrained.shipped(fingerprint.shipped_path(card.shipped))
        read = origin.get(reads.ITEMS)
    else:
        origin, train = None, function(card.train, card.threads)
        with items.reading(reads.of_job(method, ref.name, "trained")) as reading:
            tensors = train(job)
        read = reads.of_model(method, ref.name, reading, _records(job))
    record = provenance.record(job, parts, time.perf_counter() - started, code)
    record[reads.ITEMS] = read
    if origin is not None:
        record["shipped"] = origin
    with store.atomic_folder(folder) as temporary:
        store.write_tensors(temporary / "model.safetensors", tensors, {"fingerprint": identity})
        _write_record(temporary, record, job)


def _records(job: Job) -> dict[str, dict[str, Any]]:
    """The records of the models that a job loads."""
    return {name: job.model_record(name) for name in job.model_paths}


def _write_record(folder: Path, record: dict[str, Any], job: Job) -> None:
    """Write a job's arrays, and its record with the hashes of the files beside it."""
    if job.arrays:
        store.write_arrays(folder / "arrays.npz", job.arrays)
    for key, name in records.FILES.items():
        if (folder / name).exists():
            record[key] = store.sha256(folder / name)
    store.write_sealed(folder / "record.json", record, durable=False)


def _have_models(refs: Sequence[ModelRef], options: Options) -> None:
    """Make those models anew that are missing or damaged; the DAG trusts the names of files."""
    kept = dataclasses.replace(options, force=False)
    for ref in refs:
        run_model(library.owner(ref.owner), ref, kept)


def run_arm(
    method: Method, arm_name: str, options: Options, seeds: Sequence[int] | None = None
) -> list[Path]:
    """Run an arm for its seeds; each seed's record is whole on its own.

    Args:
        seeds: a subset of the arm's seeds; None runs all and writes the arm's summary.
    """
    method = options.plan.planned(method)
    card = method.arm(options.scale, arm_name)
    official.ensure(method, options.scale, [arm_name], f"{method.slug}/{arm_name}")
    all_seeds = method.seeds(options.scale, arm_name)
    base = options.base / "runs" / method.slug
    folders, fingerprints = [], {}
    for seed in all_seeds if seeds is None else seeds:
        folder = base / arm_name / str(seed)
        folders.append(folder)
        parts = fingerprint.parts_of_run(method, options.scale, arm_name, seed, options.retrain)
        fingerprints[str(seed)] = identity = fingerprint.digest(parts)
        with _job(options, f"runs/{method.slug}/{arm_name}/{seed}", folder, identity) as log:
            if log is not None:
                _run_seed(method, arm_name, card, seed, folder, parts, options, log)
    if seeds is None:
        store.write_json(base / f"{arm_name}.json", {"arm": arm_name, "fingerprints": fingerprints})
    return folders


def run_models(owner: str, options: Options) -> None:
    """All models of an owner that a scale needs, in this process, and a summary of them."""
    method = library.owner(owner)
    refs = options.plan.models_of(owner)
    for ref in refs:
        run_model(method, ref, options)
    summary = {
        f"{ref.name}/{ref.seed}": fingerprint.of_model(method, options.scale, ref, options.retrain)
        for ref in refs
    }
    store.write_json(options.base / "models" / f"{owner}.json", summary)


def run_arms(method: Method, options: Options) -> None:
    """All arms of a method but those that want the machine for themselves, in this process.

    An arm that fails does not keep the others from running.

    Raises:
        ReproError: the first failure, and how many there are.
    """
    method = options.plan.planned(method)
    failures, summary = [], {}
    for name in options.plan.shared_arms(method):
        try:
            run_arm(method, name, options)
        except ReproError as error:
            _tell(f"error: {error}")
            failures.append(error)
        else:
            summary[name] = [
                fingerprint.of_run(method, options.scale, name, seed, options.retrain)
                for seed in method.seeds(options.scale, name)
            ]
    if failures:
        more = f" (and {len(failures) - 1} more, above)" if len(failures) > 1 else ""
        raise ReproError(f"{failures[0]}{more}")
    store.write_json(options.base / "runs" / f"{method.slug}.json", summary)


def _run_seed(
    method: Method,
    arm_name: str,
    card: Arm,
    seed: int,
    folder: Path,
    parts: dict[str, str],
    options: Options,
    log: logging.Logger,
) -> None:
    params = method.arm_params(options.scale, arm_name)
    refs = method.arm_models(options.scale, arm_name, seed)
    _have_models(refs, options)
    job = Job(
        method.slug,
        arm_name,
        seed,
        options.scale,
        Params(params, f"{method.slug}/{arm_name}"),
        threads=card.threads,
        device_name=device_for(options),
        scratch=_scratch(options, f"runs/{method.slug}/{arm_name}/{seed}")
        / fingerprint.digest(parts),
        log=log,
        data_names=card.data,
        model_paths=_paths(card.models, refs, options),
        declared=method.declared(options.scale, arm_name),
    )
    arm = function(card.run, card.threads)
    code = provenance.commit(card.run)
    provenance.restart_peak_memory(job.device_name)
    started = time.perf_counter()
    with items.reading(reads.of_job(method, arm_name, "measured")) as reading:
        arm(job)
    wall = time.perf_counter() - started
    if not job.measured:
        raise ReproError(f"{method.slug}/{arm_name} measured nothing at seed {seed}")
    record = provenance.record(job, parts, wall, code)
    record[reads.ITEMS] = reads.of_run(method, arm_name, reading, _records(job))
    if files := official.hashes(method, options.scale, arm_name):
        record["official"] = files
    with store.atomic_folder(folder) as temporary:
        _write_record(temporary, record, job)


@contextlib.contextmanager
def _job(
    options: Options, label: str, folder: Path, identity: str
) -> Iterator[logging.Logger | None]:
    """The log of a job while no other process does it; None where nothing is to be done.

    What it left in scratch is removed when it has ended well, of earlier code too. A job that is
    forced finds nothing there either.
    """
    scratch = _scratch(options, label)
    if folder.parent.is_dir():
        store.sweep(folder.parent)
    if not scratch.exists() and _is_current(folder, identity, options, quiet=True):
        yield None
        return
    with _alone(options, label):
        if options.force:
            _clear(scratch)
        if _is_current(folder, identity, options):
            yield None
        else:
            with _logged(options, label) as log:
                yield log
        _clear(scratch)
    _forget_abandoned(options.base / "scratch")


def _scratch(options: Options, label: str) -> Path:
    return options.base / "scratch" / label


def _clear(scratch: Path) -> None:
    try:
        if scratch.exists():
            shutil.rmtree(scratch)
    except OSError as error:
        raise store.explain(scratch, error) from error


def _forget_abandoned(root: Path) -> None:
    """Remove what has lain in scratch for `KEPT_S`: of jobs that nobody ran to the end."""
    before = time.time() - KEPT_S
    for folder, _, names in os.walk(root, topdown=False):
        with contextlib.suppress(OSError):  # a folder that is not empty, or just gone
            paths = [*(Path(folder, name) for name in names), Path(folder)]
            for path in [path for path in paths if path.lstat().st_mtime < before]:
                path.rmdir() if path.is_dir() else path.unlink()


@contextlib.contextmanager
def _alone(options: Options, label: str) -> Iterator[None]:
    """Keep other processes from the same job; the lock of one that is killed is free."""
    path = options.base / "locks" / f"{label}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path)
        try:
            held.acquire(timeout=0)
        except Timeout:
            _tell(f"{label}  (waits for another process that does it)")
            held.acquire()
    except OSError as error:
        raise store.explain(path, error) from error
    try:
        yield
    finally:
        held.release()


def _is_current(folder: Path, identity: str, options: Options, quiet: bool = False) -> bool:
    """Whether a folder holds the result that a job would make; says what is damaged."""
    if options.force or not (folder / "record.json").exists():
        return False
    try:
        record = records.read_record(folder / "record.json", "it is made anew")
        if record.get("fingerprint") != identity:
            return False
        records.verify(record, "it is made anew")
    except ReproError as error:
        if not quiet:
            _tell(str(error))
        return False
    return True


def function(dotted: str, threads: int = 1):
    """Import the function a card names; torch, if it is used, gets its threads and determinism."""
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
        reproducible(threads)
    return getattr(module, name)


@contextlib.contextmanager
def _logged(options: Options, label: str) -> Iterator[logging.Logger]:
    """Log a job to ``logs/<label>.log`` and say where that is when it fails."""
    path = options.base / "logs" / f"{label}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise store.explain(path, error) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger(f"repro.{label.replace('/', '.')}")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    _tell(f"{label}  (log: {path})")
    started = time.perf_counter()
    log.info("start, commit %s", provenance.commit())
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


class _LogFile(logging.FileHandler):
    """A log that cannot be written ends its job, once, with a line that says why."""

    full = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.full:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.full = True
        raise store.explain(Path(self.baseFilename), error) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of what was told when it was written
            super().close()


def _tell(line: str) -> None:
    """A notice on standard error; a job does not end because nobody can read it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def run_method(
    method: Method,
    options: Options,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> None:
    """All jobs of a method in dependency order in this process, without Snakemake."""
    device_for(options)
    method = options.plan.planned(method)
    chosen = list(arms or method.arms(options.scale))
    known = {seed for arm in chosen for seed in method.seeds(options.scale, arm)}
    for seed in seeds or []:
        if seed not in known:
            raise ReproError(
                f"{method.slug} has no seed {seed} at scale {options.scale}; it has "
                f"{', '.join(map(str, sorted(known)))}"
            )
    plan = options.plan
    wanted = plan.models_of_arms(method, chosen, seeds)
    refs = method.in_order(options.scale, wanted, options.retrain)
    official.obtain(method, options.scale, chosen)
    for name in sorted({*plan.data_of_arms(method, chosen), *plan.data_of_models(refs)}):
        prepare_data(name, options.work)
    for ref in refs:
        run_model(library.owner(ref.owner), ref, options)
    for arm in chosen:
        own = None if seeds is None else [s for s in method.seeds(options.scale, arm) if s in seeds]
        run_arm(method, arm, options, own)
