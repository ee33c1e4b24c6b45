"""The short form of the campaign: every case that is quick, one test each."""

import pytest

from torture import cards
from torture.case import GOOD, cases, families

QUICK = {
    f"{family}: {case.name}": case
    for family in families()
    for case in cases(family)
    if not case.slow
}


@pytest.mark.parametrize("name", QUICK)
def test_refused_or_right(name):
    outcome, said = QUICK[name].outcome()
    assert outcome in GOOD, f"{outcome}: {said}"


@pytest.mark.parametrize("family", families())
def test_names_are_unique(family):
    names = [case.name for case in cases(family)]
    assert len(set(names)) == len(names)


def test_what_cases_damage_is_whole_before(tmp_path):
    """Else every case on cards would be refused for something that it did not do."""
    method = cards.load(cards.write(tmp_path, cards.CARDS))
    assert set(method.experiment.arms) == {"ours", "base", "exact"}
