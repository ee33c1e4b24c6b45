"""Problem B: one-step students of a class-conditional ε-network of images, without pairs (DMD2).

The teacher is a network of the zoo, read as a denoiser (`networks.EpsDenoiser`). Noises are the
levels σ_t of its own steps t, so that reading σ as the nearest step is exact. The largest noise of
a student is σ_t at `student_step`: the teacher predicts noise, so an error of its prediction counts
σ-fold in D, and at the last steps D is further from any image than the mean image of the class is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from methods.msd import method as msd
from methods.msd.networks import EpsDenoiser, Head
from repro.diffusion.samplers import ddim
from repro.diffusion.schedules import alphas_cumprod, expand, linear_betas, stratified
from repro.errors import ReproError
from repro.nets.unet import UNet
from repro.training.fit import fit_alternating, fit_and_save
from repro.training.seeding import seeded
from repro.training.settings import Optimiser, Turn
from repro.zoo import pretrained
from repro.zoo.train import images, scaled

if TYPE_CHECKING:
    from repro.job import Job

State = dict[str, Tensor]
STARTS = ("teacher", "tsm", "random")


class Pictures:
    """What trainings and evaluations share: the teacher, its noise levels, labels.

    job: its card declares `network` (a zoo model), `dataset`, `classes`, `student_step`.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.p = job, job.params
        self.eps = pretrained.of_type(UNet, job, self.p.network)
        self.alphas_cumprod = alphas_cumprod(linear_betas())
        self.teacher = EpsDenoiser(self.eps, self.alphas_cumprod).to(job.device)
        self.sigmas = self.teacher.sigmas.cpu()
        self.sigma_max = self.sigmas[self.p.student_step].item()
        self.shape = (self.eps.in_channels, *[self.eps.resolution] * 2)

    def unet_arguments(self, channels: int) -> dict[str, Any]:
        """Those of the teacher's network, with another width (0: the same)."""
        arguments = dict(self.job.model_params(self.p.network).as_dict()["unet"])
        return arguments | ({"channels": channels} if channels else {})

    def network(self, state: State | None = None, channels: int = 0, seed: str = "") -> EpsDenoiser:
        """A denoiser like the teacher: with given weights, or drawn for a named stream."""
        network = seeded(
            lambda: UNet(**self.unet_arguments(channels)), self.job.rng("initialise", seed)
        )
        if state is not None:
            network.load_state_dict(state)
        return EpsDenoiser(network, self.alphas_cumprod)

    def copy_of_teacher(self) -> EpsDenoiser:
        return self.network(self.eps.state_dict())

    def sample_teacher(self, z: Tensor, c: Tensor, steps: int, last: int, batch: int) -> Tensor:
        """DDIM (η = 0, x̂_0 clipped) in `steps` steps from step `last`, z its state: images."""
        timesteps = torch.linspace(last / steps, last, steps).round().long()
        conditional = self.eps.num_classes is not None
        parts = []
        for x, y in zip(z.split(batch), c.split(batch), strict=True):

            def eps(x: Tensor, t: Tensor, y: Tensor = y) -> Tensor:
                return self.eps(x, t, y) if conditional else self.eps(x, t)

            parts.append(ddim(eps, x, timesteps, self.alphas_cumprod, clip=1.0))
        return torch.cat(parts)

    def noise_levels(self, n: int, first: int, generator: Generator) -> Tensor:
        """σ_t of n steps (n,), stratified over first … student_step."""
        count = self.p.student_step - first + 1
        u = stratified(n, generator) / n
        t = first + (u[torch.randperm(n, generator=generator)] * count).long()
        return self.sigmas[t.clamp(max=self.p.student_step)]


class _Real:
    """Training images by label, drawn for the classes of one part."""

    def __init__(self, job: Job) -> None:
        split, self.dataset = job.data(job.params.dataset).train, job.params.dataset
        self.images = images(split, self.dataset)
        labels = torch.from_numpy(np.array(split.labels)).long()
        self.rows = [(labels == k).nonzero()[:, 0] for k in range(job.params.classes)]

    def draw(self, c: Tensor, generator: Generator) -> Tensor:
        """One image in [-1, 1] of each label c (n,): (n, C, H, W)."""
        u = torch.rand(len(c), generator=generator)
        chosen = [
            self.rows[k][int(v * len(self.rows[k]))] for k, v in zip(c.tolist(), u, strict=True)
        ]
        return scaled(self.images[torch.stack(chosen)], self.dataset)


def distil(job: Job) -> State:
    """Students of a card: TSM where they start from it, then DM, then ADM.

    Returns their weights as ``<stage>.<k>.<name>``, for the stages dm and adm, and ``assign`` (C,).
    """
    p = job.params
    if p.start not in STARTS:
        raise ReproError(f"there is no start `{p.start}`; choose one of {', '.join(STARTS)}")
    pictures, real = Pictures(job), _Real(job)
    assign = msd.consecutive(p.classes, p.students)
    out: State = {"assign": assign}
    for k in range(p.students):
        stages, curves = _distil_one(job, pictures, real, assign, k)
        for stage, state in stages.items():
            out |= {f"{stage}.{k}.{name}": value for name, value in state.items()}
        for stage, curve in curves.items():
            job.save(f"{stage}-{k}", curve)
    return out


def _start(job: Job, pictures: Pictures, real: _Real, assign: Tensor, k: int) -> EpsDenoiser:
    p = job.params
    if p.start == "teacher":
        return pictures.copy_of_teacher()
    student = pictures.network(channels=p.channels, seed="student")
    if p.start == "tsm":
        return teacher_score_matching(job, pictures, real, student, assign, k)
    return student


