"""Official files: what cards declare, what commands list, and what an arm says that it misses."""

import functools
import hashlib
import http.server
import importlib
import pkgutil
import re
import sys
import threading

import pytest
import yaml

from repro import places, store
from repro.data import cache
from repro.data import official as layouts
from repro.errors import ReproError
from repro.suite import cli, fingerprint, official, run
from repro.suite.cards import library
from repro.suite.cards.official import CARD, OfficialFiles, everything, resolved
from repro.suite.run import Options

ELEVEN = (
    "autodiffusion", "diffusion-couple", "diffusion-mbir", "lowbit-fp", "msd", "ptq4dm",
    "q-diffusion", "quest", "radd", "slimflow", "superdiff",
)  # fmt: skip
PLAIN = {
    "title": "Weights",
    "licence": "none",
    "url": "http://127.0.0.1:9/x",
    "files": [{"name": "w.bin", "size": 10}],
}


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """An empty data folder, without network."""
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("REPRO_OFFLINE", "1")
    return tmp_path / "data"


def declare(root, arm=("weights",), params=None, **officials):
    """Let the toy declare official files, and its arm `exact` read them at a scale of their own."""
    card = root / "methods" / "toy" / CARD
    card.write_text(yaml.safe_dump({"official": officials or {"weights": PLAIN}}))
    path = root / "methods" / "toy" / "experiment.yaml"
    content = yaml.safe_load(path.read_text())
    content["arms"]["exact"] |= {"official": list(arm), "params": params or {}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    library.forget()


def call(monkeypatch, capsys, *words):
    """Status, output and error of a command."""
    monkeypatch.setattr(sys, "argv", ["repro", *words])
    try:
        status = cli.command()
    except ReproError as error:
        return 2, capsys.readouterr().out, str(error)
    told = capsys.readouterr()
    return status, told.out, told.err


# --- the cards of this tree -------------------------------------------------------------------


def test_every_paper_says_what_it_publishes():
    for slug in ELEVEN:
        own = library.load(slug).folder / CARD
        if own.is_file():
            card = OfficialFiles.model_validate(yaml.safe_load(own.read_text()))
            assert card.official or card.none, own
        else:
            assert any(slug in one.papers for one in everything().values()), slug


def test_every_declaration_has_a_place_of_its_own():
    places = [one.path(file) for one in everything().values() for file in one.files]
    assert len(set(places)) == len(places)
    for one in everything().values():
        assert set(one.papers) <= set(ELEVEN), one.name
        assert one.by_hand is None or any(c in one.by_hand for c in ("http", "Ask", "ask")), one


def test_data_that_a_user_brings_is_declared_where_its_reader_looks():
    modules = pkgutil.iter_modules(layouts.__path__, f"{layouts.__name__}.")
    for module in modules:
        layout = importlib.import_module(module.name).LAYOUT
        one = everything()[layout.name]
        assert one.folder == cache.root() / "official" / layout.name


def test_arms_list_the_files_that_they_open():
    found = {
        (method.slug, arm): {
            one.path(file) for one in official.of_arms(method, "paper", [arm]) for file in one.files
        }
        for method in library.load_all()
        if "paper" in method.experiment.scales
        for arm in method.arms("paper")
    }
    root = cache.root() / "official"
    for (slug, arm), paths in found.items():
        params = library.load(slug).arm_params("paper", arm)
        if slug == "radd" and "weights" in params:
            assert {
                root / params["weights"] / name for name in ("model.safetensors", "config.json")
            } <= paths
        if slug == "slimflow" and "checkpoint" in params:
            assert root / "slimflow" / params["checkpoint"] in paths
            assert cache.root() / "downloads" / "inception-2015-12-05.pt" in paths
        if slug == "diffusion-mbir" and params.get("method") in ("fast", "slice-wise"):
            assert root / "diffusion-mbir" / params["checkpoint"] in paths
    assert root / "gpt2-large" / "model.safetensors" in found["radd", "official-samples"]


# --- mistakes in a card -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"by_hand": "Click."}, "needs one of `hub`, `url` and `by_hand`"),
        ({"url": None}, "needs one of `hub`, `url` and `by_hand`"),
        ({"url": "ftp://x"}, "official.weights.url"),
        ({"files": []}, "official.weights.files"),
        ({"files": [{"name": "../w"}]}, "leaves its folder"),
        ({"files": [{"name": "/w"}]}, "leaves its folder"),
        ({"files": [{"name": "w"}, {"name": "w"}]}, "a file stands twice"),
        ({"files": [{"name": "w", "sha256": "abc"}]}, "files.0.sha256"),
        ({"files": [{"name": "w", "sise": 3}]}, r"unknown key `sise` \(did you mean `size`\?\)"),
        ({"url": None, "hub": {"repository": "a/b", "revision": "main"}}, "hub.revision"),
        ({"licence": ""}, "licence"),
    ],
)
def test_a_mistake_in_a_declaration_is_one_line(toy, change, said):
    declare(toy, weights={k: v for k, v in {**PLAIN, **change}.items() if v is not None})
    with pytest.raises(ReproError, match=said) as caught:
        library.load("toy")
    assert "methods/toy/official.yaml" in str(caught.value)


