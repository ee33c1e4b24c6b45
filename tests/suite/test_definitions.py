"""Definitions: what a function reaches, and which edits of a source change what it means."""

import textwrap

import pytest

from repro.errors import ReproError
from repro.suite import definitions

BASE = {
    "__init__": "",
    "a": """
        from methods.d import b
        from methods.d.b import helper as renamed

        LIMIT = 3
        TABLE = {"x": LIMIT}
        OTHER = 5

        def root(job):
            \"\"\"Words.\"\"\"
            from methods.d import e
            for i in job.progress(range(3), "a title"):
                job.log.info("at %d", i)
            if job is None:
                raise ValueError(f"no {words()}")
            return renamed(TABLE) + b.deep.inner + e.late()

        def words():
            return "job"

        def apart():
            return OTHER

        class Kind:
            field: int = LIMIT

            def method(self):
                return apart()
        """,
    "b": """
        from methods.d import deep

        def helper(table, scale=1.0):
            apart = 2
            return len(table) * apart * scale

        def unused():
            return deep
        """,
    "deep": "inner = 1\nouter = 2\n",
    "c": "def starred():\n    return 1\n",
    "e": "STATE = {}\nSTATE['x'] = 1\n\ndef late():\n    return 2\n\ndef later():\n    return 3\n",
}


@pytest.fixture
def tree(toy):
    folder = toy / "methods" / "d"
    folder.mkdir()

    def write(**changes):
        for name, text in (BASE | changes).items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        definitions._module.cache_clear()

    write()
    return write


def reached(name="root"):
    return definitions.closure([f"methods.d.a:{name}"])


def test_closure_is_what_a_function_names_and_no_more(tree):
    assert set(reached()) == {
        "methods.d.a:root",
        "methods.d.a:TABLE",
        "methods.d.a:LIMIT",
        "methods.d.b:helper",
        "methods.d.deep:inner",
        "methods.d.e:late",
        # runs whenever the module is imported
        "methods.d.e:<module>",
        "methods.d.e:STATE",
    }
    assert set(reached("Kind")) >= {"methods.d.a:apart", "methods.d.a:OTHER", "methods.d.a:LIMIT"}


SAME = {
    "a comment": ("a", "return renamed", "# why\n            return renamed"),
    "a docstring": ("a", "Words.", "Other words."),
    "a layout": ("a", "OTHER = 5", "OTHER  =  (5)"),
    "an annotation": ("a", "def root(job):", "def root(job: object) -> float:"),
    "the text of an error": ("a", 'f"no {words()}"', '"none"'),
    "a log message": ("a", "at %d", "now at %d"),
    "the title of a bar": ("a", "a title", "another title"),
    "a function that is not reached": ("a", "return OTHER", "return OTHER + 1"),
    "a constant that is not reached": ("a", "OTHER = 5", "OTHER = 6"),
    "a new name": ("a", "LIMIT = 3", "LIMIT = 3\n        NEW = 4"),
    "a constant of another module that is not reached": ("deep", "outer = 2", "outer = 3"),
    "a local name like that of a definition": ("a", "return OTHER", "return OTHER - 1"),
    "a neighbour in a lazily imported module": ("e", "return 3", "return 4"),
}
OTHER = {
    "the body": ("a", "+ e.late()", "- e.late()"),
    "a condition": ("a", "if job is None", "if job is not None"),
    "the kind of an error": ("a", "raise ValueError", "raise KeyError"),
    "a constant": ("a", "LIMIT = 3", "LIMIT = 4"),
    "what a loop runs over": ("a", "range(3)", "range(4)"),
    "a function behind another name": ("b", "* apart", "+ apart"),
    "a default": ("b", "scale=1.0", "scale=2.0"),
    "an attribute of a module of a module": ("deep", "inner = 1", "inner = 3"),
    "a lazily imported function": ("e", "return 2", "return 5"),
    "a statement at the top of an imported module": ("e", "STATE['x'] = 1", "STATE['x'] = 2"),
}


@pytest.mark.parametrize("edit", SAME)
def test_edits_that_mean_nothing(tree, edit):
    before = reached()
    module, old, new = SAME[edit]
    assert old in BASE[module]
    tree(**{module: BASE[module].replace(old, new)})
    assert reached() == before


@pytest.mark.parametrize("edit", OTHER)
def test_edits_that_mean_something(tree, edit):
    before = reached()
    module, old, new = OTHER[edit]
    assert old in BASE[module]
    tree(**{module: BASE[module].replace(old, new)})
    assert reached() != before


