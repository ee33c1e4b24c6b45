"""Fashion-MNIST: grey pictures of clothing of 28×28 pixels in ten classes."""

from __future__ import annotations

from pathlib import Path

from repro.data.containers import Images
from repro.data.dataset import Dataset
from repro.data.images import idx_splits, labelled_images
from repro.data.sources import Apt, File, Source, contents, members, urls

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def build(name: str, folder: Path) -> Images:
    """Return the images with grey levels 0 to 255."""
    return labelled_images(name, folder, CLASSES)


DATASET = Dataset(
    name="fashion-mnist",
    title="Fashion-MNIST",
    description="60 000 training and 10 000 test images of 28x28 grey pixels, 10 balanced "
    "classes of clothing; the official split",
    licence="MIT",
    citation="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    checksum="3eb03dc90f89198be6f3759079d41c90e45c8d1d255ad34733b39c07f52f8aac",
    sources=(
        Source(
            "Debian package",
            (
                File(
                    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
                    Apt("dataset-fashion-mnist=0.0~git20200523.55506a9-1"),
                    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
                    30.9,
                ),
            ),
            lambda files: idx_splits(members(files, "usr/share/datasets/fashion-mnist/*.gz")),
        ),
        Source(
            "official repository",
            urls(
                "fashion-mnist",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/"
                "data/fashion",
                {
                    "train-images-idx3-ubyte.gz": 26.4,
                    "train-labels-idx1-ubyte.gz": 0.1,
                    "t10k-images-idx3-ubyte.gz": 4.4,
                    "t10k-labels-idx1-ubyte.gz": 0.1,
                },
            ),
            lambda files: idx_splits(contents(files)),
        ),
    ),
    build=build,
)