def test_an_arm_names_what_is_declared(toy):
    declare(toy, arm=["wieghts"])
    with pytest.raises(ReproError, match=r"unknown official file `wieghts` .*`weights`"):
        library.load("toy")
    declare(toy, arm=["$files"])
    with pytest.raises(ReproError, match=r"arms.exact.official: `\$files` is no parameter"):
        library.load("toy")


def test_a_name_belongs_to_one_card(toy):
    declare(toy)
    shared = toy / "repro" / "official" / CARD
    shared.parent.mkdir(parents=True)
    shared.write_text(yaml.safe_dump({"official": {"weights": {**PLAIN, "papers": ["toy"]}}}))
    library.forget()
    with pytest.raises(ReproError, match="official.weights: another card declares it too"):
        everything()
    shared.write_text(yaml.safe_dump({"official": {"other": PLAIN}}))
    library.forget()
    with pytest.raises(ReproError, match="official.other.papers: name those that share it"):
        everything()


def test_names_of_parameters():
    params = {"weights": "a", "corpora": ["b", "c"], "size": 3}
    assert resolved(["$weights", "$corpora", "d", "a"], params) == ["a", "b", "c", "d"]
    with pytest.raises(ReproError, match="needs a name or a list of names, found 3"):
        resolved(["$size"], params)


# --- what an arm says and depends on ----------------------------------------------------------


def test_an_arm_says_all_that_it_misses_before_it_computes(toy, monkeypatch):
    more = {**PLAIN, "by_hand": "Click there.", "files": [{"name": "*.npy"}]}
    del more["url"]
    declare(toy, arm=["weights", "data"], weights=PLAIN, data=more)
    monkeypatch.setattr(run, "_run_seed", lambda *_: pytest.fail("it computes"))
    method = library.load("toy")
    for start in (
        lambda: run.run_arm(method, "exact", Options("smoke")),
        lambda: run.run_method(method, Options("smoke"), ["exact"]),
    ):
        with pytest.raises(ReproError) as caught:
            start()
        assert "weights: w.bin" in str(caught.value)
        assert "data: *.npy (by hand)" in str(caught.value)
        assert "`repro fetch toy --scale smoke`" in str(caught.value)


def test_the_dag_fetches_where_it_runs_itself():
    """On a cluster the nodes that compute may have no network."""
    text = (places.ROOT / "Snakefile").read_text()
    assert re.search(r"^localrules: data, official, ", text, re.MULTILINE)


def test_an_arm_runs_when_its_files_are_here(toy, data):
    declare(toy)
    (data / "official" / "weights").mkdir(parents=True)
    (data / "official" / "weights" / "w.bin").write_bytes(b"0123456789")
    run.prepare_official("weights", Options("smoke").work)
    (folder,) = run.run_arm(library.load("toy"), "exact", Options("smoke"))
    digest = hashlib.sha256(b"0123456789").hexdigest()
    assert store.read_sealed(folder / "record.json")["official"] == {"weights": {"w.bin": digest}}


def test_only_what_reads_official_files_depends_on_them(toy):
    before = {
        arm: fingerprint.of_run(library.load("toy"), "smoke", arm, 0) for arm in ("ours", "exact")
    }
    declare(toy)
    method = library.load("toy")
    assert fingerprint.of_run(method, "smoke", "ours", 0) == before["ours"]
    reading = fingerprint.of_run(method, "smoke", "exact", 0)
    assert reading != before["exact"]
    declare(toy, weights={**PLAIN, "title": "Another title", "licence": "MIT"})
    assert fingerprint.of_run(library.load("toy"), "smoke", "exact", 0) == reading
    declare(toy, weights={**PLAIN, "files": [{"name": "w.bin", "size": 11}]})
    assert fingerprint.of_run(library.load("toy"), "smoke", "exact", 0) != reading


def test_the_job_of_the_dag(toy, data, tmp_path):
    declare(toy)
    with pytest.raises(ReproError, match="w.bin: REPRO_OFFLINE forbids .*`repro fetch toy`"):
        run.prepare_official("weights", tmp_path)
    (data / "official" / "weights").mkdir(parents=True)
    (data / "official" / "weights" / "w.bin").write_bytes(b"0123456789")
    run.prepare_official("weights", tmp_path)
    assert (tmp_path / "data" / "official" / "weights.json").is_file()
    with pytest.raises(ReproError, match="no official file `wieghts`"):
        run.prepare_official("wieghts", tmp_path)


