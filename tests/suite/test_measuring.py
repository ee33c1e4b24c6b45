"""`repro measure`: a folder of PNG images against a reference, end to end."""

import json

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from repro.data import cache, catalogue
from repro.errors import ReproError
from repro.metrics.fid import frechet_from_features
from repro.places import ROOT
from repro.suite import measuring, zoo
from repro.suite.measuring import Asked
from repro.zoo.judge import Judge
from repro.zoo.train import images, scaled
from tests.suite.export.test_outputs import call


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_WORK", str(tmp_path / "work"))
    return tmp_path / "work"


def pngs(folder, pixels):
    folder.mkdir(parents=True)
    for k, one in enumerate(pixels):
        Image.fromarray(one).save(folder / f"{k:04d}.png")
    return folder


@pytest.fixture
def digits(tmp_path, work):
    """300 images of digits that the classifier has seen, as PNG files of 8 bits."""
    train = catalogue.load("digits").train.images[:300]
    return pngs(tmp_path / "images", np.round(train * (255 / 16)).astype(np.uint8))


def test_the_numbers_are_those_of_the_judge_of_the_papers(digits):
    found = measuring.measure(Asked(digits, "digits"))
    assert [one.id for one in found.metrics] == ["fid", "kid", "precision", "recall"]
    state = {"zoo/digits-classifier": zoo.shipped("digits-classifier")[0]}
    params = {"dataset": "digits", "classifier": "zoo/digits-classifier"}
    judge = Judge(zoo.job(params=params, models=state))
    sets = catalogue.load("digits")
    own, real = (
        judge.features(scaled(images(split, "digits")[:n], "digits"))
        for split, n in ((sets.train, 300), (sets.test, None))
    )
    fid = found.metrics[0]
    assert fid.value == pytest.approx(frechet_from_features(own, real), rel=0.02)
    assert fid.title == "Fréchet distance" and fid.low < fid.value < fid.high
    assert found.n == 300 and found.n_reference == len(sets.test) and found.n_floor == 300
    assert found.features == "digits-classifier"
    assert found.features_sha256 == zoo.shipped("digits-classifier")[1]["sha256"]


def test_worse_images_score_worse_and_beyond_the_interval(digits, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8)
    good = measuring.measure(Asked(digits, "digits")).metrics
    bad = measuring.measure(Asked(pngs(tmp_path / "noise", noise), "digits")).metrics
    for one, other in zip(good, bad, strict=True):
        assert one.floor == other.floor and other.above_floor == other.value - other.floor
        if one.lower_is_better:
            assert one.high < other.low and other.value > other.floor
        else:
            assert one.low > other.high and other.value < other.floor


def test_features_are_kept_by_content(digits, work, monkeypatch):
    first = measuring.measure(Asked(digits, "digits"))
    kept = sorted((work / "features" / "digits-classifier").glob("*.npz"))
    kept[0].write_bytes(b"damaged")
    computed = []
    network = measuring._classifier

    def counted(*given):
        made = network(*given)
        return measuring.Network(
            made.name, made.digest, made.prepared, lambda x: computed.append(1) or made.extract(x)
        )

    monkeypatch.setattr(measuring, "_classifier", counted)
    assert measuring.measure(Asked(digits, "digits")) == first
    assert len(kept) > 2 and len(computed) == 1
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(digits / "0007.png")
    again = measuring.measure(Asked(digits, "digits"))
    assert len(computed) == 2 and again.images_sha256 != first.images_sha256


def test_copies_are_counted(tmp_path, work):
    test = np.round(catalogue.load("digits").test.images[:30] * (255 / 16)).astype(np.uint8)
    found = measuring.measure(Asked(pngs(tmp_path / "a", [*test, test[0]]), "digits"))
    assert found.copies_of_reference == 30 and found.copies_within == 1
    assert any("30 of the images are images of the reference" in note for note in found.notes)
    assert any("31 images are few" in note for note in found.notes)


def test_a_folder_against_a_folder_halves_the_reference(tmp_path, work, monkeypatch):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    def network(device):
        mix = rng.normal(size=(8 * 8 * 3, 5))
        return measuring.Network(
            "mobilenetv2-imagenet", "0", measuring._as_they_are,
            lambda x: x.reshape(len(x), -1) / 255 @ mix,
        )  # fmt: skip

    monkeypatch.setattr(measuring, "_mobilenet", network)
    one, other = (rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8) for n in (60, 50))
    found = measuring.measure(Asked(pngs(tmp_path / "a", one), str(pngs(tmp_path / "b", other))))
    assert found.n_floor == 25 and found.against == str(tmp_path / "b")
    assert any("25 images of" in note and "its other 25" in note for note in found.notes)


def test_inception_is_named_where_it_is_missing(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "root", lambda: tmp_path / "cache")
    with pytest.raises(ReproError, match="inception-2015-12-05.pt is missing"):
        measuring.network_of(
            Asked(digits, "x", features="inception"), measuring.Reference("x", None)
        )


def faulty(**changed):
    return lambda digits: Asked(**{"images": digits, "against": "digits", **changed})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (faulty(metrics=["fidd"]), "metric `fidd`.*take fid, kid, precision-recall"),
        (faulty(metrics=[]), "name each metric once"),
        (faulty(metrics=["kid", "kid"]), "name each metric once"),
        (faulty(features="vgg"), "--features `vgg`"),
        (faulty(split="validation"), "--split `validation`"),
        (faulty(against="digit"), "`digit` is no data set.*digits"),
        (faulty(against="english-text"), "holds no images"),
        (lambda digits: Asked(digits, str(digits)), "is compared with itself"),
        (lambda digits: Asked(digits, str(digits), split="train"), "--split goes with a data set"),
        (faulty(against="fashion-mnist", side=12), r"12 x 12 pixels, fashion-mnist 28 x 28; give"),
    ],
)
def test_what_is_refused(asked, message, digits):
    if "english-text" in str(asked(digits).against) or "fashion" in str(asked(digits).against):
        if not catalogue.is_cached(asked(digits).against):
            pytest.skip("its data set is not here")
    with pytest.raises(ReproError, match=message) as caught:
        measuring.measure(asked(digits))
    assert "\n" not in str(caught.value)


def test_colours_and_levels_that_digits_have_not(tmp_path, work):
    for name, pixels, message in (
        ("few", np.full((3, 8, 8), 9, np.uint8), "holds 3 images; 20 are needed"),
        ("raw", catalogue.load("digits").test.images[:30].astype(np.uint8), "spread the 17 levels"),
        ("red", np.full((30, 8, 8, 3), (9, 1, 1), np.uint8), "is in colour and digits is grey"),
    ):
        with pytest.raises(ReproError, match=message):
            measuring.measure(Asked(pngs(tmp_path / name, pixels), "digits"))


def test_the_command(digits, monkeypatch, capsys):
    words = ("measure", str(digits), "--against", "digits", "--metrics", "fid, precision-recall")
    status, text = call(monkeypatch, capsys, *words, "--json")
    schema = ROOT / "workflow" / "schemas" / "repro-measure.schema.yaml"
    found = json.loads(text)
    jsonschema.validate(found, yaml.safe_load(schema.read_text()))
    assert status == 0 and [one["id"] for one in found["metrics"]] == ["fid", "precision", "recall"]
    status, text = call(monkeypatch, capsys, *words)
    assert status == 0 and "note: floor: 300 images" in text
    assert "Fréchet distance ↓" in text  # in one piece, however narrow the terminal
