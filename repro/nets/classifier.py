"""A small convolutional classifier of 32 x 32 images, whose features serve Fréchet distances."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def _stage(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(c_out),
        nn.SiLU(),
    )


class Classifier(nn.Module):
    """Four convolutions and two linear layers: (B, C, 32, 32) in [-1, 1] -> (B, classes) logits.

    The last layer but one keeps the position of what it sees (it is not averaged over the image),
    so a distance of its features notices misplaced parts.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        classes: int = 10,
        width: int = 32,
        features: int = 128,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            _stage(in_channels, width, 5, 2),
            _stage(width, 2 * width, 3, 1),
            nn.MaxPool2d(2),
            _stage(2 * width, 4 * width, 3, 1),
            nn.MaxPool2d(2),
            _stage(4 * width, 4 * width, 3, 1),
        )
        self.hidden = nn.Linear(4 * width * 16, features)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations: (B, C, 32, 32) in [-1, 1] -> (B, features)."""
        return F.silu(self.hidden(self.stages(x).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x)))
