"""``repro import``: results of another machine, verified and put beside ours.

An archive is read into memory by the names that it may hold; none of its paths is used. Its seal
and the hash of every file are checked, then each method is examined as our own committed results
are (`repro.suite.results.check`): every run and parameter of the card and no other, fingerprints of
today's code, the hash of every run's measurements, finite numbers, random seeds that differ. Where
a run comes from has to be plausible. Every verdict is derived again and has to be the one that they
had. Only when all of it holds is anything written; nothing is ever replaced.
"""

from __future__ import annotations

import math
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from repro import documents, store
from repro.data import archives
from repro.errors import ReproError
from repro.places import short
from repro.suite import records
from repro.suite.cards import library
from repro.suite.export.models import Exported
from repro.suite.records import Record
from repro.suite.report import inputs
from repro.suite.results import check, layout, manifest, others, writing
from repro.suite.results.check import Differences, Say
from repro.suite.results.exporting import ABOUT, CLAIMS, KEPT
from repro.suite.results.others import Beside

LARGEST = 256 * 2**20
"""Bytes of all files of an archive together; three megabytes are usual."""
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
"""Before any run of the suite."""
BOUNDS = {"wall_s": (0, 400 * 24 * 3600), "peak_memory_mb": (0, 1e9), "threads": (1, 1e5)}
"""Seconds, megabytes and threads that a run may have taken."""
SLACK = timedelta(days=1)
"""By which the clock of another machine may be ahead."""
SAME = 1e-6
"""Relative difference of margins that processors' arithmetic may leave."""


@dataclass(frozen=True)
class Archive:
    """An archive that is as it was exported; ``files`` by method and name."""

    about: Exported
    files: dict[str, dict[str, bytes]]
    digest: str


class Refused(ReproError):
    """What an archive says does not hold; ``differences`` has a line each."""

    def __init__(self, said: str, differences: Sequence[str]) -> None:
        super().__init__(said)
        self.differences = list(differences)


def bring(source: Path, results: Path, machine: str | None = None) -> list[Beside]:
    """Verify results of another machine and put them beside ours.

    Args:
        source: an archive of `repro export`, or the folder that it was unpacked into.
        machine: another name for the machine than it gave itself.

    Returns:
        Each of its methods beside ours.

    Raises:
        Refused: something does not hold; nothing was written.
        ReproError: it is no such archive, or another import of that machine says otherwise.
    """
    archive = read(source)
    name = machine or archive.about.machine
    if not others.is_machine(name):
        raise ReproError(
            f"a machine cannot be called {documents.quoted(name)}; give --as with small letters, "
            "digits and hyphens, 40 at most"
        )
    scale = archive.about.scale
    with writing.alone(results), tempfile.TemporaryDirectory() as staged:
        folder = Path(staged) / scale
        found = Differences()
        for slug, files in archive.files.items():
            _stage(folder / slug, files)
            _examine(slug, scale, folder, files, results, found.at(f"{scale}/{slug}"))
        if lines := [line.replace(f"{staged}/", "") for line in found.lines()]:
            more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            raise Refused(f"{source}: {lines[0]}{more}; nothing was imported", lines)
        target = results / others.FOLDER / name / scale
        new = [slug for slug in archive.files if _is_new(target / slug, archive, slug)]
        for slug in new:
            _place(target / slug, archive, slug, name)
        return [
            others.compared(name, scale, slug, target / slug, ours(results, scale, slug))
            for slug in archive.files
        ]


def ours(results: Path, scale: str, slug: str) -> inputs.Report | None:
    """Our committed results of a method; None where there are none.

    Raises:
        ReproError: they are damaged.
    """
    source = inputs.Committed(scale, results / scale)
    return inputs.load(slug, source) if slug in source.slugs() else None


# Reading --------------------------------------------------------------------------------------


