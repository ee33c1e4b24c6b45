"""Artefacts on disk: atomic writes, content hashes, safe loading.

Everything appears whole or not at all: a file is written under a temporary name beside its place
and renamed. Nothing here unpickles.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repro import documents
from repro.errors import ReproError

if TYPE_CHECKING:
    import torch


ABANDONED_S = 3600
"""Age at which a temporary file of a killed process is swept; a live one is younger."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` if the block succeeds.

    Raises:
        ReproError: the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*.partial"):
            if time.time() - leftover.stat().st_mtime > ABANDONED_S:
                leftover.unlink(missing_ok=True)
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".partial", dir=path.parent
        )
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise _explain(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Like :func:`atomic` for a folder; an older folder at ``path`` is replaced as a whole.

    Where the system can exchange two folders in one step (Linux), ``path`` holds the old one or
    the new one at any instant; elsewhere it is absent between two renames.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*.partial"):
            if time.time() - leftover.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(
            tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        )
        yield temporary
        temporary.chmod(0o755)
        if not path.exists():
            os.replace(temporary, path)
        elif not _exchange(temporary, path):
            with tempfile.TemporaryDirectory(
                prefix=f".{path.name}.", suffix=".partial", dir=path.parent
            ) as aside:
                os.replace(path, aside)
                os.replace(temporary, path)
    except OSError as error:
        raise _explain(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step (``renameat2``); False where that is not to be had."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is there whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", suffix=".partial", dir=path.parent
        ) as aside:
            os.replace(path, aside)
    except OSError as error:
        raise _explain(path, error) from error


def _explain(path: Path, error: OSError) -> ReproError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ReproError(
            f"{path}: the disk is full; free some space and run the same command again, "
            "what is done stays done"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return ReproError(
            f"{path}: cannot be written ({error.strerror}); make the folder writable or set "
            "REPRO_WORK to another one"
        )
    return ReproError(f"{path}: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(content: Any) -> str:
    """JSON as it is written: sorted keys; NaN and infinities are refused."""
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    write_text(path, json_text(content))


def read_json(path: Path, kind: type = dict) -> Any:
    """Read JSON that the suite wrote.

    Args:
        kind: what it has to be, as `dict` or `list`.

    Raises:
        ReproError: missing, not JSON, or of another kind.
    """
    try:
        return documents.read_json(path, kind)
    except ReproError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        remedy = "run its job first" if missing else "delete it and run the same command again"
        raise ReproError(f"{error}; {remedy}") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with atomic(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]  # taken for `allow_pickle`


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an npz without unpickling.

    Raises:
        ReproError: missing, truncated or holding objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise ReproError(f"{path}: is missing; run its job first") from error
    except Exception as error:
        raise ReproError(
            f"{path}: is not a whole npz file ({error}); delete it and run the same command again"
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]):
    """Write a state dict as safetensors."""
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            temporary,
            metadata=metadata,
        )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors state dict.

    Raises:
        ReproError: missing, truncated or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ReproError(f"{path}: is missing; run the job of this model first") from error
    except SafetensorError as error:
        raise ReproError(
            f"{path}: is not a whole safetensors file ({error}); delete it and train or fetch the "
            "model again"
        ) from error


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
