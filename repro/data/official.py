"""Official data of the ``paper`` scale, in the layouts in which it is published.

Nothing here is fetched: most of it needs a registration or is too large. A user puts the files
under a folder (by default ``<cache>/official/<name>``, see `TABLE`); when something is missing the
error says which file belongs where and who hands it out.

Text rows follow the evaluation of SEDD and RADD (arXiv 2406.03736, official code): detokenise each
row, encode with GPT-2's BPE, append end-of-text after *every* row (also empty ones), concatenate,
cut blocks of 1024 and drop the remainder *within each batch of 1 000 rows*. The detokenisers
restate the substitutions of that code; its two that can never match real text are left out.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repro.data import cache, images
from repro.data.archives import read_members
from repro.data.tokens import token_blocks
from repro.errors import ReproError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Official:
    """One official data set that the user brings."""

    name: str
    title: str
    files: tuple[str, ...]
    """Patterns below the folder; each must match a file. ``a|b`` means either."""
    obtain: str
    """Who hands it out, in words or as an address."""
    licence: str


TABLE: dict[str, Official] = {
    item.name: item
    for item in (
        Official(
            "wikitext2",
            "WikiText-2, raw",
            ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"),
            "Salesforce, wikitext-2-raw-v1",
            "CC BY-SA 3.0",
        ),
        Official(
            "wikitext103",
            "WikiText-103, raw",
            ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"),
            "Salesforce, wikitext-103-raw-v1",
            "CC BY-SA 3.0",
        ),
        Official(
            "ptb",
            "Penn Treebank, Mikolov's preparation",
            ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
            "T. Mikolov's simple-examples, folder data",
            "Linguistic Data Consortium user agreement",
        ),
        Official(
            "lambada",
            "LAMBADA test set, OpenAI's version",
            ("lambada_test.jsonl",),
            "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
            "CC BY 4.0 (LAMBADA)",
        ),
        Official(
            "lm1b",
            "One Billion Word Benchmark",
            ("heldout-monolingual.tokenized.shuffled/news.en.heldout-*-of-*",),
            "1-billion-word-language-modeling-benchmark-r13output, statmt.org/lm-benchmark",
            "see the benchmark's own terms",
        ),
        Official(
            "openwebtext",
            "OpenWebText",
            ("*.jsonl|*.jsonl.gz|*.txt",),
            "A. Gokaslan, V. Cohen, OpenWebText Corpus (documents as JSON lines with a key "
            "'text', or one plain text file a document)",
            "CC0 for the packaging; the texts keep their owners' terms",
        ),
        Official(
            "cifar10-binary",
            "CIFAR-10, binary version",
            ("cifar-10-binary.tar.gz|cifar-10-batches-bin/test_batch.bin|test_batch.bin",),
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "none stated",
        ),
        Official(
            "imagenet64",
            "ImageNet downsampled to 64x64",
            ("*.npz",),
            "image-net.org, downsampled images, npz format; or a batch with the key arr_0",
            "ImageNet terms: non-commercial research",
        ),
        Official(
            "lsun",
            "LSUN images as npz batches",
            ("*.npz",),
            "the LSUN project, exported to npz with the key arr_0 (uint8, N x H x W x 3)",
            "research use",
        ),
        Official(
            "aapm-l067",
            "AAPM 2016 low-dose CT, patient L067, 256x256 slices",
            ("*.npy",),
            "the AAPM Low Dose CT Grand Challenge (registration); rebinned to fan beam, FBP, "
            "256x256, one file a slice named by its number, values in [0, 1]",
            "registration only, not redistributable",
        ),
        Official(
            "brats-aam1",
            "BRATS 2018, Brats18_CBICA_AAM_1, 240x240 slices",
            ("*.npy",),
            "the BRATS 2018 challenge (registration); one file a slice named by its number",
            "registration only, not redistributable",
        ),
        Official(
            "fastmri-knee",
            "fastMRI knee, 320x320 magnitude slices",
            ("*.npy",),
            "the fastMRI data set (registration); one file a slice named by its number",
            "registration only, not redistributable",
        ),
    )
}
"""The official data sets by name."""


def locate(name: str, folder: Path | None = None) -> Path:
    """Return the folder of an official data set after checking that its files are there.

    Args:
        folder: where the user keeps it; None for ``<cache>/official/<name>``.

    Raises:
        ReproError: the name is unknown, or files are missing (the message names them all).
    """
    if name not in TABLE:
        raise ReproError(f"there is no official data set {name!r}; choose among {', '.join(TABLE)}")
    item = TABLE[name]
    folder = cache.root() / "official" / name if folder is None else Path(folder)
    missing = [
        pattern.replace("|", " or ")
        for pattern in item.files
        if not any(any(folder.glob(either)) for either in pattern.split("|"))
    ]
    if missing:
        raise ReproError(
            f"{item.title} is not at {folder}: {', '.join(missing)} missing; put the files there "
            f"(from: {item.obtain})"
        )
    return folder


# --- text -----------------------------------------------------------------------------------------

_Rule = tuple[str, str]


def _substituter(rules: list[_Rule]) -> Callable[[str], str]:
    """Return a function that applies regular substitutions one after another."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def apply(row: str) -> str:
        for pattern, replacement in compiled:
            row = pattern.sub(replacement, row)
        return row

    return apply


