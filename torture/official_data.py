"""Readers of official data that a user brings: each with each damage that its files can have."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from torture.case import Case
from torture.datasets import HTML, POINTER, intact, plain

KIND = "content of official data not validated"

Damage = Callable[[Path], Any]
"""Done to a folder of official files."""


def _read(name: str, **options: Any) -> Callable[[Path], Any]:
    """What a module of `repro.data.official` reads from a folder."""

    def read(folder: Path) -> Any:
        module = importlib.import_module(f"repro.data.official.{name}")
        if hasattr(module, "batches"):
            return list(module.batches(folder))
        if options:
            return list(module.LAYOUT.rows(options["split"], folder))
        return module.read(folder)

    return read


def _case(
    name: str, make: Damage, read: Callable[[Path], Any], damage: Damage, *, slow: bool = False
) -> Case:
    """Refused, or read as if nothing had happened."""

    def run(folder: Path) -> bool:
        there = folder / "official"
        there.mkdir()
        make(there)
        good = intact(lambda: read(there))
        damage(there)
        return plain(read(there)) == good

    return Case(KIND, name, run, bool, slow=slow)


def _edit(name: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        before = (folder / name).read_bytes()
        after = change(before)
        if before == after:
            raise RuntimeError("the case changes nothing")
        (folder / name).write_bytes(after)

    return damage


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


ANY_FILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a web page in its place": lambda data: HTML,
    "a pointer in its place": lambda data: POINTER,
    "zero bytes in its place": lambda data: bytes(len(data)),
}


def _folder_in_place(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def _any_file(name: str) -> dict[str, Damage]:
    found = {what: _edit(name, change) for what, change in ANY_FILE.items()}
    found["cut"] = _edit(name, lambda data: data[: len(data) // 2 + 1])
    found["a folder in its place"] = _folder_in_place(name)
    found["away"] = lambda folder: (folder / name).unlink()
    return found


# Batches of images in npz files -------------------------------------------------------------------


def _pixels(side: int) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (4, side, side, 3), np.uint8)


def _batches(side: int) -> Damage:
    def make(folder: Path) -> None:
        for i in range(3):
            np.savez(folder / f"{i}.npz", arr_0=_pixels(side) // (i + 1), arr_1=np.arange(4))

    return make


def _save(name: str, **arrays: Any) -> Damage:
    return lambda folder: np.savez(folder / name, **arrays)


def _batch_damages(side: int) -> Iterator[tuple[str, Damage]]:
    pixels = _pixels(side)
    rows = np.arange(4)
    for what, bad in {
        "levels as floats from 0 to 1": pixels / 255,
        "levels as floats from 0 to 255": pixels.astype(np.float32),
        "levels as floats from -1 to 1": pixels / 127.5 - 1,
        "levels with NaN": np.where(pixels > 9, pixels, np.nan),
        "levels as int16": pixels.astype(np.int16),
        "levels as big-endian uint16": pixels.astype(">u2"),
        "channels first": pixels.transpose(0, 3, 1, 2),
        "one channel": pixels[..., 0],
        "four channels": np.concatenate([pixels, pixels[..., :1]], -1),
        "one image without an axis": pixels[0],
        "no image": pixels[:0],
        "images all of one colour": np.zeros_like(pixels),
        "images of another size": np.pad(pixels, ((0, 0), (0, 2), (0, 2), (0, 0))),
        "Python objects": pixels.astype(object),
        "texts": pixels.astype("U4"),
    }.items():
        yield what, _save("1.npz", arr_0=bad, arr_1=rows[: len(bad)])
    yield "other keys", _save("1.npz", images=pixels)
    yield "both layouts", _save("1.npz", arr_0=pixels, data=pixels.reshape(4, -1))
    yield "a batch missing", lambda folder: (folder / "1.npz").unlink()
    yield "the hidden twin of a file manager", _edit_new("._1.npz", b"\x00\x05\x16\x07")
    yield "an ending in capitals", lambda f: (f / "2.npz").rename(f / "2.NPZ")
    yield "a name in two cases", lambda f: shutil.copy(f / "2.npz", f / "2.NPZ")
    yield "a bare array", lambda f: np.save((f / "1.npz").open("wb"), pixels)
    yield "a flipped bit", _edit("1.npz", _flip)
    yield from _any_file("1.npz").items()


def _edit_new(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def _labels(layout: str, labels: Any) -> Callable[[Path], bool]:
    """Labels of one batch; right if they come out as 0 to 3."""

    def run(folder: Path) -> bool:
        from repro.data.arrays import npz_images

        pixels = _pixels(8)
        if layout == "ADM":
            np.savez(folder / "x.npz", arr_0=pixels, arr_1=labels)
        else:
            flat = pixels.transpose(0, 3, 1, 2).reshape(4, -1)
            np.savez(folder / "x.npz", data=flat, labels=labels)
        images, found = npz_images(folder / "x.npz")
        return (
            np.array_equal(images, pixels) and found is not None and found.tolist() == [*range(4)]
        )

    return run


def _label_cases() -> Iterator[Case]:
    for layout, first in (("ADM", 0), ("ImageNet", 1)):
        good = np.arange(4) + first
        for what, labels in {
            "as floats": good.astype(np.float32),
            "big-endian": good.astype(">i8"),
            "as bytes": good.astype(np.uint8),
            "one below the first": np.array([first - 1, 1, 2, 3]),
            "one above the last": np.array([0, 1, 2, 1000]) + first,
            "-1": np.array([-1, 1, 2, 3]),
            "255 as -1 of a byte": np.array([1, 2, 3, -1]).astype(np.int8),
            "2^63 as uint64": np.array([1, 2, 3, 2**63], np.uint64),
            "NaN": np.array([1, 2, np.nan, 3]),
            "infinite": np.array([1, 2, np.inf, 3]),
            "with a fraction": np.array([1, 2, 2.5, 3]),
            "one too few": good[:-1],
            "one too many": np.append(good, 3),
            "none": good[:0],
            "a column": good[:, None],
            "one-hot": np.eye(4, dtype=int),
            "truth values": good > 1,
            "texts": good.astype(str),
            "Python objects": good.astype(object),
            "complex": good.astype(complex),
        }.items():
            yield Case(KIND, f"labels of {layout}: {what}", _labels(layout, labels), bool)
    for what, shape in {
        "a column less": (4, 191),
        "a channel": (4, 64),
        "no axis": (768,),
        "an axis more": (4, 3, 8, 8),
        "columns of half an image": (8, 96),
        "columns of two images": (2, 384),
        "no column": (4, 0),
    }.items():
        yield Case(KIND, f"rows of ImageNet: {what}", _flat(shape))


def _flat(shape: tuple[int, ...]) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro.data.arrays import npz_images

        flat = np.resize(_pixels(8), shape).astype(np.uint8)
        np.savez(folder / "x.npz", data=flat, labels=np.arange(1, 1 + shape[0]))
        return npz_images(folder / "x.npz")[0].shape

    return run


# Volumes in slices --------------------------------------------------------------------------------

VOLUMES = {"aapm_l067": 256, "brats_aam1": 240, "fastmri_knee": 320}


def _slices(side: int) -> Damage:
    def make(folder: Path) -> None:
        volume = np.random.default_rng(side).random((4, side, side), np.float32)
        for i, values in enumerate(volume):
            np.save(folder / f"s_{i}.npy", values)

    return make


def _one_slice(change: Callable[[np.ndarray], Any], number: int = 2) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / f"s_{number}.npy"
        np.save(path, change(np.load(path)), allow_pickle=True)

    return damage


def _all_slices(change: Callable[[np.ndarray], Any]) -> Damage:
    def damage(folder: Path) -> None:
        for i in range(4):
            _one_slice(change, i)(folder)

    return damage


def _put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[3, 5] = value
        return values

    return change


def _slice_damages() -> Iterator[tuple[str, Damage]]:
    for number in (0, 1, 2):
        yield (
            f"slice {number} missing" + (" and 1" if number == 0 else ""),
            lambda f, n=number: [(f / f"s_{i}.npy").unlink() for i in ({0, 1} if n == 0 else {n})],
        )
    yield "a number twice", lambda f: shutil.copy(f / "s_1.npy", f / "t_1.npy")
    yield "a name in two cases", lambda f: shutil.copy(f / "s_1.npy", f / "S_1.npy")
    yield "a slice copied over the next", lambda f: shutil.copy(f / "s_1.npy", f / "s_2.npy")
    yield "a name without a number", lambda f: (f / "s_1.npy").rename(f / "one.npy")
    yield "an ending in capitals", lambda f: (f / "s_3.npy").rename(f / "s_3.NPY")
    yield "the hidden twin of a file manager", _edit_new("._s_1.npy", b"\x00\x05\x16\x07")
    yield "a hidden list of a file manager", _edit_new(".DS_Store", b"\x00\x00\x00\x01Bud1")
    for what, change in {
        "a row less": lambda v: v[:-1],
        "half the size": lambda v: v[::2, ::2],
        "an axis more": lambda v: v[None],
        "an axis less": lambda v: v[0],
        "no row and no column": lambda v: v[:0, :0],
        "one value NaN": _put(np.nan),
        "one value infinite": _put(np.inf),
        "one value negative": _put(-0.5),
        "one value beyond float32": lambda v: _put(1e300)(v.astype(np.float64)),
        "as bytes from 0 to 255": lambda v: (255 * v).astype(np.uint8),
        "as truth values": lambda v: v > 0.5,
        "complex": lambda v: v + 1j * v,
        "Python objects": lambda v: v.astype(object),
        "texts": lambda v: v.astype("U4"),
        "dates": lambda v: v.astype("datetime64[s]"),
        "named fields": lambda v: v.astype([("a", "f4")]),
    }.items():
        yield f"one slice: {what}", _one_slice(change)
    yield "one slice: in the wrong byte order", _one_slice(lambda v: v.byteswap())
    for what, change in {
        "big-endian": lambda v: v.astype(">f4"),
        "in Fortran's order": np.asfortranarray,
        "as float64": lambda v: v.astype(np.float64),
        "negative": lambda v: -v,
        "from -1 to 1": lambda v: 2 * v - 1,
        "in the wrong byte order": lambda v: v.byteswap(),
        "all of one value": np.ones_like,
        "all zero": np.zeros_like,
        "all NaN": lambda v: v * np.nan,
    }.items():
        yield f"all slices: {what}", _all_slices(change)
    yield "one slice: an npz", lambda f: np.savez((f / "s_1.npy").open("wb"), arr_0=np.ones(3))
    for what, damage in _any_file("s_1.npy").items():
        yield f"one slice: {what}", damage


# CIFAR-10's binary version ------------------------------------------------------------------------

CIFAR = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def _cifar(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in CIFAR:
        table = rng.integers(0, 256, (3, 3073), np.uint8)
        table[:, 0] %= 10
        (folder / name).write_bytes(table.tobytes())


def _cifar_damages() -> Iterator[tuple[str, Damage]]:
    record = 3073
    for name in (CIFAR[0], CIFAR[-1]):
        for what, change in {
            "a record less": lambda d: d[record:],
            "a record more": lambda d: d + d[:record],
            "a byte less": lambda d: d[:-1],
            "shifted by a byte": lambda d: b"\xff" + d[:-1],
            "a label 10": lambda d: b"\x0a" + d[1:],
            "a label 255": lambda d: b"\xff" + d[1:],
            "all of one level": lambda d: b"".join([d[i : i + 1] + bytes(3072) for i in (0, 3)])
            + d[:1] + bytes(3072),
            "packed": gzip.compress,
        }.items():  # fmt: skip
            yield f"{name}: {what}", _edit(name, change)
        for what, damage in _any_file(name).items():
            yield f"{name}: {what}", damage
    yield "a batch is a copy of another", lambda f: shutil.copy(f / CIFAR[0], f / CIFAR[1])
    yield "the test batch is a training batch", lambda f: shutil.copy(f / CIFAR[2], f / CIFAR[-1])
    yield "hidden twins of a file manager", _edit_new("._data_batch_1.bin", b"\x00\x05\x16\x07")


def _cifar_archive(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        import tarfile

        inner = folder / "cifar-10-batches-bin"
        inner.mkdir()
        _cifar(inner)
        path = folder / "cifar-10-binary.tar.gz"
        with tarfile.open(path, "w:gz") as bundle:
            bundle.add(inner, inner.name)
        good = intact(lambda: _read("cifar10_binary")(folder))
        shutil.rmtree(inner)
        path.write_bytes(change(path.read_bytes()))
        return plain(_read("cifar10_binary")(folder)) == good

    return run


# Corpora ------------------------------------------------------------------------------------------

ROWS = [" = Title = ", "", "The caf\u00e9 of N <unk> @-@ words .", "It 's the \u201cend\u201d ."]
SHARDS = "heldout-monolingual.tokenized.shuffled"


def _wiki(folder: Path) -> None:
    for split in ("train", "valid", "test"):
        text = "".join(f" {row} \n" for row in ROWS)
        (folder / f"wiki.{split}.raw").write_text(text, encoding="utf-8")


def _ptb(folder: Path) -> None:
    for split in ("train", "valid", "test"):
        text = "".join(f" {row} \n" for row in ROWS)
        (folder / f"ptb.{split}.txt").write_text(text, encoding="utf-8")


def _lm1b(folder: Path) -> None:
    (folder / SHARDS).mkdir()
    for i in range(3):
        text = "".join(f"{row} {i}\n" for row in ROWS if row)
        (folder / SHARDS / f"news.en.heldout-0000{i}-of-00003").write_text(text, encoding="utf-8")


def _lambada(folder: Path) -> None:
    text = "".join(json.dumps({"text": f"Row {row}"}, ensure_ascii=False) + "\n" for row in ROWS)
    (folder / "lambada_test.jsonl").write_text(text, encoding="utf-8")


def _owt(folder: Path) -> None:
    _lambada(folder)
    (folder / "lambada_test.jsonl").rename(folder / "a.jsonl")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "packed"}\n' * 50, mtime=0))
    (folder / "c.txt").write_text("\n".join(ROWS) + "\n", encoding="utf-8")


CORPORA: dict[str, tuple[Damage, str, str]] = {
    "wikitext2": (_wiki, "train", "wiki.train.raw"),
    "wikitext103": (_wiki, "test", "wiki.test.raw"),
    "ptb": (_ptb, "test", "ptb.test.txt"),
    "lm1b": (_lm1b, "test", f"{SHARDS}/news.en.heldout-00001-of-00003"),
    "lambada": (_lambada, "test", "lambada_test.jsonl"),
    "openwebtext": (_owt, "train", "c.txt"),
    "openwebtext, JSON": (_owt, "train", "a.jsonl"),
}

OF_TEXT: dict[str, Callable[[bytes], bytes]] = {
    "CR LF": lambda d: d.replace(b"\n", b"\r\n"),
    "CR LF in one line": lambda d: d.replace(b"\n", b"\r\n", 1),
    "CR LF from the second line": lambda d: d.replace(b"\n", b"\r\n").replace(b"\r\n", b"\n", 1),
    "a byte-order mark": lambda d: b"\xef\xbb\xbf" + d,
    "a byte-order mark and CR LF": lambda d: b"\xef\xbb\xbf" + d.replace(b"\n", b"\r\n"),
    "UTF-16": lambda d: d.decode().encode("utf-16"),
    "UTF-16 without a mark": lambda d: d.decode().encode("utf-16-le"),
    "Latin-1": lambda d: d.decode().encode("cp1252"),
    "a block of zero bytes": lambda d: d[:9] + bytes(16) + d[25:],
    "packed": gzip.compress,
}

OF_LINES: dict[str, Callable[[bytes], bytes]] = {
    "cut within a line": lambda d: d[:-4],
    "without the last line end": lambda d: d[:-1],
}

OF_JSON: dict[str, bytes] = {
    "null for a text": b'{"text": null}\n',
    "a number for a text": b'{"text": 3}\n',
    "a truth value for a text": b'{"text": true}\n',
    "a list for a text": b'{"text": ["a"]}\n',
    "an object for a text": b'{"text": {"a": 1}}\n',
    "NaN for a text": b'{"text": NaN}\n',
    "an empty text": b'{"text": ""}\n',
    "a blank text": b'{"text": " \\n"}\n',
    "half a surrogate pair": b'{"text": "a\\ud800"}\n',
    "no text": b'{"txt": "a"}\n',
    "a bare string": b'"text"\n',
    "a list": b'["text"]\n',
    "null": b"null\n",
    "a number": b"3\n",
    "a number of many digits": b"9" * 5000 + b"\n",
    "deep": b"[" * 100_000 + b"\n",
    "two objects in a line": b'{"text": "a"}{"text": "b"}\n',
    "cut": b'{"text": "a\n',
    "text without JSON": b"text\n",
}


def _corpus_cases() -> Iterator[Case]:
    for name, (make, split, file) in CORPORA.items():
        read, slow = _read(name.partition(",")[0], split=split), name in ("wikitext103", "ptb")
        for what, change in OF_TEXT.items():
            yield _case(f"{name}: {what}", make, read, _edit(file, change), slow=slow)
        damages = _any_file(file)
        if not file.endswith((".txt", ".raw")) or name == "openwebtext":
            damages.pop("cut")  # a shorter document, or whole rows
        if name == "openwebtext" or "JSON" in name:
            damages.pop("away")
            damages.pop("a folder in its place")
        for what, damage in damages.items():
            yield _case(f"{name}: {what}", make, read, damage, slow=slow)
        if name in ("wikitext2", "wikitext103", "ptb", "lm1b"):
            for what, change in OF_LINES.items():
                yield _case(f"{name}: {what}", make, read, _edit(file, change), slow=slow)
        yield _case(
            f"{name}: hidden twins of a file manager", make, read,
            lambda f, file=file: (f / file).with_name(f"._{Path(file).name}").write_bytes(b"\x00"),
        )  # fmt: skip
    for name in ("lambada", "openwebtext, JSON"):
        make, split, file = CORPORA[name]
        read, slow = _read(name.partition(",")[0], split=split), name != "lambada"
        for what, row in OF_JSON.items():
            yield _case(
                f"{name}: {what}", make, read, _edit(file, lambda d, row=row: d + row), slow=slow
            )
    yield from _shards()
    yield from _packed()


def _shards() -> Iterator[Case]:
    make, split, file = CORPORA["lm1b"]
    read = _read("lm1b", split=split)
    other = "news.en.heldout-00001-of-00004"
    for what, damage in {
        "a shard missing": lambda f: (f / file).unlink(),
        "the last shard missing": lambda f: (f / file.replace("1-of", "2-of")).unlink(),
        "a shard of another count": lambda f: (f / file).rename(f / SHARDS / other),
        "a shard more": lambda f: shutil.copy(f / file, f / SHARDS / other),
        "a shard twice": lambda f: shutil.copy(f / file, f / file.replace("00001-", "001-")),
        "a shard without its number": lambda f: (f / file).rename(
            f / SHARDS / "news.en.heldout-x-of-00003"
        ),
    }.items():
        yield _case(f"lm1b: {what}", make, read, damage)


def _packed() -> Iterator[Case]:
    make, split, _ = CORPORA["openwebtext"]
    read, file = _read("openwebtext", split=split), "b.jsonl.gz"
    for what, damage in {
        "packed, cut": _edit(file, lambda d: d[:-12]),
        "packed, a flipped bit": _edit(file, _flip),
        "packed, a wrong sum": _edit(file, lambda d: d[:-8] + b"\x00" * 4 + d[-4:]),
        "packed, nothing in it": _edit(file, lambda d: gzip.compress(b"")),
        "packed, not packed": _edit(file, lambda d: b'{"text": "packed"}\n' * 50),
        "packed, with CR LF": _edit(file, lambda d: gzip.compress(b'{"text": "packed"}\r\n' * 50)),
        "packed and unpacked": _edit_new("b.jsonl", b'{"text": "packed"}\n' * 50),
        "an ending in capitals": lambda f: (f / "c.txt").rename(f / "c.TXT"),
        "a name in two cases": lambda f: shutil.copy(f / "c.txt", f / "C.txt"),
        "a blank document": _edit("c.txt", lambda d: b" \n\n"),
        "a folder that ends in .txt": lambda f: (f / "d.txt").mkdir(),
    }.items():
        yield _case(f"openwebtext: {what}", make, read, damage)


# Pair sets of SlimFlow ----------------------------------------------------------------------------


def _pairs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("z0.npy", "z1.npy"):
        np.save(folder / name, rng.normal(size=(6, 3, 4, 4)).clip(-1.1, 1.1).astype(np.float32))
    np.save(folder / "label.npy", np.eye(10, dtype=np.float32)[:6])


def _read_pairs(folder: Path) -> Any:
    official = importlib.import_module("methods.slimflow.official")
    return [part.numpy() for part in official.load_pairs(folder)]


def _array(name: str, change: Callable[[np.ndarray], Any]) -> Damage:
    def damage(folder: Path) -> None:
        np.save(folder / name, change(np.load(folder / name)), allow_pickle=True)

    return damage


def _pair_cases() -> Iterator[Case]:
    for what, name, change in (
        ("images from 0 to 255", "z1.npy", lambda v: 127.5 * (v + 1)),
        ("images from 0 to 1", "z1.npy", lambda v: abs(v)),
        ("one level out of range", "z1.npy", lambda v: np.where(v == v.max(), 200.0, v)),
        ("noises out of range", "z0.npy", lambda v: 50 * v),
        ("noises beyond float32", "z0.npy", lambda v: 1e300 * v.astype(np.float64)),
        ("NaN", "z0.npy", lambda v: v * np.nan),
        ("no pair", "z0.npy", lambda v: v[:0]),
        ("a pair less", "z0.npy", lambda v: v[:-1]),
        ("images as bytes", "z1.npy", lambda v: v.astype(np.uint8)),
        ("labels as numbers of classes", "label.npy", lambda v: v.argmax(1)),
        ("labels as shares", "label.npy", lambda v: np.full_like(v, 0.1)),
        ("labels NaN", "label.npy", lambda v: v * np.nan),
        ("a row of no label", "label.npy", lambda v: v * (np.arange(6) > 0)[:, None]),
        ("a row of two labels", "label.npy", lambda v: np.maximum(v, v[0])),
        ("a label less", "label.npy", lambda v: v[:-1]),
        ("Python objects", "label.npy", lambda v: v.astype(object)),
    ):
        yield _case(
            f"slimflow, pairs: {what}", _pairs, _read_pairs, _array(name, change), slow=True
        )


# Decoders of bytes --------------------------------------------------------------------------------


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


IDX = {
    "train-images-idx3-ubyte": np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4),
    "train-labels-idx1-ubyte": np.arange(6, dtype=np.uint8),
    "t10k-images-idx3-ubyte": np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4),
    "t10k-labels-idx1-ubyte": np.arange(3, dtype=np.uint8),
}


def _idx_files(**changes: Any) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro.data.images import idx_splits

        good = {f"{name}.gz": gzip.compress(_idx(array)) for name, array in IDX.items()}
        bad = {**good, **{name.replace("_", "-"): data for name, data in changes.items()}}
        right = intact(lambda: idx_splits(good))
        return plain(idx_splits({k: v for k, v in bad.items() if v is not None})) == right

    return run


def _idx_cases() -> Iterator[Case]:
    images, labels = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    pixels, given = IDX[images], IDX[labels]
    packed = gzip.compress(_idx(pixels))
    for what, change in {
        "packed, cut": {f"{images}.gz": packed[:-9]},
        "packed, a flipped bit": {f"{images}.gz": _flip(packed)},
        "packed, cut in its header": {f"{images}.gz": packed[:6]},
        "packed twice": {f"{images}.gz": gzip.compress(packed)},
        "a byte more": {f"{images}.gz": _idx(pixels) + b"x"},
        "a web page": {f"{images}.gz": HTML},
        "a pointer": {f"{images}.gz": POINTER},
        "empty": {f"{images}.gz": b""},
        "the type of floats": {f"{images}.gz": b"\x00\x00\x0d" + _idx(pixels)[3:]},
        "sizes in the wrong byte order": {
            f"{images}.gz": b"\x00\x00\x08\x03" + struct.pack("<3I", 6, 4, 4) + pixels.tobytes()
        },
        "255 axes": {f"{images}.gz": b"\x00\x00\x08\xff" + bytes(1020)},
        "no image": {f"{images}.gz": _idx(pixels[:0]), f"{labels}.gz": _idx(given[:0])},
        "images as rows": {f"{images}.gz": _idx(pixels.reshape(6, 16))},
        "images all of one colour": {f"{images}.gz": _idx(np.zeros_like(pixels))},
        "images for labels": {f"{labels}.gz": _idx(pixels)},
        "labels from 5 to 10": {f"{labels}.gz": _idx(given + 5)},
        "a label 255": {f"{labels}.gz": _idx(given - 1)},
        "a label less": {f"{labels}.gz": _idx(given[:-1])},
        "labels of the test split": {f"{labels}.gz": _idx(IDX["t10k-labels-idx1-ubyte"])},
        "a file missing": {f"{images}.gz": None},
        "a second file that differs": {images: _idx(255 - pixels)},
        "a second file that is the same": {images: _idx(pixels)},
    }.items():
        yield Case(KIND, f"IDX: {what}", _idx_files(**change), bool)


def _digits(change: Callable[[list[list[Any]]], Any]) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        digits = importlib.import_module("repro.data.sets.digits")
        digits.TRAIN = 3
        table = (np.arange(5 * 65).reshape(5, 65) % 10).tolist()
        good = intact(lambda: digits.decode(_rows(table)))
        changed = change(table)
        return plain(digits.decode(_rows(table) if changed is None else changed)) == good

    return run


def _rows(table: list[list[Any]]) -> bytes:
    return "".join(",".join(map(str, row)) + "\n" for row in table).encode()


def _cell(row: int, column: int, value: Any) -> Callable[[list[list[Any]]], None]:
    return lambda table: table[row].__setitem__(column, value)


def _digits_cases() -> Iterator[Case]:
    for what, change in {
        "a level 17": _cell(2, 3, 17),
        "a level -1": _cell(2, 3, -1),
        "a level 300": _cell(2, 3, 300),
        "a level 2.5": _cell(2, 3, 2.5),
        "a level NaN": _cell(2, 3, "nan"),
        "a level infinite": _cell(2, 3, "inf"),
        "a label 10": _cell(2, 64, 10),
        "a label -1": _cell(2, 64, -1),
        "a label 1.5": _cell(2, 64, 1.5),
        "a label NaN": _cell(2, 64, "nan"),
        "a row short": lambda t: t[2].pop() and None,
        "a row long": lambda t: t[2].append(1),
        "an empty cell": _cell(2, 3, ""),
        "a word": _cell(2, 3, "x"),
        "nothing": lambda t: b"",
        "a header": lambda t: b"a,b\n" + _rows(t),
        "semicolons": lambda t: _rows(t).replace(b",", b";"),
        "CR LF": lambda t: _rows(t).replace(b"\n", b"\r\n"),
        "packed, cut": lambda t: gzip.compress(_rows(t))[:-9],
        "not ASCII": lambda t: b"\xff" + _rows(t),
        "a web page": lambda t: HTML,
    }.items():
        yield Case(KIND, f"digits: {what}", _digits(change), bool)


def _mosaics(change: Callable[[dict[str, bytes]], Any]) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        import tarfile

        from PIL import Image

        cifar10 = importlib.import_module("repro.data.sets.cifar10")
        rng = np.random.default_rng(0)
        found = {}
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (2, 1024, 3), np.uint8)).save(stream, "PNG")
            found[f"package/{name}.png"] = stream.getvalue()
        found["package/train_lables.json"] = json.dumps([*range(10)]).encode()
        found["package/test_lables.json"] = b"[3, 4]"
        path, answers = folder / "x.tgz", []
        for step in (lambda members: None, change):
            step(found)
            with tarfile.open(path, "w:gz") as bundle:
                for name, data in found.items():
                    item = tarfile.TarInfo(name)
                    item.size = len(data)
                    bundle.addfile(item, io.BytesIO(data))
            read = intact if not answers else lambda call: plain(call())
            answers.append(read(lambda: cifar10.decode({path.name: path})))
        return answers[0] == answers[1]

    return run


def _member(
    name: str, data: bytes | Callable[[bytes], bytes]
) -> Callable[[dict[str, bytes]], None]:
    def change(found: dict[str, bytes]) -> None:
        found[name] = data if isinstance(data, bytes) else data(found[name])

    return change


def _mosaic_cases() -> Iterator[Case]:
    labels, png = "package/test_lables.json", "package/data_batch_2.png"
    for what, change in {
        "a label 10": _member(labels, b"[3, 10]"),
        "a label -1": _member(labels, b"[3, -1]"),
        "a label 4.5": _member(labels, b"[3, 4.5]"),
        "a label NaN": _member(labels, b"[3, NaN]"),
        "a label null": _member(labels, b"[3, null]"),
        "a label as text": _member(labels, b'[3, "4"]'),
        "a label less": _member(labels, b"[3]"),
        "labels of different length": _member(labels, b"[[3], [4, 5]]"),
        "labels cut": _member(labels, b"[3, "),
        "a table for labels": _member(labels, b'{"a": 1}'),
        "an image cut": _member(png, lambda d: d[: len(d) // 2]),
        "an image with a flipped bit": _member(png, _flip),
        "an image empty": _member(png, b""),
        "a web page for an image": _member(png, HTML),
    }.items():
        yield Case(KIND, f"CIFAR-10 mosaics: {what}", _mosaics(change), bool)


def _nifti(values: np.ndarray, spacing: float = 1.0) -> bytes:
    import nibabel

    image = nibabel.Nifti1Image(values, np.diag([spacing, spacing, spacing, 1.0]))
    return gzip.compress(image.to_bytes())


def _template(change: Callable[[dict[str, bytes]], Any]) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        mni152 = importlib.import_module("repro.data.sets.mni152")
        volume = np.random.default_rng(0).integers(0, 255, (3, 4, 5), np.uint8)
        found = {name: _nifti(volume) for name in mni152.FILES.values()}
        good = intact(lambda: mni152.decode(found))
        change(found)
        return plain(mni152.decode(found)) == good

    return run


def _template_cases() -> Iterator[Case]:
    name = "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz"
    volume = np.random.default_rng(0).integers(0, 255, (3, 4, 5), np.uint8)
    for what, make in {
        "another spacing": lambda d: _nifti(volume, 2.0),
        "another shape": lambda d: _nifti(volume[:2]),
        "an axis less": lambda d: _nifti(volume[0]),
        "from 0 to 1": lambda d: _nifti((volume / 255).astype(np.float32)),
        "NaN": lambda d: _nifti(np.where(volume > 9, volume, np.nan).astype(np.float32)),
        "negative": lambda d: _nifti(-volume.astype(np.float32)),
        "packed, cut": lambda d: d[:-20],
        "unpacked, cut": lambda d: gzip.decompress(d)[:-20],
        "a flipped bit": _flip,
        "its header cut": lambda d: gzip.decompress(d)[:100],
        "empty": lambda d: b"",
        "a web page": lambda d: HTML,
    }.items():
        yield Case(KIND, f"MNI152: {what}", _template(_member(name, make)), bool)
    yield Case(KIND, "MNI152: a volume missing", _template(lambda f: f.pop(name)), bool)


EXPORT = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><page><title>T</title><ns>0</ns>'
    "<revision><text>{}</text></revision></page></mediawiki>"
).format("many plain words in one long row " * 20)


def _wikipedia(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro.data.wikipedia import articles

        good = bz2.compress(EXPORT.encode())
        right = intact(lambda: articles(good))
        return plain(articles(change(good))) == right

    return run


def _wikipedia_cases() -> Iterator[Case]:
    entities = "".join(
        f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "word " * 10}">' for i in range(12)
    )
    bomb = f"<!DOCTYPE m [{entities}]><m><page>&e11;</page></m>"
    for what, change in {
        "cut": lambda d: d[:-20],
        "a flipped bit": _flip,
        "not packed": lambda d: EXPORT.encode(),
        "XML cut": lambda d: bz2.compress(EXPORT.encode()[:-30]),
        "XML of nothing": lambda d: bz2.compress(b""),
        "a zero byte": lambda d: bz2.compress(EXPORT.encode().replace(b"many", b"m\x00ny")),
        "entities that multiply": lambda d: bz2.compress(bomb.encode()),
        "empty": lambda d: b"",
        "a web page": lambda d: HTML,
    }.items():
        yield Case(KIND, f"Wikipedia: {what}", _wikipedia(change), bool)


def _call(module: str, name: str, *arguments: Any, **options: Any) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        found = getattr(importlib.import_module(f"repro.data.{module}"), name)(
            *arguments, **options
        )
        return list(found) if hasattr(found, "__next__") else found

    return run


def _blocks(documents: Any, **options: Any) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro.data.tokens import build_gpt2, token_blocks

        tokenizer = build_gpt2({"a": 0, "b": 1}, [])
        return token_blocks(documents, **{"length": 2, **options}, tokenizer=tokenizer)

    return run


def _function_cases() -> Iterator[Case]:
    decode = ("tokens", "char_decode")
    for what, codes in {
        "-1": [0, -1],
        "31": [31],
        "255": np.array([255], np.uint8),
        "NaN": [0.0, np.nan],
        "floats": [0.0, 1.0],
        "with a fraction": [0.5],
        "truth values": [True],
        "texts": ["a"],
    }.items():
        run = _call(*decode, np.asarray(codes))
        yield Case(KIND, f"character codes: {what}", run, lambda found: found == "ab")
    encoder = {"a": 0, "b": 1, "ab": 2}
    for what, arguments in {
        "a merge of unknown symbols": (encoder, [("x", "y")]),
        "a merge that gives no token": (encoder, [("b", "a")]),
        "one id for two tokens": ({**encoder, "ab": 1}, [("a", "b")]),
        "a negative id": ({**encoder, "ab": -1}, [("a", "b")]),
        "an id as a float": ({**encoder, "ab": 2.5}, [("a", "b")]),
        "an id as a text": ({**encoder, "ab": "2"}, [("a", "b")]),
    }.items():
        yield Case(KIND, f"vocabulary: {what}", _call("tokens", "build_gpt2", *arguments))
    for what, run in {
        "null for a document": _blocks(["a", None]),
        "bytes for a document": _blocks([b"a"]),
        "blocks of no token": _blocks(["a"], length=0),
        "batches of no row": _blocks(["a"], rows_per_batch=0),
        "batches of -1 rows": _blocks(["a"], rows_per_batch=-1),
    }.items():
        yield Case(KIND, f"blocks: {what}", run, refusal=(ValueError,))
    merges = "#version: 0.2\na b\n"
    for what, text in {
        "one symbol in a line": merges + "a\n",
        "three symbols in a line": merges + "a b c\n",
        "a blank before a symbol": merges + " a b\n",
    }.items():
        yield Case(KIND, f"merges: {what}", _call("sets.gpt2_bpe", "parse_merges", text))
    for what, data in {
        "cut": gzip.compress(b"x" * 100)[:-9],
        "a flipped bit": _flip(gzip.compress(bytes(range(200)))),
        "cut in its header": b"\x1f\x8b\x08",
        "an unknown method": b"\x1f\x8b\x09" + bytes(20),
        "a wrong length": gzip.compress(b"x" * 100)[:-4] + bytes(4),
    }.items():
        yield Case(KIND, f"gzip: {what}", _call("archives", "gunzip", data, "x.gz"))
    rdx = zlib.compress(b"no R data")
    yield Case(KIND, "Jane Austen: no novel", _call("sets.english_text", "jane_austen", {"x": rdx}))
    for what, members in {
        "an odd name": {"x/readme.txt": b""},
        "not UTF-8": {"x/1800_a_b.txt": b"\xff"},
    }.items():
        run = _call("sets.english_text", "state_of_the_union", members)
        yield Case(KIND, f"speeches: {what}", run)
    yield Case(
        KIND,
        "Moby-Dick: chapters missing",
        _call("sets.english_text", "moby_dick", b"CHAPTER 1. A"),
    )


def cases() -> Iterator[Case]:
    for name, side in (("imagenet64", 64), ("lsun", 8)):
        for what, damage in _batch_damages(side):
            slow = name == "lsun"
            yield _case(f"{name}: {what}", _batches(side), _read(name), damage, slow=slow)
    yield _case("imagenet64: images of 32 pixels", _batches(64), _read("imagenet64"), _batches(32))
    yield from _label_cases()
    for name, side in VOLUMES.items():
        for what, damage in _slice_damages():
            slow = name != "aapm_l067"
            yield _case(f"{name}: {what}", _slices(side), _read(name), damage, slow=slow)
    yield _case(
        "aapm_l067: all slices: from 0 to 255", _slices(256), _read("aapm_l067"),
        _all_slices(lambda v: 255 * v),
    )  # fmt: skip
    for what, damage in _cifar_damages():
        slow = what.startswith("test")
        yield _case(f"cifar10_binary: {what}", _cifar, _read("cifar10_binary"), damage, slow=slow)
    for what, change in {
        "cut": lambda d: d[:-30],
        "a flipped bit": _flip,
        "empty": lambda d: b"",
        "a web page": lambda d: HTML,
        "a pointer": lambda d: POINTER,
    }.items():
        yield Case(KIND, f"cifar10_binary, packed: {what}", _cifar_archive(change), bool)
    yield from _corpus_cases()
    yield from _pair_cases()
    yield from _idx_cases()
    yield from _digits_cases()
    yield from _mosaic_cases()
    yield from _template_cases()
    yield from _wikipedia_cases()
    yield from _function_cases()