def read(source: Path) -> Archive:
    """An archive, or the folder that it was unpacked into, held against its seal and its hashes.

    Raises:
        ReproError: it is none, is damaged or edited, or holds what no export writes.
    """
    if source.is_dir():
        content = _of_folder(source)
    else:
        if source.suffix.lower() != ".zip":
            raise ReproError(f"{source} is no folder and no .zip; `repro export` writes archives")
        _refuse_bomb(source)
        content = archives.read_members(source, ["*"])
    if ABOUT not in content:
        raise ReproError(f"{source} holds no {ABOUT}; it is no archive of `repro export`")
    about = _about(source, content.pop(ABOUT))
    files: dict[str, dict[str, bytes]] = {}
    for path in sorted({*content, *about.files}):
        slug, _, name = path.partition("/")
        if path not in about.files or name not in KEPT or slug not in library.slugs():
            raise ReproError(
                f"{source} holds {documents.quoted(path)}, which no export of today's suite "
                "writes; export it again, with both clones at one commit"
            )
        if path not in content:
            raise ReproError(f"{source} lacks {path}; export it again")
        if sha256(content[path]).hexdigest() != about.files[path]:
            raise ReproError(f"{source}: {path} was changed since it was exported; export it again")
        files.setdefault(slug, {})[name] = content[path]
    for slug, tables in files.items():
        for name in (*records.MEASURED, CLAIMS):
            if name not in tables:
                raise ReproError(f"{source} lacks {slug}/{name}; export it again")
    if not files:
        raise ReproError(f"{source} holds no method; export it again")
    digest = sha256("".join(f"{k} {v}\n" for k, v in sorted(about.files.items())).encode())
    return Archive(about, files, digest.hexdigest())


def _refuse_bomb(source: Path) -> None:
    """Before anything is unpacked; what is no zip, the reader of archives says."""
    try:
        with zipfile.ZipFile(source) as bundle:
            total = sum(entry.file_size for entry in bundle.infolist())
    except archives.DAMAGE:
        return
    if total > LARGEST:
        raise ReproError(
            f"{source} unpacks to {total / 2**20:.0f} MB, and no export is of more than "
            f"{LARGEST / 2**20:.0f}; export it again"
        )


def _of_folder(source: Path) -> dict[str, bytes]:
    content: dict[str, bytes] = {}
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_symlink():
            raise ReproError(f"{path} is a link; a file is expected there")
        if path.is_file():
            if len(content) > 1000:
                raise ReproError(f"{source} holds too many files; it is no unpacked export")
            content[name] = documents.read_bytes(path)
    return content


def _about(source: Path, content: bytes) -> Exported:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ABOUT
        path.write_bytes(content)
        try:
            return Exported.model_validate(store.read_sealed(path))
        except ReproError as error:
            why = str(error).removeprefix(f"{path}: ").partition(";")[0]
            raise ReproError(f"{source}: {ABOUT} {why}; export it again") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ReproError(
                f"{source}: {ABOUT}: {documents.one_line(place, 80)}: {first['msg']}; export it "
                "again, with both clones at one commit"
            ) from error


