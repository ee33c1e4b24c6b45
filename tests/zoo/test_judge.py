"""The judge of generated images: features, distances to real images, pictures kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repro.data.catalogue import load
from repro.errors import ReproError
from repro.metrics.fid import frechet_from_features
from repro.suite import zoo
from repro.suite.cards import library
from repro.zoo import judge, pretrained, train

NAMES = {"digits": "zoo/digits-classifier", "fashion-mnist": "zoo/fashion-mnist-classifier"}


def a_judge(dataset: str = "digits", **params: object) -> judge.Judge:
    name = NAMES[dataset]
    values = {"dataset": dataset, "classifier": name, "samples": 32, "real": 200} | params
    return judge.Judge(zoo.job(params=values, models={name: zoo.shipped(name)[0]}))


def real(n: int, split: str = "test") -> torch.Tensor:
    part = getattr(load("digits"), split)
    return train.scaled(train.images(part, "digits"), "digits")[:n]


@pytest.mark.parametrize("side", [8, 16, 32])
def test_enlarging_repeats_pixels(side):
    x = torch.rand(2, 1, side, side)
    big = judge.enlarged(x)
    assert big.shape == (2, 1, 32, 32)
    assert torch.equal(big[..., :: 32 // side, :: 32 // side], x)


@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (1, 1, 16, 32), (1, 1, 64, 64)])
def test_sizes_that_cannot_be_enlarged_are_refused(shape):
    with pytest.raises(ReproError, match="cannot be enlarged"):
        judge.enlarged(torch.zeros(shape))


def test_the_classifier_of_digits_knows_held_out_digits():
    labels = torch.from_numpy(np.array(load("digits").test.labels))
    guess = a_judge().probabilities(real(10_000)).argmax(1)
    assert (guess == labels).float().mean() > 0.97


def test_real_images_are_near_and_noise_is_far():
    it = a_judge()
    held_out, noise = it.frechet(real(200, "train")), it.frechet(torch.randn(200, 1, 8, 8))
    assert held_out < 0.2 * noise


def test_the_distance_is_that_of_the_features_of_clipped_images():
    it, x = a_judge(), 3 * real(40)
    expected = frechet_from_features(it.features(x.clamp(-1, 1)), it.real_features)
    assert it.frechet(x) == pytest.approx(expected)
    assert it.real_features.shape == (200, 64)


def test_measures_are_recorded_at_their_place():
    it = a_judge()
    value = it.measure(real(100), nfe=4)
    found = {name: number for name, _, number in it.job.measured}
    assert found["frechet"] == value
    assert 0 <= found["recall"] <= 1 and 0 <= found["precision"] <= 1
    assert all(at == {"nfe": 4} for _, at, _ in it.job.measured)


def test_noise_belongs_to_the_seed_and_has_the_shape_of_the_data():
    one, same = a_judge(), a_judge()
    assert torch.equal(one.noise, same.noise)
    assert one.noise.shape == (32, 1, 8, 8)
    assert a_judge("fashion-mnist").shape == (1, 32, 32)


def test_a_grid_is_kept_as_bytes():
    it = a_judge()
    it.save_grid(torch.tensor([-2.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 8, 8), "grid", 2)
    kept = np.asarray(it.job.arrays["grid"])
    assert kept.dtype == np.uint8 and kept.shape == (2, 1, 8, 8)
    assert kept[:, 0, 0, 0].tolist() == [0, 128]


def test_the_classifier_trains_from_its_card(tmp_path):
    card = library.zoo().models["digits-classifier"]
    params = dict(card.params) | {"steps": 60, "warmup": 5}
    job = zoo.job(name="digits-classifier", params=params, scratch=tmp_path)
    state = judge.classifier(job)
    net = pretrained.build(params)
    net.load_state_dict(state)
    curve = np.asarray(job.arrays["curve"])
    assert curve[-10:].mean() < 0.8 * curve[:10].mean()
