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
from repro.data.foreign import by_file_name, check_pixels, class_labels
from repro.errors import ReproError

Arrays = dict[str, np.ndarray]

IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CIFAR_SIDE = 32
CLASSES = 10
"""Of MNIST, Fashion-MNIST and CIFAR-10."""


def labelled_images(name: str, folder: Path, classes: tuple[str, ...]) -> Images:
    """Return a labelled image data set from the folder of its decoded content.

    Raises:
        ReproError: an array is missing, or is not what labelled images are.
    """
    a = cache.read_arrays(folder)
    splits = []
    for split in ("train", "test"):
        images, labels = f"{split}_images", f"{split}_labels"
        for key in (images, labels):
            if key not in a:
                raise ReproError(f"{folder} has no array {key}; delete it and load {name} again")
        check_pixels(a[images], f"{folder} ({images})")
        class_labels(a[labels], len(a[images]), len(classes), f"{folder} ({labels})")
        splits.append(Split(a[images], a[labels]))
    return Images(name, splits[0], splits[1], classes)


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
    if dimensions > 3:
        raise ReproError(f"{name} has {dimensions} axes, images three; fetch it again")
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
        ReproError: a file is missing, damaged or there twice; images and labels differ in number;
            a label is none of the ten classes.
    """
    by_name = by_file_name({k: gunzip(v, k) for k, v in members.items()}, ".gz")
    arrays: Arrays = {}
    for key, filename in IDX_FILES.items():
        if filename not in by_name:
            raise ReproError(f"{filename} is missing; put it beside the other three IDX files")
        values = read_idx(by_name[filename], filename)
        arrays[key] = values.astype(np.int64) if key.endswith("labels") else values
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        file = IDX_FILES[f"{split}_images"]
        if images.ndim != 3 or labels.ndim != 1:
            raise ReproError(
                f"{file} has the shape {images.shape}, its labels {labels.shape}; (N, H, W) and "
                "(N,) are expected, so fetch them again"
            )
        if len(images) != len(labels):
            raise ReproError(f"the {split} images and labels differ in number; fetch them again")
        check_pixels(images, file)
        class_labels(labels, len(images), CLASSES, IDX_FILES[f"{split}_labels"])
    return arrays


def cifar_records(data: bytes, name: str = "CIFAR-10 batch") -> tuple[np.ndarray, np.ndarray]:
    """Decode records of CIFAR-10's binary version: a label byte, then 3×32×32 bytes, channel first.

    Returns:
        images uint8 (N, 32, 32, 3) and labels int64 (N,).

    Raises:
        ReproError: the length is no multiple of 3 073, a label exceeds 9, or all is of one level.
    """
    record = 1 + 3 * CIFAR_SIDE * CIFAR_SIDE
    if not data or len(data) % record:
        raise ReproError(f"{name} is no whole number of {record}-byte records; fetch it again")
    table = np.frombuffer(data, np.uint8).reshape(-1, record)
    if table[:, 0].max() >= CLASSES:
        at = int(np.argmax(table[:, 0] >= CLASSES))
        raise ReproError(
            f"{name} has labels above 9 ({table[at, 0]} in record {at}); it is not CIFAR-10's "
            "binary version, so fetch that one"
        )
    images = table[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
    check_pixels(images, name)
    return np.ascontiguousarray(images), table[:, 0].astype(np.int64)


def cifar_binary(members: Mapping[str, bytes]) -> Arrays:
    """Decode the six files of ``cifar-10-batches-bin``, found by file name.

    Raises:
        ReproError: a file is missing, damaged, shorter than the others or a copy of another.
    """
    by_name = by_file_name(members)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    of_content: dict[bytes, str] = {}
    for name in [*names, "test_batch.bin"]:
        if name not in by_name:
            raise ReproError(f"{name} is missing; put it beside the other CIFAR-10 batches")
        if len(by_name[name]) != len(by_name[names[0]]):
            raise ReproError(
                f"{name} has {len(by_name[name])} bytes, {names[0]} {len(by_name[names[0]])}; all "
                "CIFAR-10 batches are of one length, so fetch them again"
            )
        if of_content.setdefault(by_name[name], name) != name:
            raise ReproError(
                f"{name} is a copy of {of_content[by_name[name]]}; fetch the CIFAR-10 batches again"
            )
    batches = [cifar_records(by_name[name], name) for name in names]
    images, labels = cifar_records(by_name["test_batch.bin"], "test_batch.bin")
    return {
        "train_images": np.concatenate([batch[0] for batch in batches]),
        "train_labels": np.concatenate([batch[1] for batch in batches]),
        "test_images": images,
        "test_labels": labels,
    }
