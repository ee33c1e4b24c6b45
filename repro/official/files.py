"""What a published file is, by its first bytes, and what lies in it.

| first bytes | format | read by |
| --- | --- | --- |
| length of a header, ``{`` | safetensors | its library |
| ``PK`` with ``data.pkl`` inside, or the mark of older PyTorch | `torch.save` | `weights_only` |
| ``PK`` with ``*.npy`` inside | npz | numpy without pickles |
| ``\\x93NUMPY`` | npy | numpy without pickles |

The name's ending decides nothing. Nothing in a file runs: classes that a training file mentions
beside its tensors are read as `_Inert` where the caller lists them, and else the file is refused.
All other files are recognised by what they are mistaken for (a web page, a Git LFS pointer, …).

One style of error: ``<path>: <what is wrong>; <remedy>``, where ``what`` names the file that should
be there, as in "the released checkpoint_185.pth".
"""

from __future__ import annotations

import codecs
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro import documents
from repro.errors import ReproError

_HEAD = 1 << 12
_LARGEST_HEADER = 100_000_000  # bytes that the safetensors format allows
_OLD_TORCH = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")


def refusal(path: Path, wrong: str, remedy: str) -> ReproError:
    """The error for a file: one line with what is wrong and the remedy."""
    # Names that a file holds are quoted, and may hold anything.
    wrong = "".join(c if c.isprintable() else " " for c in wrong)
    return ReproError(f"{path}: {wrong}; {remedy}")


