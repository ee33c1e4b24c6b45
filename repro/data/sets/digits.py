"""Handwritten digits of 8×8 pixels: the test set of the UCI repository."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from repro.data.archives import gunzip
from repro.data.containers import Images
from repro.data.dataset import Dataset
from repro.data.foreign import class_labels, reason, whole_numbers
from repro.data.images import Arrays, labelled_images
from repro.data.sources import (
    CPYTHON_311,
    File,
    Inputs,
    Installed,
    Pip,
    Source,
    contents,
    members,
    urls,
)
from repro.errors import ReproError

CLASSES = tuple("0123456789")
TABLE = "sklearn/datasets/data/digits.csv.gz"
NOTHING = np.empty((0, 0))
TRAIN = 1500
"""The first 1 500 digits train, the last 297 test: writers come one after another in the file."""


def decode(data: bytes) -> Arrays:
    """Decode the 8×8 digits table: 64 grey levels 0…16 and the class, in each line.

    Reads scikit-learn's gzipped copy and the original ``optdigits.tes`` alike.

    Returns:
        images uint8 (N, 8, 8), labels int64 (N,), split by `TRAIN`.

    Raises:
        ReproError: the table is damaged; a row is short or long; a level or a class is none.
    """
    where = "the digits table"
    try:
        text = gunzip(data, where).decode("ascii")
        found = np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2) if text.strip() else NOTHING
    except ValueError as error:
        raise ReproError(f"{where} is no table of numbers ({reason(error)}); fetch it") from error
    if found.shape[1] != 65 or not len(found):
        raise ReproError(
            f"{where} has the shape {found.shape}; 65 columns are expected, so fetch it"
        )
    table = whole_numbers(found, where)
    levels = table[:, :64]
    if levels.min() < 0 or levels.max() > 16:
        raise ReproError(
            f"{where} has levels from {levels.min()} to {levels.max()}, not 0 to 16; fetch it again"
        )
    images = levels.astype(np.uint8).reshape(-1, 8, 8)
    labels = class_labels(table[:, 64], len(table), len(CLASSES), where)
    return {
        "train_images": images[:TRAIN],
        "train_labels": labels[:TRAIN].copy(),
        "test_images": images[TRAIN:],
        "test_labels": labels[TRAIN:].copy(),
    }


def decode_files(files: Inputs) -> Arrays:
    """Decode the one file that a source has."""
    (data,) = contents(files).values()
    return decode(data)


def build(name: str, folder: Path) -> Images:
    """Return the images with grey levels 0 to 16."""
    return labelled_images(name, folder, CLASSES)


DATASET = Dataset(
    name="digits",
    title="Optical recognition of handwritten digits, 8x8",
    description="1 500 training and 297 test images of 8x8 pixels with grey levels 0 to 16; "
    "the file has no split of its own, and the last 297 are by the last writers",
    licence="CC BY 4.0 (UCI); the copy in scikit-learn BSD-3-Clause",
    citation="E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, "
    "UCI Machine Learning Repository, 1998, doi:10.24432/C50P49",
    homepage="https://archive.ics.uci.edu/dataset/80",
    checksum="41e800734808ded5f80c705d4aafd369d6633f7818f65581d8e9c43f6c4eb4cb",
    sources=(
        Installed("installed scikit-learn", "scikit-learn", (TABLE,), decode_files),
        Source(
            "scikit-learn wheel",
            (
                File(
                    "scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64"
                    ".manylinux_2_28_x86_64.whl",
                    Pip("scikit-learn==1.9.1", CPYTHON_311),
                    "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
                    9.3,
                ),
            ),
            lambda files: decode_files(members(files, TABLE)),
        ),
        Source(
            "UCI repository",
            urls(
                "digits",
                "https://archive.ics.uci.edu/ml/machine-learning-databases/optdigits",
                {"optdigits.tes": 0.3},
            ),
            decode_files,
        ),
    ),
    build=build,
    pip_only=True,
)
