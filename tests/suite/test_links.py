"""Checks taken apart: what min and max say, link by link."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from repro.suite.expression import parse, text
from repro.suite.links import clauses


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("x[a] <= 2", ["x[a] <= 2"]),
        ("x[a] >= 2", ["2 <= x[a]"]),
        ("1 < x[a] < x[b]", ["1 < x[a]", "x[a] < x[b]"]),
        ("x[a] == 2", ["x[a] == 2"]),
        ("x[a] <= min(x[b], x[c])", ["x[a] <= x[b]", "x[a] <= x[c]"]),
        ("max(x[a], x[b]) < 1", ["x[a] < 1", "x[b] < 1"]),
        ("min(x[a], x[b]) < 1", ["x[a] < 1 or x[b] < 1"]),
        ("x[c] < max(x[a], x[b])", ["x[c] < x[a] or x[c] < x[b]"]),
        (
            "max(x[a], x[b]) <= min(x[c], x[d])",
            ["x[a] <= x[c]", "x[a] <= x[d]", "x[b] <= x[c]", "x[b] <= x[d]"],
        ),
        ("1.1 * max(x[a], x[b]) / 2 < x[c]", ["1.1 * x[a] / 2 < x[c]", "1.1 * x[b] / 2 < x[c]"]),
        ("min(max(x[a], x[b]), x[c]) < 1", ["x[a] < 1 or x[c] < 1", "x[b] < 1 or x[c] < 1"]),
        ("mean(x[a], x[b]) < 1", ["mean(x[a], x[b]) < 1"]),
        ("2 - max(x[a], x[b]) < 1", ["2 - max(x[a], x[b]) < 1"]),
        ("-1 * (x[a] - x[b]) ** 2 < 1", ["-1 * (x[a] - x[b]) ** 2 < 1"]),
        ("(x[a] - x[b]) - (x[c] - x[d]) < 1", ["x[a] - x[b] - (x[c] - x[d]) < 1"]),
    ],
)
def test_clauses(check, expected):
    assert [" or ".join(map(str, clause)) for clause in clauses(parse(check))] == expected


@pytest.mark.parametrize(
    ("check", "positive"),
    [
        ("x[a] / x[b] <= 0.5", True),
        ("2 * x[a] + 1 < mean(x[b], x[c])", True),
        ("x[a] - x[b] < 1", False),
        ("x[a] < -1", False),
        ("log(x[a]) < 1", False),
        ("x[a] < 0", False),
        ("sqrt(x[a]) ** 2 < exp(x[b])", True),
    ],
)
def test_what_may_be_compared_by_its_ratio(check, positive):
    [[link]] = clauses(parse(check))
    assert link.positive == positive


names = st.sampled_from(["x[a]", "x[b]", "x[c]", "1", "2.5"])
sides = st.recursive(
    names,
    lambda inner: st.one_of(
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max", "mean"]), inner, inner),
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*"]), inner),
        st.builds("2 * {}".format, inner),
    ),
    max_leaves=6,
)


@given(
    sides,
    st.sampled_from(["<", "<=", ">", ">=", "=="]),
    sides,
    st.tuples(*[st.integers(-3, 3)] * 3),
)
def test_clauses_say_what_the_check_says(left, op, right, values):
    assume(left != right)  # refused: a side compared with itself
    check = parse(f"{left} {op} {right}")
    known = dict(zip("abc", map(float, values), strict=True))

    def lookup(reference):
        return known[reference.arm]

    said = all(any(link.holds(lookup) for link in clause) for clause in clauses(check))
    assert said == check.holds(lookup)
    for link in itertools.chain(*clauses(check)):
        if link.low != link.high:
            assert parse(str(link)).holds(lookup) == link.holds(lookup)
    assert all(parse(f"{text(term)} < x[z]").terms for term in check.terms)
