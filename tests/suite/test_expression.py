import itertools
import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from repro.coordinates import at_key, canonical, matching, outside
from repro.documents import one_line
from repro.errors import ReproError
from repro.suite.expression import Reference, parse

VALUES = {
    Reference("nfe", "radd", "steps=64"): 32.0,
    Reference("nfe", "sedd-scale", "steps=64"): 65.0,
    Reference("error", "exact", "item=theorem-1"): -3e-9,
    Reference("x", "a", ""): 2.0,
}


def distance(check, lookup):
    """Signed distance of the worst link from its threshold."""
    return min(
        -abs(a - b) if op == "==" else (b - a if "<" in op else a - b)
        for op, (a, b) in zip(check.ops, itertools.pairwise(check.sides(lookup)), strict=True)
    )


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        ("nfe[radd, steps=64] / nfe[sedd-scale, steps=64] <= 0.5", 0.5 - 32 / 65),
        ("abs(error[exact, item=theorem-1]) <= 1e-9", 1e-9 - 3e-9),
        ("x[a] ** 3 - 2 * 3 >= 2", 0.0),
        ("-x[a] + 1 < 0", 1.0),
        ("1.5 <= x[a] <= 2.25", 0.25),
        ("x[a] == 2", 0.0),
        ("x[a] == 5", -3.0),
        ("max(x[a], 3) + min(1, 2) + mean(1, 2, 3) <= 10", 4.0),
        ("log(exp(x[a])) * sqrt(4) > 3", 1.0),
        ("2 ** -1 * x[a] <= (1 + 1) * 1", 1.0),
        ("-x[a] ** 2 <= 0", 4.0),
    ],
)
def test_margin(text, margin):
    assert distance(parse(text), VALUES.__getitem__) == pytest.approx(margin, abs=1e-12)


def test_strictness():
    assert not parse("x[a] < 2").holds(VALUES.__getitem__)
    assert parse("x[a] <= 2").holds(VALUES.__getitem__)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nfe[radd]", "needs a comparison"),
        ("nfe <= 3", "neither a function"),
        ("__import__('os') <= 3", "unexpected"),
        ("nfe[radd, 64] <= 3", "key=value"),
        ("nfe[] <= 3", "no arm"),
        ("1 <= ", "ends"),
        ("(1 <= 2", "expected `)`"),
        ("1 <= 2 3", "unexpected `3`"),
        ("x[a].real <= 2", "unexpected"),
        ("error[exact, item=a-*] <= 1", r"holds a `*`; it stands only directly inside min, max"),
        ("max(abs(error[exact, item=*])) <= 1", "only directly inside"),
        ("max(2 * error[exact, item=*]) <= 1", "only directly inside"),
        ("sqrt(x[a], 2) <= 1", "`sqrt` takes one argument, found 2"),
    ],
)
def test_rejects(text, why):
    with pytest.raises(ReproError, match=re.escape(why)):
        parse(text)


@pytest.mark.parametrize("text", ["x[a] / 0 < 1", "log(x[a] - 2) < 1", "(0 - x[a]) ** 0.5 < 1"])
def test_no_value(text):
    with pytest.raises(ReproError, match="no value"):
        parse(text).sides(VALUES.__getitem__)


ITEMS = {f"item={name}": value for name, value in [("a-1", 0.5), ("a-2", 2.0), ("b", 9.0)]}


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        ("max(error[exact, item=a-*]) <= 3", 1.0),
        ("min(error[exact, item=*], 1) <= 3", 2.5),
        ("mean(error[exact, item=a-*], 3.5) <= 3", 1.0),
        ("max(error[exact, item=*-1]) / x[a] <= 1", 0.75),
        ("2 - max(error[exact, item=b], error[exact, item=a-*]) <= 3 * 4", 19.0),
    ],
)
def test_wildcards_mean_every_coordinate_that_matches(text, margin):
    check = parse(text)
    found = {Reference("error", "exact", at): value for at, value in ITEMS.items()}
    meant = {
        r: [f for f in found if fnmatchcase(f.at, r.at)] if r.name == "error" else [r]
        for r in check.references()
    }
    expanded = check.expanded(meant)
    assert "*" not in "".join(r.at for r in expanded.references())
    assert distance(expanded, (VALUES | found).__getitem__) == pytest.approx(margin)
    assert expanded.text == text


GRIDS = [{"item": ["a", "b"], "steps": ["4", "8"]}, {"item": ["c"], "steps": ["16"]}, {"of": ["x"]}]


@pytest.mark.parametrize(
    ("at", "why"),
    [
        ({"item": "a", "steps": 8}, ""),
        ({"steps": 16.0, "item": "c"}, ""),
        ({"of": "x"}, ""),
        ({"item": "a", "stpes": 8}, "unknown coordinate `stpes` (did you mean `steps`?)"),
        ({"item": "a"}, "has the coordinates item, steps or of, not item"),
        ({}, "has the coordinates item, steps or of, not none"),
        ({"item": "d", "steps": 4}, "unknown item `d`"),
        ({"item": "a", "steps": 16}, "no combination item=a, steps=16"),
    ],
)
def test_points_outside_of_all_grids(at, why):
    assert outside(at, GRIDS) == why
    key = {k: canonical(v) for k, v in at.items()}
    assert any(matching(grid, key) == [at_key(at)] for grid in GRIDS) == (why == "")


def test_points_that_match():
    grid = {"steps": ["4", "8", "16"], "item": ["a-1", "b"]}
    assert matching(grid, {"item": "a-*", "steps": "*"}) == [
        "item=a-1,steps=4",
        "item=a-1,steps=8",
        "item=a-1,steps=16",
    ]
    assert matching(grid, {"item": "c*", "steps": "4"}) == []
    assert matching(grid, {"item": "*"}) == []


def test_at_key_is_canonical():
    assert at_key({"steps": 64.0, "batch": "8"}) == at_key({"batch": 8, "steps": "64"})
    assert at_key({"x": 0.5}) == "x=0.5" == at_key({"x": "0.50"})


@given(st.text(max_size=40))
@example("\U00010000" * 40)  # longer than a message quotes, once it is written out
def test_never_fails_otherwise(text):
    try:
        parse(text)
    except ReproError as error:
        assert str(error).startswith(f"check `{one_line(text, 120)}`: ")


def test_a_control_may_take_one_measurement():
    check = parse("loss[ours, steps=4, kind=a] < loss[ours, steps=4, kind=b]")
    control = check.renamed({"loss[ours, kind=a, steps=4]": "loss[other, steps=8]"})
    assert control.text == "loss[other, steps=8] < loss[ours, kind=b, steps=4]"
    assert check.renamed({"steps=4": "steps=2"}).text.count("steps=2") == 2


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ({"kind=a": "kind=b"}, "compared with itself"),
        ({"theirs": "other"}, "`theirs` does not occur"),
        ({"loss[ours]": "loss[other]"}, "does not occur"),
        ({"loss[ours] + 1": "loss[other]"}, "is not one measurement"),
        ({"kind=a": "kind"}, "key=value"),
    ],
)
def test_controls_that_say_nothing(names, why):
    check = parse("loss[ours, steps=4, kind=a] < loss[ours, steps=4, kind=b]")
    with pytest.raises(ReproError, match=why):
        check.renamed(names)