class _Inert:
    """Stands in for classes that training files mention beside their tensors; holds nothing."""

    def __new__(cls, *arguments: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read(path: Path, what: str, mentions: Iterable[str] = ()) -> Any:
    """The content of a file of tensors, on the CPU: a dictionary, as a rule.

    mentions: full names of classes that the file may name beside its tensors.
    Raises ReproError: missing, unreadable, damaged, not a file of tensors, or with Python objects.
    """
    form = recognise(path, what)
    if form == "safetensors":
        return _read_safetensors(path, what)
    if form == "torch":
        return _read_torch(path, what, mentions)
    if form == "npy":
        raise refusal(path, "holds a bare array, without names", f"give {what}")
    arrays = read_arrays(path, what)
    return {name: _tensor(path, name, array) for name, array in arrays.items()}


def read_arrays(path: Path, what: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name.

    names: those to read, which must be there; None: all.
    Raises ReproError: missing, unreadable, damaged, not an .npz, or with Python objects.
    """
    form = recognise(path, what)
    if form != "npz":
        raise refusal(path, f"is a file of the format {form}, not an .npz", f"give {what}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = archive.files
            arrays = {n: archive[n] for n in (held if names is None else names) if n in held}
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise _bad_array(path, what, error) from error
    if lacks := [name for name in names or () if name not in arrays]:
        wrong = f"lacks `{lacks[0]}`: it holds {', '.join(f'`{n}`' for n in held[:4]) or 'nothing'}"
        raise refusal(path, wrong, f"give {what}")
    return arrays


def read_array(path: Path, what: str) -> np.ndarray:
    """The array of an .npy.

    Raises ReproError: missing, unreadable, damaged, not an .npy, or with Python objects.
    """
    form = recognise(path, what)
    if form != "npy":
        raise refusal(path, f"is a file of the format {form}, not an .npy", f"give {what}")
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:
        raise _bad_array(path, what, error) from error


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file.

    Raises ReproError: missing, unreadable, or not JSON.
    """
    check(path, what)
    try:
        return documents.parse_json(documents.read_text(path))
    except (ReproError, ValueError) as error:
        raise refusal(path, f"is not JSON ({error})", f"fetch {what} again") from error


def recognise(path: Path, what: str) -> str:
    """ "safetensors", "torch", "npz" or "npy".

    Raises ReproError, which says what the file is, where it is none of them.
    """
    head = check(path, what)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return "safetensors"
    if head.startswith(b"PK"):
        return _recognise_zip(path, what)
    if head.startswith(_OLD_TORCH):
        return "torch"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"\x80"):
        wrong = "is a pickle of Python objects, which are not opened, since they can run code"
        raise refusal(path, wrong, f"give {what} as tensors alone")
    if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
        raise refusal(path, "is a compressed archive", f"unpack it and give {what} from it")
    if head.startswith(b"\x89HDF"):
        raise refusal(path, "is an HDF5 file, of another library", f"give {what}")
    if _is_text(head):
        kind = "JSON text" if head.lstrip()[:1] in (b"{", b"[") else "plain text"
        raise refusal(path, f"is {kind}, not tensors", f"put {what} in its place")
    raise refusal(path, "is damaged, or no file of tensors of a known format", f"give {what}")


def check(path: Path, what: str) -> bytes:
    """The first bytes of a file of any format.

    Raises ReproError: missing, unreadable, empty, or a web page or a pointer in its place.
    """
    head = _head(path, what)
    _refuse_mistaken(path, head, what)
    return head


def _head(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as handle:
            return handle.read(_HEAD)
    except FileNotFoundError as error:
        raise refusal(path, "is missing", f"put {what} there") from error
    except IsADirectoryError as error:
        raise refusal(path, "is a folder, not a file", f"give {what}") from error
    except OSError as error:
        raise refusal(path, f"cannot be read ({error.strerror})", "make it readable") from error


def _refuse_mistaken(path: Path, head: bytes, what: str) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        raise refusal(path, "is empty", f"fetch {what} again")
    if not head.strip(b"\0"):
        raise refusal(path, "begins with zeros alone, an aborted download", f"fetch {what} again")
    if text.startswith(b"version https://git-lfs"):
        raise refusal(
            path,
            "is a Git LFS pointer, not the file that it points to",
            f"run `git lfs pull` where it was cloned, or put {what} in its place",
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        raise refusal(
            path,
            "is a web page, not the file behind it",
            f"open its link in a browser, confirm what it asks, and put {what} in its place",
        )


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # may end within a character
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)


def _recognise_zip(path: Path, what: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise damaged(path, what) from error
    leaves = {name.rpartition("/")[2] for name in names}
    if {"data.pkl", "constants.pkl"} <= leaves:
        raise refusal(path, "is a TorchScript program, not tensors", f"give {what}")
    if "data.pkl" in leaves:
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    held = f"of {names[0]} and other files" if names else "without files"
    raise refusal(path, f"is a zip archive {held}", f"unpack it and give {what}")


def damaged(path: Path, what: str) -> ReproError:
    """The error for a file that begins well and cannot be read to its end."""
    return refusal(path, "is truncated or damaged", f"fetch {what} again")


def _bad_array(path: Path, what: str, error: Exception) -> ReproError:
    if "allow_pickle" in str(error):
        wrong = "holds Python objects, which are not opened, since they can run code"
        return refusal(path, wrong, f"give {what} as plain arrays")
    return damaged(path, what)


def _read_safetensors(path: Path, what: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise damaged(path, what) from error


def _read_torch(path: Path, what: str, mentions: Iterable[str]) -> Any:
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals([(_Inert, name) for name in mentions]),
            path.open("rb") as handle,  # of a path, the name's ending would decide
        ):
            return torch.load(handle, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Its text goes on to advise opening the file unsafely, so that none of it is passed on.
        named = re.search(r"GLOBAL (\S+)", str(error))
        objects = f"Python objects ({named[1]})" if named else "more than tensors"
        raise refusal(
            path,
            f"holds {objects}, which are not opened, since they can run code",
            f"give {what} as tensors alone",
        ) from error
    except Exception as error:  # zipfile, pickle and torch raise a dozen types for broken files
        raise damaged(path, what) from error


def _tensor(path: Path, name: str, array: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as error:
        wrong = f"`{name}` is of type {array.dtype}, which cannot be read"
        raise refusal(path, wrong, "store it as float32") from error