# --- the commands -----------------------------------------------------------------------------


def test_fetch_lists_everything_with_what_to_do(toy, monkeypatch, capsys):
    asking = {**PLAIN, "asks": "Read https://example.org/terms"}
    hand = {**{k: v for k, v in PLAIN.items() if k != "url"}, "by_hand": "Click there."}
    declare(
        toy, arm=["weights", "asking", "hand"], weights=PLAIN, asking=asking, hand=hand, rest=PLAIN
    )
    status, out, _ = call(monkeypatch, capsys, "fetch", "toy", "--scale", "smoke", "--dry-run")
    assert status == 0
    for said in (
        "weights, into official/weights: from http://127.0.0.1:9/x",
        "first: Read https://example.org/terms (--accept asking)",
        "hand, by hand: Click there. Put w.bin into official/hand",
        "3 in all: 1 to fetch, 1 with terms to agree to first, 1 to bring by hand",
        "1 more are published and read by no arm of scale smoke yet: rest",
    ):
        assert said in out
    status, out, _ = call(
        monkeypatch, capsys, "fetch", "toy", "--scale", "smoke", "--all", "--dry-run"
    )
    assert "4 in all" in out and "no arm yet" in out


def test_fetch_ends_with_what_is_still_missing(toy, data, monkeypatch, capsys):
    hand = {**{k: v for k, v in PLAIN.items() if k != "url"}, "by_hand": "Click there."}
    declare(toy, arm=["weights", "hand"], weights=PLAIN, hand=hand)
    words = ("fetch", "toy", "--scale", "smoke")
    status, out, err = call(monkeypatch, capsys, *words)
    assert status == 2 and "2 of 2 are not here: weights, hand" in err and "\n" not in err
    assert "weights: w.bin: REPRO_OFFLINE forbids the network" in out
    for name in ("weights", "hand"):
        (data / "official" / name).mkdir(parents=True)
        (data / "official" / name / "w.bin").write_bytes(b"0123456789")
    status, out, _ = call(monkeypatch, capsys, *words)
    assert status == 0 and "all are here" in out
    status, out, _ = call(monkeypatch, capsys, *words, "--verify")
    assert status == 0 and "2 of 2 are here" in out
    (data / "official" / "hand" / "w.bin").write_bytes(b"0123456780")
    status, out, _ = call(monkeypatch, capsys, *words, "--verify")
    assert status == 1 and "official/hand/w.bin: w.bin has SHA-256" in out


def test_fetch_fetches(toy, data, tmp_path, monkeypatch, capsys):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "w.bin").write_bytes(b"0123456789")
    handler = functools.partial(Quiet, directory=tmp_path / "served")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("REPRO_OFFLINE", "0")
    declare(toy, weights={**PLAIN, "url": f"http://127.0.0.1:{server.server_port}"})
    status, out, err = call(monkeypatch, capsys, "fetch", "toy", "--scale", "smoke")
    server.shutdown()
    server.server_close()
    assert status == 0 and "fetched and verified 1 files" in out and "all are here" in out
    assert err == "weights/w.bin: 0.0 of 0.0 MB\n"
    assert (data / "official" / "weights" / "w.bin").read_bytes() == b"0123456789"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        return


def test_fetch_says_when_the_disk_is_too_small(toy, monkeypatch, capsys):
    declare(toy, weights={**PLAIN, "files": [{"name": "w.bin", "megabytes": 1e9}]})
    words = ("fetch", "toy", "--scale", "smoke", "--dry-run")
    _, out, _ = call(monkeypatch, capsys, *words)
    assert "less than what is to come" in out


def test_fetch_knows_its_words(toy, monkeypatch, capsys):
    declare(toy)
    for words, said in (
        (("fetch", "tyo"), "no method `tyo` (did you mean `toy`?)"),
        (
            ("fetch", "toy", "--only", "wights"),
            "no official file `wights` (did you mean `weights`?)",
        ),
        (("fetch", "toy", "--accept", "x"), "no official file `x`"),
        (("fetch", "toy", "--scale", "papr"), "no scale `papr` (did you mean `paper`?)"),
    ):
        status, _, err = call(monkeypatch, capsys, *words)
        assert status == 2 and said in err
    status, out, _ = call(monkeypatch, capsys, "fetch", "toy", "--dry-run")
    assert status == 0 and "nothing is needed" in out  # the toy has no scale paper


def test_doctor_shows_the_same_list(monkeypatch, capsys):
    _, listed, _ = call(monkeypatch, capsys, "fetch", "--dry-run")
    _, told, _ = call(monkeypatch, capsys, "doctor")
    assert listed[: listed.index("in all:")] in told and "`repro fetch PAPER`" in told
