"""Exact checks with their numbers, and what partitions, losses and networks have to keep."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.msd import exact, toy
from methods.msd import method as msd
from methods.msd.networks import EpsDenoiser, Head, MLPDenoisers
from repro.diffusion.samplers import heun
from repro.diffusion.schedules import alphas_cumprod, karras_sigmas, linear_betas
from repro.errors import ReproError
from repro.metrics.cost import count_parameters
from repro.nets.unet import UNet


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Exact checks


def test_all_identities(tmp_path):
    found = exact.all_errors(lambda stream: rng(len(stream)), tmp_path)
    allowed = {"uneven-sizes": 1, "mixed-batch": 1e-5, "preconditioning": 1e-5, "karras-grid": 1e-5,
               "surrogate-gradient": 1e-7}  # fmt: skip
    assert len(found) == 27
    for item, error in found.items():
        assert error <= allowed.get(item, 1e-9), item


def test_routing_of_imagenet():
    assign = msd.consecutive(1000, 4)
    assert [assign[c].item() for c in (0, 249, 250, 499, 500, 999)] == [0, 0, 1, 1, 2, 3]


def test_gradient_of_shifted_gaussians():
    """θ = 2, σ = 1: the difference of denoisers is 1 wherever, whatever the normaliser is."""
    x = torch.linspace(-3, 3, 8).double()[:, None]
    real, fake = x / 2, 2 + (x - 2) / 2
    g = msd.dm_gradient(x, fake, real, torch.ones(8).double())
    torch.testing.assert_close(g * (x - real).abs(), torch.ones_like(x))
    # Descent along g moves θ towards 0.
    assert (g > 0).all()


def test_gan_terms_at_zero():
    zero = torch.zeros(3)
    assert msd.gan_generator_loss(zero).item() == pytest.approx(0.693147, abs=1e-6)
    assert msd.gan_discriminator_loss(zero, zero).item() == pytest.approx(1.386294, abs=1e-6)
    # A discriminator that is right has little to lose, and its generator much.
    sure = msd.gan_discriminator_loss(torch.tensor([-5.0]), torch.tensor([5.0]))
    assert sure < 0.02 and msd.gan_generator_loss(torch.tensor([-5.0])) > 5


def test_weights():
    assert msd.edm_weight(torch.tensor(1.0)).item() == 5
    assert msd.eps_weight(torch.tensor(2.0)).item() == 0.25


# Partitions


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 200), st.data())
def test_consecutive_blocks(classes, data):
    students = data.draw(st.integers(1, classes))
    assign = msd.consecutive(classes, students)
    sizes = torch.bincount(assign, minlength=students)
    assert sizes.sum() == classes and sizes.max() - sizes.min() <= 1
    assert (assign.diff() >= 0).all()
    assert assign.tolist() == [c * students // classes for c in range(classes)]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 10**6))
def test_other_partitions_are_equal(students, each, seed):
    classes = students * each
    embeddings = torch.randn(classes, 3, generator=rng(seed))
    for assign in (
        msd.shuffled(classes, students, rng(seed)),
        msd.balanced_clusters(embeddings, students, rng(seed)),
        msd.sorted_by(embeddings[:, 0], students),
    ):
        assert torch.bincount(assign, minlength=students).tolist() == [each] * students


def test_clusters_find_separate_groups():
    centres = 10 * torch.eye(3)
    embeddings = (centres[:, None] + 0.1 * torch.randn(3, 5, 3, generator=rng())).flatten(0, 1)
    assign = msd.balanced_clusters(embeddings, 3, rng(4))
    assert [len(set(assign[5 * i : 5 * i + 5].tolist())) for i in range(3)] == [1, 1, 1]


def test_sorted_parts_are_blocks_of_values():
    values = torch.tensor([3.0, -1.0, 2.0, 0.0])
    assert msd.sorted_by(values, 2).tolist() == [1, 0, 1, 0]


def test_prompts_route_as_they_were_split():
    pooled = torch.randn(64, 5, generator=rng()) * torch.tensor([5.0, 3.0, 1.0, 0.3, 0.1])
    directions, thresholds, quadrant = msd.principal_quadrants(pooled)
    assert torch.bincount(quadrant).tolist() == [16] * 4
    assert torch.equal(msd.route_prompt(pooled, directions, thresholds), quadrant)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(0, 10**6))
def test_conditions_stay_in_the_part(student, seed):
    assign = msd.consecutive(20, 5)
    c = msd.draw_conditions(assign, student, 50, rng(seed))
    assert set(assign[c].tolist()) == {student}


# Generation


def test_a_student_without_rows_is_not_called():
    def broken(x, sigma, c):
        raise AssertionError("this student owns no label of the batch")

    x = msd.sample(
        [lambda x, s, c: x / s[:, None], broken], torch.tensor([0, 0, 1]),
        torch.ones(4, 2), torch.tensor([0, 1, 1, 0]), 5.0,
    )  # fmt: skip
    torch.testing.assert_close(x, torch.ones(4, 2))


def test_generation_is_one_evaluation_at_the_largest_noise():
    seen = []

    def student(x, sigma, c):
        seen.append((x, sigma))
        return x

    msd.generate(student, torch.ones(2, 3), torch.zeros(2).long(), 80.0)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0][0], 80 * torch.ones(2, 3))
    torch.testing.assert_close(seen[0][1], torch.full((2,), 80.0))


# Networks


def test_networks_of_a_batch_are_independent():
    """Row i gives what network i gives alone, and its gradient moves that network only."""
    stacked = MLPDenoisers(3, 4, width=8, generator=rng())
    x, sigma = torch.randn(3, 5, 2, generator=rng(1)), torch.rand(3, 5, generator=rng(2)) + 0.1
    c = torch.randint(4, (3, 5), generator=rng(3))
    out = stacked(x, sigma, c)
    for i in range(3):
        torch.testing.assert_close(out[i], stacked.one(i)(x[i], sigma[i], c[i]))
    out[1].sum().backward()
    for p in stacked.parameters():
        assert (p.grad[[0, 2]] == 0).all() and (p.grad[1] != 0).any()


def test_copies_follow_their_rows():
    a, b = (MLPDenoisers(n, 2, width=4, generator=rng(n)) for n in (3, 2))
    a.copy_from(b, [1, 0, 1])
    for mine, theirs in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(mine, theirs[[1, 0, 1]])


def small_unet(classes: int | None = 3) -> UNet:
    torch.manual_seed(0)
    return UNet(
        resolution=8, in_channels=1, channels=8, mult=(1, 2), blocks=1, attention=(), dropout=0.0,
        groups=4, num_classes=classes,
    )  # fmt: skip


def test_an_eps_network_read_as_a_denoiser():
    """At the noise of step t: D = x - σ ε(√ᾱ x, t), exactly."""
    net, abar = small_unet().eval(), alphas_cumprod(linear_betas())
    denoiser = EpsDenoiser(net, abar)
    x, c = torch.randn(4, 1, 8, 8, generator=rng()), torch.tensor([0, 1, 2, 0])
    t = torch.tensor([0, 300, 700, 999])
    sigma = denoiser.sigmas[t]
    with torch.no_grad():
        a = abar[t].float()[:, None, None, None]
        expected = x - ((1 - a) / a).sqrt() * net(a.sqrt() * x, t, c)
        torch.testing.assert_close(denoiser(x, sigma, c), expected, rtol=1e-3, atol=1e-3)
        near = denoiser(x, sigma * 1.0005, c)
    assert torch.isfinite(near).all()
    assert denoiser.bottleneck(x, sigma, c).shape == (4, 16, 4, 4)
    assert set(denoiser.state_dict()) == {f"network.{k}" for k in net.state_dict()}


def test_a_network_without_classes_ignores_labels():
    denoiser = EpsDenoiser(small_unet(None), alphas_cumprod(linear_betas())).eval()
    x, sigma = torch.randn(2, 1, 8, 8), torch.ones(2)
    with torch.no_grad():
        a, b = (denoiser(x, sigma, c) for c in (torch.tensor([0, 1]), torch.tensor([1, 0])))
    assert torch.equal(a, b)


def test_the_head_of_dmd2():
    with torch.device("meta"):
        head = Head()
    assert count_parameters(head) == 18_879_745
    assert {k.split(".")[0] for k in head.state_dict()} == {"0", "1", "3", "4", "6"}
    assert head(torch.empty(2, 768, 8, 8, device="meta")).shape == (2, 1, 1, 1)
    assert Head(8, 4, groups=4)(torch.randn(2, 8, 4, 4)).shape == (2, 1, 1, 1)
    with pytest.raises(ValueError, match="use 4 or 8"):
        Head(8, 5)


# The plane


def mixture() -> toy.Mixture:
    return toy.Mixture.drawn(3, 4, rng())


def test_the_exact_denoiser_is_the_posterior_mean():
    """By self-normalised importance sampling from the prior."""
    m = mixture()
    c = torch.full((200_000,), 1)
    x0 = m.draw(c, rng(1)).double()
    for sigma in (0.3, 2.0):
        x = torch.tensor([0.4, -0.2]).double()
        w = (-(x - x0).square().sum(1) / (2 * sigma**2)).softmax(0)
        expected = (w[:, None] * x0).sum(0)
        found = m.denoise(x.float()[None], torch.tensor([sigma]), torch.tensor([1]))[0]
        torch.testing.assert_close(found.double(), expected, atol=0.01, rtol=0)


def test_many_steps_of_the_exact_denoiser_give_the_mixture():
    m, c = mixture(), torch.arange(6000) % 3
    grid = karras_sigmas(48, 0.02, 10.0).float()
    z = torch.randn(6000, 2, generator=rng(2))
    x = heun(lambda x, s: m.denoise(x, s, c), 10 * z, grid)
    real, again = (toy.histogram(m.draw(c, rng(s)), c, 3, bins=12) for s in (3, 4))
    floor = toy.l1_distance(real, again)
    assert toy.l1_distance(toy.histogram(x, c, 3, bins=12), real) < 2 * floor


def test_histograms():
    x = torch.tensor([[0.01, 0.01], [0.01, 0.02], [-1.49, -1.49], [9.0, 0.0]])
    h = toy.histogram(x, torch.tensor([0, 0, 1, 1]), 2, bins=40)
    assert h[0, 20 * 40 + 20] == 1 and h[1, 0] == 0.5 and h.sum() == 1.5
    assert toy.l1_distance(h, h) == 0
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert toy.l1_distance(apart, apart.flip(0)) == 2


def test_draws_from_lists_of_different_lengths():
    choices = toy.Choices([torch.tensor([5]), torch.tensor([1, 2, 3])])
    drawn = choices.draw(200, rng())
    assert set(drawn[0].tolist()) == {5} and set(drawn[1].tolist()) == {1, 2, 3}


def test_consistency_loss_vanishes_for_the_solution_of_a_point():
    """One data point μ: D = μ is the consistency function, and the teacher's denoiser."""
    mu = torch.tensor([0.3, -0.4])

    def point(x, sigma, c):
        return mu.expand_as(x)

    x, noise = mu.expand(5, 2), torch.randn(5, 2, generator=rng())
    c, high, low = torch.zeros(5).long(), torch.full((5,), 2.0), torch.full((5,), 1.5)
    assert msd.consistency_loss(point, point, point, x, c, high, low, noise) == 0


def test_an_unknown_variant_is_named():
    with pytest.raises(ReproError, match="no variant `plan`.*plain"):
        toy.Students(2, "plan")


def test_matching_losses_have_no_gradient_into_their_targets():
    target = torch.ones(3, 2, requires_grad=True)
    d = torch.zeros(3, 2, requires_grad=True)
    msd.matching_loss(d, target, torch.ones(3), torch.full((3,), 2.0)).backward()
    assert target.grad is None
    torch.testing.assert_close(d.grad, torch.full((3, 2), -2 * 2.0 / 6))
    assert math.isclose(msd.dm_loss(d, torch.full_like(d, 0.5)).item(), 0.125)
