r"""What a search searches on: an analytic mixture, and the pre-trained networks of the zoo.

Mixture (no network, nothing trained): M Gaussians of deviation s in R^d with means $\mu_m \sim
N(0, I)$, for which the noise prediction is exact,

$$ \varepsilon(x, t) = \frac{x - \sqrt{\bar\alpha}\, E[x_0 | x]}{\sqrt{1 - \bar\alpha}}, \qquad
   E[x_0 | x] = \sum_m r_m(x) \left( \mu_m + \frac{\sqrt{\bar\alpha}\, s^2}{v}
   (x - \sqrt{\bar\alpha}\, \mu_m) \right), \quad v = \bar\alpha s^2 + 1 - \bar\alpha $$

with $r_m$ the softmax of $-|x - \sqrt{\bar\alpha} \mu_m|^2 / 2v$. Its distance is a Fréchet
distance of fixed random ReLU features.

Images: DDIM, PLMS or DPM-Solver++(2M) with a network of the zoo, judged by `repro.zoo.judge`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from methods.autodiffusion.method import Candidate, SkippableUNet, Skips, ddim_chains
from repro.diffusion.multistep import (
    alpha_at,
    dpm_solver_pp_2m_times,
    plms,
    times_of_steps,
    times_uniform,
)
from repro.diffusion.schedules import (
    alphas_cumprod,
    cosine_betas,
    linear_betas,
    timesteps_inclusive,
    timesteps_quad,
    timesteps_stride,
)
from repro.errors import ReproError
from repro.metrics.fid import frechet_distance, gaussian_statistics
from repro.nets.unet import UNet
from repro.zoo import pretrained
from repro.zoo.judge import Judge

if TYPE_CHECKING:
    from repro.job import Job

T = 1000
SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}
GRIDS: dict[str, Callable[[int, int], Tensor]] = {
    "stride": timesteps_stride,
    "inclusive": timesteps_inclusive,
    "quadratic": timesteps_quad,
}
SAMPLERS = ("ddim", "plms", "dpm++")
TIMES = 1001
"""Points of the grid from which times of DPM-Solver++ are chosen, 0.001 to 1."""


def grid(name: str, K: int) -> tuple[int, ...]:
    """K time steps of a baseline: "stride", "inclusive" or "quadratic"."""
    return tuple(GRIDS[name](T, K).tolist())


def abar(schedule: str) -> Tensor:
    """The whole table of a schedule, float64 (1000,)."""
    return alphas_cumprod(SCHEDULES[schedule](T))


def grid_time(index: Sequence[int]) -> Tensor:
    """Times of points of the grid of DPM-Solver++, float64."""
    return 1 / T + torch.tensor(index, dtype=torch.float64) * (1 - 1 / T) / (TIMES - 1)


def by_length(candidates: Sequence[Candidate], most: int) -> Iterator[list[int]]:
    """Indices of candidates that can run together: chains of one length, at most so many."""
    lengths: dict[int, list[int]] = {}
    for i, candidate in enumerate(candidates):
        lengths.setdefault(candidate.effective_K, []).append(i)
    for indices in lengths.values():
        for start in range(0, len(indices), most):
            yield indices[start : start + most]


class Mixture:
    """The analytic problem of one seed.

    d, components, std: of the mixture. n: samples of an evaluation. sampler: see `SAMPLERS`; steps
    of a candidate are training steps, or for "dpm++" points of the grid of times. fresh: every
    candidate has its own noise. rng: stream names -> generator.
    """

    def __init__(
        self,
        rng: Callable[..., Generator],
        *,
        schedule: str,
        sampler: str = "ddim",
        d: int = 8,
        components: int = 12,
        std: float = 0.15,
        n: int = 1000,
        features: int = 48,
        real: int = 20_000,
        fresh: bool = True,
        name: str = "search",
    ) -> None:
        self.rng, self.sampler, self.std, self.n = rng, sampler, std, n
        self.fresh, self.name = fresh, name
        self.alphas_cumprod = abar(schedule)
        self.means = torch.randn(components, d, generator=rng("mixture"))
        projection = torch.Generator().manual_seed(0)  # the features are the same for every seed
        self.weight = torch.randn(d, features, generator=projection) / d**0.5
        self.bias = torch.randn(features, generator=projection)
        self.network_evaluations = 0
        self._real = gaussian_statistics(self.features(self.data(real, rng("real"))))

    @property
    def d(self) -> int:
        return self.means.shape[1]

    def data(self, n: int, generator: Generator) -> Tensor:
        """n samples of the mixture, (n, d)."""
        which = torch.randint(len(self.means), (n,), generator=generator)
        return self.means[which] + self.std * torch.randn(n, self.d, generator=generator)

    def noise(self, n: int, *stream: str | int) -> Tensor:
        return torch.randn(n, self.d, generator=self.rng(*stream))

    def features(self, x: Tensor) -> Tensor:
        return (x @ self.weight + self.bias).relu()

    def eps(self, x: Tensor, abar: Tensor) -> Tensor:
        """Exact noise in x (..., n, d), with the cumulative product in every leading row (...)."""
        a = abar.to(x).reshape(*abar.shape, 1, 1)
        v = a * self.std**2 + 1 - a
        centres = a.sqrt() * self.means
        # |x|^2 is the same for every component and leaves the softmax as it is.
        logits = (x @ centres.mT - centres.square().sum(-1)[..., None, :] / 2) / v
        mean = logits.softmax(-1) @ self.means
        gain = a.sqrt() * self.std**2 / v
        x0 = mean + gain * (x - a.sqrt() * mean)
        return (x - a.sqrt() * x0) / (1 - a).sqrt()

    def generate(self, candidates: Sequence[Candidate], x: Tensor) -> Tensor:
        """Samples (C, n, d) of C candidates of one length, from noise (C, n, d)."""
        table = self.alphas_cumprod
        if self.sampler == "ddim":
            tau = torch.tensor([c.chain()[0] for c in candidates])
            self.network_evaluations += tau.numel() * x.shape[1]
            return ddim_chains(lambda x, t, i: self.eps(x, table[t]), x, tau, table)
        return torch.stack([self._alone(c, part) for c, part in zip(candidates, x, strict=True)])

    def _alone(self, candidate: Candidate, x: Tensor) -> Tensor:
        steps, table = candidate.chain()[0], self.alphas_cumprod
        extra = 1 if self.sampler == "plms" else -1
        self.network_evaluations += (len(steps) + extra) * len(x)
        if self.sampler == "plms":
            tau = torch.tensor(steps)
            return plms(lambda x, t: self.eps(x, table[t[0]]), x, tau, table)

        def real(x: Tensor, t: Tensor) -> Tensor:
            return self.eps(x, alpha_at((t[:1] + 1) / T, table)[0] ** 2)

        return dpm_solver_pp_2m_times(real, x, grid_time(steps), table)

    def distance(self, x: Tensor) -> float:
        """Fréchet distance of features of samples (n, d) to those of the real ones."""
        return frechet_distance(*gaussian_statistics(self.features(x)), *self._real)

    @torch.inference_mode()
    def evaluate(self, candidates: Sequence[Candidate], first: int) -> list[float]:
        """Fitness of candidates, the first of which is evaluation number `first` of the search."""
        fitness = [0.0] * len(candidates)
        for indices in by_length(candidates, 64):
            x = torch.stack(
                [self.noise(self.n, self.name, first + i if self.fresh else 0) for i in indices]
            )
            for i, samples in zip(
                indices, self.generate([candidates[i] for i in indices], x), strict=True
            ):
                fitness[i] = self.distance(samples)
        return fitness

    @torch.inference_mode()
    def judged(self, candidate: Candidate, n: int = 20_000) -> float:
        """Distance of n fresh samples."""
        return self.distance(self.generate([candidate], self.noise(n, "fresh")[None])[0])


class Images:
    """The zoo network of one seed and the samplers that walk it.

    job: its card declares `network`, `precision` ("bf16" or "float32"), `clip`, `batch` (rows of a
    forward pass), `n` (samples of an evaluation) and what `Judge` asks for.
    name: of the streams from which the noises of evaluations are drawn.
    """

    def __init__(self, job: Job, precision: str | None = None) -> None:
        self.job, self.p, self.judge = job, job.params, Judge(job)
        self.precision = precision or job.params.precision
        if self.precision not in ("bf16", "float32"):
            raise ReproError(f"unknown precision '{self.precision}'; use bf16 or float32")
        self.network = SkippableUNet(pretrained.of_type(UNet, job, job.params.network))
        self.alphas_cumprod = abar("linear")
        self.name = job.name
        self.network_evaluations = 0
        self.blocks_run = 0

    @property
    def classes(self) -> int | None:
        return self.network.network.num_classes

    def labels(self, n: int, *stream: str | int) -> Tensor | None:
        """Classes drawn uniformly, (n,), where the network takes classes."""
        if self.classes is None:
            return None
        y = torch.randint(self.classes, (n,), generator=self.job.rng("labels", *stream))
        return y.to(self.job.device)

    def noise(self, n: int, *stream: str | int) -> Tensor:
        x = torch.randn(n, *self.judge.shape, generator=self.job.rng("noise", *stream))
        return x.to(self.job.device)

    def predict(self, x: Tensor, t: Tensor, y: Tensor | None, skips: Sequence[Skips]) -> Tensor:
        """Noise in x (B, C, H, W) in float32, blocks left out by equal parts of the batch."""
        self.network_evaluations += len(x)
        self.blocks_run += sum(self.network.L - len(s) for s in skips) * len(x) // len(skips)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network(x, t, y, list(skips)).float()

    def generate(
        self,
        candidates: Sequence[Candidate],
        x: Tensor,
        y: Tensor | None = None,
        pairing: str = "pair",
    ) -> Tensor:
        """DDIM samples (C, n, ...) of C candidates of one length, from noise (C, n, ...)."""
        chains = [c.chain(pairing) for c in candidates]
        tau = torch.tensor([steps for steps, _ in chains])
        C = len(candidates)

        def part(x: Tensor, y: Tensor | None) -> Tensor:
            n = x.shape[1]

            def predict(x: Tensor, t: Tensor, i: int) -> Tensor:
                skips = [sets[i] for _, sets in chains]
                rows = t.repeat_interleave(n)
                eps = self.predict(x.flatten(0, 1), rows, y, skips)
                return eps.unflatten(0, (C, n))

            return ddim_chains(predict, x, tau, self.alphas_cumprod, self.p.clip)

        rows = max(1, self.p.batch // C)
        labels = [None] * len(x.split(rows, 1)) if y is None else y.reshape(C, -1).split(rows, 1)
        return torch.cat(
            [
                part(a, None if b is None else b.flatten())
                for a, b in zip(x.split(rows, 1), labels, strict=True)
            ],
            dim=1,
        )

    def evaluate(self, candidates: Sequence[Candidate], first: int) -> list[float]:
        """Fitness of candidates, the first of which is evaluation number `first` of the search.

        Noise (and classes) are drawn anew for every candidate. As many candidates of one length as
        fit a batch run together.
        """
        fitness = [0.0] * len(candidates)
        for indices in by_length(candidates, max(1, self.p.batch // self.p.n)):
            numbers = [first + i for i in indices]
            x = torch.stack([self.noise(self.p.n, self.name, i) for i in numbers])
            drawn = [self.labels(self.p.n, self.name, i) for i in numbers]
            labels = [y for y in drawn if y is not None]
            y = torch.cat(labels) if labels else None
            samples = self.generate([candidates[i] for i in indices], x, y)
            for i, images in zip(indices, samples, strict=True):
                fitness[i] = self.judge.frechet(images)
        return fitness

    # The samplers on the evaluation noises

    def ddim(self, candidate: Candidate, pairing: str = "pair") -> Tensor:
        """Images (samples, C, H, W) of a candidate from the evaluation noises."""
        x = self.judge.noise
        y = self.labels(len(x), "evaluation")
        return self.generate([candidate], x[None], y, pairing)[0]

    def _batched(self, sample: Callable[[Callable, Tensor], Tensor]) -> Tensor:
        x = self.judge.noise
        y = self.labels(len(x), "evaluation")
        labels = [None] * len(x.split(self.p.batch)) if y is None else y.split(self.p.batch)
        return torch.cat(
            [
                sample(lambda x, t, label=label: self.predict(x, t, label, [frozenset()]), part)
                for part, label in zip(x.split(self.p.batch), labels, strict=True)
            ]
        )

    def plms(self, steps: Sequence[int]) -> Tensor:
        """Images by PLMS along training steps, len(steps) + 1 network evaluations each."""
        tau = torch.tensor(sorted(steps))
        return self._batched(
            lambda eps, x: plms(eps, x, tau, self.alphas_cumprod, clip=self.p.clip)
        )

    def dpm(self, times: Tensor) -> Tensor:
        """Images by DPM-Solver++(2M) along n + 1 times, n network evaluations each."""
        return self._batched(
            lambda eps, x: dpm_solver_pp_2m_times(
                eps, x, times, self.alphas_cumprod, clip=self.p.clip
            )
        )

    def dpm_uniform(self, n: int) -> Tensor:
        """Images by DPM-Solver++(2M) on its own grid, n network evaluations each."""
        return self.dpm(times_uniform(n, T))

    def dpm_along(self, steps: Sequence[int]) -> Tensor:
        """Images by DPM-Solver++(2M) along training steps, then to the clean end of time."""
        return self.dpm(times_of_steps(torch.tensor(sorted(steps)), T))