@pytest.mark.parametrize(
    ("body", "also"),
    [
        ("from methods.d import deep\n    return deep", {"inner", "outer"}),
        ("from methods.d import deep\n    return getattr(deep, name)", {"inner", "outer"}),
        ("from methods.d import c\n    return c.made_by_syntax_unseen", {"starred"}),
    ],
)
def test_a_module_that_cannot_be_followed_counts_as_a_whole(tree, body, also):
    tree(f=f"def dynamic(name):\n    {body}\n")
    names = {label.split(":")[1] for label in definitions.closure(["methods.d.f:dynamic"])}
    assert also <= names


def test_an_import_that_is_tried_at_the_top_is_followed(tree):
    tree(
        f="""
        try:
            from methods.d.b import helper
        except ImportError:
            helper = None

        def f():
            return helper([])
        """
    )
    assert "methods.d.b:helper" in definitions.closure(["methods.d.f:f"])


def test_a_star_import_counts_as_a_whole(tree):
    tree(f="from methods.d.deep import *\n\ndef f():\n    return inner\n")
    found = set(definitions.closure(["methods.d.f:f"]))
    assert found == {"methods.d.f:f", "methods.d.deep:inner", "methods.d.deep:outer"}


def test_a_name_of_a_local_scope_is_no_definition(tree):
    text = "LIMIT = 1\n\ndef f(LIMIT):\n    g = lambda x: x\n    return [g(LIMIT) for g in LIMIT]\n"
    tree(f=text + "\n\ndef g():\n    return LIMIT\n")
    assert set(definitions.closure(["methods.d.f:f"])) == {"methods.d.f:f"}
    assert set(definitions.closure(["methods.d.f:g"])) == {"methods.d.f:g", "methods.d.f:LIMIT"}


def test_what_only_speaks_is_not_followed():
    found = definitions.closure(["repro.job:Job"])
    assert not [label for label in found if label.startswith(definitions.REMARKS)]
    assert not [label for label in found if label.startswith("repro.data")]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("methods.nothing:x", "no module `methods.nothing`"),
        ("methods.d.a:rot", "no `rot` .did you mean `root`"),
    ],
)
def test_unknown_roots_are_named(tree, root, message):
    with pytest.raises(ReproError, match=message):
        definitions.closure([root])


def test_a_source_that_is_not_python_is_named(tree):
    tree(a="def root(:\n")
    with pytest.raises(ReproError, match="a.py line 1: "):
        reached()


def test_what_was_read_once_is_remembered_until_the_text_changes(tree, tmp_path):
    before = reached()
    definitions._keep()
    definitions._index.cache_clear()
    definitions._module.cache_clear()
    try:
        assert len(definitions._index()) >= 5 and reached() == before
        tree(a=BASE["a"].replace("LIMIT = 3", "LIMIT = 9"))
        assert reached() != before
    finally:
        definitions._index.cache_clear()


def test_the_place_of_a_function_is_where_it_is_written(tmp_path, monkeypatch):
    folder = tmp_path / "methods" / "one"
    folder.mkdir(parents=True)
    (folder / "arms.py").write_text(
        "from methods.one.other import run as go\n\n\n@x\ndef own():\n    pass\n"
    )
    (folder / "other.py").write_text("A = 1\n\n\ndef run():\n    pass\n")
    monkeypatch.setattr(definitions, "ROOT", tmp_path)
    definitions._module.cache_clear()
    assert definitions.place("methods.one.arms:own") == (folder / "arms.py", 5)
    assert definitions.place("methods.one.arms:go") == (folder / "other.py", 4)
    assert definitions.place("methods.one.arms:gone") is None
    assert definitions.place("elsewhere:run") is None


def test_the_texts_of_a_figure_are_those_that_it_reaches_in_its_module(tmp_path, monkeypatch):
    folder = tmp_path / "methods" / "one"
    folder.mkdir(parents=True)
    (folder / "figures.py").write_text(
        'ARMS = ["a"]\n\n\ndef draw(r):\n    return part(r, "fid")\n\n\n'
        'def part(r, name):\n    return [r(arm) for arm in ARMS]\n\n\ndef other():\n    "b"\n'
    )
    monkeypatch.setattr(definitions, "ROOT", tmp_path)
    assert definitions.texts("methods.one.figures:draw") == {"a", "fid"}
    assert definitions.texts("elsewhere:draw") == frozenset()
