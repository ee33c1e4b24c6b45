"""The manifest of a committed folder: the hash of every file, and what does not agree with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from repro import store
from repro.errors import ReproError
from repro.places import short

MANIFEST = "manifest.sha256"
PLACES = ("tables", "figures")
"""Folders that may be empty; git does not keep them then."""


def seal(folder: Path) -> None:
    """Write the manifest of all files of a folder."""
    lines = [f"{store.sha256(folder / name)}  {name}\n" for name in contents(folder)]
    store.write_text(folder / MANIFEST, "".join(lines))


def contents(folder: Path) -> list[str]:
    """Paths of all files below a folder but its manifest, sorted."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != MANIFEST)


def broken_seals(folder: Path) -> Iterator[tuple[str, str]]:
    """(kind, file) of every file that is missing, edited, not in the manifest, or no plain file.

    Raises:
        ReproError: the manifest is missing or not of its form, or a file cannot be read.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes().decode("utf-8")
        lines = text.splitlines()
        sealed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise ReproError(f"{short(path)}: cannot be read; publish the method again") from error
    if len(sealed) != len(lines):
        raise ReproError(f"{short(path)}: a file stands twice; publish the method again")
    if text != "".join(f"{sealed[name]}  {name}\n" for name in sorted(sealed)):
        raise ReproError(f"{short(path)}: is not as it was written; publish the method again")
    there = contents(folder)
    for name in sealed:
        if name not in there:
            yield "missing file", name
        elif _hash(folder / name) != sealed[name]:
            yield "edited file", name
    for name in there:
        if name not in sealed:
            yield "extra file", name
    yield from _no_plain_files(folder)


def _no_plain_files(folder: Path) -> Iterator[tuple[str, str]]:
    """What git keeps otherwise than it lies here, or not at all."""
    for path in [folder, *sorted(folder.rglob("*"))]:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield "link in place of a file", name
        elif path.is_dir():
            if name not in (".", *PLACES) and not any(path.iterdir()):
                yield "extra folder", name
        elif not path.is_file():
            yield "not a regular file", name


def _hash(path: Path) -> str:
    try:
        return store.sha256(path)
    except OSError as error:
        raise ReproError(f"{short(path)}: cannot be read ({error.strerror})") from error


def is_whole(folder: Path) -> bool:
    """Whether a folder holds what its manifest says, and nothing else."""
    try:
        return not any(broken_seals(folder))
    except ReproError:
        return False


def refuse_damage(folder: Path) -> None:
    """Raises ReproError: a file of a committed folder is not that of its manifest."""
    for kind, name in broken_seals(folder):
        raise ReproError(
            f"{short(folder)}: {kind}: {name}; restore the folder (`git checkout`), or run its "
            "method again and publish it"
        )
