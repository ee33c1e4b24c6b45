"""Classifier guidance: gradients, the guided sampler, its classifier and its searches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.autodiffusion import exact, guided, guided_arms, noisy_classifier, problems, searches
from methods.autodiffusion import method as ad
from methods.autodiffusion.noisy_classifier import NAME, NoisyClassifier
from repro.errors import ReproError
from repro.suite import zoo
from repro.suite.cards import library
from repro.zoo import pretrained

ENCODER = {"resolution": 8, "channels": 8, "mult": [1, 2], "patch": 1, "groups": 4}
CHAIN = ad.Candidate((120, 480, 870))


def rng(*stream):
    return torch.Generator().manual_seed(len("".join(map(str, stream))))


@pytest.fixture(scope="module")
def weights():
    names = ("zoo/digits-unconditional", "zoo/digits-classifier")
    torch.manual_seed(1)
    network = NoisyClassifier(**ENCODER)
    return {name: zoo.shipped(name)[0] for name in names} | {NAME: network.state_dict()}


@pytest.fixture
def job(weights, tmp_path):
    card = library.load("autodiffusion")
    params = card.model_params("smoke", "autodiffusion", "steps-guided")
    params |= {"samples": 12, "real": 40, "n": 10, "batch": 16, "precision": "float32"}
    return zoo.job(
        "autodiffusion", "steps-guided", 0, params, weights, scratch=tmp_path,
        model_params={NAME: {"encoder": ENCODER}},
    )  # fmt: skip


# Gradients ----------------------------------------------------------------------------------------


def test_closed_forms():
    errors = guided_arms.bayes_errors(rng)
    assert set(errors) == {"guidance-gradient", "guidance-bayes", "guidance-chain"}
    assert max(errors.values()) < 1e-11


def test_a_wrong_sign_or_scale_is_seen():
    """Bayes' rule holds for s = 1 alone, so the check of it can fail."""
    eps, gradient, abar = torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0.19, 0.0])
    expected = torch.tensor([[1 - 0.9], [0.0]]).expand(2, 3)
    torch.testing.assert_close(guided.guided(eps, gradient, abar, 1.0), expected)
    assert not torch.allclose(guided.guided(eps, gradient, abar, 0.5), expected)
    assert torch.equal(guided.guided(eps, gradient, abar, 0.0), eps)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_gradient_is_that_of_differences(seed):
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(5, 4, generator=generator, dtype=torch.float64)

    def classify(x, t):
        return (x * (1 + t[:, None] / 1000)).tanh() @ W.T

    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    t, y = torch.tensor([0, 400, 999]), torch.tensor([4, 0, 2])
    found = guided.log_gradient(classify, x, t, y)

    def log_p(x):
        return classify(x, t).log_softmax(1)[torch.arange(3), y]

    h = 1e-6
    for k in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[k] = h
        difference = (log_p(x + shift) - log_p(x - shift)) / (2 * h)
        torch.testing.assert_close(found[:, k], difference, rtol=1e-6, atol=1e-8)


def test_gradient_inside_inference_mode():
    network = NoisyClassifier(**ENCODER).eval().requires_grad_(False)
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 700]), torch.tensor([1, 9])
    outside = guided.log_gradient(network, x, t, y)
    with torch.inference_mode():
        # Tensors made here are what a sampler passes on.
        inside = guided.log_gradient(network, x * 1, t * 1, y * 1)
    assert torch.equal(outside, inside) and outside.abs().max() > 0
    assert not outside.requires_grad
    assert all(p.grad is None for p in network.parameters())


# The sampler --------------------------------------------------------------------------------------


def test_scale_zero_is_the_plain_sampler(job):
    plain, problem = problems.Images(job), guided.Guided(job, scale=0.0)
    assert torch.equal(problem.ddim(CHAIN), plain.ddim(CHAIN))
    assert problem.gradients == 0 and problem.network_evaluations == 3 * 12


def test_guidance_raises_what_the_classifier_sees(job):
    problem = guided.Guided(job, scale=20.0)
    y, t = problem.labels(12, "evaluation"), torch.zeros(12, dtype=torch.long)

    def mean_log_p(images):
        logits = problem.guide(images, t)
        return float(logits.log_softmax(1).gather(1, y[:, None]).mean())

    strong = problem.ddim(CHAIN)
    assert problem.gradients == problem.network_evaluations == 3 * 12
    problem.scale = 0.0
    assert mean_log_p(strong) > mean_log_p(problem.ddim(CHAIN)) + 0.01


