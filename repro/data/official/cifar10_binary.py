"""CIFAR-10's binary version, as the archive or unpacked."""

from __future__ import annotations

from pathlib import Path

from repro.data.archives import read_members
from repro.data.foreign import read_bytes, visible_files
from repro.data.images import Arrays, cifar_binary
from repro.data.layouts import Layout

LAYOUT = Layout(
    name="cifar10-binary",
    title="CIFAR-10, binary version",
    files=("cifar-10-binary.tar.gz|cifar-10-batches-bin/test_batch.bin|test_batch.bin",),
    obtain="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    licence="none stated",
)


def read(folder: Path | None = None) -> Arrays:
    """Read both splits.

    Returns:
        ``train_images``, ``test_images`` uint8 (N, 32, 32, 3); ``train_labels``, ``test_labels``
        int64 (N,).

    Raises:
        ReproError: files are missing or damaged.
    """
    folder = LAYOUT.locate(folder)
    archive = folder / "cifar-10-binary.tar.gz"
    if archive.is_file():
        return cifar_binary(read_members(archive, ["cifar-10-batches-bin/*_batch*.bin"]))
    inner = folder / "cifar-10-batches-bin"
    inner = inner if inner.is_dir() else folder
    return cifar_binary({p.name: read_bytes(p) for p in visible_files(inner, ".bin")})
