"""Data sets by name: one file each, nothing imported that is not asked for."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import repro
from repro.data import cache, catalogue, sets, sources
from repro.data.dataset import Dataset
from repro.data.sources import Installed, Source, Unavailable
from repro.errors import ReproError
from repro.suite import cli

NAMES = catalogue.names()
HEAVY = {"torch", "sklearn", "nilearn", "gensim", "pandas", "nibabel", "rdata", "PIL"}


def module_of(name):
    return importlib.import_module(catalogue.module_of(name))


def imported(path):
    """The modules that a source file names in its import statements, wherever they stand."""
    for node in ast.walk(ast.parse(Path(path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# --- one file a data set --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_module_holds_one_data_set_of_its_name(name):
    module = module_of(name)
    assert [v for v in vars(module).values() if isinstance(v, Dataset)] == [module.DATASET]
    assert module.DATASET.name == name == Path(module.__file__).stem.replace("_", "-")
    # what a result depends on, besides the checksum, is found under this one name
    assert module.DATASET.build is module.build and module.build.__module__ == module.__name__


def test_nothing_imports_a_data_set():
    """Data sets don't import each other, and what they share names none of them."""
    root = Path(repro.__file__).parent
    for path in root.rglob("*.py"):
        for module in imported(path):
            assert not module.startswith(f"{sets.__name__}."), f"{path} imports {module}"


TOY = """
from repro.data.dataset import Dataset
from repro.data.sources import Installed

def build(name, folder):
    return name, sorted(p.name for p in folder.iterdir())

def decode(files):
    return {"notes.txt": b"toy"}

DATASET = Dataset(
    name="toy-set", title="Toy", description="", licence="MIT", citation="", homepage="",
    checksum="%s", sources=(Installed("numpy", "numpy", (), decode),), build=build,
)
"""


def test_adding_a_file_adds_a_data_set(root, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "more"
    folder.mkdir()
    checksum = cache.content_sha256({"notes.txt": b"toy"})
    (folder / "toy_set.py").write_text(TOY % checksum)
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(folder)])
    assert catalogue.names() == sorted([*NAMES, "toy-set"])
    assert catalogue.fingerprint("toy-set") == checksum
    assert catalogue.load("toy-set") == ("toy-set", ["manifest.json", "notes.txt"])
    cli.data()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "toy-set" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[:3] == ["toy-set", "Toy", "MIT"] and cells[-1] == "yes"
    del sys.modules[catalogue.module_of("toy-set")]


# --- what is imported -----------------------------------------------------------------------------


def modules_after(code):
    """The modules of a fresh interpreter before and after a line of code."""
    script = (
        "import json, sys\nfrom repro.data import catalogue\nbefore = sorted(sys.modules)\n"
        f"{code}\nprint(json.dumps([before, sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    before, after = json.loads(done.stdout)
    return set(before), set(after)


def test_importing_the_catalogue_is_light():
    before, _ = modules_after("")
    assert not HEAVY & before
    assert not [m for m in before if m.startswith(f"{sets.__name__}.")]


def test_names_import_nothing():
    before, after = modules_after("catalogue.names(); catalogue.module_of('digits')")
    assert before == after


def test_a_fingerprint_imports_one_data_set():
    before, after = modules_after("catalogue.fingerprint('cifar10')")
    own = {m for m in after if m.startswith(f"{sets.__name__}.")}
    assert own == {f"{sets.__name__}.cifar10"} and not HEAVY & after


def test_all_facts_and_official_layouts_are_light():
    _, after = modules_after(
        "import importlib, pkgutil; from repro.data import official\n"
        "for n in catalogue.names(): catalogue.info(n)\n"
        "for m in pkgutil.iter_modules(official.__path__):"
        " importlib.import_module(f'{official.__name__}.{m.name}')"
    )
    assert {f"{sets.__name__}.mni152", "repro.data.official.ptb"} <= after
    assert not HEAVY & after


# --- facts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_facts_are_complete(root, name):
    made = catalogue.info(name)
    assert all((made.title, made.description, made.licence, made.citation, made.homepage))
    assert len(made.checksum) == 64 and catalogue.fingerprint(name) == made.checksum
    assert made.megabytes > 0 and made.sources
    assert not catalogue.is_cached(name)


def test_the_data_of_smoke_needs_no_client_but_pip():
    smoke = {"digits", "mni152", "wikipedia-excerpt", "mobilenetv2-imagenet"}
    assert {n for n in NAMES if catalogue.info(n).pip_only} == smoke
    for name in smoke:
        first = [s for s in catalogue.info(name).sources if isinstance(s, Source)][0]
        assert all(isinstance(file.client, sources.Pip) for file in first.files)


def test_unknown_names_get_a_hint():
    with pytest.raises(ReproError, match="did you mean fashion-mnist"):
        catalogue.load("fashion_mnist")
    with pytest.raises(ReproError, match="choose among cifar10"):
        catalogue.info("zzz")


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_explains_itself_offline(root, name, monkeypatch):
    def missing(installed, network):
        raise Unavailable(f"{installed.distribution} is not installed")

    monkeypatch.setattr(Installed, "read", missing)
    with pytest.raises(ReproError) as caught:
        catalogue.prepare(name)
    for made in catalogue.info(name).sources:
        for file in getattr(made, "files", ()):
            assert f"{root / 'downloads' / file.name} <- " in str(caught.value)
            assert file.sha256 is None or file.sha256 in str(caught.value)


# --- contents -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_cached_copy_has_its_content(have, name):
    have(name)
    assert catalogue.verify(name)


def test_a_damaged_copy_says_how_to_mend_it(root, monkeypatch):
    folder = cache.dataset_folder("gpt2-bpe", catalogue.fingerprint("gpt2-bpe"))
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "encoder.json").write_text("[")
    with pytest.raises(ReproError) as caught:
        catalogue.load("gpt2-bpe")
    message = str(caught.value)
    assert message.startswith(f"{folder} is damaged or edited")
    assert (
        "cannot be prepared again: data set gpt2-bpe is missing" in message
        and "run `repro data gpt2-bpe`" in message
    )
    assert "\n" not in message
    assert not catalogue.verify("gpt2-bpe")


# --- the command line and the cache ---------------------------------------------------------------


def test_command_line(root, capsys):
    cli.data()
    rows = [line.split()[1] for line in capsys.readouterr().out.splitlines() if " MB " in line]
    assert rows == NAMES
    with pytest.raises(ReproError, match="cifar10 is missing"):
        cli.data(["cifar10"])
    with pytest.raises(ReproError, match="did you mean cifar10"):
        cli.data(["digits", "cifar"])
    assert not cache.root().exists() or not catalogue.is_cached("digits")


def test_verify_reads_the_content(root, capsys):
    cli.data(["digits"], verify=True)
    assert capsys.readouterr().out.startswith("digits: ")
    (folder,) = (cache.root() / "datasets").glob("digits-*")
    arrays = dict(np.load(folder / cache.ARRAYS))
    name = min(arrays)
    arrays[name] = np.flip(arrays[name])
    np.savez(folder / cache.ARRAYS, **arrays)
    assert not catalogue.verify("digits")
    cli.data(verify=True)
    assert catalogue.verify("digits")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("REPRO_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.root() == tmp_path / ".cache" / "repro-data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg" / "repro-data"
    monkeypatch.setenv("REPRO_DATA", "~/mine")
    assert cache.root() == tmp_path / "mine"
