"""Layouts of images that several data sets share: IDX files, CIFAR-10's binary version.

Every decoder returns plain arrays by name.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from repro.data import cache
from repro.data.archives import gunzip
from repro.data.containers import Images, Split
from repro.errors import ReproError

Arrays = dict[str, np.ndarray]

IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CIFAR_SIDE = 32


def labelled_images(name: str, folder: Path, classes: tuple[str, ...]) -> Images:
    """Return a labelled image data set from the folder of its decoded content."""
    a = cache.read_arrays(folder)
    train = Split(a["train_images"], a["train_labels"])
    return Images(name, train, Split(a["test_images"], a["test_labels"]), classes)


def read_idx(data: bytes, name: str = "IDX file") -> np.ndarray:
    """Decode LeCun's IDX format of unsigned bytes.

    Two zero bytes, the type 8, the number of dimensions, each dimension as a big-endian 32-bit
    integer, then the bytes.

    Raises:
        ReproError: the header or the length is wrong.
    """
    data = gunzip(data, name)
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise ReproError(f"{name} is not an IDX file of bytes; fetch it again")
    dimensions = data[3]
    offset = 4 + 4 * dimensions
    if len(data) < offset:
        raise ReproError(f"{name} is cut short; fetch it again")
    shape = struct.unpack(f">{dimensions}I", data[4:offset])
    if len(data) - offset != math.prod(shape):
        raise ReproError(f"{name} holds {len(data) - offset} values, not {shape}; fetch it again")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape).copy()


def idx_splits(members: Mapping[str, bytes]) -> Arrays:
    """Decode the four IDX files of MNIST or Fashion-MNIST, gzipped or not, found by file name.

    Returns:
        images uint8 (N, 28, 28) and labels int64 (N,) for ``train`` and ``test``.

    Raises:
        ReproError: a file is missing or damaged, or images and labels differ in number.
    """
    by_name = {Path(k).name.removesuffix(".gz"): v for k, v in members.items()}
    arrays: Arrays = {}
    for key, filename in IDX_FILES.items():
        if filename not in by_name:
            raise ReproError(f"{filename} is missing; put it beside the other three IDX files")
        values = read_idx(by_name[filename], filename)
        arrays[key] = values.astype(np.int64) if key.endswith("labels") else values
    for split in ("train", "test"):
        if len(arrays[f"{split}_images"]) != len(arrays[f"{split}_labels"]):
            raise ReproError(f"the {split} images and labels differ in number; fetch them again")
    return arrays


def cifar_records(data: bytes, name: str = "CIFAR-10 batch") -> tuple[np.ndarray, np.ndarray]:
    """Decode records of CIFAR-10's binary version: a label byte, then 3×32×32 bytes, channel first.

    Returns:
        images uint8 (N, 32, 32, 3) and labels int64 (N,).

    Raises:
        ReproError: the length is no multiple of 3 073, or a label exceeds 9.
    """
    record = 1 + 3 * CIFAR_SIDE * CIFAR_SIDE
    if not data or len(data) % record:
        raise ReproError(f"{name} is no whole number of {record}-byte records; fetch it again")
    table = np.frombuffer(data, np.uint8).reshape(-1, record)
    if table[:, 0].max() > 9:
        raise ReproError(f"{name} has labels above 9; it is not CIFAR-10's binary version")
    images = table[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), table[:, 0].astype(np.int64)


def cifar_binary(members: Mapping[str, bytes]) -> Arrays:
    """Decode the six files of ``cifar-10-batches-bin``, found by file name."""
    by_name = {Path(k).name: v for k, v in members.items()}
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    for name in [*names, "test_batch.bin"]:
        if name not in by_name:
            raise ReproError(f"{name} is missing; put it beside the other CIFAR-10 batches")
    batches = [cifar_records(by_name[name], name) for name in names]
    images, labels = cifar_records(by_name["test_batch.bin"], "test_batch.bin")
    return {
        "train_images": np.concatenate([batch[0] for batch in batches]),
        "train_labels": np.concatenate([batch[1] for batch in batches]),
        "test_images": images,
        "test_labels": labels,
    }
