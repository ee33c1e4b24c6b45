"""The cached data sets and what they are made from: damage, full disks, kills, two at once."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import importlib
import io
import json
import logging
import multiprocessing
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torture.case import Case

STORED = "stored content not verified"
REPLACING = "moving the data set where a damaged one was"
DOWNLOADS = "content of downloads not verified"
RAW = "raw OS errors"
KILLED = "leftovers of a killed write read as results"
PLACES = "environment variables"

KINDS = ("images", "text", "vocabulary", "volumes", "weights")
HTML = b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"


# A data set of each kind, with a cache of its own -------------------------------------------------


def content_of(kind: str) -> dict[str, np.ndarray | bytes]:
    """A small decoded data set."""
    rng = np.random.default_rng(0)
    if kind == "images":
        return {
            "train_images": rng.integers(0, 256, (20, 8, 8), np.uint8),
            "train_labels": np.arange(20) % 10,
            "test_images": rng.integers(0, 256, (10, 8, 8), np.uint8),
            "test_labels": np.arange(10),
        }
    if kind == "text":
        from repro.data.containers import Document
        from repro.data.text import pack

        return pack(
            Document("novel", f"chapter {i}", "test" if i == 4 else "train", f"It was night {i}.")
            for i in range(6)
        )
    if kind == "vocabulary":
        encoder = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4}
        merges = b"#version: 0.2\na b\nb c\n"
        return {"encoder.json": json.dumps(encoder).encode(), "vocab.bpe": merges}
    if kind == "volumes":
        volumes = {k: rng.integers(0, 256, (4, 5, 6), np.uint8) for k in ("t1", "gm", "wm")}
        return {**volumes, "spacing_mm": np.array([1.0, 1.0, 2.0])}
    return {"weights.pth": rng.bytes(2000)}


def _builder(kind: str) -> Callable[[str, Path], Any]:
    if kind == "images":
        from repro.data.images import labelled_images

        return lambda name, folder: labelled_images(name, folder, tuple("0123456789"))
    if kind == "text":
        from repro.data.text import read_text

        return read_text
    if kind == "weights":
        return lambda name, folder: folder / "weights.pth"
    module = {"vocabulary": "gpt2_bpe", "volumes": "mni152"}[kind]
    return importlib.import_module(f"repro.data.sets.{module}").build


def packed(content: Mapping[str, np.ndarray | bytes]) -> bytes:
    """A package that holds a data set: a zip of files and arrays, always of the same bytes."""
    members = {}
    for name, value in content.items():
        if isinstance(value, bytes):
            members[name] = value
        else:
            array = io.BytesIO()
            np.save(array, value)
            members[f"{name}.npy"] = array.getvalue()
    return _zip(members)


def _decode(files: Mapping[str, Any]) -> dict[str, np.ndarray | bytes]:
    from repro.data.archives import read_members

    (path,) = files.values()
    found = read_members(path, ["*"])
    return {
        name.removesuffix(".npy"): np.load(io.BytesIO(data)) if name.endswith(".npy") else data
        for name, data in found.items()
    }


class Given:
    """A client that gives some bytes, one after another, and notes that it was asked."""

    def __init__(self, folder: Path, *payloads: bytes, wait_s: float = 0) -> None:
        self.asked, self.payloads, self.wait_s = folder / "asked", payloads, wait_s

    def describe(self) -> str:
        return "package toy"

    def count(self) -> int:
        return self.asked.stat().st_size if self.asked.exists() else 0

    def fetch(self, folder: Path, filename: str, partial: Path) -> Path:
        payload = self.payloads[min(self.count(), len(self.payloads) - 1)]
        with self.asked.open("ab") as stream:
            stream.write(b".")
        time.sleep(self.wait_s)
        target = folder / "fetched.whl"
        target.write_bytes(payload)
        return target


@dataclasses.dataclass
class Toy:
    """A data set `toy` in a cache of its own."""

    root: Path
    kind: str
    content: dict[str, np.ndarray | bytes]
    client: Given

    @classmethod
    def make(
        cls,
        folder: Path,
        kind: str = "images",
        *,
        client: Given | None = None,
        known: bool = True,
        more: tuple[Given, ...] = (),
    ) -> Toy:
        from repro.data import cache, catalogue
        from repro.data.dataset import Dataset
        from repro.data.sources import File, Source

        logging.getLogger("repro.data").addHandler(logging.NullHandler())
        os.environ["REPRO_DATA"] = str(folder / "cache")
        os.environ.pop("REPRO_OFFLINE", None)
        content = content_of(kind)
        payload = packed(content)
        client = client or Given(folder, payload)
        sha256 = hashlib.sha256(payload).hexdigest() if known else None
        sources = [
            Source(f"source {i}", (File(f"toy-{i}.whl", one, sha256, 0.1),), _decode)
            for i, one in enumerate((client, *more))
        ]
        made = Dataset(
            name="toy", title="Toy", description="", licence="MIT", citation="", homepage="",
            checksum=cache.content_sha256(content), sources=tuple(sources), build=_builder(kind),
        )  # fmt: skip
        catalogue.info = {"toy": made}.__getitem__
        return cls(folder / "cache", kind, content, client)

    @property
    def folder(self) -> Path:
        (found,) = (self.root / "datasets").iterdir()
        return found

    def damage(self) -> None:
        """Leave a copy that has to be made again from a new download."""
        intact(self.load)
        (self.folder / "arrays.npz").write_bytes(b"damaged")
        (self.folder / "manifest.json").unlink()
        shutil.rmtree(self.root / "downloads")

    def without_source(self) -> None:
        """From now on nothing can be fetched again."""
        os.environ["REPRO_OFFLINE"] = "1"
        shutil.rmtree(self.root / "downloads", ignore_errors=True)

    def load(self) -> Any:
        """What a process that has read nothing yet gets, as plain values."""
        from repro.data import catalogue

        vars(catalogue).get("_known", {}).clear()
        return plain(catalogue.load("toy"))

    def right(self) -> Any:
        """What it should get."""
        folder = self.root.parent / "expected"
        folder.mkdir()
        write_content(folder, self.content)
        return plain(_builder(self.kind)("toy", folder))


def write_content(folder: Path, content: Mapping[str, np.ndarray | bytes]) -> None:
    """A decoded data set as the cache lays it down, without a manifest."""
    arrays = {k: v for k, v in content.items() if not isinstance(v, bytes)}
    if arrays:
        np.savez(folder / "arrays.npz", **arrays)
    for name, value in content.items():
        if isinstance(value, bytes):
            (folder / name).write_bytes(value)


def intact(read: Callable[[], Any]) -> Any:
    """What is read of whole files: a refusal here would make its case pass for nothing."""
    try:
        return plain(read())
    except Exception as error:
        raise RuntimeError(f"what is whole is refused: {error}") from error


def plain(value: Any) -> Any:
    """Arrays, files and dataclasses as comparable values."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, Path):
        return hashlib.sha256(value.read_bytes()).hexdigest()
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


