"""Fetching: checksums, atomic and concurrent preparation, broken downloads, plain messages."""

import errno
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from archives_made import zip_bytes

from repro.data import cache, catalogue, sources
from repro.data.dataset import Dataset
from repro.data.sources import File, Installed, Source, Unavailable, Url
from repro.errors import ReproError

ARRAY = np.arange(12, dtype=np.int64).reshape(3, 4)
PAYLOAD = ARRAY.tobytes()
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()
CONTENT = {"x": ARRAY}
CHECKSUM = cache.content_sha256(CONTENT)


class Written:
    """A client that writes given bytes, and counts how often it is asked."""

    def __init__(self, payload=PAYLOAD, delay=0.0):
        self.payload, self.delay, self.calls = payload, delay, 0

    def describe(self):
        return "test package"

    def fetch(self, folder, filename, partial):
        self.calls += 1
        time.sleep(self.delay)
        target = folder / "fetched"
        target.write_bytes(self.payload)
        return target


def decode(files):
    (value,) = files.values()
    raw = value if isinstance(value, bytes) else value.read_bytes()
    return {"x": np.frombuffer(raw, np.int64).reshape(3, 4)}


def source(client, sha256=SHA256, title="one", name="file.bin"):
    return Source(title, (File(name, client, sha256, 0.1),), decode)


def entry(*all_sources, checksum=CHECKSUM, name="made"):
    return Dataset(name, "", "", "MIT", "", "", checksum, all_sources, lambda _, f: f)


@pytest.fixture
def online(root, monkeypatch):
    monkeypatch.delenv("REPRO_OFFLINE")
    return root


@pytest.fixture
def register(monkeypatch):
    return lambda made: monkeypatch.setattr(catalogue, "info", {made.name: made}.__getitem__)


def test_content_checksum_depends_on_everything_that_matters():
    changed = [
        {"y": ARRAY},
        {"x": ARRAY.astype(np.int32)},
        {"x": ARRAY.reshape(4, 3)},
        {"x": ARRAY + 1},
        {"x": PAYLOAD},
        {"x": ARRAY, "y": b""},
    ]
    assert len({CHECKSUM, *map(cache.content_sha256, changed)}) == 7
    big_endian, fortran = ARRAY.astype(">i8"), np.asfortranarray(ARRAY)
    assert cache.content_sha256({"x": big_endian}) == CHECKSUM
    assert cache.content_sha256({"x": fortran}) == CHECKSUM


def test_prepare_fetches_once_and_leaves_a_manifest(online, register):
    client = Written()
    register(entry(source(client)))
    assert not catalogue.is_cached("made")
    facts = catalogue.prepare("made")
    assert (facts["source"], facts["content_sha256"]) == ("one", CHECKSUM)
    assert catalogue.is_cached("made") and catalogue.verify("made")
    folder = catalogue.load("made")
    assert json.loads((folder / "manifest.json").read_text())["licence"] == "MIT"
    np.testing.assert_array_equal(cache.read_arrays(folder)["x"], ARRAY)
    assert (online / "downloads" / "file.bin").read_bytes() == PAYLOAD
    catalogue.prepare("made")
    assert client.calls == 1
    assert list((online / "tmp").iterdir()) == []


def test_a_file_put_there_by_hand_works_offline(root, register):
    client = Written()
    register(entry(source(client)))
    (root / "downloads").mkdir(parents=True)
    (root / "downloads" / "file.bin").write_bytes(PAYLOAD)
    assert catalogue.prepare("made")["source"] == "one"
    assert client.calls == 0


def test_offline_message_says_which_file_to_put_where(root, register):
    register(entry(source(Written())))
    with pytest.raises(ReproError) as caught:
        catalogue.load("made")
    message = str(caught.value)
    assert "made is missing" in message and "REPRO_OFFLINE" in message
    assert str(root / "downloads" / "file.bin") in message
    assert SHA256 in message and "test package" in message


def test_checksum_mismatch_falls_through_to_the_next_source(online, register):
    bad, good = Written(b"other bytes"), Written()
    register(entry(source(bad), source(good, title="two", name="second.bin")))
    assert catalogue.prepare("made")["source"] == "two"
    assert not (online / "downloads" / "file.bin").exists()


