"""The committed tables: what is written is read back, and what cannot be read is named."""

import pytest

from repro.coordinates import at_key, from_key
from repro.errors import ReproError
from repro.suite import records


@pytest.mark.parametrize(
    ("at", "key"),
    [
        ({}, ""),
        ({"steps": 64}, "steps=64"),
        ({"steps": 64, "batch": "8"}, "batch=8,steps=64"),
        ({"scale": 0.1, "t": 1e-7}, "scale=0.1,t=1e-07"),
        ({"kink": 3.0}, "kink=3"),
        ({"scores": "true", "on": True}, "on=true,scores=true"),
        ({"item": "a=b", "net": "inf"}, "item=a=b,net=inf"),
    ],
)
def test_coordinates_are_read_back(at, key):
    assert at_key(at) == key
    again = from_key(key)
    assert at_key(again) == key
    for name, value in at.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            assert again[name] == value


def test_numbers_come_back_as_numbers_and_words_as_words():
    assert from_key("a=64,b=0.5,c=x,d=true") == {"a": 64, "b": 0.5, "c": "x", "d": "true"}
    assert isinstance(from_key("a=64")["a"], int)


@pytest.mark.parametrize("key", ["steps", "=4", "a=1,,b=2"])
def test_what_is_no_coordinate(key):
    with pytest.raises(ValueError, match="is not of the form name=value"):
        from_key(key)


def test_the_hash_is_over_names_places_and_values():
    def of(name="loss", at=None, value=0.5):
        measured = {"name": name, "at": at or {"steps": 4}, "value": value}
        return records.measured_sha256({"measurements": [measured]})

    assert of() == of(at={"steps": 4.0})
    changed = [of("los"), of(at={"steps": 5}), of(value=0.5000000000000001), of(value=-0.5)]
    assert len({of(), *changed}) == 5
    assert of(value=0.0) != of(value=-0.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arm,seed", "seed,arm", "records.csv: its columns are not method, arm, seed"),
        (",0,", ",zero,", "records.csv row 2: invalid literal"),
        ('"{""', '"{', "records.csv row 2: "),
        ("\n", ",more\n", "records.csv: its columns are not"),
    ],
)
def test_damage_names_table_and_row(published, old, new, message):
    path = published.folder / "records.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ReproError, match=message):
        records.read_runs(published.folder, "small")


def test_a_short_row_is_named(published):
    path = published.folder / "runs.csv"
    path.write_text(path.read_text() + "toy,ours\n")
    with pytest.raises(ReproError, match=r"runs.csv row \d+: does not have 8 fields"):
        records.read_runs(published.folder, "small")
