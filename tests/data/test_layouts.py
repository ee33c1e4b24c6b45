"""Official data: every module declares one layout, and says what is missing and where it goes."""

import importlib
import pkgutil

import pytest

from repro.data import official
from repro.data.corpora import Corpus, ZeroShotCorpus
from repro.data.layouts import Layout
from repro.errors import ReproError

MODULES = [found.name for found in pkgutil.iter_modules(official.__path__)]


def layout_of(module):
    return importlib.import_module(f"{official.__name__}.{module}").LAYOUT


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_one_layout_of_its_name(module):
    found = importlib.import_module(f"{official.__name__}.{module}")
    assert [v for v in vars(found).values() if isinstance(v, Layout)] == [found.LAYOUT]
    assert found.LAYOUT.name == module.replace("_", "-")
    assert all((found.LAYOUT.title, found.LAYOUT.obtain, found.LAYOUT.licence))


@pytest.mark.parametrize("module", MODULES)
def test_missing_files_are_named_with_their_place(root, module):
    layout = layout_of(module)
    with pytest.raises(ReproError) as caught:
        layout.locate()
    message = str(caught.value)
    assert "\n" not in message
    assert str(root / "official" / layout.name) in message and layout.obtain in message
    for pattern in layout.files:
        assert pattern.replace("|", " or ") in message


def test_only_what_is_missing_is_named(tmp_path):
    (tmp_path / "ptb.train.txt").write_text("")
    with pytest.raises(ReproError, match=r": ptb\.valid\.txt, ptb\.test\.txt missing"):
        layout_of("ptb").locate(tmp_path)


def test_one_of_two_patterns_is_enough(tmp_path):
    layout = layout_of("openwebtext")
    (tmp_path / "a.txt").write_text("")
    assert layout.locate(tmp_path) == tmp_path


def test_corpora_are_read_by_split(tmp_path):
    corpora = [layout for m in MODULES if isinstance(layout := layout_of(m), Corpus)]
    assert len(corpora) == 6
    for corpus in corpora:
        folder = tmp_path / corpus.name
        for pattern in corpus.files:
            path = folder / pattern.split("|")[0].replace("*", "1")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        with pytest.raises(ReproError, match="no split 'validation'"):
            corpus.rows("validation", folder)
        assert not isinstance(corpus, ZeroShotCorpus) or corpus.evaluated in corpus.splits
