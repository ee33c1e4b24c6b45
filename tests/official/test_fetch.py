"""Official files come whole, verified and recorded, whatever the server and the network do."""

import hashlib
import http.server
import importlib
import io
import os
import pkgutil
import re
import tarfile
import threading
import zipfile
from dataclasses import replace

import pytest

from repro import store
from repro.data import official as layouts
from repro.data.layouts import Layout
from repro.errors import ReproError
from repro.official import fetch, hub, published
from repro.official.published import File, Hub, Published, look, partial, receipt, receipt_path
from repro.suite.cards.official import everything

LAYOUTS = {
    layout.name: layout
    for module in pkgutil.iter_modules(layouts.__path__, f"{layouts.__name__}.")
    for layout in [importlib.import_module(module.name).LAYOUT]
}
CONTENT = bytes(range(256)) * 40
OTHER = CONTENT[::-1]
COMMIT, LATER = "a" * 40, "b" * 40


class Server(http.server.ThreadingHTTPServer):
    """Synthetic miniatures by path; `odd` says what goes wrong with one."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.odd, self.seen, self.commit = {}, {}, [], COMMIT

    @property
    def base(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path, server = self.path.partition("?")[0], self.server
        odd = server.odd.get(path)
        if body:
            server.seen.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
        if isinstance(odd, int):
            return self.say(odd, b"<html>no</html>" if body else b"")
        if odd == "page":
            return self.say(200, b"<!DOCTYPE html><html>click here</html>", type="text/html")
        if odd == "redirect":
            return self.say(302, b"", Location=f"{server.base}/moved{path}")
        if isinstance(odd, str) and odd.startswith("X-Error-Code"):
            return self.say(403 if "Gated" in odd else 404, b"", **{"X-Error-Code": odd[14:]})
        return self.give(path.removeprefix("/moved"), body)

    def give(self, path, body):
        server = self.server
        extra, name = {}, path
        if "/resolve/" in path:  # the hub
            start, _, rest = path.partition("/resolve/")
            revision, _, file = rest.partition("/")
            revision = server.commit if revision == "main" else revision
            name = f"{start}/{revision}/{file}"
            extra["X-Repo-Commit"] = revision
        if name not in server.files:
            return self.say(404, b"")
        content = server.files[name]
        digest = hashlib.sha256(content).hexdigest()
        if "X-Repo-Commit" in extra:
            wrong = server.odd.get("etag")
            extra |= {"X-Linked-Etag": f'"{wrong or digest}"', "X-Linked-Size": str(len(content))}
        wanted, held = self.headers.get("Range"), self.headers.get("If-Range")
        start = int(wanted[6:-1]) if wanted and held in (None, f'"{digest}"') else 0
        if start >= len(content):
            return self.say(416, b"", **{"Content-Range": f"bytes */{len(content)}"})
        cut = server.odd.get("cut", 0)
        if cut and body:
            server.odd["cut"] = 0
        self.send_response(206 if start else 200)
        sent = content[start:]
        for key, value in {"Content-Length": len(sent), "ETag": f'"{digest}"', **extra}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if body:
            self.wfile.write(sent[:cut] if cut else sent)

    def say(self, code, content, type="text/plain", **headers):
        self.send_response(code)
        for key, value in {"Content-Type": type, "Content-Length": len(content), **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        return


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("REPRO_OFFLINE", "0")
    monkeypatch.setattr(fetch, "PAUSES_S", (0, 0.001))
    served = Server()
    served.files["/x/weights.bin"] = CONTENT
    thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(hub, "ENDPOINT", served.base)
    yield served
    served.shutdown()
    served.server_close()


def item(server=None, *files, **changes):
    facts = {
        "name": "made", "title": "Made", "licence": "none", "place": "official/made",
        "papers": ("toy",), "files": files or (File("weights.bin"),),
        "url": f"{server.base}/x" if server else None,
    }  # fmt: skip
    return Published(**{**facts, **changes})


def problems(*wanted, **how):
    return [outcome.problem for outcome in fetch.fetch(wanted, **how)]


def here(one):
    return [found.here for found in look(one)]


def test_a_file_comes_verified_and_recorded(server):
    one = item(server, File("weights.bin", sha256=hashlib.sha256(CONTENT).hexdigest()))
    assert here(one) == ["none"] and fetch.missing([one]) == ["made: weights.bin"]
    assert problems(one) == [""] and here(one) == ["have"]
    assert (one.folder / "weights.bin").read_bytes() == CONTENT
    record = receipt(one)["files"]["weights.bin"]
    assert record["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert record["from"] == f"{server.base}/x/weights.bin"
    assert [path.name for path in one.folder.iterdir()] == ["weights.bin"]
    assert problems(one) == [""] and len(server.seen) == 1  # nothing is asked for twice


def test_what_is_broken_off_goes_on(server):
    one = item(server)
    server.odd["cut"] = 1000
    assert problems(one) == [""]
    assert [asked for _, asked, _ in server.seen] == [None, "bytes=1000-"]
    assert (one.folder / "weights.bin").read_bytes() == CONTENT


def test_what_is_broken_off_goes_on_in_the_next_run(server, monkeypatch):
    one = item(server)
    monkeypatch.setattr(fetch, "PAUSES_S", ())
    server.odd["cut"] = 1000
    (said,) = problems(one)
    assert "cut short at 1000 of" in said and here(one) == ["part"] and look(one)[0].done == 1000
    assert problems(one) == [""] and server.seen[-1][1] == "bytes=1000-"


def test_a_part_that_was_whole_is_not_fetched_again(server):
    one = item(server)
    part = partial(one.folder / "weights.bin")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)  # killed between the last byte and the name
    assert problems(one) == [""] and len(server.seen) == 1
    assert server.seen[0][1] == f"bytes={len(CONTENT)}-"


def test_parts_of_two_versions_are_never_joined(server, monkeypatch):
    one = item(server)
    monkeypatch.setattr(fetch, "PAUSES_S", ())
    server.odd["cut"] = 1000
    problems(one)
    server.files["/x/weights.bin"] = OTHER  # no checksum would notice
    assert problems(one) == [""]
    assert (one.folder / "weights.bin").read_bytes() == OTHER


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (File("weights.bin", sha256="0" * 64), r"and not 0000000000000000… \(of the card\)"),
        (File("weights.bin", md5="0" * 32), "has another MD5 than 0000"),
        (File("weights.bin", size=7), r"has 10,240 bytes, and by the card 7"),
    ],
)
def test_another_file_than_the_card_says_is_refused(server, file, said):
    one = item(server, file)
    (problem,) = problems(one)
    assert pytest.raises(ReproError, match=said).__class__ and re.search(said, problem)
    assert list(one.folder.iterdir()) == [] and not receipt(one)


def test_a_part_of_another_file_is_fetched_anew(server):
    one = item(server, File("weights.bin", md5=hashlib.md5(CONTENT).hexdigest()))
    part = partial(one.folder / "weights.bin")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"another")
    assert problems(one) == [""] and (one.folder / "weights.bin").read_bytes() == CONTENT


def test_a_checksum_that_nobody_knew_holds_from_the_first_fetch_on(server):
    one = item(server)
    problems(one)
    (one.folder / "weights.bin").unlink()
    server.files["/x/weights.bin"] = OTHER
    (problem,) = problems(one)
    assert "recorded at the first fetch" in problem and here(one) == ["none"]
    receipt_path(one).unlink()  # whoever wants the new one says so
    assert problems(one) == [""]


def test_an_edit_is_noticed_and_mended(server):
    one = item(server)
    problems(one)
    path = one.folder / "weights.bin"
    path.write_bytes(OTHER)
    os.utime(path, ns=(0, 0))
    assert here(one) == ["wrong"] and "recorded on" in look(one)[0].note
    assert "has SHA-256" in fetch.missing([one])[0]
    assert problems(one) == [""] and path.read_bytes() == CONTENT


def test_an_edit_under_the_same_size_and_time_is_found_by_verify(server):
    one = item(server)
    problems(one)
    path = one.folder / "weights.bin"
    before = path.stat()
    path.write_bytes(OTHER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert here(one) == ["have"] and "has SHA-256" in fetch.verify([one])[0]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (403, "answered 403"),
        (404, "answered 404"),
        (503, "answered 503"),
        ("page", "is a web page, not the file behind it"),
    ],
)
def test_a_file_that_is_not_given_does_not_stop_the_others(server, odd, said):
    server.odd["/x/bad.bin"] = odd
    wanted = item(server, File("bad.bin"), File("weights.bin"))
    first, second = problems(wanted)
    assert said in first and second == ""
    assert here(wanted) == ["none", "have"]
    assert not partial(wanted.folder / "bad.bin").exists()


def test_a_redirect_is_followed(server):
    server.odd["/x/weights.bin"] = "redirect"
    assert problems(item(server)) == [""]
    assert [path for path, _, _ in server.seen] == ["/x/weights.bin", "/moved/x/weights.bin"]


def test_without_network(server, monkeypatch):
    one = item(server, url="http://127.0.0.1:9/x")
    assert "cannot be reached" in problems(one)[0]
    hubbed = item(hub=Hub("owner/name"))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in problems(hubbed)[0]
    monkeypatch.setenv("REPRO_OFFLINE", "1")
    assert problems(one) == ["REPRO_OFFLINE forbids the network"] and not server.seen


def test_what_asks_is_fetched_only_after_an_agreement(server):
    asking, free = (
        item(server, asks="Read the terms"),
        item(server, name="free", place="official/f"),
    )
    first, second = problems(asking, free)
    assert first == "Read the terms; agree with `--accept made`" and second == ""
    assert fetch.missing([asking]) == ["made: weights.bin (has terms to agree to)"]
    assert problems(asking, accepted=["made"]) == [""]


def test_by_hand_says_what_to_do_and_records_what_comes(server):
    one = item(None, File("*.npy|*.npz"), by_hand="Click there.")
    (problem,) = problems(one)
    assert problem == f"by hand: Click there. Put it into {one.folder}"
    one.folder.mkdir(parents=True)
    (one.folder / ".DS_Store.npy").write_bytes(b"x")
    assert here(one) == ["none"]
    (one.folder / "a.npz").write_bytes(CONTENT)
    assert here(one) == ["have"] and problems(one) == [""]
    assert receipt(one)["files"]["a.npz"]["from"] == "brought by hand"
    (one.folder / "a.npz").write_bytes(b"<html>log in</html>")
    assert here(one) == ["wrong"] and "is a web page" in problems(one)[0]


def test_a_file_put_there_without_network_is_verified(server, monkeypatch):
    monkeypatch.setenv("REPRO_OFFLINE", "1")
    one = item(server, File("weights.bin", sha256=hashlib.sha256(CONTENT).hexdigest()))
    one.folder.mkdir(parents=True)
    (one.folder / "weights.bin").write_bytes(OTHER)
    assert "and not" in problems(one)[0]
    (one.folder / "weights.bin").write_bytes(CONTENT)
    assert problems(one) == [""] and receipt(one)["files"]["weights.bin"]["size"] == len(CONTENT)


def test_a_folder_that_is_filled_may_be_read_only(server):
    one = item(server)
    problems(one)
    root = one.folder.parent.parent
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert problems(one) == [""] and fetch.missing([one]) == []
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_receipt_that_was_edited_is_refused(server):
    one = item(server)
    problems(one)
    receipt_path(one).write_text(receipt_path(one).read_text().replace("made", "mine"))
    assert here(one) == ["wrong"]
    assert "delete it, and the next fetch records" in problems(one)[0]


# --- the hub --------------------------------------------------------------------------------------


def hubbed(revision=COMMIT, **changes):
    return item(None, File("weights.bin"), hub=Hub("owner/name", revision), **changes)


def publish(server, content=CONTENT, commit=COMMIT):
    server.files[f"/owner/name/{commit}/weights.bin"] = content


def test_a_file_of_the_hub(server):
    publish(server)
    one = hubbed()
    assert problems(one) == [""] and receipt(one)["revision"] == COMMIT
    assert receipt(one)["files"]["weights.bin"]["size"] == len(CONTENT)


def test_a_data_set_of_the_hub_and_another_name(server):
    server.files[f"/datasets/owner/name/{COMMIT}/deep/there.bin"] = CONTENT
    one = item(None, File("weights.bin", at="deep/there.bin"), hub=Hub("owner/name", COMMIT, True))
    assert problems(one) == [""] and (one.folder / "weights.bin").read_bytes() == CONTENT


def test_without_a_revision_the_first_fetch_decides(server):
    publish(server)
    one = hubbed(None)
    assert problems(one) == [""] and receipt(one)["revision"] == COMMIT
    (one.folder / "weights.bin").unlink()
    server.commit = LATER
    publish(server, OTHER, LATER)
    assert problems(one) == [""] and (one.folder / "weights.bin").read_bytes() == CONTENT


def test_another_revision_in_the_card_is_fetched_whole(server):
    publish(server)
    server.files[f"/owner/name/{COMMIT}/b.bin"] = CONTENT
    two = (File("weights.bin"), File("b.bin"))
    problems(hubbed(files=two))
    publish(server, OTHER, LATER)
    server.files[f"/owner/name/{LATER}/b.bin"] = OTHER
    later = item(None, *two, hub=Hub("owner/name", LATER))
    assert problems(later) == ["", ""] and receipt(later)["revision"] == LATER
    assert {path.read_bytes() for path in later.folder.iterdir()} == {OTHER}


def test_the_checksum_of_the_hub_is_held(server):
    publish(server)
    server.odd["etag"] = "0" * 64
    assert "that the hub names" in problems(hubbed())[0] and here(hubbed()) == ["none"]
    blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    server.odd["etag"] = blob  # as the hub names what it keeps in git
    assert problems(hubbed()) == [""]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("GatedRepo", "asks for an agreement: accept it there, then `hf auth login`"),
        ("RevisionNotFound", f"has no revision {COMMIT}"),
        ("EntryNotFound", "has no file weights.bin at aaaaaaaaaaaa"),
        ("RepoNotFound", "is not there, or private"),
    ],
)
def test_what_the_hub_refuses(server, code, said):
    server.odd[f"/owner/name/resolve/{COMMIT}/weights.bin"] = f"X-Error-Code: {code}"
    assert said in problems(hubbed())[0]


def test_a_login_is_shown_to_the_hub_alone(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    publish(server)
    located = hub.locate(Hub("owner/name"), COMMIT, "weights.bin")
    assert located.headers["authorization"] == "Bearer hf_secret"
    server.odd["/x/weights.bin"] = "redirect"
    from repro.data.download import download

    part = published.cache.root() / "part"
    download(f"{server.base}/x/weights.bin", part, headers=located.headers)
    assert [login for _, _, login in server.seen] == ["Bearer hf_secret", None]


# --- archives -------------------------------------------------------------------------------------


def zipped(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return stream.getvalue()


def tarred(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as bundle:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return stream.getvalue()


WHERE = {"*/wiki.*.raw": ".", "*/deep/*.txt": "deep"}
MEMBERS = {"top/wiki.test.raw": b"a\n", "top/deep/b.txt": b"b", "top/other": b"c"}


@pytest.mark.parametrize("packed", [zipped, tarred])
def test_an_archive_is_unpacked_recorded_and_removed(server, packed):
    server.files["/x/a.zip"] = packed(MEMBERS)
    one = item(server, File("a.zip", unpack=WHERE))
    assert problems(one) == [""] and here(one) == ["have"]
    found = sorted(p.relative_to(one.folder).as_posix() for p in one.folder.rglob("*.*"))
    assert found == ["deep/b.txt", "wiki.test.raw"]
    assert Layout(name="made", title="", files=("wiki.test.raw",), obtain="", licence="").locate()
    (one.folder / "wiki.test.raw").write_bytes(b"edited")
    assert here(one) == ["wrong"] and problems(one) == [""]
    assert (one.folder / "wiki.test.raw").read_bytes() == b"a\n"
    (one.folder / "deep" / "b.txt").unlink()
    assert here(one) == ["none"] and problems(one) == [""] and here(one) == ["have"]


def test_what_a_person_unpacked_counts(server, monkeypatch):
    monkeypatch.setenv("REPRO_OFFLINE", "1")
    one = item(server, File("a.zip", unpack={"*/wiki.*.raw": "."}))
    one.folder.mkdir(parents=True)
    (one.folder / "wiki.test.raw").write_bytes(b"a\n")
    assert here(one) == ["have"] and problems(one) == [""]
    assert receipt(one)["files"]["wiki.test.raw"]["of"] == "a.zip"


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"../wiki.test.raw": b""}, "unsafe path"),
        ({"top/wiki.test.raw": b"a"}, r"has no member \*/deep/\*.txt"),
        ({**MEMBERS, "two/wiki.test.raw": b"d"}, "holds wiki.test.raw twice"),
    ],
)
def test_a_bad_archive_leaves_nothing(server, members, said):
    server.files["/x/a.zip"] = zipped(members)
    one = item(server, File("a.zip", unpack=WHERE))
    (problem,) = problems(one)
    assert re.search(said, problem)
    assert [path for path in one.folder.iterdir() if not path.name.startswith(".")] == []


def test_a_cut_archive_is_named(server):
    server.files["/x/a.zip"] = tarred(MEMBERS)[:-30]
    one = item(server, File("a.zip", unpack=WHERE))
    assert "is damaged" in problems(one)[0]


def test_before_it_computes_a_job_says_all_that_it_misses(server):
    wanted = [
        item(server, name="one"),
        item(None, File("x"), name="two", by_hand="Click."),
        item(server, File("a"), File("b"), name="three"),
    ]
    wanted = [replace(one, place=f"official/{one.name}") for one in wanted]
    with pytest.raises(ReproError) as caught:
        fetch.ensure(wanted, "toy/arm", "repro fetch toy")
    assert "one: weights.bin; two: x (by hand); three: a and 1 more" in str(caught.value)
    assert "\n" not in str(caught.value)
    store.write_text(published.cache.root() / "official" / "two" / "x", "content")
    fetch.ensure(wanted[1:2], "toy/arm", "repro fetch toy")


# --- what the cards declare -----------------------------------------------------------------------

TEXT = b"a line\n"
LM1B = "1-billion-word-language-modeling-benchmark-r13output"
INSIDE = {
    "ldm-lsun-bedrooms": ["model.ckpt"],
    "ldm-lsun-churches": ["model.ckpt"],
    "coco2014-val": [f"val2014/COCO_val2014_0000000000{n}.jpg" for n in (42, 73)],
    "wikitext2": [f"wikitext-2-raw/wiki.{part}.raw" for part in ("train", "valid", "test")],
    "wikitext103": [f"wikitext-103-raw/wiki.{part}.raw" for part in ("train", "valid", "test")],
    "ptb": [
        *(f"./simple-examples/data/ptb.{part}.txt" for part in ("train", "valid", "test")),
        "./simple-examples/data/ptb.char.test.txt",
    ],
    "lm1b": [
        f"{LM1B}/{kind}-monolingual.tokenized.shuffled/{name}"
        for kind, name in (
            ("training", "news.en-00001-of-00002"),
            ("heldout", "news.en.heldout-00000-of-00002"),
            ("heldout", "news.en.heldout-00001-of-00002"),
        )
    ],
}
"""Members of the published archives, by their names there."""


@pytest.mark.parametrize("name", everything())
def test_every_declaration_can_be_fetched(server, name):
    """A miniature of each publication, at its path, comes to where its reader looks."""
    one = everything()[name]
    files = tuple(replace(file, size=None, sha256=None, md5=None) for file in one.files)
    one = replace(one, files=files, url=one.url and f"{server.base}/x")
    for file in files:
        content = TEXT
        if file.unpack is not None:
            pack = zipped if file.name.endswith(".zip") else tarred
            content = pack(dict.fromkeys(INSIDE[name], TEXT))
        where = file.at or file.name
        if one.hub is not None:
            kind = "/datasets" if one.hub.dataset else ""
            revision = one.hub.revision or server.commit
            server.files[f"{kind}/{one.hub.repository}/{revision}/{where}"] = content
        elif one.by_hand is None:
            server.files[f"/x/{where.partition('?')[0]}"] = content
        else:
            store.write_text(one.folder / file.name.partition("|")[0].replace("*", "0"), "a line")
    assert problems(one, accepted=[name]) == [""] * len(files)
    assert here(one) == ["have"] * len(files) and fetch.verify([one]) == []
    if name in LAYOUTS and name != "lm1b":
        LAYOUTS[name].locate()
    if name == "lm1b":
        assert list(LAYOUTS[name].rows("test")) == ["a line"] * 2
