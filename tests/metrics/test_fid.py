import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance as clean_frechet_distance
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.errors import ReproError
from repro.metrics import fid


def features(n, d, seed, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    return shift + scale * rng.standard_normal((n, d)) * np.linspace(1, 0.1, d)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_diagonal_gaussians_have_a_closed_form(seed, d):
    rng = np.random.default_rng(seed)
    mu1, mu2 = rng.standard_normal((2, d))
    s1, s2 = rng.uniform(0, 3, (2, d))  # standard deviations
    expected = ((mu1 - mu2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    found = fid.frechet_distance(mu1, np.diag(s1**2), mu2, np.diag(s2**2))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_translation_adds_its_squared_length():
    x = features(300, 20, 0)
    mu, cov = fid.gaussian_statistics(x)
    shift = np.linspace(-1, 2, 20)
    found = fid.frechet_distance(mu, cov, mu + shift, cov)
    assert found == pytest.approx((shift**2).sum(), rel=1e-10)


def test_it_is_symmetric_and_invariant_under_rotation():
    rng = np.random.default_rng(0)
    a, b = features(200, 15, 1), features(150, 15, 2, 0.7, 0.3)
    Q, _ = np.linalg.qr(rng.standard_normal((15, 15)))
    d = fid.frechet_from_features(a, b)
    assert fid.frechet_from_features(b, a) == pytest.approx(d, rel=1e-10)
    assert fid.frechet_from_features(a @ Q, b @ Q) == pytest.approx(d, rel=1e-10)
    assert fid.frechet_from_features(a[::-1], b) == pytest.approx(d, rel=1e-10)


def test_a_set_has_no_distance_to_itself():
    x = features(500, 40, 3)
    # a covariance of trace 13: the square root loses half of the 16 digits
    assert fid.frechet_from_features(x, x) < 1e-6


@pytest.mark.parametrize("n", [1000, 100, 40])
def test_it_agrees_with_clean_fid(n):
    """Also where there are fewer samples than dimensions (n < 128)."""
    a, b = features(n, 128, 4), features(n, 128, 5, 0.8, 0.2)
    statistics = *fid.gaussian_statistics(a), *fid.gaussian_statistics(b)
    expected = float(np.real(clean_frechet_distance(*statistics)))
    assert fid.frechet_distance(*statistics) == pytest.approx(expected, rel=1e-6)
    assert fid.frechet_from_features(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 200), (200, 30), (2, 2)])
def test_features_and_covariances_say_the_same_at_any_rank(n, m):
    a, b = features(n, 64, 6), features(m, 64, 7, 1.3)
    by_covariance = fid.frechet_distance(*fid.gaussian_statistics(a), *fid.gaussian_statistics(b))
    # nuclear norm of the cross-Gram matrix, by singular values
    F1, F2 = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    exact = ((a.mean(0) - b.mean(0)) ** 2).sum() + (F1**2).sum() + (F2**2).sum()
    exact -= 2 * np.linalg.svd(F1 @ F2.T, compute_uv=False).sum()
    assert by_covariance == pytest.approx(exact, rel=1e-7)
    assert fid.frechet_from_features(a, b) == pytest.approx(exact, rel=1e-7)


def test_degenerate_covariances():
    zero, one = np.zeros((3, 3)), np.eye(3)
    mu = np.zeros(3)
    assert fid.frechet_distance(mu, zero, mu, one) == pytest.approx(3)
    assert fid.frechet_distance(mu, zero, mu + 1, zero) == pytest.approx(3)
    spiked = np.outer([1, 2, 3.0], [1, 2, 3.0])
    assert fid.frechet_distance(mu, spiked, mu, 4 * spiked) == pytest.approx(14)


def test_statistics_stream():
    x = features(1000, 30, 8) + 1e4  # a large mean, where E[xx] - mu mu would cancel
    mu, cov = fid.gaussian_statistics(torch.from_numpy(x[i : i + 97]) for i in range(0, 1000, 97))
    np.testing.assert_allclose(mu, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(cov, np.cov(x.T), rtol=1e-9, atol=1e-12)
    mu32, _ = fid.gaussian_statistics(x.astype(np.float32))
    assert mu32.dtype == np.float64


def test_precision_and_recall_of_known_sets():
    rng = np.random.default_rng(9)
    real = rng.standard_normal((200, 4))
    assert fid.precision_recall(real, real) == (1.0, 1.0)
    assert fid.precision_recall(real, real + 100) == (0.0, 0.0)
    # fakes from one of two far modes: all of them real, half of the data covered
    two = np.concatenate([real, real + 100])
    precision, recall = fid.precision_recall(two, real.copy(), k=3)
    assert precision == 1.0 and recall == 0.5


def test_precision_and_recall_by_hand():
    real = np.array([[0.0], [1.0], [3.0]])  # radii for k = 1: 1, 1, 2
    fake = np.array([[-0.5], [2.5], [5.5], [1.2]])  # radii for k = 1: 1.7, 1.3, 3, 1.3
    # inside: -0.5 (by 0), 2.5 (by 3), 1.2 (by 1); outside: 5.5
    precision, recall = fid.precision_recall(real, fake, k=1)
    assert precision == 0.75
    assert recall == 1.0


def test_precision_and_recall_by_explicit_distances():
    """Against SciPy's pairwise distances; more rows than one block, far from the origin."""
    from scipy.spatial.distance import cdist

    real, fake = features(2100, 3, 12, shift=50.0), features(400, 3, 13, 0.8, 50.2)
    r_real, r_fake = (np.sort(cdist(x, x), axis=1)[:, 3] for x in (real, fake))
    d = cdist(fake, real)
    expected = (d <= r_real).any(1).mean(), (d <= r_fake[:, None]).any(0).mean()
    assert 0.5 < min(expected) and max(expected) < 1
    assert fid.precision_recall(real, fake) == pytest.approx(expected, abs=1e-12)


def test_precision_is_the_recall_of_swapped_sets():
    a, b = features(80, 3, 10), features(60, 3, 11, 0.5)
    assert fid.precision_recall(a, b) == fid.precision_recall(b, a)[::-1]


def test_mistakes_are_named():
    eye, mu = np.eye(3), np.zeros(3)
    with pytest.raises(ReproError, match="cannot be compared"):
        fid.frechet_distance(mu, eye, np.zeros(2), np.eye(2))
    with pytest.raises(ReproError, match="not finite"):
        fid.frechet_distance(mu, eye * np.nan, mu, eye)
    with pytest.raises(ReproError, match="not finite"):
        fid.frechet_distance(mu + np.inf, eye, mu, eye)
    with pytest.raises(ReproError, match="no covariance"):
        fid.gaussian_statistics(np.zeros((1, 3)))
    with pytest.raises(ReproError, match="cannot be added"):
        fid.gaussian_statistics([np.zeros((4, 3)), np.zeros((4, 2))])
    with pytest.raises(ReproError, match="more than k points"):
        fid.precision_recall(np.zeros((3, 2)), np.zeros((9, 2)), k=3)


class Inception(torch.nn.Module):
    """Stands for the file's network: `layers` maps normalised images to features."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2048, bias=False)
        )
        with torch.no_grad():
            rng = torch.Generator().manual_seed(0)
            self.layers[2].weight.copy_(torch.randn(2048, 3, generator=rng))

    def forward(self, x):
        return self.layers(x)


def test_clean_fid_reads_the_weights_file_and_says_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(ReproError, match=rf"{tmp_path}/downloads/{fid.INCEPTION_FILE} is missing"):
        fid.clean_fid(images, images)
    path = tmp_path / "downloads" / fid.INCEPTION_FILE
    path.parent.mkdir()
    network = Inception()
    torch.jit.script(network).save(str(path))

    dark = images // 2
    found = fid.clean_fid(images, dark, batch=3)
    from cleanfid.resize import make_resizer

    resize = make_resizer("PIL", False, "bicubic", (299, 299))
    weight = network.layers[2].weight.detach().double().numpy()
    a, b = (
        np.stack([((resize(i).astype(float) - 128) / 128).mean((0, 1)) @ weight.T for i in x])
        for x in (images, dark)
    )
    assert found == pytest.approx(fid.frechet_from_features(a, b), rel=1e-4)
    with pytest.raises(ReproError, match="uint8"):
        fid.clean_fid(images / 255, images)
