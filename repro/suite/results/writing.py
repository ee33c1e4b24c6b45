"""Who writes the committed results, and what a killed command left there.

Every folder appears whole under its name (`repro.store.atomic_folder`). A command that is killed
leaves hidden ``.<name>.*.partial`` beside it, which no reader reads. The next command that writes
sweeps them; a whole folder whose place is empty is put back, for without an exchange of folders
in one step a kill falls between two renames.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from repro import store
from repro.errors import ReproError
from repro.places import short
from repro.suite.results import manifest
from repro.suite.words import SCALES

LEFTOVERS = ".*.partial"
OTHERS = "others"
"""The folder of other machines' results."""


@contextlib.contextmanager
def alone(results: Path) -> Iterator[None]:
    """Hold the committed results for writing; leftovers of killed commands are mended first.

    Raises:
        ReproError: another command is writing them, or they cannot be written.
    """
    try:
        results.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(results.parent, os.O_RDONLY)
    except OSError as error:
        raise ReproError(f"{results.parent}: cannot be opened ({error.strerror})") from error
    try:
        mend(results, older_than_s=0 if _lock(descriptor, results) else store.ABANDONED_S)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, results: Path) -> bool:
    """Whether the lock is held; False where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ReproError(
                f"{short(results)}: another command is writing there; wait until it has ended"
            ) from error
        return False
    return True


def leftovers(results: Path) -> list[Path]:
    """Temporary files and folders of killed commands, in the results and beside them."""
    scales = [results / scale for scale in SCALES if (results / scale).is_dir()]
    methods = [path for scale in scales for path in sorted(scale.iterdir()) if path.is_dir()]
    places = [results, *scales, *(path for path in methods if not path.name.startswith("."))]
    found = [path for place in places for path in sorted(place.glob(LEFTOVERS))]
    found += sorted((results / OTHERS).glob(f"**/{LEFTOVERS}"))
    return [*found, *sorted(results.parent.glob(".README.md.*.partial"))]


def mend(results: Path, older_than_s: float) -> None:
    """Sweep what killed commands left; a whole folder whose place is empty is put back."""
    for path in leftovers(results):
        try:
            if time.time() - path.lstat().st_mtime < older_than_s:
                continue
            place = path.with_name(path.name[1:].rsplit(".", 2)[0])
            if path.is_symlink() or not path.is_dir():
                path.unlink()
                continue
            if not os.path.lexists(place) and (whole := _whole(path, place.name)):
                whole.rename(place)
            shutil.rmtree(path)
        except OSError as error:
            raise ReproError(
                f"{short(path)}: is left of a killed command and cannot be swept "
                f"({error.strerror}); remove it"
            ) from error


def _whole(left: Path, name: str) -> Path | None:
    """The folder that a kill between two renames left: the new one if it is whole, else the old."""
    found = [left / name, *sorted(left.glob("*.old"))]
    return next((one for one in found if one.is_dir() and manifest.is_whole(one)), None)
