"""The zoo: shipped weights and their provenance, loading, features, scores and training."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from repro import store
from repro.data import catalogue
from repro.diffusion import samplers
from repro.diffusion.schedules import alphas_cumprod, linear_betas, timesteps_uniform
from repro.errors import ReproError
from repro.job import Job
from repro.nets.preconditioned import PreconditionedDenoiser
from repro.suite import fingerprint, zoo
from repro.suite.cards import library
from repro.suite.ship import grid_image
from repro.zoo import pretrained, slices, train

NAMES = zoo.names()
EPS = [n for n in NAMES if n.endswith("conditional")]
SHAPES = {"fashion-mnist": (1, 32, 32), "cifar10": (3, 32, 32), "digits": (1, 8, 8)}
LIMIT_BYTES = 12 * 2**20


def job_with(*names: str) -> Job:
    return zoo.job(models={f"zoo/{n}": zoo.shipped(n)[0] for n in names})


def shape_of(name: str) -> tuple[int, int, int]:
    return SHAPES[zoo.params(name)["dataset"]]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_are_what_their_provenance_says(name):
    state, provenance = zoo.shipped(f"zoo/{name}")
    module = zoo.build(name)
    module.load_state_dict(state)
    card = library.zoo().models[name]
    path = fingerprint.shipped_path(card.shipped)
    assert path.stat().st_size <= LIMIT_BYTES
    assert provenance["model"] == name
    assert provenance["parameters"] == sum(p.numel() for p in module.parameters())
    assert provenance["params"] == json.loads(json.dumps(card.params))
    assert provenance["train"] == card.train
    assert provenance["data"] == {n: catalogue.fingerprint(n) for n in card.data}
    assert len(provenance["commit"]) == 40 and provenance["train_hours"] > 0
    assert provenance["curve"][-1] < provenance["curve"][0]
    assert provenance["measured"] and provenance["libraries"]["torch"]
    assert all(v.isfinite().all() for v in state.values())
    if card.params["store"] == "float16":
        assert all(torch.equal(v, v.half().float()) for v in state.values())


@pytest.mark.parametrize("damage", ["truncated", "foreign", "no provenance"])
def test_damaged_weights_are_refused(tmp_path, damage):
    source = fingerprint.shipped_path(library.zoo().models["digits-unconditional"].shipped)
    path = tmp_path / source.name
    shutil.copy(source, path)
    shutil.copy(source.with_suffix(".json"), path.with_suffix(".json"))
    assert pretrained.shipped(path)[0]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "foreign":
        store.write_tensors(path, {"weight": torch.zeros(3)}, {})
    else:
        path.with_suffix(".json").unlink()
    with pytest.raises(ReproError, match=rf"{tmp_path}.*(restore it|run its job)") as error:
        pretrained.shipped(path)
    assert "\n" not in str(error.value)


def test_unknown_name_suggests_the_known():
    with pytest.raises(ReproError, match="has no model 'zoo/fashion'.*fashion-mnist-unconditional"):
        zoo.build("zoo/fashion")


def test_weights_of_another_network_are_refused():
    state = zoo.shipped("digits-unconditional")[0]
    job = zoo.job(models={"zoo/fashion-mnist-unconditional": state})
    with pytest.raises(ReproError, match="do not fit its network.*one commit"):
        pretrained.network(job, "zoo/fashion-mnist-unconditional")


@pytest.mark.parametrize("name", EPS)
def test_epsilon_networks_predict_noise(name):
    """On real test images at t = 300 the error is far below 1, that of predicting zero."""
    net = pretrained.network(job_with(name), f"zoo/{name}")
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    dataset = zoo.params(name)["dataset"]
    test = catalogue.load(dataset).test
    x0 = train.scaled(train.images(test, dataset)[:32], dataset)
    assert x0.shape[1:] == shape_of(name) and x0.min() == -1 and x0.max() <= 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x0.shape, generator=generator)
    a = alphas_cumprod(linear_betas())[300].float()
    t = torch.full((len(x0),), 300)
    labels = torch.from_numpy(np.array(test.labels[:32]))
    y = labels if net.num_classes else None
    error = (net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, y) - noise).square().mean()
    assert error < 0.25


@pytest.mark.parametrize("name", [n for n in EPS if not n.endswith("unconditional")])
def test_conditional_networks_use_their_labels(name):
    """The true label explains noisy test images better than a false one does, on average."""
    net = pretrained.network(job_with(name), name)
    dataset = zoo.params(name)["dataset"]
    test = catalogue.load(dataset).test
    x0 = train.scaled(train.images(test, dataset)[:64], dataset)
    y = torch.from_numpy(np.array(test.labels[:64]))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    a = alphas_cumprod(linear_betas())[600].float()
    x, t = a.sqrt() * x0 + (1 - a).sqrt() * noise, torch.full((64,), 600)
    true = (net(x, t, y) - noise).square().mean((1, 2, 3))
    false = (net(x, t, (y + 3) % 10) - noise).square().mean((1, 2, 3))
    assert true.mean() < false.mean() and (true < false).float().mean() > 0.6
    none = torch.full_like(y, 10)
    assert torch.allclose(net(x, t), net(x, t, none), atol=1e-6)


def test_samples_of_digits_are_in_the_range_of_the_data():
    net = pretrained.network(job_with("digits-unconditional"), "digits-unconditional")
    x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = samplers.ddim(net, x, timesteps_uniform(1000, 20), alphas_cumprod(linear_betas()))
    split = catalogue.load("digits").train
    real = train.scaled(train.images(split, "digits"), "digits")
    assert (y.mean(0) - real.mean(0)).abs().mean() < 0.15
    assert abs(y.std() - real.std()) < 0.15


def test_classifier_features_separate_the_classes():
    job = job_with("fashion-mnist-classifier")
    test = catalogue.load("fashion-mnist").test
    x = train.scaled(train.images(test, "fashion-mnist")[:300], "fashion-mnist")
    f = pretrained.features(job)(x)
    assert f.shape == (300, zoo.params("fashion-mnist-classifier")["classifier"]["features"])
    net = pretrained.network(job, "fashion-mnist-classifier")
    y = torch.from_numpy(np.array(test.labels[:300]))
    assert (net(x).argmax(1) == y).float().mean() > 0.85


def test_colour_features_name_an_unreadable_file(tmp_path, monkeypatch):
    broken = tmp_path / "net.pth"
    broken.write_bytes(b"nothing")
    monkeypatch.setattr(catalogue, "load", lambda name: broken)
    with pytest.raises(ReproError, match=r"net\.pth: is plain text.*delete this file"):
        pretrained.colour_features(zoo.job())


def test_colour_features_are_those_of_torchvision():
    if not catalogue.is_cached("mobilenetv2-imagenet"):
        pytest.skip("the MobileNetV2 file is not in the cache")
    from torchvision.models import mobilenet_v2
    from torchvision.transforms.v2 import functional as transforms

    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    f = pretrained.colour_features(zoo.job())(x)
    assert f.shape == (2, 1280)
    reference = mobilenet_v2()
    path = catalogue.load("mobilenetv2-imagenet")
    reference.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    reference.classifier = torch.nn.Identity()
    image = transforms.normalize(
        transforms.resize((x + 1) / 2, [224, 224], antialias=True),
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )
    with torch.no_grad():
        assert torch.allclose(f, reference.eval()(image), atol=1e-4)


def test_slice_score_denoises_held_out_slices():
    """One Tweedie step from σ = 0.1 removes three quarters of the error of unseen slices."""
    score = pretrained.network(job_with("mni152-score"), "mni152-score").score
    x0 = slices.volume_3mm(catalogue.load("mni152").t1)[list(slices.HELD_OUT)][:, None]
    sigma = 0.1
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    x = x0 + sigma * noise
    s = score(x, sigma)
    assert s.shape == x.shape
    assert torch.allclose(s, score(x, torch.full((len(x),), sigma)), atol=1e-5)
    error = (x + sigma**2 * s - x0).square().mean()
    assert error < 0.25 * sigma**2


def test_slice_score_at_great_noise_is_that_of_a_gaussian():
    """For σ far above the data the score tends to (mean − x) / σ²."""
    score = pretrained.network(job_with("mni152-score"), "mni152-score").score
    x = 50.0 * torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    denoised = x + 50.0**2 * score(x, 50.0)
    assert denoised.std() < 0.6 and denoised.abs().max() < 3


def test_preconditioning_has_its_closed_form():
    torch.manual_seed(0)
    net = PreconditionedDenoiser(lambda x, t: torch.ones_like(x), sigma_data=0.5, mean=0.2)
    sigma = torch.tensor([0.1, 5.0])
    c_skip, c_out, c_in = net.coefficients(sigma)
    assert torch.allclose(c_in**2 * (sigma**2 + 0.25), torch.ones(2))
    assert torch.allclose(c_skip**2 * sigma**2 + (1 - c_skip) ** 2 * 0.25, c_out**2 * torch.ones(2))
    x = torch.randn(2, 1, 4, 4)
    out = net(x, sigma)
    for i in range(2):
        assert torch.allclose(out[i], c_skip[i] * (x[i] - 0.2) + c_out[i] + 0.2, atol=1e-6)


def test_training_slices_stay_clear_of_the_held_out_block():
    """A voxel that only held-out slices contain must not reach the training set."""
    t1 = np.zeros((189, 233, 197), np.float32)
    low, high = slices.HELD_OUT.start * 3, slices.HELD_OUT.stop * 3
    t1[low:high] = 1.0
    assert slices.volume_3mm(t1)[list(slices.HELD_OUT)].min() == 1
    assert slices.training_slices(t1).max() == 0
    t1[low - 4] = t1[high + 3] = 1.0
    assert slices.training_slices(t1).max() > 0


def test_augmented_slices_stay_images():
    stack = slices.training_slices(catalogue.load("mni152").t1)
    generator = torch.Generator().manual_seed(0)
    x = slices.augment(stack[:16], generator)
    assert x.shape == (16, 1, 64, 64) and x.min() >= 0 and x.max() <= 1
    assert not torch.allclose(x[:, 0], stack[:16], atol=0.05)
    assert abs(x.mean() - stack[:16].mean()) < 0.05


@pytest.mark.parametrize("name", ["digits-unconditional", "fashion-mnist-conditional"])
def test_training_repeats_itself(tmp_path, name):
    """Two updates of the card's own training, twice: the same bits, and other bits by seed."""
    small = {"steps": 2, "warmup": 0, "batch": 4}

    def run(seed, folder):
        job = zoo.job("zoo", name, seed, {**zoo.params(name), **small}, scratch=tmp_path / folder)
        return train.denoiser(job)

    a, b, c = run(0, "a"), run(0, "b"), run(1, "c")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)
    zoo.build(name).load_state_dict(a)


def test_grid_image_places_images_in_rows():
    x = torch.full((6, 1, 2, 2), -1.0)
    x[4] = 1.0
    picture = grid_image(x, columns=3, zoom=2)
    assert picture.shape == (12, 18)
    assert picture[6:10, 6:10].min() == 255 and picture[:4, :4].max() == 0
    assert (picture[:, 4:6] == 128).all() and (picture[4:6] == 128).all()
