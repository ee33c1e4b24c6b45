"""Artefacts on disk: whole, with the rights of the umask, held against their hashes."""

import errno
import fcntl
import os
import resource
import signal
import time

import numpy as np
import pytest
import torch

from repro import store
from repro.errors import ReproError

WRITERS = {
    "text": lambda path: store.write_text(path, "x" * 5000),
    "durable text": lambda path: store.write_text(path, "x" * 5000, durable=True),
    "JSON": lambda path: store.write_json(path, ["x"] * 2000),
    "sealed": lambda path: store.write_sealed(path, {"x": ["x"] * 2000}),
    "arrays": lambda path: store.write_arrays(path, {"x": np.arange(2000.0)}),
    "tensors": lambda path: store.write_tensors(path, {"x": torch.arange(2000.0)}, {}),
}


def folder_of_files(path):
    with store.atomic_folder(path) as temporary:
        for name, write in WRITERS.items():
            write(temporary / name)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027, 0o002])
@pytest.mark.parametrize("name", [*WRITERS, "folder"])
def test_rights_are_those_of_the_umask(tmp_path, umask, name):
    before = os.umask(umask)
    try:
        write = folder_of_files if name == "folder" else WRITERS[name]
        write(tmp_path / "made" / "it")
    finally:
        os.umask(before)
    paths = list((tmp_path / "made").rglob("*"))
    assert len(paths) == (1 + len(WRITERS) if name == "folder" else 1)
    for path in [tmp_path / "made", *paths]:
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert path.stat().st_mode & 0o777 == wanted, path


@pytest.fixture
def small_files():
    """No file may be larger than 1000 bytes: what a full disk does, at a byte of one's choice."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", [*WRITERS, "folder"])
def test_a_disk_that_is_full_is_one_line_and_the_same_call_goes_on(tmp_path, small_files, name):
    write = folder_of_files if name == "folder" else WRITERS[name]
    with pytest.raises(ReproError, match="cannot be written.*free some space") as caught:
        write(tmp_path / "it")
    assert len(str(caught.value).splitlines()) == 1 and str(tmp_path / "it") in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    small_files()
    write(tmp_path / "it")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the quota of the disk is used up; free some space"),
        (errno.EACCES, "cannot be written .*make the folder writable"),
        (errno.EROFS, "cannot be written .*make the folder writable"),
        (errno.EISDIR, "a folder is in its place; delete it"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_what_the_system_says_is_one_line(tmp_path, monkeypatch, call, number, message):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store.os, call, fails)
    with pytest.raises(ReproError, match=message):
        store.write_sealed(tmp_path / "it", {})
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [WRITERS["text"], folder_of_files], ids=["file", "folder"])
@pytest.mark.parametrize("age", [0, 10 * store.ABANDONED_S])
def test_what_a_dead_writer_left_is_swept_and_what_a_live_one_holds_is_not(tmp_path, write, age):
    dead, live = tmp_path / ".it.0a.partial", tmp_path / ".it.0b.partial"
    for left in (dead, live):
        left.mkdir()
        (left / "it").write_text("half")
        os.utime(left, (time.time() - age,) * 2)
    descriptor = os.open(live, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    write(tmp_path / "it")
    assert live.exists() and not dead.exists()
    os.close(descriptor)
    write(tmp_path / "it")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_age_decides_where_there_are_no_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(store.fcntl, "flock", none)
    for name, age in ((".it.old.partial", 2 * store.ABANDONED_S), (".it.new.partial", 0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    WRITERS["text"](tmp_path / "it")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".it.new.partial", "it"]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("there", ["nothing", "folder", "empty folder", "file"])
def test_a_folder_takes_the_place_of_whatever_is_there(tmp_path, monkeypatch, there, exchange):
    if not exchange:
        monkeypatch.setattr(store, "_exchange", lambda one, other: False)
    path = tmp_path / "it"
    if there == "file":
        path.write_text("old")
    elif there != "nothing":
        path.mkdir()
        if there == "folder":
            (path / "old").write_text("old")
    with store.atomic_folder(path) as temporary:
        (temporary / "new").write_text("new")
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["it"]


def test_a_folder_that_appears_in_between_is_replaced(tmp_path, monkeypatch):
    """Another process puts its folder there between the look and the rename."""
    path, replace, times = tmp_path / "it", os.replace, iter(range(100))

    def late(one, other):
        if next(times) < 3 and str(other) == str(path):
            path.mkdir(exist_ok=True)
            (path / "theirs").write_text("x")
        replace(one, other)

    monkeypatch.setattr(store, "_exchange", lambda one, other: False)
    monkeypatch.setattr(store.os, "replace", late)
    with store.atomic_folder(path) as temporary:
        (temporary / "ours").write_text("x")
    assert [p.name for p in path.iterdir()] == ["ours"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("1.5", "1.25"),
        lambda text: text.replace('"a"', '"b"'),
        lambda text: text.replace("digest", "digests"),
        lambda text: text[:-3],
        lambda text: "[]",
        lambda text: "null",
        lambda text: "{}",
    ],
)
def test_a_sealed_file_that_was_changed_is_refused(tmp_path, damage):
    path = tmp_path / "it.json"
    content = {"a": 1.5, "nested": [{"x": None}, "é", 0.1 + 0.2], "n": 10**20}
    store.write_sealed(path, content)
    assert store.read_sealed(path) == content
    path.write_text(damage(path.read_text()))
    with pytest.raises(ReproError, match=r"it\.json"):
        store.read_sealed(path)


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path, hashed = tmp_path / "it", []
    path.write_bytes(b"abc")
    digest, sha256 = store.sha256(path), store.sha256
    monkeypatch.setattr(store, "sha256", lambda p: (hashed.append(p), sha256(p))[1])
    for _ in range(3):
        store.verify(path, digest)
    assert hashed == [path]
    path.write_bytes(b"abd")
    with pytest.raises(ReproError, match="is not what was written there"):
        store.verify(path, digest)
    path.unlink()
    with pytest.raises(ReproError, match="cannot be read"):
        store.verify(path, digest)