def _stage(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name in others.TABLES:
        if name in files:
            (folder / name).write_bytes(files[name])
    manifest.seal(folder)


# Verifying ------------------------------------------------------------------------------------


def _examine(
    slug: str, scale: str, folder: Path, files: Mapping[str, bytes], results: Path, say: Say
) -> None:
    """Everything that may be wrong with a method's results."""
    method = library.load(slug)
    if scale not in method.experiment.scales:
        say("no such scale", f"{slug} has no preset {scale}")
        return
    try:
        report = check.examined(method, others.Elsewhere(scale, folder), say)
    except ReproError as error:
        say("cannot be read", str(error))
        return
    now = datetime.now(UTC)
    for record in [*report.results.records, *report.results.model_records]:
        for kind, what in implausible(record, now):
            say(kind, f"{record['arm']}/{record['seed']}: {what}")
    own = ours(results, scale, slug)
    if own is not None:
        births = {*map(others.birth, own.results.records)}
        if all(others.birth(run) in births for run in report.results.records):
            say("results of ours", "every run is one of those committed here, not of its own")
    try:
        _compare_verdicts(folder, files[CLAIMS], layout.of_method(report)[CLAIMS], say)
    except ReproError as error:
        say("cannot be read", str(error))


def implausible(record: Record, now: datetime) -> list[tuple[str, str]]:
    """What cannot be true of where a record comes from: (kind, what) each.

    A model of which nobody recorded that has None there, which says nothing.
    """
    found = []
    device, versions, started = record["device"], record["versions"], record["started"]
    if device is not None and not _is_device(device):
        found.append(("implausible device", documents.quoted(device)))
    if versions is not None and not _are_versions(versions):
        found.append(("implausible versions", documents.quoted(versions)))
    for key, (least, most) in BOUNDS.items():
        if record[key] is not None and not least <= record[key] <= most:
            found.append((f"implausible {key}", str(record[key])))
    if started is not None and not _is_start(started, now):
        found.append(("implausible start", str(started)))
    is_run = "measured_sha256" in record
    if is_run and None in (device, versions, started, record["wall_s"]):
        found.append(("provenance is missing", "device, versions, start or time"))
    return found


def _is_device(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and len(text) <= 200


def _is_start(text: str, now: datetime) -> bool:
    started = datetime.fromisoformat(text)
    return started.tzinfo is not None and FIRST <= started <= now + SLACK


def _are_versions(versions: Mapping[str, Any]) -> bool:
    texts = all(isinstance(v, str) and len(v) <= 60 and v.isprintable() for v in versions.values())
    return texts and versions.get("python", "").startswith("3.") and "numpy" in versions


EXACT = ("tier", "verdict", "expect", "n_seeds", "by_ratio", "paper", "comparable")
CLOSE = ("margin", "margin_low", "margin_high")


def _compare_verdicts(folder: Path, theirs: bytes, derived: str, say: Say) -> None:
    """Their verdicts against those that follow from their runs by the cards of today."""
    rows = []
    for name, content in ((CLAIMS, theirs), ("derived.csv", derived.encode())):
        path = folder / name
        path.write_bytes(content)
        columns = derived.split("\n", 1)[0].split(",")
        rows.append({(r["claim"], r["check"]): r for r in records.read_rows(path, columns)})
        path.unlink()
    for key in sorted({*rows[0]} | {*rows[1]}):
        had, has = (found.get(key) for found in rows)
        name = "/".join(part for part in key if part)
        if had is None or has is None:
            say("other checks than the cards have", name)
            continue
        for column in EXACT:
            if had[column] != has[column]:
                say(
                    "verdict does not follow from the runs" if column == "verdict" else
                    "judged by other cards",
                    f"{name}: {column} was {documents.quoted(had[column])}, is "
                    f"{documents.quoted(has[column])}",
                )  # fmt: skip
        for column in CLOSE:
            if not _close(had[column], has[column]):
                say("margin does not follow from the runs", f"{name}: {had[column]}")


def _close(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=SAME, abs_tol=SAME)
    except ValueError:
        return False


# Writing --------------------------------------------------------------------------------------


def _is_new(target: Path, archive: Archive, slug: str) -> bool:
    """Whether a folder is still to be written.

    Raises:
        ReproError: it is there with other content: two results of one machine.
    """
    if not target.exists() and not target.is_symlink():
        return True
    manifest.refuse_damage(target)
    kept = {n: archive.files[slug][n] for n in others.TABLES if n in archive.files[slug]}
    there = {n: (target / n).read_bytes() for n in others.TABLES if (target / n).is_file()}
    if kept == there:
        return False
    differing = sorted(n for n in {*kept, *there} if kept.get(n) != there.get(n))
    raise ReproError(
        f"{short(target)} holds other results of this machine ({', '.join(differing)} differ); "
        "nothing was imported: give another name with --as, or remove that folder first"
    )


def _place(target: Path, archive: Archive, slug: str, machine: str) -> None:
    with store.atomic_folder(target) as temporary:
        for name in others.TABLES:
            if name in archive.files[slug]:
                (temporary / name).write_bytes(archive.files[slug][name])
        about = {
            "machine": machine,
            "exported_as": archive.about.machine,
            "exported": archive.about.made,
            "suite": archive.about.suite,
            "archive_sha256": archive.digest,
        }
        store.write_json(temporary / others.ABOUT, about)
        manifest.seal(temporary)
