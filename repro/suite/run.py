"""What one node of the DAG does: fetch data, train or load a model, run an arm.

Everything lies under ``work/<scale>/``::

    models/<owner>/<model>/<seed>/{model.safetensors, record.json, arrays.npz}
    runs/<method>/<arm>/<seed>/{record.json, arrays.npz}     one folder a seed, whole on its own
    runs/<method>/<arm>.json                                 the seeds of the arm, with hashes
    models/<owner>.json, runs/<method>.json                  those of a batch, with hashes

A record carries the fingerprint of all that it depends on (parameters, definitions, data, models).
A job whose record has the right fingerprint does nothing, so a killed run goes on where it was. A
scale whose YAML says ``batch: true`` has one process for the models of a method and one for its
arms.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro import store
from repro.data import catalogue
from repro.errors import ReproError, nearest
from repro.job import Job, Params, reproducible
from repro.places import work_root
from repro.suite import fingerprint, provenance
from repro.suite.cards import library
from repro.suite.cards.experiment import Arm
from repro.suite.cards.method import Method
from repro.suite.cards.models import ModelRef, Owner
from repro.suite.plan import Plan, scale_config


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
        return Plan(self.scale, self.retrain)


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
    if _is_current(folder, identity, options, "model.safetensors"):
        return folder
    card = options.plan.card(ref)
    label = f"models/{ref.owner}/{ref.name}/{ref.seed}"
    with _logged(options, label) as log:
        load = not options.plan.is_trained(ref)
        job = Job(
            ref.owner,
            ref.name,
            ref.seed,
            options.scale,
            Params(method.model_params(options.scale, ref.owner, ref.name), label),
            threads=card.threads,
            device_name="cpu" if load else device_for(options),
            scratch=options.base / "scratch" / identity,
            log=log,
            data_names=card.data,
            model_paths=_paths(card.models, options.plan.before(ref), options),
        )
        code = provenance.commit(card.train)
        provenance.restart_peak_memory(job.device_name)
        started = time.perf_counter()
        if load:
            from repro.zoo import pretrained  # imports torch

            tensors, origin = pretrained.shipped(fingerprint.shipped_path(card.shipped))
        else:
            tensors, origin = function(card.train, card.threads)(job), None
        record = provenance.record(job, parts, time.perf_counter() - started, code)
        if origin is not None:
            record["shipped"] = origin
        with store.atomic_folder(folder) as temporary:
            store.write_tensors(temporary / "model.safetensors", tensors, {"fingerprint": identity})
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
        parts = fingerprint.parts_of_run(method, options.scale, arm_name, seed, options.retrain)
        if not _is_current(folder, fingerprint.digest(parts), options):
            _run_seed(method, arm_name, card, seed, folder, parts, options)
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
    failures, summary = [], {}
    for name in options.plan.shared_arms(method):
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


def _run_seed(
    method: Method,
    arm_name: str,
    card: Arm,
    seed: int,
    folder: Path,
    parts: dict[str, str],
    options: Options,
) -> None:
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
            scratch=options.base / "scratch" / fingerprint.digest(parts),
            log=log,
            data_names=card.data,
            model_paths=_paths(card.models, refs, options),
            declared=method.declared(options.scale, arm_name),
        )
        arm = function(card.run, card.threads)
        code = provenance.commit(card.run)
        provenance.restart_peak_memory(job.device_name)
        started = time.perf_counter()
        arm(job)
        wall = time.perf_counter() - started
        if not job.measured:
            raise ReproError(f"{method.slug}/{arm_name} measured nothing at seed {seed}")
        record = provenance.record(job, parts, wall, code)
        with store.atomic_folder(folder) as temporary:
            if job.arrays:
                store.write_arrays(temporary / "arrays.npz", job.arrays)
            store.write_json(temporary / "record.json", record)


def _is_current(folder: Path, identity: str, options: Options, *files: str) -> bool:
    if options.force or not all((folder / f).is_file() for f in ("record.json", *files)):
        return False
    record = store.read_json(folder / "record.json")
    return record.get("fingerprint") == identity


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
    for name in sorted({*plan.data_of_arms(method, chosen), *plan.data_of_models(refs)}):
        prepare_data(name, options.work)
    for ref in refs:
        run_model(library.owner(ref.owner), ref, options)
    for arm in chosen:
        own = None if seeds is None else [s for s in method.seeds(options.scale, arm) if s in seeds]
        run_arm(method, arm, options, own)