_WIKITEXT = _substituter(
    [
        (r"s '", "s'"),
        (r" @([-,.])@ ", r"\1"),
        (r" : ", ": "),
        (r" ; ", "; "),
        (r" \. ", ". "),
        (r" ! ", "! "),
        (r" \? ", "? "),
        (r" , ", ", "),
        (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
        (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
        (r"\{\s*([^}]*?)\s*\}", r"{\1}"),
        (r'"\s*([^"]*?)\s*"', r'"\1"'),
        (r"'\s*([^']*?)\s*'", r"'\1'"),
        (r"= = = =", "===="),
        (r"= = =", "==="),
        (r"= =", "=="),
        (r" \u00b0 ", "\u00b0"),
        (r" \n", "\n"),
        (r"\n ", "\n"),
        (r" N ", " 1 "),
        (r" 's", "'s"),
    ]
)
_PTB_BEFORE = _substituter(
    [(r" 's", "'s"), (r"s ' ", "s' "), (r" n't", "n't"), (r" \n ", "\n"), (r"\\/", "/")]
)
_PTB_AFTER = _substituter([(r"\$ 1", "$1"), (r"# 1", "#1"), (r"<unk>", "?")])
_LM1B = _substituter(
    [
        (r"(https?) : / / ", r"\1://"),
        (r" '(\w+)", r"'\1"),
        (r" (\w+) \. ", r" \1. "),
        (r" (\w+) \.$", r" \1."),
        (r" \? ", "? "),
        (r" \?$", "?"),
        (r" ! ", "! "),
        (r" !$", "!"),
        (r" , ", ", "),
        (r" : ", ": "),
        (r" ; ", "; "),
        (r" / ", "/"),
        (r'" ([^"]+) "', r'"\1"'),
        (r"' ([^']+) '", r"'\1'"),
        (r"\( ([^()]+) \)", r"(\1)"),
        (r"\[ ([^\[\]]+) \]", r"[\1]"),
        (r"\$ ", "$"),
        (r"\u00a3 ", "\u00a3"),
    ]
)


def detokenise_wikitext(row: str) -> str:
    """Undo WikiText's tokenisation: ``@-@``, spaces before punctuation, ``= =`` headings."""
    return _WIKITEXT(row)


def detokenise_ptb(row: str) -> str:
    """Undo the Penn Treebank's tokenisation; ``N`` becomes 1 and ``<unk>`` becomes a ``?``."""
    row = _PTB_BEFORE(row)
    while (numbered := row.replace(" N ", " 1 ")) != row:  # neighbouring N share a space
        row = numbered
    return _PTB_AFTER(row)


def detokenise_lm1b(row: str) -> str:
    """Undo the One Billion Word Benchmark's tokenisation."""
    return _LM1B(row)


def detokenise_lambada(row: str) -> str:
    """Straighten double quotes, strip, and begin with a line break."""
    return "\n" + row.replace("\u201c", '"').replace("\u201d", '"').strip()


DETOKENISERS: dict[str, Callable[[str], str]] = {
    "wikitext2": detokenise_wikitext,
    "wikitext103": detokenise_wikitext,
    "ptb": detokenise_ptb,
    "lm1b": detokenise_lm1b,
    "lambada": detokenise_lambada,
}

ZERO_SHOT_SPLITS = {
    "lambada": "test",
    "wikitext2": "train",
    "ptb": "test",
    "wikitext103": "test",
    "lm1b": "test",
}
"""The split on which SEDD and RADD evaluate each set: WikiText-2 on *train*, the others on test."""


def _lines(path: Path) -> Iterator[str]:
    try:
        opened = (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8", newline="\n")
        )
        with opened as stream:
            yield from stream
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ReproError(f"{path} is not readable UTF-8 text ({error}); fetch it again") from error


def _json_texts(path: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ReproError(
                f"{path}:{number} is not a JSON object with a key 'text'; fetch it again"
            ) from error


def text_rows(name: str, split: str, folder: Path | None = None) -> Iterator[str]:
    """Yield the rows of an official corpus as the published loaders cut them.

    WikiText: lines with their line break, blank lines as empty rows. PTB, 1BW: stripped lines.
    LAMBADA: passages. OpenWebText: documents (``split`` must be ``train``).

    Raises:
        ReproError: the files are missing or malformed, or there is no such split.
    """
    folder = locate(name, folder)
    splits = {
        "wikitext2": ("train", "valid", "test"),
        "wikitext103": ("train", "valid", "test"),
        "ptb": ("train", "valid", "test"),
        "lambada": ("test",),
        "lm1b": ("train", "test"),
        "openwebtext": ("train",),
    }.get(name)
    if splits is None:
        raise ReproError(f"{name} is not a text corpus; choose among {', '.join(DETOKENISERS)}")
    if split not in splits:
        raise ReproError(f"{name} has no split {split!r}; choose among {', '.join(splits)}")
    return _text_rows(name, split, folder)


def _text_rows(name: str, split: str, folder: Path) -> Iterator[str]:
    if name.startswith("wikitext"):
        for line in _lines(folder / f"wiki.{split}.raw"):
            yield line if line.strip() else ""
    elif name == "ptb":
        for line in _lines(folder / f"ptb.{split}.txt"):
            yield line.strip()
    elif name == "lambada":
        yield from _json_texts(folder / "lambada_test.jsonl")
    elif name == "lm1b":
        stem = {
            "train": "training-monolingual.tokenized.shuffled/news.en-*-of-*",
            "test": "heldout-monolingual.tokenized.shuffled/news.en.heldout-*-of-*",
        }[split]
        paths = sorted(folder.glob(stem))
        if not paths:
            raise ReproError(f"{folder / stem} matches no file; put the shards there")
        for path in paths:
            for line in _lines(path):
                yield line.strip()
    else:
        for path in sorted(folder.iterdir()):
            if path.name.endswith((".jsonl", ".jsonl.gz")):
                yield from _json_texts(path)
            elif path.suffix == ".txt":
                yield "".join(_lines(path))


def zero_shot_blocks(
    name: str, tokenizer: Tokenizer, folder: Path | None = None, *, length: int = 1024
) -> np.ndarray:
    """Return the evaluation blocks of an official corpus under the rule of SEDD and RADD.

    Returns:
        int64 (blocks, length).

    Raises:
        ReproError: as `text_rows`; or no detokeniser is known for the corpus.
    """
    if name not in ZERO_SHOT_SPLITS:
        raise ReproError(f"{name} is no zero-shot set; choose among {', '.join(ZERO_SHOT_SPLITS)}")
    rows = map(DETOKENISERS[name], text_rows(name, ZERO_SHOT_SPLITS[name], folder))
    return token_blocks(rows, length, tokenizer, rows_per_batch=1000)


# --- images ---------------------------------------------------------------------------------------


def cifar10_binary(folder: Path | None = None) -> images.Arrays:
    """Read CIFAR-10's binary version, as the archive or unpacked.

    Returns:
        ``train_images``, ``test_images`` uint8 (N, 32, 32, 3); ``train_labels``, ``test_labels``
        int64 (N,).

    Raises:
        ReproError: files are missing or damaged.
    """
    folder = locate("cifar10-binary", folder)
    archive = folder / "cifar-10-binary.tar.gz"
    if archive.is_file():
        return images.cifar_binary(read_members(archive, ["cifar-10-batches-bin/*_batch*.bin"]))
    inner = folder / "cifar-10-batches-bin"
    inner = inner if inner.is_dir() else folder
    return images.cifar_binary({p.name: p.read_bytes() for p in sorted(inner.glob("*.bin"))})


def _load_numpy(path: Path) -> np.ndarray | np.lib.npyio.NpzFile:
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ReproError(f"{path} is not a plain numpy file ({error}); fetch it again") from error


def npz_images(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read one batch of images from an npz file.

    Either ``arr_0`` uint8 (N, H, W, 3) with optional labels ``arr_1`` (the layout of the ADM
    sample and reference batches), or the downsampled ImageNet's ``data`` (N, 3·H·W, channel first)
    with ``labels`` from 1.

    Returns:
        images uint8 (N, H, W, 3); labels int64 (N,) from 0, or None.

    Raises:
        ReproError: the file holds neither, or needs unpickling.
    """
    bundle = _load_numpy(path)
    if isinstance(bundle, np.ndarray):
        raise ReproError(f"{path} holds one bare array; an npz with the key arr_0 is expected")
    with bundle:
        try:
            if "arr_0" in bundle.files:
                pixels = bundle["arr_0"]
                labels = bundle["arr_1"] if "arr_1" in bundle.files else None
            elif "data" in bundle.files:
                flat = bundle["data"]
                side = round((flat.shape[1] / 3) ** 0.5)
                pixels = flat.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)
                labels = np.asarray(bundle["labels"]) - 1 if "labels" in bundle.files else None
            else:
                raise ReproError(f"{path} holds {', '.join(bundle.files)}; arr_0 is expected")
        except (ValueError, IndexError) as error:
            raise ReproError(f"{path} is not a batch of images ({error})") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ReproError(
            f"{path} holds {pixels.dtype} {pixels.shape}; uint8 (N, H, W, 3) is expected"
        )
    if labels is not None:
        labels = np.asarray(labels, np.int64)
    return np.ascontiguousarray(pixels), labels


def npz_folder(name: str, folder: Path | None = None) -> Iterator[np.ndarray]:
    """Yield the image batches of ``imagenet64`` or ``lsun``, one npz file after another by name.

    Yields:
        uint8 (N, H, W, 3).

    Raises:
        ReproError: no file is there, or one is not a batch of images.
    """
    paths = sorted(locate(name, folder).glob("*.npz"))
    return (npz_images(path)[0] for path in paths)


# --- slice stacks ---------------------------------------------------------------------------------


def slice_stack(folder: Path, side: int | None = None) -> np.ndarray:
    """Stack ``<number>.npy`` slices in the order of their numbers.

    Args:
        side: the height and width that every slice must have; None for any common shape.

    Returns:
        float32 (Z, H, W).

    Raises:
        ReproError: a file name has no number, or a slice is not 2-D, finite and of equal shape.
    """
    folder = Path(folder)
    numbered: dict[int, Path] = {}
    for path in folder.glob("*.npy"):
        number = re.search(r"(\d+)$", path.stem)
        if number is None or int(number[1]) in numbered:
            raise ReproError(f"{path} has no slice number of its own; name slices 0.npy, 1.npy, …")
        numbered[int(number[1])] = path
    if not numbered:
        raise ReproError(f"{folder} holds no .npy slices; put one file a slice there")
    slices: list[np.ndarray] = []
    for _, path in sorted(numbered.items()):
        values = _load_numpy(path)
        if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
            raise ReproError(f"{path} is not a real 2-D slice; export one array a file")
        expected = (side, side) if side else (slices[0].shape if slices else values.shape)
        if values.shape != expected:
            raise ReproError(f"{path} has the shape {values.shape}; {expected} is expected")
        if not np.isfinite(values).all():
            raise ReproError(f"{path} holds values that are not finite; export it again")
        slices.append(values.astype(np.float32))
    return np.stack(slices)


def aapm_l067(folder: Path | None = None) -> np.ndarray:
    """Read the CT test volume of DiffusionMBIR: 448 slices of 256×256, values in [0, 1].

    Returns:
        float32 (Z, 256, 256).

    Raises:
        ReproError: slices are missing, malformed or outside [0, 1].
    """
    folder = locate("aapm-l067", folder)
    volume = slice_stack(folder, side=256)
    if volume.min() < 0 or volume.max() > 1:
        raise ReproError(
            f"{folder} has values from {volume.min():.3g} to {volume.max():.3g}; scale to [0, 1]"
        )
    return volume


def brats_volume(folder: Path | None = None) -> np.ndarray:
    """Read the MRI test volume of DiffusionMBIR, divided by its maximum plus 1e-5.

    Returns:
        float32 (Z, 240, 240) in [0, 1].

    Raises:
        ReproError: slices are missing, malformed or negative.
    """
    folder = locate("brats-aam1", folder)
    volume = slice_stack(folder, side=240)
    if volume.min() < 0:
        raise ReproError(f"{folder} has negative values; magnitude images are expected")
    return volume / (volume.max() + np.float32(1e-5))


def fastmri_knee(folder: Path | None = None) -> np.ndarray:
    """Read fastMRI knee magnitude slices as they are stored.

    Returns:
        float32 (Z, 320, 320).

    Raises:
        ReproError: slices are missing or malformed.
    """
    return slice_stack(locate("fastmri-knee", folder), side=320)