def test_candidates_together_are_guided_as_alone(job):
    """Labels stay with their rows when candidates share a batch and batches are cut."""
    problem = guided.Guided(job, scale=3.0)
    other = ad.Candidate((40, 300, 990))
    x = torch.stack([problem.noise(7, i) for i in range(2)])
    y = torch.cat([problem.labels(7, i) for i in range(2)])
    together = problem.generate([CHAIN, other], x, y)
    for i, candidate in enumerate((CHAIN, other)):
        alone = problem.generate([candidate], x[i : i + 1], y[7 * i : 7 * i + 7])[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-4)


def test_labels_reach_network_and_classifier(job, weights):
    torch.manual_seed(0)
    unet = dict(zoo.params("digits-unconditional")["unet"], num_classes=10)
    network = pretrained.build({"unet": unet})
    problem = guided.Guided(job)
    problem.network = ad.SkippableUNet(network.eval().requires_grad_(False))
    seen = []
    inner = problem.network.network.forward
    problem.network.network.forward = lambda x, t, y: seen.append(y) or inner(x, t, y)
    problem.ddim(CHAIN)
    labels = problem.labels(12, "evaluation")
    assert len(seen) == 3 and all(torch.equal(y, labels) for y in seen)


def test_labels_are_uniform_and_others_are_named(job):
    labels = guided.Guided(job).labels(20_000, "many")
    assert guided_arms.chi_square(labels, 10) < 27.88
    skewed = torch.cat([labels, torch.zeros(600, dtype=torch.long)])
    assert guided_arms.chi_square(skewed, 10) > 27.88
    with pytest.raises(ReproError, match="0 ... 9"):
        guided_arms.chi_square(torch.tensor([0, 10]), 10)


def test_released_order_agrees_where_nothing_is_clipped(job):
    """Without a bound that acts, clipping first or last is the same sampler."""
    job.params._values["clip"] = 1e6
    problem = guided.Guided(job, scale=2.0)
    found = guided_arms.clipped_then_guided(problem, CHAIN)
    torch.testing.assert_close(problem.ddim(CHAIN), found, rtol=1e-3, atol=1e-3)
    assert problem.scale == 2.0


def test_released_order_leaves_what_guidance_adds_beyond_the_bound(job):
    problem = guided.Guided(job, scale=20.0)
    found = guided_arms.clipped_then_guided(problem, ad.Candidate((400,)))
    assert found.abs().max() > 1.0
    problem.scale = 0.0
    assert guided_arms.clipped_then_guided(problem, ad.Candidate((400,))).abs().max() <= 1 + 1e-4


# Searches -----------------------------------------------------------------------------------------


def test_search_keeps_its_scale_and_changes_no_weight(job, weights):
    before = {name: exact.digest(state) for name, state in weights.items()}
    kept = guided.search(job)
    assert float(kept["guidance"]) == 1.0
    assert len(searches.candidate(kept).steps) == 4
    assert {name: exact.digest(state) for name, state in weights.items()} == before
    again = guided.search(job)  # from the state on disk: nothing is evaluated anew
    assert all(torch.equal(kept[k], again[k]) for k in kept)


def test_searches_at_two_scales_begin_alike(job, tmp_path):
    kept = []
    for scale in (1.0, 0.0):
        job.params._values["guidance"] = scale
        job.scratch = tmp_path / str(scale)
        kept.append(guided.search(job))
    P = job.params.P
    assert torch.equal(kept[0]["history"][:P], kept[1]["history"][:P])
    assert not torch.equal(kept[0]["fitness"], kept[1]["fitness"])


def test_foreign_scale_is_refused(job):
    job._states["steps-guided"] = {"guidance": torch.tensor(0.5), "steps": torch.tensor([1, 2])}
    with pytest.raises(ReproError, match="at guidance scale 0.5 and `steps-guided` means 1"):
        guided_arms._winner(job, "steps-guided", 1.0)


# The classifier -----------------------------------------------------------------------------------


def test_classifier_learns_and_noise_hides_the_class(tmp_path):
    card = library.load("autodiffusion")
    params = card.model_params("smoke", "autodiffusion", NAME)
    job = zoo.job("autodiffusion", NAME, 0, params, scratch=tmp_path)
    state = noisy_classifier.train(job)
    judged = zoo.job(
        "autodiffusion", "classifier-accuracy", 0,
        card.arm_params("smoke", "classifier-accuracy") | {"times": [0, 999]},
        {NAME: state}, model_params={NAME: params},
    )  # fmt: skip
    noisy_classifier.accuracy(judged)
    clean, noise = (value for _, _, value in judged.measured)
    assert clean > 0.6 and noise < 0.3
    assert job.arrays["curve"].shape == (params["steps"],)
    assert np.isfinite(job.arrays["curve"]).all()
