"""Checks that all readers of foreign files share: what lies in a file's place, labels, pixels.

Every refusal is one line that names the file, the row where there is one, and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from repro.errors import ReproError

_HEAD = 512
_NUMPY = (b"PK", b"\x93NUMPY")


def mistaken(head: bytes) -> str:
    """What a file is, by its first bytes, where it is not the file that was meant; else ``""``."""
    if not head:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file that it points to"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "is a web page, not the file behind it"
    return ""


def check_numpy(head: bytes) -> None:
    """Look for the mark of an .npz or .npy; numpy takes all else for a pickle.

    Raises:
        ValueError: these are the first bytes of something else.
    """
    if wrong := mistaken(head):
        raise ValueError(f"it {wrong}")
    if not head.startswith(_NUMPY):
        raise ValueError("by its first bytes it is no numpy file")


def check_file(path: Path) -> bytes:
    """The first bytes of a file that is there, readable and not another in its place.

    Raises:
        ReproError: it is none of these.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
    except FileNotFoundError as error:
        raise ReproError(f"{path} is missing; put the file there") from error
    except OSError as error:
        raise ReproError(
            f"{path} cannot be read ({error.strerror or error}); make it a readable file"
        ) from error
    if wrong := mistaken(head):
        raise ReproError(f"{path} {wrong}; fetch it again")
    return head


def read_bytes(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        ReproError: as `check_file`.
    """
    check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReproError(
            f"{path} cannot be read ({error.strerror or error}); copy it again"
        ) from error


def reason(error: BaseException) -> str:
    """What an error says, on one line."""
    said = " ".join(str(error).split())
    return said or ("it ends too early" if isinstance(error, EOFError) else "its content is broken")


def visible_files(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder with one of some endings (in any case), in the order of their names.

    Hidden files, which file managers leave behind, are none.

    Raises:
        ReproError: the folder cannot be read, or two names differ in case alone.
    """
    try:
        found = sorted(
            path
            for path in folder.iterdir()
            if path.name.lower().endswith(suffixes)
            and not path.name.startswith(".")
            and path.is_file()
        )
    except OSError as error:
        raise ReproError(
            f"{folder} cannot be read ({error.strerror or error}); make it a readable folder"
        ) from error
    seen: dict[str, Path] = {}
    for path in found:
        if other := seen.get(path.name.lower()):
            raise ReproError(f"{path} and {other.name} differ in case alone; remove one of them")
        seen[path.name.lower()] = path
    return found


def by_file_name(members: Mapping[str, bytes], ending: str = "") -> dict[str, bytes]:
    """Members of an archive or a folder by file name, without folders and without ``ending``.

    Raises:
        ReproError: two members of one name differ.
    """
    found: dict[str, bytes] = {}
    for member, data in members.items():
        name = Path(member).name.removesuffix(ending)
        if name in found and found[name] != data:
            raise ReproError(f"there are two different files {name} ({member}); remove one of them")
        found[name] = data
    return found


def whole_numbers(values: np.ndarray, where: str) -> np.ndarray:
    """Numbers without fraction as int64.

    Raises:
        ReproError: they are no numbers, or one is NaN, infinite or has a fraction.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iuf":
        raise ReproError(f"{where}: {values.dtype} are no whole numbers; fetch it again")
    if values.dtype.kind == "f":
        wrong = ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) > 2**53)
        if wrong.any():
            at = int(np.argmax(wrong))
            place = tuple(map(int, np.unravel_index(at, values.shape)))
            raise ReproError(
                f"{where}: {values.flat[at]:g} at index {place[0] if len(place) == 1 else place} "
                "is no whole number; fetch it again"
            )
    return values.astype(np.int64)


def class_labels(
    values: Iterable[int] | np.ndarray, count: int, classes: int, where: str, *, first: int = 0
) -> np.ndarray:
    """Labels of ``count`` items, counted from 0.

    Args:
        first: what the file calls the first class.

    Returns:
        int64 (count,) in 0 … classes − 1.

    Raises:
        ReproError: another number of labels, or one that is no class.
    """
    try:
        given = np.asarray(values)
    except ValueError as error:  # rows of different length
        raise ReproError(f"the labels of {where} are no list of numbers; fetch it again") from error
    if given.shape != (count,):
        raise ReproError(
            f"{where} has labels of the shape {given.shape} for {count} items, not ({count},); "
            "fetch it again"
        )
    labels = whole_numbers(given, f"the labels of {where}")
    wrong = (labels < first) | (labels >= first + classes)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ReproError(
            f"{where} has the label {given[at]} at index {at}; labels from {first} to "
            f"{first + classes - 1} are expected, so count them from {first}"
        )
    return labels - first


def check_pixels(values: np.ndarray, where: str) -> None:
    """Compare images with what all images of bytes are.

    Args:
        values: uint8 (N, H, W) or (N, H, W, 3).

    Raises:
        ReproError: other numbers, no image at all, or images all of one colour.
    """
    if values.dtype != np.uint8:
        span = ""
        if values.size and values.dtype.kind in "iuf":
            span = f" from {values.min():.4g} to {values.max():.4g}"
        raise ReproError(
            f"{where} holds {values.dtype} {values.shape}{span}; uint8 levels from 0 to 255 are "
            "expected, so export it as bytes"
        )
    if values.size == 0:
        raise ReproError(f"{where} holds no image (shape {values.shape}); fetch it again")
    level = values.flat[0]
    if (values[0] == level).all() and (values == level).all():
        raise ReproError(f"{where} holds the level {level} alone; fetch it again")