def teacher_score_matching(
    job: Job, pictures: Pictures, real: _Real, student: EpsDenoiser, assign: Tensor, k: int
) -> EpsDenoiser:
    """TSM of one student on noised real images of its part."""
    p = job.params

    def batch(step: int, generator: Generator) -> tuple[Tensor, ...]:
        c = msd.draw_conditions(assign, k, p.batch, generator)
        x = real.draw(c, generator)
        sigma = pictures.noise_levels(len(c), 0, generator)
        return x, c, sigma, torch.randn(x.shape, generator=generator)

    def loss(network: nn.Module, data: tuple[Tensor, ...], generator: Generator) -> Tensor:
        x, c, sigma, noise = data
        weight = msd.eps_weight(sigma)
        return msd.teacher_score_matching(network, pictures.teacher, x, c, sigma, noise, weight)

    optimiser = Optimiser(lr=p.tsm_lr, warmup=p.warmup, schedule="cosine", ema=p.ema)
    name = f"tsm-{k}"
    fit_and_save(
        job, student, loss, batch, optimiser, steps=p.tsm_iterations, name=name, curve=name
    )
    return student


class _Critic(nn.Module):
    """The fake denoiser with the discriminator's head on its bottleneck."""

    def __init__(self, fake: EpsDenoiser, head: Head) -> None:
        super().__init__()
        self.fake, self.head = fake, head

    def logit(self, x: Tensor, sigma: Tensor, c: Tensor) -> Tensor:
        return self.head(self.fake.bottleneck(x, sigma, c).float()).flatten()


def _distil_one(
    job: Job, pictures: Pictures, real: _Real, assign: Tensor, k: int
) -> tuple[dict[str, State], dict[str, np.ndarray]]:
    p = job.params
    student = _start(job, pictures, real, assign, k)
    fake = pictures.copy_of_teacher()
    head = seeded(
        lambda: Head(_bottleneck_channels(pictures), size=4, groups=8),
        job.rng("initialise", "head"),
    )
    critic = _Critic(fake, head)
    stages, curves = {}, {}
    for stage, iterations in (("dm", p.dm_iterations), ("adm", p.adm_iterations)):
        if not iterations:
            continue
        adversarial = stage == "adm"
        critic.head.requires_grad_(adversarial)
        found = fit_alternating(
            job,
            {"student": student, "critic": critic},
            _turns(job, pictures, adversarial),
            _batches(job, pictures, real if adversarial else None, assign, k),
            steps=iterations,
            precision=p.precision,
            name=f"{stage}-{k}",
        )
        state = found.state_dicts["student"]
        stages[stage] = {n.removeprefix("network."): v for n, v in state.items()}
        curves[stage] = found.curves["student"]
    return stages, curves


def _bottleneck_channels(pictures: Pictures) -> int:
    arguments = pictures.unet_arguments(0)
    return arguments["channels"] * arguments["mult"][-1]


def _batches(
    job: Job, pictures: Pictures, real: _Real | None, assign: Tensor, k: int
) -> Callable[[int, Generator], dict[str, Tensor]]:
    """Conditions and real images of the part alone."""
    p = job.params

    def batch(step: int, generator: Generator) -> dict[str, Tensor]:
        c = msd.draw_conditions(assign, k, p.batch, generator)
        shape = (p.batch, *pictures.shape)
        d = {
            "z": torch.randn(shape, generator=generator),
            "c": c,
            "dm_sigma": pictures.noise_levels(p.batch, msd.DM_STEPS[0], generator),
            "dm_noise": torch.randn(shape, generator=generator),
            "sigma": pictures.noise_levels(p.batch, 0, generator),
            "noise": torch.randn(shape, generator=generator),
        }
        if real is not None:
            d["real"] = real.draw(c, generator)
            d["real_noise"] = torch.randn(shape, generator=generator)
        return d

    return batch


def _turns(job: Job, pictures: Pictures, adversarial: bool) -> dict[str, Turn]:
    p = job.params

    def student_loss(nets: Any, d: dict, generator: Generator, shared: dict) -> Tensor:
        c = d["c"]
        x = msd.generate(nets["student"], d["z"], c, pictures.sigma_max)
        shared["x"] = x.detach()
        critic = nets["critic"]
        loss = msd.distribution_matching(
            x, c, d["dm_sigma"], d["dm_noise"], critic.fake, pictures.teacher
        )
        if adversarial:
            xt = x + expand(d["sigma"], x) * d["noise"]
            logit = critic.logit(xt, d["sigma"], c)
            loss = loss + p.gan_generator * msd.gan_generator_loss(logit)
        return loss

    def critic_loss(nets: Any, d: dict, generator: Generator, shared: dict) -> Tensor:
        c, sigma, critic = d["c"], d["sigma"], nets["critic"]
        if "x" not in shared:
            with torch.no_grad():
                shared["x"] = msd.generate(nets["student"], d["z"], c, pictures.sigma_max)
        x = shared["x"]
        loss = msd.fake_score_loss(x, c, sigma, d["noise"], critic.fake, msd.eps_weight(sigma))
        if adversarial:
            s = expand(sigma, x)
            noised = torch.cat([x + s * d["noise"], d["real"] + s * d["real_noise"]])
            logits = critic.logit(noised, sigma.repeat(2), c.repeat(2))
            loss = loss + p.gan_critic * msd.gan_discriminator_loss(*logits.chunk(2))
        return loss

    # The discriminator's head is new in ADM, so its stage has no warm-up to lose.
    critic = Optimiser(p.critic_lr, weight_decay=0.01, warmup=p.warmup, clip=10.0, ema=None)
    student = replace(critic, lr=p.student_lr, schedule="cosine", ema=p.ema)
    return {
        "student": Turn(student_loss, student, every=p.student_every),
        "critic": Turn(critic_loss, critic),
    }
