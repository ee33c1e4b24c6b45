"""How a quantised ε-network is compared with the full-precision one it came from.

All arms of a seed share the full-precision network, a DDIM grid, and the noises that are sampled
from. What is measured against full precision, from identical noise:

    eps_mse          E |ε_q(x_t, t) - ε(x_t, t)|² over the states of the full-precision trajectory
    trajectory_mse   E |x_0^q - x_0|² of final samples (primary: errors add up over the steps)
    frechet          distance of classifier features to held-out real images, beside their
                     precision and recall

What the full-precision network does at a seed is the same in every arm and every method of one
setting, so that a model of the DAG can hold it (`full_precision`): a study whose card names one
reads it instead of sampling again.

Source: the metrics m1 to m3 that the methods of post-training quantisation share (Q-Diffusion,
PTQ4DM, QuEST, low-bit floating point).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from repro.diffusion.samplers import ddim
from repro.diffusion.schedules import alphas_cumprod, linear_betas, timesteps_quad
from repro.errors import ReproError
from repro.nets.unet import UNet
from repro.numbers import to_bytes
from repro.quant.calibration import Trajectory, record
from repro.zoo import pretrained
from repro.zoo.judge import Judge

if TYPE_CHECKING:
    from repro.job import Job

T = 1000
PICTURES = 10


def widths(name: str) -> tuple[int, int]:
    """(weight bits, activation bits) of "W8A6"; raises ReproError on another form."""
    found = re.fullmatch(r"W(\d+)A(\d+)", name)
    if not found:
        raise ReproError(f"`{name}` is no pair of widths; write it like W8A8")
    return int(found[1]), int(found[2])


class Study:
    """What the arms of one seed share.

    job: its card declares `network` (a model of the zoo), `steps` (of the DDIM grid), `clip` (bound
    of |x̂_0|, or None), `batch`, `samples` (evaluation noises), `eps_samples` (of the first batch,
    on which ε is compared), `dataset`, `real` (images) and `classifier` (a zoo model, or "" for no
    Fréchet distance); optionally `reference`, a model made by `full_precision` with the same
    `network`, `steps`, `clip` and `batch`, and no fewer `samples`.
    """

    def __init__(self, job: Job):
        self.job, self.p = job, job.params
        self.network = pretrained.of_type(UNet, job, self.p.network)
        self.alphas_cumprod = alphas_cumprod(linear_betas(T))
        self.timesteps = timesteps_quad(T, self.p.steps)
        self.shape = (self.network.in_channels, *[self.network.resolution] * 2)

    def noise(self, n: int, stream: str) -> Tensor:
        """Standard normal (n, C, H, W) of a named stream of the seed."""
        return torch.randn(n, *self.shape, generator=self.job.rng(stream)).to(self.job.device)

    @cached_property
    def critic(self) -> Judge:
        """How samples are compared with real images."""
        return Judge(self.job)

    def sample(self, eps_model: Callable, x_T: Tensor, callback: Callable | None = None) -> Tensor:
        """DDIM (η = 0) from x_T, in batches; the callback sees step, t, x, ε of every batch."""
        parts = [
            ddim(eps_model, part, self.timesteps, self.alphas_cumprod,
                 clip=self.p.clip, callback=callback)
            for part in x_T.split(self.p.batch)
        ]  # fmt: skip
        return torch.cat(parts)

    @cached_property
    def _stored(self) -> dict[str, Tensor] | None:
        """The model of full-precision samples of the card, or None."""
        name = self.p.get("reference")
        if not name:
            return None
        kept = {key: value.to(self.job.device) for key, value in self.job.model(name).items()}
        wanted, clip = self.timesteps.flip(0).tolist(), self.p.clip
        batch = min(self.p.batch, len(kept["x_T"]))
        fits = kept["run.t"].tolist() == wanted and kept["run.x"].shape[1] == batch
        if not fits or len(kept["x_T"]) < self.p.samples or float(kept["clip"]) != (clip or 0.0):
            raise ReproError(
                f"the samples of {name} are of another sampler; give both the same steps, clip and "
                "batch, and the model no fewer samples"
            )
        return kept

    @cached_property
    def kept_chains(self) -> Trajectory | None:
        """The calibration chains of the model of full-precision samples, or None."""
        kept = self._stored
        return _trajectory(kept, "chains") if kept and len(kept["chains.t"]) else None

    @cached_property
    def x_T(self) -> Tensor:
        if self._stored:
            return self._stored["x_T"][: self.p.samples]
        return self.noise(self.p.samples, "evaluation")

    def trajectory(self, eps_model: Callable, x_T: Tensor) -> Trajectory:
        """What the sampler fed to a network, and got, from x_T."""
        runs = [
            record(eps_model, partial(self.sample, x_T=part)) for part in x_T.split(self.p.batch)
        ]
        return Trajectory(
            torch.cat([run.x for run in runs], 1),
            torch.cat([run.eps for run in runs], 1),
            runs[0].t,
            torch.cat([run.final for run in runs]),
        )

    @cached_property
    def reference(self) -> Trajectory:
        """The full-precision trajectory of the first batch of evaluation noises."""
        if self._stored and self.p.samples >= self.p.batch:
            return _trajectory(self._stored, "run")
        return self.trajectory(self.network, self.x_T[: self.p.batch])

    @cached_property
    def final(self) -> Tensor:
        """The full-precision samples of all evaluation noises."""
        if self._stored:
            return self._stored["final"][: self.p.samples]
        return self._completed(self.network, self.reference)

    def _completed(self, eps_model: Callable, run: Trajectory) -> Tensor:
        rest = self.x_T[self.p.batch :]
        return torch.cat([run.final, self.sample(eps_model, rest)]) if len(rest) else run.final

    # Measurements

    @torch.no_grad()
    def measure_eps(self, network: nn.Module, **at: object) -> None:
        """Measure `eps_mse` alone, where sampling would cost too much.

        network: (x, t) -> ε. at: coordinates of the measurement.
        """
        self.job.measure("eps_mse", self.eps_mse(network), **at)

    @torch.no_grad()
    def eps_mse(self, network: Callable) -> float:
        """E |ε_q - ε|² over `eps_samples` full-precision trajectories. network: (x, t) -> ε."""
        run = self.reference
        some = min(self.p.eps_samples, run.x.shape[1])
        squared = [
            (network(x[:some], t.expand(some)) - eps[:some]).square().mean()
            for x, t, eps in zip(run.x, run.t, run.eps, strict=True)
        ]
        return float(torch.stack(squared).mean())

    @torch.no_grad()
    def evaluate(self, network: nn.Module, name: str, **at: object) -> Tensor:
        """Measure a quantised network against full precision; returns its final samples."""
        job, run = self.job, self.reference
        self.measure_eps(network, **at)
        quantised = self.trajectory(network, self.x_T[: self.p.batch])
        final = self._completed(network, quantised)
        job.measure("trajectory_mse", (final - self.final).square().mean(), **at)
        states, twins = (torch.cat([r.x, r.final[None]]) for r in (quantised, run))
        job.save(f"curve-{name}", (states - twins).square().flatten(1).mean(1))
        job.save(f"pictures-{name}", to_bytes(final[:PICTURES]))
        self.measure_frechet(final, **at)
        return final

    def measure_frechet(self, samples: Tensor, **at: object) -> float | None:
        """Fréchet distance to real test images, precision and recall; returns the distance.

        Does nothing where the scale has no classifier.
        """
        return self.critic.measure(samples, **at) if self.p.classifier else None


def _trajectory(kept: Mapping[str, Tensor], part: str) -> Trajectory:
    return Trajectory(*(kept[f"{part}.{leaf}"] for leaf in ("x", "eps", "t", "final")))


def full_precision(job: Job) -> dict[str, Tensor]:
    """Train function of a card: what a full-precision network samples, once for all arms.

    Its card declares `network`, `steps`, `clip`, `batch`, `samples` (see `Study`) and `chains`
    (calibration chains, at least as many as arms take; 0 for none). Returns

        x_T, final          (N, C, H, W) noises, and the samples from them
        run.x, .eps, .t, .final       trajectory of the first `batch` of them
        chains.x, .eps, .t, .final    that of the calibration chains
        clip                the bound of |x̂_0|, 0 for none
    """
    study, p = Study(job), job.params
    state = {
        "x_T": study.x_T,
        "final": study.final,
        "clip": torch.tensor(float(p.clip or 0.0)),
    }
    runs = {"run": study.reference}
    noise = study.noise(p.chains, "calibration")
    empty = Trajectory(noise[None][:0], noise[None][:0], study.timesteps[:0], noise[:0])
    runs["chains"] = study.trajectory(study.network, noise) if p.chains else empty
    for part, run in runs.items():
        leaves = {"x": run.x, "eps": run.eps, "t": run.t, "final": run.final}
        state |= {f"{part}.{leaf}": value.clone() for leaf, value in leaves.items()}
    return state
