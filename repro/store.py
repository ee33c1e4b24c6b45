"""Artefacts on disk: atomic writes, content hashes, safe loading.

Everything appears whole or not at all: it is written in a hidden folder beside its place, which is
locked as long as its writer lives, and renamed. What is read is held against a hash: a *sealed*
JSON carries one over its own content, other files have theirs in such a record. Nothing here
unpickles.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
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
"""Age at which what a writer left is swept where the file system has no locks."""

TRIES = 100
"""How often a folder is put in its place while other processes put theirs there."""


# Whole or not at all ------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` if the block succeeds.

    durable: it is on the disk before it gets its name, and so outlives a failure of the machine.

    Raises:
        ReproError: the folder cannot be written or the disk is full.
    """
    with _explained(path), _partial(path) as temporary:
        yield temporary
        # Some writers make files that only their owner reads; the folder follows the umask.
        temporary.chmod(temporary.parent.stat().st_mode & 0o666)
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
        if durable:
            _flush(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path, durable: bool = True) -> Iterator[Path]:
    """Like :func:`atomic` for a folder; what is at ``path`` is replaced as a whole.

    Where the system can exchange two folders in one step (Linux), ``path`` holds the old one or
    the new one at any instant; elsewhere it is absent between two renames.
    """
    with _explained(path), _partial(path) as temporary:
        temporary.mkdir()
        yield temporary
        if durable:
            for inside in (*temporary.rglob("*"), temporary):
                _flush(inside)
        _put(temporary, path)
        if durable:
            _flush(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is there whole or not at all."""
    with _explained(path), _partial(path) as aside:
        os.replace(path, aside)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder; those that live hold a lock on theirs."""
    for left in folder.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):  # its writer may just be done with it
            descriptor = os.open(left, os.O_RDONLY)
            try:
                if _lock(descriptor, unknown=time.time() - left.stat().st_mtime > ABANDONED_S):
                    _discard(left)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A path of the same name in a locked folder beside it, which is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    folder, descriptor = _locked_folder(path)
    try:
        yield folder / path.name
    finally:
        _discard(folder)
        os.close(descriptor)


def _locked_folder(path: Path) -> tuple[Path, int]:
    while True:
        folder = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.partial")
        folder.mkdir()
        with contextlib.suppress(FileNotFoundError):  # swept before it was locked
            descriptor = os.open(folder, os.O_RDONLY)
            if _lock(descriptor, unknown=True) and folder.exists():
                return folder, descriptor
            os.close(descriptor)


def _lock(descriptor: int, unknown: bool) -> bool:
    """Whether nobody else holds the lock; ``unknown`` where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return unknown
    return True


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do this for folders
            raise
    finally:
        os.close(descriptor)


def _put(temporary: Path, path: Path) -> None:
    """Give a folder its place, whatever other processes put there meanwhile."""
    for attempt in range(TRIES):
        if _exchange(temporary, path):
            return
        try:
            os.replace(temporary, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, temporary.with_name(f"{attempt}.old"))
    raise OSError(errno.EBUSY, "other processes write there all the time")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step (``renameat2``); False where that is not to be had."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


# Errors -------------------------------------------------------------------------------------


def explain(path: Path, error: OSError) -> ReproError:
    """What went wrong with a file, and what helps, on one line."""
    again = "free some space and run the same command again, what is done stays done"
    # Inside a folder that is being made: as it will be called.
    path = Path(*(p for p in path.parts if not (p[0] == "." and p.endswith(".partial"))))
    full = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the quota of the disk is used up",
        errno.EFBIG: "cannot be written, no file may be that large here",
    }
    if error.errno in full:
        return ReproError(f"{path}: {full[error.errno]}; {again}")
    if error.errno == errno.EISDIR:
        return ReproError(
            f"{path}: cannot be written, a folder is in its place; delete it and run the same "
            "command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return ReproError(
            f"{path}: cannot be written ({error.strerror}); make the folder writable or set "
            "REPRO_WORK to another one"
        )
    if error.errno is None:
        return ReproError(f"{path}: cannot be written ({' '.join(str(error).split())}); {again}")
    return ReproError(f"{path}: {error.strerror}")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain(path, error) from error


@contextlib.contextmanager
def as_os_error(*foreign: type[Exception]) -> Iterator[None]:
    """Around a library that writes: the exceptions of its own become an `OSError`."""
    try:
        yield
    except foreign as error:
        found = re.search(r"os error (\d+)", str(error))
        number = (int(found[1]), os.strerror(int(found[1]))) if found else (str(error),)
        raise OSError(*number) from error


# Content ------------------------------------------------------------------------------------


def write_text(path: Path, text: str, durable: bool = False) -> None:
    with atomic(path, durable) as temporary:
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


def write_sealed(path: Path, content: Mapping[str, Any], durable: bool = True) -> None:
    """Write a JSON object with a ``digest`` over all else that it says.

    durable: as for :func:`atomic`; a folder that is written as a whole sees to that itself.
    """
    plain = json.loads(json_text(content))
    write_text(path, json_text({**plain, "digest": _digest(plain)}), durable)


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote, without its digest.

    Raises:
        ReproError: missing, not JSON, or not what was written.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "digest" not in content:
        raise ReproError(f"{path}: has no digest of its content; delete it and run its job again")
    if content.pop("digest") != _digest(content):
        raise ReproError(
            f"{path}: was changed since it was written (its digest does not fit); delete it and "
            "run its job again"
        )
    return content


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def verify(path: Path, digest: str) -> None:
    """Hold a file against its SHA-256; one that did not change since is not read a second time.

    Raises:
        ReproError: missing, not to be read, or of other content.
    """
    try:
        found = path.stat()
        key = (str(path), found.st_ino, found.st_size, found.st_mtime_ns)
        if key not in _hashes:
            _hashes[key] = sha256(path)
    except OSError as error:
        raise ReproError(f"{path}: cannot be read ({error.strerror}); run its job again") from error
    if _hashes[key] != digest:
        raise ReproError(
            f"{path}: is not what was written there (SHA-256 {_hashes[key][:12]}…, recorded "
            f"{digest[:12]}…); delete it and run its job again"
        )


_hashes: dict[tuple[str, int, int, int], str] = {}


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
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic(path) as temporary, as_os_error(SafetensorError):
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
    except OSError as error:
        raise ReproError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise ReproError(
            f"{path}: is not a whole safetensors file ({error}); delete it and train or fetch the "
            "model again"
        ) from error


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
