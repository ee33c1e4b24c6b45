"""The sampler, its baselines and its priors on small problems."""

import pytest
import torch

from methods.diffusion_mbir import exact
from methods.diffusion_mbir.method import (
    Differences,
    admm_tv,
    chunks,
    corrector,
    decomposed_diffusion,
    diffusion_mbir,
    final_consistency,
    gaussian_noise,
    manifold_constrained_gradient,
    predictor,
)
from methods.diffusion_mbir.priors import IsotropicGaussian, StationaryGaussian
from repro.diffusion.schedules import geometric_sigmas
from repro.inverse.fourier import MaskedFourier, uniform1d_mask
from repro.inverse.radon import ParallelBeam, sparse_view_angles

SHAPE = (6, 1, 16, 16)


def noise(seed=0):
    return gaussian_noise(torch.Generator().manual_seed(seed))


def truth():
    """Six slices with sharp edges that change slowly along z."""
    weight = 0.7 + 0.3 * torch.cos(torch.arange(6) / 6 * 2 * torch.pi)
    x = exact.smooth_image(16) * weight[:, None, None, None] / 3
    x[:, :, 4:11, 3:8] += 0.3
    x[:, :, 9:12, 6:13] += 0.3
    return x


@pytest.fixture(scope="module")
def problem():
    x = truth()
    A = MaskedFourier(uniform1d_mask(16, 2, 0.25, torch.Generator().manual_seed(1)))
    score = StationaryGaussian.fit(x + 0.02 * torch.randn(SHAPE, generator=torch.Generator()))
    return score, A, A.forward(x), geometric_sigmas(60, 0.01, 20.0), x


def rmse(a, b):
    return float((a - b).square().mean().sqrt())


@pytest.mark.parametrize(("slices", "size", "lengths"), [
    (14, 12, [7, 7]), (12, 12, [6, 6]), (11, 12, [11]), (448, 12, [12] * 30 + [11] * 8),
    (1, 1, [1]),
])  # fmt: skip
def test_chunk_rule(slices, size, lengths):
    found = [part.stop - part.start for part in chunks(slices, size)]
    assert sorted(found, reverse=True) == sorted(lengths, reverse=True)
    assert sum(found) == slices and max(found) <= size


def test_z_coupling_beats_slice_wise(problem):
    score, A, y, sigmas, x = problem
    kwargs = {"final_step": False}
    coupled = diffusion_mbir(score, A, y, SHAPE, sigmas, noise(), lam=0.01, rho=0.1, **kwargs)
    alone = diffusion_mbir(score, A, y, SHAPE, sigmas, noise(), lam=0.0, rho=0.0, **kwargs)
    assert rmse(coupled, x) < rmse(alone, x)
    D = Differences()
    assert D(coupled).abs().mean() < D(alone).abs().mean()


def test_same_stream_same_bits(problem):
    score, A, y, sigmas, _ = problem
    runs = [diffusion_mbir(score, A, y, SHAPE, sigmas, noise(4), lam=0.01, rho=0.1) for _ in "ab"]
    assert torch.equal(*runs)


def test_applications_per_level(problem):
    score, _, _, sigmas, x = problem
    A = ParallelBeam(16, sparse_view_angles(4))
    y = A.forward(x)
    A.counts.forward = A.counts.adjoint = 0
    diffusion_mbir(score, A, y, SHAPE, sigmas, noise(), lam=0.01, rho=1.0)
    assert A.counts.forward == 2 * len(sigmas) + 2
    assert A.counts.adjoint == 2 * len(sigmas) + 1 + 2
    A.counts.forward = 0
    kwargs = {"share": False, "n_admm": 3, "n_cg": 4, "final_step": False}
    diffusion_mbir(score, A, y, SHAPE, sigmas, noise(), lam=0.01, rho=1.0, **kwargs)
    assert A.counts.forward == 3 * (4 + 1) * len(sigmas)


def test_sharing_matters(problem):
    score, A, y, sigmas, _ = problem
    args = (score, A, y, SHAPE, sigmas)
    shared = diffusion_mbir(*args, noise(), lam=0.01, rho=0.1)
    reset = diffusion_mbir(*args, noise(), lam=0.01, rho=0.1, share=False)
    assert rmse(shared, reset) > 1e-3


def test_open_boundary_does_not_tie_the_ends(problem):
    _, _, _, _, x = problem
    step = torch.cat([torch.zeros_like(x[:3]), torch.ones_like(x[:3])])
    open_, circular = Differences(periodic=False), Differences()
    assert open_(step)[0, -1].abs().max() == 0
    assert circular(step)[0, -1].abs().max() == 1


