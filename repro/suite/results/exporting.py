"""``repro export``: an archive of what was measured here, for another clone of the suite.

A zip with ``export.json``, sealed, and the tables of each method (`repro.suite.results.others`)
with ``claims.csv``, the verdicts that these runs gave here. What is exported is held to what is
published: whole, judged, of committed code.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from repro import __version__, documents, store
from repro.errors import ReproError
from repro.places import short
from repro.suite.cards.method import Method
from repro.suite.plan import scale_config
from repro.suite.report import inputs
from repro.suite.results import layout, manifest, others, publish, today
from repro.suite.run import Options

FORMAT, VERSION = "repro-export", 1
ABOUT, CLAIMS = "export.json", "claims.csv"
KEPT = (*others.TABLES, CLAIMS)


def export(
    methods: Sequence[Method],
    options: Options,
    target: Path,
    machine: str | None,
    committed: Path | None = None,
) -> list[str]:
    """Write the archive, whole or not at all; returns a line a method.

    Args:
        machine: what it is called elsewhere; by default after its processor or GPU.
        committed: the results to export in place of the runs of the work folder.

    Raises:
        ReproError: the target is there or no zip, the scale is no evidence, or runs are missing,
            stale, not judged or of uncommitted code.
    """
    scale = options.scale
    if scale not in others.EVIDENCED:
        raise ReproError(f"{scale} output is not evidence and is not exported; use small or gpu")
    scale_config(scale)
    if target.suffix.lower() != ".zip":
        raise ReproError(f"{target}: an archive is called <name>.zip")
    if target.exists() or target.is_symlink():
        raise ReproError(f"{target} is there already; give another name, or remove it")
    if machine is not None and not others.is_machine(machine):
        raise ReproError(
            f"a machine cannot be called {documents.quoted(machine)}; take small letters, digits "
            "and hyphens, 40 at most"
        )
    told: list[str] = []
    files: dict[str, bytes] = {}
    devices: list[str] = []
    for method in methods:
        tables, report = _tables(method, options, committed)
        files |= {f"{method.slug}/{name}": content for name, content in tables.items()}
        devices += [str(run["device"]) for run in report.results.records]
        told.append(f"{method.slug}: {len(report.results.records)} runs at scale {scale}")
    machine = machine or _named(max(devices, key=devices.count))
    about = {
        "format": FORMAT,
        "version": VERSION,
        "machine": machine,
        "suite": __version__,
        "scale": scale,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {name: sha256(content).hexdigest() for name, content in files.items()},
    }
    _write(target, about, files)
    return [*told, f"wrote {target} as machine {machine}"]


def _named(device: str) -> str:
    """A machine's name after its processor or GPU, which is no name of a host."""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return words[:40].strip("-") or "unknown"


def _tables(
    method: Method, options: Options, committed: Path | None
) -> tuple[dict[str, bytes], inputs.Report]:
    scale = options.scale
    if committed is not None:
        folder = committed / scale / method.slug
        if not folder.is_dir():
            raise ReproError(f"{method.slug} has no results under {short(folder.parent)}")
        manifest.refuse_damage(folder)
        report = inputs.load(method.slug, inputs.Committed(scale, committed / scale))
        there = [name for name in KEPT if (folder / name).is_file()]
        return {name: documents.read_bytes(folder / name) for name in there}, report
    with tempfile.TemporaryDirectory() as nowhere:  # nothing committed is mixed into these runs
        merged = publish.merge(method, options, Path(nowhere) / method.slug)
    report = inputs.load(method.slug, merged)
    made = layout.of_method(report)
    tables = {name: text.encode() for name, text in made.items() if name in KEPT}
    if merged.declared:
        tables[today.CARRIED] = today.carried_csv(merged.declared).encode()
    return tables, report


def _write(target: Path, about: dict[str, object], files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder, store.atomic(target) as temporary:
        store.write_sealed(Path(folder) / ABOUT, about, durable=False)
        sealed = (Path(folder) / ABOUT).read_bytes()
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, content in {ABOUT: sealed, **files}.items():
                entry = zipfile.ZipInfo(name)  # of no time and no owner
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                bundle.writestr(entry, content)