def test_checksum_mismatch_of_the_only_source(online, register):
    register(entry(source(Written(b"other bytes"))))
    with pytest.raises(ReproError, match="instead of"):
        catalogue.prepare("made")
    assert not catalogue.is_cached("made")


def test_a_wrong_file_in_downloads_is_replaced(online, register):
    (online / "downloads").mkdir(parents=True)
    (online / "downloads" / "file.bin").write_bytes(b"cut short")
    register(entry(source(Written())))
    catalogue.prepare("made")
    assert (online / "downloads" / "file.bin").read_bytes() == PAYLOAD


@pytest.mark.parametrize(
    "payload", [(ARRAY + 1).tobytes(), b"not even decodable"], ids=["decodable", "undecodable"]
)
def test_wrong_content_without_a_file_checksum_is_refused(online, register, payload):
    register(entry(source(Written(payload), sha256=None)))
    with pytest.raises(ReproError, match=r"its content has SHA-256|cannot be decoded"):
        catalogue.prepare("made")
    assert not catalogue.is_cached("made")
    assert not (online / "downloads" / "file.bin").exists()
    assert (online / "downloads" / "file.bin.wrong").read_bytes() == payload


def test_a_kill_while_writing_leaves_nothing_that_counts(online, register, monkeypatch):
    register(entry(source(Written())))

    def killed(stage, **arrays):
        Path(stage).write_bytes(b"half an arr")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache.np, "savez", killed)
        with pytest.raises(KeyboardInterrupt):
            catalogue.prepare("made")
    assert not catalogue.is_cached("made")
    catalogue.prepare("made")
    assert catalogue.verify("made")


def test_what_killed_processes_left_is_swept_in_time(root):
    for name, age in (("old", cache.STALE_S + 60), ("young", 60)):
        (root / "tmp" / name).mkdir(parents=True)
        os.utime(root / "tmp" / name, times=(time.time() - age,) * 2)
    with cache.scratch() as mine:
        assert {p.name for p in (root / "tmp").iterdir()} == {"young", mine.name}


def test_a_folder_without_manifest_is_made_anew(online, register):
    register(entry(source(Written())))
    folder = cache.dataset_folder("made", CHECKSUM)
    folder.mkdir(parents=True)
    (folder / "arrays.npz").write_bytes(b"left by somebody")
    catalogue.prepare("made")
    assert catalogue.verify("made")


def test_damage_in_the_cache_is_said_and_repaired(online, register, caplog):
    made = Dataset(
        "made", "", "", "", "", "", CHECKSUM, (source(Written()),),
        lambda _, f: cache.read_arrays(f),
    )  # fmt: skip
    register(made)
    path = catalogue._folder("made") / "arrays.npz"
    catalogue.load("made")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    path.write_bytes(raw)
    assert not catalogue.verify("made")
    np.testing.assert_array_equal(catalogue.load("made")["x"], ARRAY)
    (said,) = caplog.messages
    assert f"made: {path} is damaged" in said and said.endswith("it is prepared again")
    assert catalogue.verify("made")


def test_a_copy_is_read_in_full_once_a_process_and_when_it_changed(online, register, monkeypatch):
    register(entry(source(Written())))
    catalogue.prepare("made")
    monkeypatch.setattr(catalogue, "_known", {})
    read = []
    in_full = cache.read_content
    monkeypatch.setattr(cache, "read_content", lambda f: read.append(f) or in_full(f))
    folder = catalogue.load("made")
    catalogue.load("made")
    assert read == [folder]
    os.utime(folder / "arrays.npz", ns=(1, 1))
    catalogue.load("made")
    assert read == [folder] * 2