# Damage of a cached copy --------------------------------------------------------------------------

Damage = Callable[[Path], None]
"""Done to the folder of a decoded data set."""


def _flip(name: str, place: float = 0.5) -> Damage:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        (folder / name).write_bytes(data)

    return damage


def _cut(name: str, keep: float) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(keep * len(data))])

    return damage


def _write(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data) and None


def _edit(name: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        before = (folder / name).read_bytes()
        after = change(before)
        if before == after:
            raise RuntimeError("the case changes nothing")
        (folder / name).write_bytes(after)

    return damage


def _arrays(change: Callable[[dict[str, Any]], None]) -> Damage:
    """Stores the arrays anew, changed: the zip's own checksums are right."""

    def damage(folder: Path) -> None:
        with np.load(folder / "arrays.npz") as bundle:
            arrays = dict(bundle)
        change(arrays)
        np.savez(folder / "arrays.npz", **arrays)

    return damage


def _set(key: str, make: Callable[[Any], Any]) -> Damage:
    return _arrays(lambda arrays: arrays.update({key: make(arrays[key])}))


def _swap(one: str, other: str) -> Damage:
    def change(arrays: dict[str, Any]) -> None:
        arrays[one], arrays[other] = arrays[other], arrays[one]

    return _arrays(change)


def _one(value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array = array.copy()
        array.flat[3] = value
        return array

    return change


def _unseen(damage: Damage) -> Damage:
    """Damage that keeps size and time of every file."""

    def run(folder: Path) -> None:
        before = {path: path.stat() for path in folder.iterdir()}
        damage(folder)
        for path, status in before.items():
            if path.stat().st_size != status.st_size:
                raise RuntimeError(f"the case changes the size of {path.name}")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return run


def _folder_in_place(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def _whole_files(name: str) -> dict[str, Damage]:
    """What can happen to any file."""
    return {
        "a flipped bit at the start": _flip(name, 0),
        "a flipped bit in the middle": _flip(name),
        "a flipped bit at the end": _flip(name, 1),
        "cut in the middle": _cut(name, 0.5),
        "cut at the last byte": _cut(name, 0.999),
        "empty": _write(name, b""),
        "a web page in its place": _write(name, HTML),
        "a pointer in its place": _write(name, POINTER),
        "zero bytes in its place": _edit(name, lambda data: bytes(len(data))),
        "bytes behind its end": _edit(name, lambda data: data + b"more"),
        "away": lambda folder: (folder / name).unlink(),
        "a folder in its place": _folder_in_place(name),
    }


def _damages() -> Iterator[tuple[str, str, Damage]]:
    files = {
        "images": "arrays.npz",
        "text": "documents.jsonl",
        "vocabulary": "vocab.bpe",
        "weights": "weights.pth",
    }
    for kind, name in files.items():
        for what, damage in _whole_files(name).items():
            yield kind, f"{name} {what}", damage
    for what, damage in {
        "permuted labels": _set("train_labels", lambda a: a[::-1]),
        "permuted labels, size and time kept": _unseen(_set("train_labels", lambda a: a[::-1])),
        "one label changed": _set("test_labels", _one(7)),
        "one label -1": _set("test_labels", _one(-1)),
        "one label 255": _set("test_labels", _one(255)),
        "one level changed": _set("train_images", _one(1)),
        "images in another order": _set("train_images", lambda a: a[::-1]),
        "images turned": _set("train_images", lambda a: a.transpose(0, 2, 1)),
        "levels as floats": _set("train_images", lambda a: a.astype(np.float32)),
        "levels from 0 to 1": _set("train_images", lambda a: a / 255),
        "labels as int32": _set("train_labels", lambda a: a.astype(np.int32)),
        "labels NaN": _set("train_labels", lambda a: np.full(len(a), np.nan)),
        "one image less": _set("train_images", lambda a: a[:-1]),
        "one item less": _arrays(lambda a: a.update({k: v[:-1] for k, v in a.items()})),
        "splits exchanged": _swap("train_labels", "test_labels"),
        "an array added": _arrays(lambda a: a.update(extra=np.zeros(3))),
        "an array missing": _arrays(lambda a: a.pop("test_labels")),
        "Python objects": _set("train_labels", lambda a: a.astype(object)),
    }.items():
        yield "images", what, damage
    text = "documents.jsonl"
    for what, change in {
        "one letter changed": lambda d: d.replace(b"night 3", b"might 3"),
        "one split changed": lambda d: d.replace(b'"test"', b'"train"'),
        "a split that there is not": lambda d: d.replace(b'"test"', b'"tset"'),
        "one title changed": lambda d: d.replace(b"chapter 2", b"chapter 9"),
        "one document less": lambda d: d.partition(b"\n")[2],
        "one document twice": lambda d: d.partition(b"\n")[0] + b"\n" + d,
        "documents in another order": lambda d: b"\n".join(d.splitlines()[::-1]) + b"\n",
        "CR LF": lambda d: d.replace(b"\n", b"\r\n"),
        "a byte-order mark": lambda d: b"\xef\xbb\xbf" + d,
        "null for a text": lambda d: d.replace(b'"It was night 1."', b"null"),
        "a number for a text": lambda d: d.replace(b'"It was night 1."', b"3"),
        "no UTF-8": lambda d: d.replace(b"night 1", b"n\xefght 1"),
        "UTF-16": lambda d: d.decode().encode("utf-16"),
        "a field more": lambda d: d.replace(b'{"', b'{"extra": 1, "', 1),
        "a field less": lambda d: d.replace(b'"source": "novel", ', b"", 1),
    }.items():
        yield "text", what, _edit(text, change)
    yield (
        "text",
        "one letter changed, size and time kept",
        _unseen(_edit(text, lambda d: d.replace(b"night 3", b"might 3"))),
    )
    for what, name, change in (
        ("one id changed", "encoder.json", lambda d: d.replace(b'"ab": 3', b'"ab": 2')),
        ("ids as floats", "encoder.json", lambda d: d.replace(b": 3", b": 3.5")),
        ("a list for a table", "encoder.json", lambda d: b"[]"),
        ("merges in another order", "vocab.bpe", lambda d: b"#version: 0.2\nb c\na b\n"),
        ("merges with CR LF", "vocab.bpe", lambda d: d.replace(b"\n", b"\r\n")),
        ("one merge less", "vocab.bpe", lambda d: d.replace(b"b c\n", b"")),
    ):
        yield "vocabulary", what, _edit(name, change)
    for what, damage in {
        "one voxel changed": _set("gm", _one(1)),
        "another spacing": _set("spacing_mm", lambda a: a * 2),
        "spacing NaN": _set("spacing_mm", lambda a: a * np.nan),
        "two maps exchanged": _swap("gm", "wm"),
        "a slice missing": _set("t1", lambda a: np.delete(a, 1, 0)),
        "axes in another order": _set("t1", lambda a: a.transpose(2, 1, 0)),
    }.items():
        yield "volumes", what, damage
    for kind in KINDS:
        yield kind, "a file more", _write("notes.bin", b"more")
        yield kind, "hidden files of a file manager", _write(".DS_Store", b"more")
        yield kind, "another data set in its place", _another_in_place(kind)


def _another_in_place(kind: str) -> Damage:
    def damage(folder: Path) -> None:
        other = KINDS[KINDS.index(kind) - 1]
        for path in folder.iterdir():
            if path.name != "manifest.json":
                path.unlink()
        write_content(folder, content_of(other))

    return damage


def _stored(kind: str, damage: Damage, source: bool) -> Callable[[Path], bool]:
    def run(folder: Path) -> bool:
        toy = Toy.make(folder, kind)
        intact(toy.load)
        if not source:
            toy.without_source()
        damage(toy.folder)
        return toy.load() == toy.right()

    return run


def _verified(kind: str, damage: Damage) -> Callable[[Path], bool]:
    def run(folder: Path) -> bool:
        from repro.data import catalogue

        toy = Toy.make(folder, kind)
        intact(toy.load)
        whole = catalogue.verify("toy")
        damage(toy.folder)
        return whole and not catalogue.verify("toy")

    return run


def _manifest(damage: Damage) -> Callable[[Path], bool]:
    def run(folder: Path) -> bool:
        from repro.data import catalogue

        toy = Toy.make(folder)
        before = intact(lambda: catalogue.prepare("toy"))
        toy.without_source()
        damage(toy.folder)
        vars(catalogue).get("_known", {}).clear()
        after = plain(catalogue.prepare("toy"))
        same = ("name", "content_sha256", "licence", "members")
        facts = all(after[key] == before[key] for key in same)
        return facts and after["source"] in (before["source"], "a copy in the cache")

    return run


def _stored_cases() -> Iterator[Case]:
    for kind, what, damage in _damages():
        slow = kind in ("vocabulary", "weights", "volumes")
        yield Case(STORED, f"{kind}: {what}", _stored(kind, damage, True), bool, slow=slow)
        yield Case(
            STORED, f"{kind}, no source: {what}", _stored(kind, damage, False), bool, slow=True
        )
    for what, damage in {
        "permuted labels, size and time kept": _unseen(_set("train_labels", lambda a: a[::-1])),
        "cut": _cut("arrays.npz", 0.5),
        "away": lambda folder: (folder / "arrays.npz").unlink(),
        "the whole folder away": shutil.rmtree,
    }.items():
        yield Case(STORED, f"verify: {what}", _verified("images", damage), bool)
    name = "manifest.json"
    for what, damage in {
        "another name": lambda d: d.replace(b'"toy"', b'"joy"'),
        "another checksum": lambda d: d.replace(b'sha256": "', b'sha256": "0'),
        "another source": lambda d: d.replace(b"source 0", b"a friend"),
        "another licence": lambda d: d.replace(b"MIT", b"none"),
        "a member less": lambda d: d.replace(b'    "test_images",\n', b""),
        "a list": lambda d: b"[]",
        "null": lambda d: b"null",
        "an empty object": lambda d: b"{}",
        "cut": lambda d: d[: len(d) // 2],
        "no UTF-8": lambda d: b"\xff" + d,
        "deep": lambda d: b"[" * 100_000,
        "a web page": lambda d: HTML,
    }.items():
        yield Case(STORED, f"manifest: {what}", _manifest(_edit(name, damage)), bool)
    yield Case(STORED, "manifest: away", _manifest(lambda f: (f / name).unlink()), bool)
    yield Case(STORED, "manifest: a folder in its place", _manifest(_folder_in_place(name)), bool)


# Damage of what was fetched -----------------------------------------------------------------------


def _zip(members: Mapping[str, bytes], link: str = "") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for name, data in members.items():
            bundle.writestr(zipfile.ZipInfo(name), data)  # without the time of day
        if link:
            item = zipfile.ZipInfo(link)
            item.external_attr = 0o120777 << 16
            bundle.writestr(item, "/etc/passwd")
    return stream.getvalue()


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _zip_with_field(data: bytes, offset: int, value: int) -> bytes:
    """A zip whose members all say ``value`` at an offset of their central header."""
    out, at = bytearray(data), data.find(b"PK\x01\x02")
    while at >= 0:
        out[at + offset] = value
        at = data.find(b"PK\x01\x02", at + 4)
    return bytes(out)


def _payloads() -> dict[str, bytes]:
    content = content_of("images")
    good = packed(content)
    labels = {**content, "train_labels": content["train_labels"][::-1]}
    array = io.BytesIO()
    np.save(array, np.array([{}], dtype=object), allow_pickle=True)
    return {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "cut at the last byte": good[:-1],
        "a flipped bit": _flipped(good),
        "a web page": HTML,
        "a pointer": POINTER,
        "zero bytes": bytes(len(good)),
        "other labels": packed(labels),
        "an array missing": packed({k: v for k, v in content.items() if k != "test_labels"}),
        "an unsafe name": _zip({"../evil": b"x"}),
        "an absolute name": _zip({"/etc/evil": b"x"}),
        "a link": _zip({}, link="train_labels.npy"),
        "nothing packed": _zip({}),
        "Python objects": _zip({"train_labels.npy": array.getvalue()}),
        "an encrypted member": _zip_with_field(good, 8, 1),
        "an unknown compression": _zip_with_field(good, 10, 99),
    }


def _fetched(payload: bytes, known: bool, second: bool) -> Callable[[Path], bool]:
    """The first source gives something else; a second may be right."""

    def run(folder: Path) -> bool:
        (folder / "second").mkdir()
        more = (Given(folder / "second", packed(content_of("images"))),) if second else ()
        toy = Toy.make(folder, client=Given(folder, payload), known=known, more=more)
        return toy.load() == toy.right()

    return run


def _put_by_hand(payload: bytes, known: bool, network: bool) -> Callable[[Path], bool]:
    """Somebody put something else into the downloads folder."""

    def run(folder: Path) -> bool:
        toy = Toy.make(folder, known=known)
        (toy.root / "downloads").mkdir(parents=True)
        (toy.root / "downloads" / "toy-0.whl").write_bytes(payload)
        if not network:
            os.environ["REPRO_OFFLINE"] = "1"
        return toy.load() == toy.right()

    return run


def _bomb(folder: Path) -> bool:
    from repro.data import archives

    archives.LIMIT = 1000
    toy = Toy.make(folder)
    return toy.load() == toy.right()


def _part(payload: bytes) -> Callable[[Path], bool]:
    """A download that was broken off continues on the part of another file."""

    def run(folder: Path) -> bool:
        from repro.data.sources import Unavailable

        good = packed(content_of("images"))

        class Resuming(Given):
            def fetch(self, folder: Path, filename: str, partial: Path) -> Path:
                have = partial.read_bytes() if partial.exists() else b""
                if len(have) > len(good):
                    partial.unlink()
                    raise Unavailable("answered 416")
                target = folder / "fetched.whl"
                target.write_bytes(have + good[len(have) :])
                partial.unlink(missing_ok=True)
                return target

        toy = Toy.make(folder, client=Resuming(folder, good))
        (toy.root / "downloads").mkdir(parents=True)
        (toy.root / "downloads" / "toy-0.whl.part").write_bytes(payload)
        return toy.load() == toy.right()

    return run


def _download_cases() -> Iterator[Case]:
    good = packed(content_of("images"))
    for what, payload in _payloads().items():
        for known in (True, False):
            of = "its checksum known" if known else "its checksum unknown"
            yield Case(
                DOWNLOADS, f"fetched, {of}: {what}", _fetched(payload, known, False), bool,
                slow=known,
            )  # fmt: skip
            yield Case(
                DOWNLOADS, f"two sources, {of}: {what}", _fetched(payload, known, True), bool,
                slow=known,
            )  # fmt: skip
            yield Case(
                DOWNLOADS, f"by hand, {of}: {what}", _put_by_hand(payload, known, False), bool,
                slow=known,
            )  # fmt: skip
            yield Case(
                DOWNLOADS, f"by hand, network, {of}: {what}", _put_by_hand(payload, known, True),
                bool, slow=True,
            )  # fmt: skip
    yield Case(DOWNLOADS, "a bomb", _bomb)
    yield Case(DOWNLOADS, "continues a right part", _part(good[:100]), bool)
    yield Case(DOWNLOADS, "continues the part of another file", _part(b"x" * 100), bool)


# Faults of the file system ------------------------------------------------------------------------


@contextlib.contextmanager
def _failing(target: Any, name: str, error: int, at: int = 0) -> Iterator[None]:
    """A function of a module or class whose ``at``-th call fails, as a disk makes it."""
    original, calls = getattr(target, name), []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) - 1 == at:
            named = [str(a) for a in arguments if isinstance(a, str | Path)]
            raise OSError(error, os.strerror(error), *named[:1])
        return original(*arguments, **options)

    setattr(target, name, failing)
    try:
        yield
    finally:
        setattr(target, name, original)


def _points() -> dict[str, tuple[Any, str, int]]:
    """Where preparing a data set touches the disk."""
    from repro.data import cache

    return {
        "making the folder of locks": (Path, "mkdir", 0),
        "making a folder of work": (Path, "mkdir", 1),
        "moving the download": (os, "replace", 0),
        "writing the arrays": (cache.np, "savez", 0),
        "writing the manifest": (Path, "write_text", 0),
        "the first fsync": (os, "fsync", 0),
        "the second fsync": (os, "fsync", 1),
        "moving the data set": (os, "rename", 0),
        REPLACING: (os, "rename", 1),
        "reading the download": (cache.hashlib, "file_digest", 0),
    }


def _faulty(point: str, error: int) -> Callable[[Path], bool]:
    """One fault, one clear line; when the fault is gone the same command goes on."""

    def run(folder: Path) -> bool:
        from repro.errors import ReproError

        toy = Toy.make(folder)
        if point == REPLACING:
            toy.damage()
        target, name, at = _points()[point]
        said = ""
        with _failing(target, name, error, at):
            try:
                toy.load()
            except ReproError as refused:
                said = str(refused)
        clear = os.strerror(error) in said and str(toy.root) in said and "\n" not in said
        if error == errno.ENOSPC:
            clear = clear and "free some space" in said
        return (clear or not said) and toy.load() == toy.right()

    return run


class _Killed(Exception):
    """Never raised to anyone: the process dies instead."""


def _killed(point: str, after: bool, replaced: bool) -> Callable[[Path], bool]:
    """A process dies right before or right after a step; the next one must come out right."""

    def die(folder: Path, kind: str) -> None:
        toy = Toy.make(folder, kind)
        target, name, at = _points()[point]
        original, calls = getattr(target, name), []

        def dying(*arguments: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) - 1 < at:
                return original(*arguments, **options)
            if after:
                original(*arguments, **options)
            os._exit(9)

        setattr(target, name, dying)
        toy.load()

    def run(folder: Path) -> bool:
        toy = Toy.make(folder)
        if replaced:
            toy.damage()
        child = multiprocessing.get_context("fork").Process(target=die, args=(folder, "images"))
        child.start()
        child.join()
        if child.exitcode != 9:
            raise RuntimeError(f"the step was not reached ({child.exitcode})")
        whole = [p for p in (toy.root / "datasets").glob("*")] if toy.root.exists() else []
        return len(whole) <= 1 and toy.load() == toy.right()

    return run


def _at_once(kind: str, damaged: bool) -> Callable[[Path], bool]:
    def run(folder: Path) -> bool:
        client = Given(folder, packed(content_of(kind)), wait_s=0.05)
        toy = Toy.make(folder, kind, client=client)
        if damaged:
            intact(toy.load)
            _cut(next(p.name for p in toy.folder.iterdir() if "manifest" not in p.name), 0.5)(
                toy.folder
            )
            shutil.rmtree(toy.root / "downloads")
            client.asked.unlink()
        right = toy.right()

        def load() -> None:
            with contextlib.suppress(Exception):
                if toy.load() == right:
                    os._exit(0)
            os._exit(1)

        children = [multiprocessing.get_context("fork").Process(target=load) for _ in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        return client.count() == 1 and all(child.exitcode == 0 for child in children)

    return run


@contextlib.contextmanager
def _read_only() -> Iterator[None]:
    """Every attempt to write below a folder fails, as on a disk that is mounted read-only."""
    with contextlib.ExitStack() as stack:
        for target, name in ((Path, "mkdir"), (os, "rename"), (os, "replace"), (os, "mkdir")):
            stack.enter_context(_always(target, name))
        opened = os.open

        def reading(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return opened(path, flags, *arguments, **options)

        os.open = reading
        try:
            yield
        finally:
            os.open = opened


@contextlib.contextmanager
def _always(target: Any, name: str, error: int = errno.EROFS) -> Iterator[None]:
    original = getattr(target, name)

    def failing(*arguments: Any, **options: Any) -> Any:
        raise OSError(error, os.strerror(error), str(arguments[0]))

    setattr(target, name, failing)
    try:
        yield
    finally:
        setattr(target, name, original)


def _on_read_only(filled: bool, damage: Damage | None = None) -> Callable[[Path], bool]:
    def run(folder: Path) -> bool:
        toy = Toy.make(folder)
        right = toy.right()
        if filled:
            intact(toy.load)
        if damage:
            damage(toy.folder)
        with _read_only():
            return toy.load() == right

    return run


def _in_the_way(name: str, folder_there: bool = False) -> Callable[[Path], bool]:
    """A file (or folder) lies where the cache has a folder (or file)."""

    def run(folder: Path) -> bool:
        toy = Toy.make(folder)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder_there:
            path.mkdir()
            (path / "x").write_text("")
        else:
            path.write_text("")
        return toy.load() == toy.right()

    return run


def _unreadable(target: Any, name: str) -> Callable[[Path], bool]:
    def run(folder: Path) -> bool:
        toy = Toy.make(folder)
        intact(toy.load)
        right = toy.right()
        toy.without_source()
        with _always(target, name, errno.EACCES):
            return toy.load() == right

    return run


def _file_system_cases() -> Iterator[Case]:
    points = list(_points())
    for point in points:
        for error in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO):
            if error in (errno.ENOSPC, errno.EROFS) and "reading" in point:
                continue
            name = f"{errno.errorcode[error]} at {point}"
            slow = error in (errno.EROFS, errno.EIO)
            yield Case(RAW, name, _faulty(point, error), bool, slow=slow)
        for after in (False, True):
            for replaced in (True,) if point == REPLACING else (False, True):
                name = (
                    f"killed {'after' if after else 'before'} {point}"
                    f"{', a damaged copy there' if replaced else ''}"
                )
                yield Case(KILLED, name, _killed(point, after, replaced), bool)
    yield Case(KILLED, "two at once: images", _at_once("images", False), bool)
    yield Case(KILLED, "two at once: text", _at_once("text", False), bool)
    yield Case(KILLED, "two at once: a damaged copy", _at_once("images", True), bool)
    yield Case(RAW, "read-only, filled", _on_read_only(True), bool)
    yield Case(RAW, "read-only, empty", _on_read_only(False))
    yield Case(RAW, "read-only, damaged", _on_read_only(True, _cut("arrays.npz", 0.5)))
    yield Case(
        RAW,
        "read-only, manifest edited",
        _on_read_only(True, _edit("manifest.json", lambda d: b"{}")),
        bool,
    )
    for name in ("cache", "cache/datasets", "cache/downloads", "cache/locks", "cache/tmp"):
        yield Case(RAW, f"a file at {name}", _in_the_way(name), bool)
    for name in ("cache/downloads/toy-0.whl", "cache/locks/dataset-toy.lock"):
        yield Case(RAW, f"a folder at {name}", _in_the_way(name, True), bool)
    yield Case(RAW, "a stale lock", _in_the_way("cache/locks/dataset-toy.lock"), bool)
    yield Case(RAW, "unreadable: the folder of the data set", _unreadable(os, "scandir"), bool)
    yield Case(RAW, "unreadable: its list", _unreadable(Path, "iterdir"), bool)
    yield Case(RAW, "unreadable: its arrays", _unreadable(np, "load"), bool)
    yield Case(RAW, "unreadable: its manifest", _unreadable(Path, "read_text"), bool)


# Where the cache is -------------------------------------------------------------------------------


def _rooted(expected: str, **variables: str | None) -> Callable[[Path], bool]:
    def run(folder: Path) -> bool:
        from repro.data import cache

        os.chdir(folder)
        own: dict[str, str | None] = {"HOME": str(folder), "XDG_CACHE_HOME": None, **variables}
        own.setdefault("REPRO_DATA", None)
        for name, value in own.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        return cache.root() == Path(os.path.realpath(folder)) / expected

    return run


def _homeless(call: Callable[[Any], Any], **variables: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro.data import catalogue

        for name in ("HOME", "XDG_CACHE_HOME", "REPRO_DATA"):
            os.environ.pop(name, None)
        os.environ.update(variables)

        def nobody(*arguments: Any) -> Any:
            raise KeyError("getpwuid(): uid not found")

        import pwd

        pwd.getpwuid = nobody
        return call(catalogue)

    return run


def _modes(umask: int) -> Callable[[Path], bool]:
    """Files and folders have the modes that the umask gives."""

    def run(folder: Path) -> bool:
        os.umask(umask)

        class Strict(Given):
            def fetch(self, folder: Path, filename: str, partial: Path) -> Path:
                path = super().fetch(folder, filename, partial)
                path.chmod(0o600)
                return path

        toy = Toy.make(folder, client=Strict(folder, packed(content_of("images"))))
        toy.load()
        return all(
            path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask
            for path in toy.root.rglob("*")
        )

    return run


def _missing(name: str, **variables: str) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        from repro.data import catalogue
        from repro.data.sources import Installed, Unavailable

        def absent(installed: Any, network: bool) -> Any:
            raise Unavailable(f"{installed.distribution} is not installed")

        Installed.read = absent
        os.environ.update({"REPRO_DATA": str(folder / "cache"), "REPRO_OFFLINE": "1", **variables})
        return catalogue.load(name)

    return run


def _place_cases() -> Iterator[Case]:
    for what, run in {
        "REPRO_DATA is empty": _rooted(".cache/repro-data", REPRO_DATA=""),
        "REPRO_DATA is blank": _rooted(".cache/repro-data", REPRO_DATA=" "),
        "XDG_CACHE_HOME is empty": _rooted(".cache/repro-data", XDG_CACHE_HOME=""),
        "XDG_CACHE_HOME is blank": _rooted(".cache/repro-data", XDG_CACHE_HOME=" "),
        "REPRO_DATA is ~/mine": _rooted("mine", REPRO_DATA="~/mine"),
        "XDG_CACHE_HOME is ~/x": _rooted("x/repro-data", XDG_CACHE_HOME="~/x"),
        "REPRO_DATA is relative": _rooted("mine", REPRO_DATA="mine"),
        "REPRO_DATA has a space and braces": _rooted("my {data}", REPRO_DATA="~/my {data}"),
    }.items():
        yield Case(PLACES, what, run, bool)
    yield Case("raw traceback", "no HOME: load", _homeless(lambda c: c.load("digits")))
    yield Case("raw traceback", "no HOME: is_cached", _homeless(lambda c: c.is_cached("digits")))
    yield Case(
        "raw traceback", "REPRO_DATA is ~nobody/x",
        _homeless(lambda c: c.load("digits"), REPRO_DATA="~no-such-user/x"),
    )  # fmt: skip
    for umask in (0o000, 0o002, 0o022, 0o027, 0o077):
        yield Case(PLACES, f"umask {umask:03o}", _modes(umask), bool)
    names = "cifar10 digits english-text fashion-mnist gpt2-bpe mni152 mnist".split()
    for name in [*names, "mobilenetv2-imagenet", "wikipedia-excerpt"]:
        yield Case(PLACES, f"offline and nothing cached: {name}", _missing(name))


def cases() -> Iterator[Case]:
    yield from _stored_cases()
    yield from _download_cases()
    yield from _file_system_cases()
    yield from _place_cases()
