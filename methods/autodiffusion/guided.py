r"""Classifier guidance, the setting of the paper's main table, and the search with it.

The noise that the network predicts is moved by the gradient of a classifier of noisy images,

$$ \hat\varepsilon = \varepsilon(x_t, t, y)
   - \sqrt{1 - \bar\alpha_t}\, s\, \nabla_{x_t} \log p_\phi(y | x_t, t) $$

with the classifier at the same original step $\tau_i$ as the network, scale s = 1, and classes y
drawn uniformly. For s = 1 and an ε that knows no class it is Bayes' rule: the score of p(x) and the
gradient of log p(y | x) add to the score of p(x | y).

Every step costs one network evaluation and one gradient of the classifier; both are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.autodiffusion import noisy_classifier, searches
from methods.autodiffusion.method import Skips
from methods.autodiffusion.problems import Images
from repro.diffusion.schedules import expand

if TYPE_CHECKING:
    from repro.job import Job

Classify = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), t int64 (B,)) -> logits (B, classes)."""

STREAM = "guidance"
"""Searches with and without guidance draw the same candidates first, and the same noises."""


def log_gradient(classify: Classify, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    r"""$\nabla_x \log p_\phi(y | x, t)$, shaped like x (B, ...); t, y int64 (B,).

    Works inside inference mode, where samplers run.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_()
        logits = classify(x, t.clone())
        picked = logits.to(x.dtype).log_softmax(1).gather(1, y.clone()[:, None]).sum()
        return torch.autograd.grad(picked, x)[0]


def guided(eps: Tensor, gradient: Tensor, abar: Tensor, s: float) -> Tensor:
    r"""$\varepsilon - \sqrt{1 - \bar\alpha}\, s\, \nabla_x \log p_\phi(y | x, t)$, shaped like eps.

    eps, gradient: (B, ...). abar: $\bar\alpha$ at the step of every row, (B,).
    """
    return eps - expand((1 - abar).sqrt(), eps) * s * gradient


class Guided(Images):
    """`Images` under the guidance of the card's classifier.

    job: its card lists the model `noisy-classifier` and declares `guidance`, the scale s, besides
    what `Images` asks for. scale: instead of that of the card; may be set anew between samples.
    gradients: of the classifier so far, a row each. At s = 0 none is taken.
    """

    def __init__(self, job: Job, precision: str | None = None, scale: float | None = None) -> None:
        super().__init__(job, precision)
        self.scale = float(job.params.guidance if scale is None else scale)
        self.guide = noisy_classifier.load(job)
        self.gradients = 0
        self.abar = self.alphas_cumprod.to(job.device)

    @property
    def classes(self) -> int:
        """Of the classifier: labels are drawn for it where the network takes none."""
        return self.guide.classes

    def labels(self, n: int, *stream: str | int) -> Tensor:
        """Classes drawn uniformly, (n,)."""
        y = super().labels(n, *stream)
        assert y is not None, "a classifier has classes"
        return y

    def predict(self, x: Tensor, t: Tensor, y: Tensor | None, skips: Sequence[Skips]) -> Tensor:
        """Guided noise in x (B, C, H, W) in float32; y int64 (B,), never None."""
        assert y is not None, "guidance needs labels"
        takes_classes = self.network.network.num_classes is not None
        eps = super().predict(x, t, y if takes_classes else None, skips)
        if self.scale == 0:
            return eps
        self.gradients += len(x)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            gradient = log_gradient(self.guide, x, t, y)
        return guided(eps, gradient, self.abar[t], self.scale)


def search(job: Job) -> dict[str, Tensor]:
    """A model of the card: the sequence found at a guidance scale, which is kept with it."""
    problem = Guided(job)
    problem.name = STREAM
    L = problem.network.L
    state = searches.resumed(job, STREAM, problem, searches.settings(job, L), job.params.kind)
    counts = {k: getattr(problem, k) for k in ("network_evaluations", "blocks_run")}
    kept = searches.as_tensors(state, L, counts)
    return kept | {"guidance": torch.tensor(problem.scale, dtype=torch.float64)}