def test_a_change_under_the_same_size_and_time_is_found_by_verify(online, register):
    register(entry(source(Written())))
    path = catalogue.load("made") / "arrays.npz"
    before = path.stat()
    np.savez(path, x=ARRAY[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert not catalogue.verify("made")


@pytest.mark.parametrize("made", ["{}", "[]", "not JSON", None])
def test_a_manifest_that_says_something_else_is_written_anew(online, register, made):
    client = Written()
    register(entry(source(client)))
    facts = catalogue.prepare("made")
    path = cache.dataset_folder("made", CHECKSUM) / "manifest.json"
    path.unlink() if made is None else path.write_text(made)
    again = catalogue.prepare("made")
    assert json.loads(path.read_text()) == again
    assert {k: again[k] for k in ("name", "content_sha256", "members")} == {
        k: facts[k] for k in ("name", "content_sha256", "members")
    }
    assert client.calls == 1


def test_a_copy_of_older_code_is_taken_without_fetching_or_writing(root, register):
    """Its manifest says what today's says; the content is read in full."""
    client = Written()
    register(entry(source(client)))
    folder = cache.dataset_folder("made", CHECKSUM)
    facts = {
        "name": "made", "content_sha256": CHECKSUM, "source": "one", "licence": "MIT",
        "citation": "", "members": ["x"], "seconds": 1.5,
    }  # fmt: skip
    cache.publish(folder, CONTENT, facts)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert catalogue.prepare("made") == facts
    assert (folder / "manifest.json").stat().st_mtime_ns == before and client.calls == 0


def test_two_threads_prepare_once(online, register):
    client = Written(delay=0.2)
    register(entry(source(client)))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(catalogue.prepare("made"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and client.calls == 1


def test_two_processes_exclude_each_other(root):
    code = (
        "import time; from repro.data import cache\n"
        "with cache.lock('x'):\n print('in', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "in\n"
    entered = threading.Event()

    def enter():
        with cache.lock("x"):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.3)
    holder.kill()  # the lock of a killed process is free
    assert entered.wait(10)
    thread.join()
    holder.wait()


def test_who_waits_for_a_lock_says_so(root, monkeypatch, caplog):
    monkeypatch.setattr(cache, "PATIENCE_S", 0.05)
    entered = threading.Event()

    def enter():
        with cache.lock("x"):
            entered.set()

    thread = threading.Thread(target=enter)
    with cache.lock("x"):
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    thread.join()
    (said,) = caplog.messages
    assert str(root / "locks" / "x.lock") in said


def test_an_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "file" / "cache"))
    with pytest.raises(ReproError, match="REPRO_DATA"):
        catalogue.prepare("digits")


# --- addresses ------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves PAYLOAD; `/cut` stops halfway but for a request that resumes."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        start = int(wanted[6:-1]) if wanted else 0
        self.server.seen.append((self.path, start))
        if self.path == "/missing":
            self.send_error(404)
            return
        if start > len(PAYLOAD):
            self.send_error(416)
            return
        body = PAYLOAD[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" and not start else body)

    def log_message(self, *args):
        return


@pytest.fixture
def server():
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.seen = []
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()


def address(server, path):
    return Url(f"http://127.0.0.1:{server.server_port}{path}")


def test_download(online, register, server):
    register(entry(source(address(server, "/whole"), sha256=None)))
    assert catalogue.prepare("made")["source"] == "one"


def test_truncated_download_is_an_error_and_resumes(online, register, server):
    register(entry(source(address(server, "/cut"))))
    with pytest.raises(ReproError, match=f"cut short at {len(PAYLOAD) // 2} of {len(PAYLOAD)}"):
        catalogue.prepare("made")
    assert not (online / "downloads" / "file.bin").exists()
    catalogue.prepare("made")
    assert server.seen == [("/cut", 0), ("/cut", len(PAYLOAD) // 2)]
    assert catalogue.verify("made")
    assert [p.name for p in (online / "downloads").iterdir()] == ["file.bin"]


def test_a_partial_file_longer_than_the_file_is_dropped(online, register, server):
    (online / "downloads").mkdir(parents=True)
    (online / "downloads" / "file.bin.part").write_bytes(PAYLOAD + b"more")
    register(entry(source(address(server, "/whole"))))
    with pytest.raises(ReproError, match="416"):
        catalogue.prepare("made")
    catalogue.prepare("made")
    assert catalogue.verify("made")


def test_a_part_of_another_file_is_fetched_anew(online, register, server):
    (online / "downloads").mkdir(parents=True)
    (online / "downloads" / "file.bin.part").write_bytes(b"another")
    register(entry(source(address(server, "/whole"))))
    catalogue.prepare("made")
    assert server.seen == [("/whole", len("another")), ("/whole", 0)]
    assert catalogue.verify("made")


def test_a_full_disk_is_no_fault_of_the_address(online, register, server, monkeypatch):
    register(entry(source(address(server, "/whole"))))

    def full(reply, stream, size):
        stream.write(reply.read(10))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(sources.shutil, "copyfileobj", full)
        with pytest.raises(ReproError, match="the disk is full .*free some space") as caught:
            catalogue.prepare("made")
    assert str(online / "downloads" / "file.bin.part") in str(caught.value)
    catalogue.prepare("made")
    assert server.seen == [("/whole", 0), ("/whole", 10)]
    assert catalogue.verify("made")


def test_missing_address_and_no_server(online, register, server):
    register(entry(source(address(server, "/missing"))))
    with pytest.raises(ReproError, match="answered 404"):
        catalogue.prepare("made")
    server.shutdown()
    server.server_close()
    register(entry(source(address(server, "/whole"))))
    with pytest.raises(ReproError, match="cannot be reached"):
        catalogue.prepare("made")


# --- package clients ------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [sources.Npm("a@1"), sources.Apt("a=1")])
def test_a_missing_client_says_so(tmp_path, monkeypatch, client):
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="is not installed"):
        client.fetch(tmp_path, "x", tmp_path / "part")


def test_pip_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="pip is not installed"):
        sources.Pip("a==1").fetch(tmp_path, "x", tmp_path / "part")


def test_npm_and_apt_run_their_client(tmp_path, monkeypatch):
    """Programs that stand for the clients record their arguments and write one file."""
    scripts = tmp_path / "bin"
    scripts.mkdir()
    for name, made in (("npm", "a-1.tgz"), ("apt-get", "a_1_all.deb")):
        script = scripts / name
        script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/{name}.args\n: > {made}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scripts}:/usr/bin:/bin")
    for client, made, said in (
        (sources.Npm("a@1"), "a-1.tgz", "pack"),
        (sources.Apt("a=1"), "a_1_all.deb", "download a=1"),
    ):
        folder = tmp_path / made.replace(".", "-")
        folder.mkdir()
        assert client.fetch(folder, made, tmp_path / "part") == folder / made
        assert said in (tmp_path / f"{'npm' if 'tgz' in made else 'apt-get'}.args").read_text()


def test_a_failing_client_gives_one_short_line(tmp_path, monkeypatch):
    script = tmp_path / "npm"
    script.write_text(
        "#!/bin/sh\necho 'npm error code E404' >&2\necho 'npm error 404 no such package' >&2\n"
        "echo 'npm error A complete log of this run' >&2\nexit 1\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Unavailable) as caught:
        sources.Npm("a@1").fetch(tmp_path, "x", tmp_path / "part")
    assert str(caught.value) == "npm pack failed: npm error 404 no such package"


def test_pip_download_of_a_local_wheel(tmp_path, monkeypatch):
    """The real pip, against a folder instead of an index."""
    wheels, folder = tmp_path / "wheels", tmp_path / "out"
    wheels.mkdir()
    folder.mkdir()
    info = "tiny_data-1.0.dist-info"
    (wheels / "tiny_data-1.0-py3-none-any.whl").write_bytes(
        zip_bytes(
            {
                "tiny_data/x.bin": PAYLOAD,
                f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n",
                f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{info}/RECORD": b"",
            }
        )
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    got = sources.Pip("tiny-data==1.0").fetch(folder, "x", tmp_path / "part")
    assert got.name == "tiny_data-1.0-py3-none-any.whl"
    (folder / got.name).unlink()
    with pytest.raises(Unavailable, match="pip download failed"):
        sources.Pip("tiny-data==2.0").fetch(folder, "x", tmp_path / "part")


def test_installed_files_are_read_without_an_import():
    got = Installed("t", "numpy", ("numpy/version.py",), dict).read(False)
    assert b"version" in got["numpy/version.py"]
    with pytest.raises(Unavailable, match="is not installed"):
        Installed("t", "no-such-distribution", ("x",), dict).read(False)
    with pytest.raises(Unavailable, match="no readable"):
        Installed("t", "numpy", ("numpy/no-such-file",), dict).read(False)
