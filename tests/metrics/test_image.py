import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from repro.errors import ReproError
from repro.metrics import image


def images(seed, shape=(3, 1, 24, 20)):
    return np.random.default_rng(seed).uniform(0, 1, shape)


@pytest.mark.parametrize("data_range", [1.0, 2.0, 255.0])
def test_psnr_of_a_known_error(data_range):
    a = images(0) * data_range
    # a constant error of a tenth of the range is 20 dB
    assert image.psnr(a, a + 0.1 * data_range, data_range) == pytest.approx(20)
    assert image.psnr(a, a, data_range) == np.inf


def test_psnr_per_image_and_over_everything():
    a = np.zeros((2, 8, 8))
    b = np.stack([np.full((8, 8), 0.1), np.full((8, 8), 0.01)])
    np.testing.assert_allclose(image.psnr(a, b, 1.0, per_image=True), [20, 40])
    mse = (0.1**2 + 0.01**2) / 2
    assert image.psnr(a, b, 1.0) == pytest.approx(-10 * np.log10(mse))


def test_ssim_is_that_of_torchmetrics():
    """Both take a Gaussian window of 11, but ours leaves out the border of 5 that it overlaps.

    In a flat margin the index is 1, so the sums of 1 - SSIM are equal.
    """
    a, b = (np.pad(images(s, (2, 1, 40, 40)), ((0, 0), (0, 0), (12, 12), (12, 12))) for s in (1, 2))
    theirs = structural_similarity_index_measure(
        torch.from_numpy(a), torch.from_numpy(b), data_range=1.0, reduction="none"
    )
    ours = image.ssim(a, b, 1.0, per_image=True)
    np.testing.assert_allclose((1 - ours) * 54**2, (1 - theirs.numpy()) * 64**2, rtol=1e-5)
    assert image.ssim(a, b, 1.0) == pytest.approx(ours.mean())


def test_ssim_of_constant_planes_is_its_luminance_term():
    a, b = np.full((16, 16), 0.2), np.full((16, 16), 0.6)
    c1 = 0.01**2
    expected = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert image.ssim(a, b, 1.0) == pytest.approx(expected)
    assert image.ssim(a, a, 1.0) == 1.0


def test_metrics_take_tensors():
    a, b = torch.from_numpy(images(3)), torch.from_numpy(images(4))
    assert image.psnr(a, b, 1.0) == image.psnr(a.numpy(), b.numpy(), 1.0)
    assert image.ssim(a, b, 1.0) == image.ssim(a.numpy(), b.numpy(), 1.0)


def test_mistakes_are_named():
    with pytest.raises(ReproError, match="differ"):
        image.psnr(np.zeros((2, 2)), np.zeros((2, 3)), 1.0)
    with pytest.raises(ReproError, match="11 x 11"):
        image.ssim(np.zeros((8, 8)), np.zeros((8, 8)), 1.0)
    with pytest.raises(ReproError, match="unknown LPIPS network"):
        image.lpips("resnet")


def test_lpips_reads_the_backbone_and_says_where_it_belongs(tmp_path, monkeypatch):
    from torchvision.models import squeezenet1_1

    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    with pytest.raises(ReproError, match="squeezenet1_1-b8a52dc0.pth: is missing"):
        image.lpips("squeeze")
    path = tmp_path / "downloads" / "squeezenet1_1-b8a52dc0.pth"
    path.parent.mkdir()
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    distance = image.lpips("squeeze")
    rng = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 64, 64, generator=rng) * 2 - 1
    near, far = (
        distance(a, (a + s * torch.randn(a.shape, generator=rng)).clamp(-1, 1)) for s in (0.05, 0.5)
    )
    assert near.shape == (2,)
    np.testing.assert_array_equal(distance(a, a), 0)
    assert (near > 0).all() and (far > near).all()
    np.testing.assert_array_equal(distance(a, a.flip(0)), distance(a.flip(0), a))
    # the loaded weights are those of the file
    torch.save({k: v.abs() for k, v in torch.load(path, weights_only=True).items()}, path)
    assert not np.allclose(image.lpips("squeeze")(a, a.flip(0)), distance(a, a.flip(0)))
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(ReproError, match="lacks `slice1.0.weight`"):
        image.lpips("squeeze")