def test_compat_changes_only_several_steps(problem):
    score, A, y, sigmas, _ = problem
    args, kwargs = (score, A, y, SHAPE, sigmas), {"lam": 0.01, "rho": 0.1}
    one = [diffusion_mbir(*args, noise(), compat=c, **kwargs) for c in (False, True)]
    many = [diffusion_mbir(*args, noise(), compat=c, n_cg=3, **kwargs) for c in (False, True)]
    assert torch.equal(*one)
    assert not torch.equal(*many)


def test_predictor_and_corrector_keep_the_marginals():
    """Started from p_σ of a Gaussian prior, a step ends at p_σ' (predictor) or p_σ (corrector)."""
    score = IsotropicGaussian(0.5, 0.1)
    g = noise(3)
    x = 0.5 + (0.1 + 1.0) ** 0.5 * g((64, 1, 16, 16))
    stepped = predictor(score, x, 1.0, 0.95, g)
    assert float(stepped.var()) == pytest.approx(0.1 + 0.95**2, rel=0.03)
    corrected = corrector(score, x, 1.0, 0.05, g)
    assert float(corrected.var()) == pytest.approx(1.1, rel=0.03)


def test_corrector_depends_on_the_chunking():
    score = IsotropicGaussian(0.0, 0.1)
    x = torch.cat([noise(0)((2, 1, 8, 8)), 10 * noise(1)((2, 1, 8, 8))])
    xi = noise(2)((4, 1, 8, 8))
    whole = corrector(score, x, 1.0, 0.16, lambda _: xi)
    halves = torch.cat([
        corrector(score, x[:2], 1.0, 0.16, lambda _: xi[:2]),
        corrector(score, x[2:], 1.0, 0.16, lambda _: xi[2:]),
    ])  # fmt: skip
    assert not torch.allclose(whole, halves)


@pytest.mark.parametrize("isotropic", [True, False])
def test_admm_tv_recovers_a_block_from_few_views(isotropic):
    x = torch.zeros(8, 1, 24, 24)
    x[2:6, :, 6:16, 8:18] = 1.0
    A = ParallelBeam(24, sparse_view_angles(8))
    y = A.forward(x)
    tv = admm_tv(A, y, tuple(x.shape), lam=0.05, rho=2.0, isotropic=isotropic)
    assert rmse(tv, x) < 0.5 * rmse(A.fbp(y), x)


def test_wiener_score_is_the_gradient_of_the_log_density():
    slices = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    prior = StationaryGaussian.fit(slices)
    full = torch.fft.rfft2(torch.eye(64).reshape(64, 8, 8), norm="ortho")
    smoothed = torch.fft.irfft2(full * prior.spectrum, s=(8, 8), norm="ortho").reshape(64, 64)
    covariance = smoothed + 0.3**2 * torch.eye(64)
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = -torch.linalg.solve(covariance, (x - prior.mean).flatten())
    found = prior(x, torch.tensor([0.3])).flatten()
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_wiener_state_round_trip():
    prior = StationaryGaussian.fit(torch.rand(5, 1, 8, 8, generator=torch.Generator()))
    again = StationaryGaussian.from_state_dict(prior.state_dict())
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator())
    assert torch.equal(prior(x, torch.ones(2)), again(x, torch.ones(2)))


@pytest.mark.parametrize("project", [True, False])
def test_gradient_guidance_follows_the_data(problem, project):
    score, A, y, sigmas, x = problem

    def solve(step):
        return manifold_constrained_gradient(
            score, A, y, SHAPE, sigmas, noise(), step=step, project=project
        )

    guided, free = solve(1.0), solve(0.0)
    assert (A.forward(guided) - y).norm() < 0.6 * (A.forward(free) - y).norm() or project
    assert rmse(guided, x) < rmse(free, x) + 1e-6
    assert guided.requires_grad is False


def test_decomposed_diffusion_uses_one_call_per_level(problem):
    score, A, y, sigmas, x = problem
    calls = []

    def counted(v, sigma):
        calls.append(len(v))
        return score(v, sigma)

    out = decomposed_diffusion(counted, A, y, SHAPE, sigmas, noise(), lam=0.01, rho=0.1)
    assert sum(calls) == len(sigmas) * SHAPE[0]
    assert rmse(out, x) < rmse(A.zero_filled(y), x)


def test_final_step_ignores_pixels_no_ray_meets(problem):
    A = MaskedFourier(torch.zeros(8, 8))
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator())
    y = A.forward(x)
    assert torch.equal(final_consistency(A, y, x), x)
