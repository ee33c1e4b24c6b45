r"""Fidelity of images to a reference.

$$ \mathrm{PSNR} = 10 \log_{10} \frac{L^2}{\mathrm{mean} (a - b)^2}, \qquad
   \mathrm{SSIM} = \mathrm{mean}
   \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}
        {(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)} $$

with $c_1 = (0.01 L)^2$, $c_2 = (0.03 L)^2$ and the data range $L$, which is always the caller's to
say: guessing it from the data is how two papers come to disagree.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repro.errors import ReproError
from repro.metrics.arrays import to_numpy
from repro.numbers import finite

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["lpips", "psnr", "ssim"]

# torchvision's ImageNet checkpoints, which the linear heads of LPIPS were calibrated to.
_BACKBONES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


def _pair(a: Any, b: Any, data_range: float) -> tuple[np.ndarray, np.ndarray]:
    a, b = finite(to_numpy(a, np.float64), "images"), finite(to_numpy(b, np.float64), "images")
    if a.shape != b.shape or not a.size:
        raise ReproError(
            f"shapes {a.shape} and {b.shape} differ or hold nothing; compare arrays of one shape"
        )
    if not 0 < data_range < math.inf:
        raise ReproError(f"a data range of {data_range} is no width of an interval; give 255 or 1")
    # One of them may leave the interval, as reconstructions do.
    if (width := min(np.ptp(a), np.ptp(b))) > data_range * (1 + 1e-6):
        raise ReproError(
            f"both images span {width:g} or more, beyond the data range of {data_range:g}; give "
            "the range of their values"
        )
    return a, b


def psnr(a: Any, b: Any, data_range: float, *, per_image: bool = False) -> float | np.ndarray:
    """Returns the peak signal-to-noise ratio in dB.

    Arguments:
        a, b: arrays of one shape.
        data_range: L, the width of the interval of valid values (255 for bytes).
        per_image: treat the first axis as a batch, one value each; else one mean squared error over
            everything.

    Returns:
        dB; infinite where a equals b. A float, or shape (B,) with `per_image`.

    Raises:
        ReproError: if shapes differ, a value is not finite, or both span more than the data range.
    """
    a, b = _pair(a, b, data_range)
    if per_image and a.ndim < 2:
        raise ReproError(f"shape {a.shape} is no batch of images; leave `per_image` out")
    axes = tuple(range(1, a.ndim)) if per_image else None
    mse = np.mean((a - b) ** 2, axis=axes)
    with np.errstate(divide="ignore"):
        value = 10 * np.log10(data_range**2 / mse)
    return value if per_image else float(value)


def ssim(a: Any, b: Any, data_range: float, *, per_image: bool = False) -> float | np.ndarray:
    """Returns the structural similarity, with the Gaussian window of its definition (sigma 1.5).

    Arguments:
        a, b: arrays of one shape (..., H, W), H and W at least 11. The index is taken in each plane
            and averaged over the leading axes (batch, channels, slices).
        data_range: L, the width of the interval of valid values (255 for bytes).
        per_image: keep the first axis as a batch, one value each.

    Returns:
        At most 1, which is reached where a equals b. A float, or shape (B,) with `per_image`.

    Raises:
        ReproError: if shapes differ, planes are smaller than the window, a value is not finite, or
            both span more than the data range.

    Source:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity
        (2004), by scikit-image.
    """
    from skimage.metrics import structural_similarity

    a, b = _pair(a, b, data_range)
    if a.ndim < 2 + per_image or min(a.shape[-2:]) < 11:
        raise ReproError(f"SSIM of shape {a.shape} needs planes of 11 x 11 or more; enlarge them")
    planes = zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True)
    values = [
        structural_similarity(
            p,
            q,
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for p, q in planes
    ]
    if per_image:
        return np.reshape(values, (len(a), -1)).mean(axis=1)
    return float(np.mean(values))


def _check_colour(a: Tensor, b: Tensor) -> None:
    """Raises ReproError unless both are (B, 3, H, W) in [-1, 1], within rounding."""
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3 or not a.numel():
        raise ReproError(
            f"images of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared; give "
            "(B, 3, H, W) twice"
        )
    if not max(float(a.abs().max()), float(b.abs().max())) <= 1 + 1e-3:
        raise ReproError("LPIPS is of finite images in [-1, 1]; scale and clip them first")


def lpips(
    net: str = "alex", weights: str | Path | None = None, device: str = "cpu"
) -> Callable[[Any, Any], np.ndarray]:
    """Returns the LPIPS distance on the network of the paper.

    Arguments:
        net: `alex`, `vgg` or `squeeze`.
        weights: torchvision's ImageNet checkpoint of that network, or None for the one under
            `downloads` in the data cache. It is never downloaded. The linear heads come with the
            package `lpips`.
        device: where the network runs.

    Returns:
        A function of two tensors (B, 3, H, W) in [-1, 1] to distances (B,).

    Raises:
        ReproError: if `net` is unknown, or the weights file is missing or of another network.

    Source:
        Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (2018).
    """
    if net not in _BACKBONES:
        raise ReproError(f"unknown LPIPS network {net!r}; use one of {', '.join(_BACKBONES)}")
    name = _BACKBONES[net]
    if weights is None:
        from repro.data.cache import root

        path = root() / "downloads" / name
    else:
        path = Path(weights)
    import torch
    from lpips import LPIPS

    from repro.official import reader

    # The package would download and unpickle the backbone itself; the reader opens tensors only.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision")
        metric = LPIPS(net=net, pnet_rand=True, verbose=False).to(device).eval()
    # "sliceK.<layer>.<rest>" is "features.<layer>.<rest>" of torchvision
    names = {f"features.{key[7:]}": key for key in metric.net.state_dict()}
    what = f"torchvision's {name}, the {net} backbone of LPIPS, which is not shipped"
    reader.load(path, metric.net, reader.Layout(what, names=names, extra=("classifier.*",)))

    def distance(a: Any, b: Any) -> np.ndarray:
        with torch.inference_mode():
            a, b = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in (a, b))
            _check_colour(a, b)
            return metric(a, b).flatten().cpu().numpy()

    return distance
