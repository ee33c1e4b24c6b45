"""Forward operators: adjoints, released definitions, and reconstruction by their inverses."""

import math

import numpy as np
import pytest
import torch

from repro.errors import ReproError
from repro.inverse.base import Identity
from repro.inverse.fourier import MaskedFourier, uniform1d_mask
from repro.inverse.radon import (
    CompatRadon,
    ParallelBeam,
    limited_angles,
    ramp_filter,
    sparse_view_angles,
)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def disc(width, radius=0.6):
    u = torch.linspace(-1, 1, width)
    return ((u[:, None] ** 2 + u[None] ** 2) < radius**2).float()[None, None]


@pytest.mark.parametrize("width", [15, 32])
@pytest.mark.parametrize("views", [1, 2, 7])
def test_projector_is_adjoint_and_equals_rotate_and_sum(width, views):
    angles = sparse_view_angles(views)
    A = ParallelBeam(width, angles, dtype=torch.float64)
    assert A.length == math.ceil(math.sqrt(2) * width)
    assert A.scale == pytest.approx(math.pi / (2 * views))
    x, y = randn(3, 1, width, width), randn(3, 1, A.length, views, seed=1)
    assert A.forward(x).shape == y.shape
    assert torch.sum(A.forward(x) * y) == pytest.approx(float(torch.sum(x * A.transpose(y))))
    if views > 1:
        assert torch.allclose(CompatRadon(width, angles).forward(x), A.forward(x), atol=1e-12)


def test_projections_keep_mass_and_see_the_right_axis():
    image = torch.zeros(1, 1, 32, 32)
    image[0, 0, 5, 20] = 2.0
    A = ParallelBeam(32, [0.0, math.pi / 2])
    y = A.forward(image)
    before = (32 + A.length - 32) // 2 - 16
    assert y[0, 0, before + 20, 0] == pytest.approx(2.0, abs=1e-5)  # θ = 0 sums over rows
    assert y.sum(dim=2).flatten().tolist() == pytest.approx([2.0, 2.0], rel=1e-5)


def test_fbp_recovers_a_disc_from_many_views():
    image = disc(64)
    A = ParallelBeam(64, sparse_view_angles(90))
    for recon in (A.fbp(A.forward(image)), CompatRadon(64, A.angles).fbp(A.forward(image))):
        assert float((recon - image).pow(2).mean().sqrt()) < 0.1
        assert recon[0, 0, 28:36, 28:36].mean() == pytest.approx(1.0, abs=0.02)


def test_ramp_filter_is_the_band_limited_ramp():
    response = ramp_filter(91)
    assert response.numel() == 256 // 2 + 1
    frequency = torch.linspace(0, 1, 129)
    assert torch.allclose(response[5:], frequency[5:], atol=0.01)
    assert 0 < response[0] < 0.01  # the mean is kept, unlike a sampled |ω|
    assert ramp_filter(10).numel() == 64 // 2 + 1


def test_angles_of_both_tasks():
    assert np.allclose(np.rad2deg(sparse_view_angles(8)), np.arange(8) * 22.5)
    assert np.allclose(np.rad2deg(limited_angles(90)), np.arange(90))
    assert len(limited_angles(90, step=3.0)) == 30


def test_released_back_projection_refuses_one_view():
    with pytest.raises(ReproError, match="one view"):
        CompatRadon(16, [0.0])


def test_projector_refuses_another_width():
    with pytest.raises(ReproError, match="16 x 16"):
        ParallelBeam(16, [0.0]).forward(torch.zeros(1, 1, 17, 17))


@pytest.mark.parametrize("norm", ["ortho", "backward"])
@pytest.mark.parametrize("shape", [(16, 16), (12, 15)])
def test_fourier_adjoint_and_fast_normal(norm, shape):
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4).double()
    A = MaskedFourier(mask, norm=norm)
    x = randn(2, 1, *shape)
    k = torch.complex(randn(2, 1, *shape, seed=1), randn(2, 1, *shape, seed=2))
    left = A.scale * torch.sum((A.forward(x).conj() * k).real)
    assert left == pytest.approx(float(torch.sum(x * A.adjoint(k))))
    assert torch.allclose(A.normal(x), A.adjoint(A.forward(x)), atol=1e-12)


def test_released_fourier_is_unnormalised_and_centred():
    A = MaskedFourier(torch.ones(8, 8), norm="backward")
    y = A.forward(torch.ones(1, 1, 8, 8))
    assert y[0, 0, 4, 4].real == pytest.approx(64.0)
    assert y.abs().sum() == pytest.approx(64.0, rel=1e-5)
    assert torch.allclose(A.zero_filled(y), torch.ones(1, 1, 8, 8), atol=1e-6)


def test_uniform1d_mask_of_the_released_script():
    generator = torch.Generator().manual_seed(0)
    mask = uniform1d_mask(240, 2, 0.15, generator)
    assert mask.shape == (240, 240)
    assert torch.equal(mask, mask[:1].expand(240, 240))
    assert mask[0, 102:138].sum() == 36
    distinct = [
        int(uniform1d_mask(240, 2, 0.15, torch.Generator().manual_seed(s))[0].sum())
        for s in range(20)
    ]
    # 36 centre + 84 draws with replacement out of 240: E = 36 + 204 (1 − (1 − 1/240)^84) = 96.4
    assert max(distinct) < 120
    assert np.mean(distinct) == pytest.approx(96.4, abs=3)


def test_mask_refuses_a_centre_larger_than_the_budget():
    with pytest.raises(ReproError, match="center_fraction"):
        uniform1d_mask(64, 8, 0.5, torch.Generator())


def test_counts_and_norm():
    A = ParallelBeam(16, sparse_view_angles(2))
    A.normal(torch.zeros(1, 1, 16, 16))
    A.forward(torch.zeros(1, 1, 16, 16))
    assert (A.counts.forward, A.counts.adjoint, A.counts.total) == (2, 1, 3)
    assert A.norm((16, 16)) == pytest.approx(math.pi / 2 * 16, rel=1e-3)
    assert A.counts.total == 3
    assert Identity().norm((4, 4)) == pytest.approx(1.0)


@pytest.mark.parametrize("bp", [True, False])
def test_deepinv_tomography_dot_product(bp):
    """The reason for our own projector: deepinv's is the same map; one adjoint is inexact."""
    physics = pytest.importorskip("deepinv.physics")
    width, views = 32, 8
    op = physics.Tomography(
        angles=torch.arange(views) * 180.0 / views,
        img_width=width,
        circle=False,
        adjoint_via_backprop=bp,
        normalize=False,
        dtype=torch.float64,
    )
    A = ParallelBeam(width, sparse_view_angles(views), dtype=torch.float64)
    x, y = randn(2, 1, width, width), randn(2, 1, A.length, views, seed=1)
    assert torch.allclose(op.A(x), A.forward(x), atol=1e-5)
    left, right = float(torch.sum(op.A(x) * y)), float(torch.sum(x * op.A_adjoint(y)))
    if bp:
        assert left == pytest.approx(right, rel=1e-9)
    else:
        assert left != pytest.approx(right, rel=1e-3)
