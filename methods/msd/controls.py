"""What the checks are held against: students without parts of their own, starts, plain references.

None of these is the method. A check that holds for them as well shows nothing about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.msd import arms
from methods.msd import images as pictures_of
from methods.msd import method as msd
from methods.msd import networks as nets
from methods.msd import toy as plane
from repro.metrics.cost import interleaved
from repro.zoo.judge import Judge

if TYPE_CHECKING:
    from repro.job import Job

State = dict[str, Tensor]

# Problem A ---------------------------------------------------------------------------------------


class Unspecialised(plane.Toy):
    """The plane, where every student is trained for all classes, whatever its part is."""

    def parts(self, sets: Sequence[plane.Students]) -> plane.Choices:
        everything = torch.arange(self.p.classes)
        return plane.Choices([everything for chosen in sets for _ in range(chosen.students)])


def train_unspecialised(job: Job) -> State:
    """Sets of students that all learn all classes, each routed to by its part; DM."""
    toy, p = Unspecialised(job), job.params
    fake = plane.fake_from_teacher(toy)
    groups: dict[tuple[bool, int], list[plane.Students]] = {}
    for chosen in arms._sets(job):
        size = p.batch // chosen.students if chosen.variant == "small-batch" else p.batch
        groups.setdefault((chosen.variant == "tsm", size), []).append(chosen)
    state: State = {}
    for (matched, size), sets in groups.items():
        start = plane.matched_students(toy, sets) if matched else None
        state |= plane.distribution_matching(toy, sets, fake, batch_size=size, start=start)
    return state


def train_unspecialised_consistency(job: Job) -> State:
    """The same by consistency distillation."""
    return plane.consistency_distillation(Unspecialised(job), arms._sets(job))


def train_smaller(job: Job) -> State:
    """Smaller students from random weights, after TSM, and after post-distillation; then DM.

    Post-distillation imitates the plain students of the larger model that the card lists.
    """
    toy = plane.Toy(job)
    (larger,) = job.model_paths
    finished = job.model_params(larger)
    fake = plane.fake_from_teacher(toy)
    state: State = {}
    for chosen in arms._sets(job):
        start: plane.MLPDenoisers | None = None
        if chosen.variant == "tsm":
            start = plane.matched_students(toy, [chosen])
        elif chosen.variant == "post":
            plain = plane.Students(chosen.students)
            teachers = arms._loaded(toy, plain, job.model(larger), finished.width)
            start = plane.regressed_students(toy, [chosen], teachers, toy.partition(plain))
        state |= plane.distribution_matching(
            toy, [chosen], fake, batch_size=job.params.batch, start=start
        )
    return state


def variance_between(points: Tensor, assign: Tensor) -> float:
    """Share of the variance of points (C, M, 2) that is between the parts of their classes (C,).

    0 where all parts have the same mean, 1 where all points of a part coincide.
    """
    flat = points.flatten(0, 1)
    owner = assign.repeat_interleave(points.shape[1])
    means = torch.stack([flat[owner == k].mean(0) for k in owner])
    total = (flat - flat.mean(0)).square().sum()
    return ((means - flat.mean(0)).square().sum() / total).item()


@torch.no_grad()
def references(job: Job) -> None:
    """L1 distance of an untrained student and of exact samples of random classes.

    `between`: the share of the variance of the modes that lies between four parts.
    """
    toy, p = plane.Toy(job), job.params
    c = torch.arange(p.points * p.classes) % p.classes
    real = plane.histogram(toy.mixture.draw(c, job.rng("real")), c, p.classes)
    others = torch.randint(p.classes, c.shape, generator=job.rng("labels"))
    shuffled = toy.mixture.draw(others, job.rng("shuffled"))
    z = torch.randn(len(c), 2, generator=job.rng("evaluation"))
    untrained = toy.denoisers(1, p.width, "students").one(0)
    for of, x in (
        ("shuffled", shuffled),
        ("untrained", msd.generate(untrained, z, c, p.sigma_max)),
    ):
        distance = plane.l1_distance(plane.histogram(x, c, p.classes), real)
        job.measure("l1", distance, of=of)
    for parts, variant in (("similar", "plain"), ("random", "random")):
        assign = toy.partition(plane.Students(4, variant))
        job.measure("between", variance_between(toy.mixture.means, assign), parts=parts)


# Problem B ---------------------------------------------------------------------------------------


@torch.inference_mode()
def image_start(job: Job) -> None:
    """One evaluation of what a student starts from: the teacher, or random weights."""
    judge, pictures, p = Judge(job), pictures_of.Pictures(job), job.params
    network = (
        pictures.network(channels=p.channels, seed="student")
        if p.channels
        else pictures.copy_of_teacher()
    )
    student = network.to(job.device).eval()
    c = torch.arange(len(judge.noise), device=job.device) % p.classes
    parts = zip(judge.noise.split(p.batch), c.split(p.batch), strict=True)
    x = torch.cat([msd.generate(student, z, y, pictures.sigma_max) for z, y in parts])
    for stage in p.stages:
        judge.measure(x, nfe=1, stage=stage, students=1)
    judge.save_grid(x, "start", 2 * p.classes)


# The paper's scale -------------------------------------------------------------------------------


@torch.inference_mode()
def latency_of_all(job: Job) -> None:
    """Time of an image where all four students run and the router picks one of their outputs."""
    p = job.params
    z = torch.randn(1, 3, 64, 64, generator=job.rng("noise")).to(job.device)
    label = torch.zeros(1, 1000, device=job.device)
    c = torch.tensor([250], device=job.device)
    assign = msd.consecutive(1000, 4)
    with torch.device(job.device):
        network = nets.imagenet(p.net).eval()

    def student(x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        return network(x, sigma, label)

    def everyone() -> Tensor:
        images = [msd.generate(student, z, c, msd.SIGMA_MAX) for _ in range(4)]
        return images[assign[250]]

    calls: dict[str, Callable[[], Tensor]] = {
        "one": partial(msd.generate, student, z, c, msd.SIGMA_MAX),
        "routed": everyone,
    }
    rounds = interleaved(calls, p.repeats, warmup=1)
    job.measure("latency_ratio", rounds.ratio("routed", "one").median, net="routed")


# Exact -------------------------------------------------------------------------------------------


def gradient_error(
    theta: float, sigma: float, loss: Callable[..., Tensor] = msd.distribution_matching
) -> float:
    """Relative error of the DM gradient in θ where all is Gaussian, against that of the KL.

    p_real = N(0, 1) and G(z) = θ + z, with exact denoisers. At noise σ the KL divergence is
    θ² / (2 (1 + σ²)) and its gradient in θ is θ / (1 + σ²). The loss divides each sample by the
    teacher's residual and multiplies by σ², so that its gradient is the KL's times the mean of
    σ² / |x - D_teacher(x_t)|.
    """
    generator = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(64, 1, dtype=torch.float64, generator=generator) for _ in "ab")
    t = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    s, c = torch.full((64,), sigma, dtype=torch.float64), torch.zeros(64, dtype=torch.long)
    total = 1 + sigma**2

    def real(x: Tensor, sigma: Tensor, c: Tensor) -> Tensor:
        return x / total

    def fake(x: Tensor, sigma: Tensor, c: Tensor) -> Tensor:
        return t + (x - t) / total

    x = t + z
    (found,) = torch.autograd.grad(loss(x, c, s, noise, fake, real), t)
    weight = (sigma**2 / (x - (x + sigma * noise) / total).abs()).mean()
    (kl,) = torch.autograd.grad(t**2 / (2 * total), t)
    return abs((found / (weight * kl)).item() - 1)


def gradients(job: Job) -> None:
    """The gradient of distribution matching against that of the KL divergence, at five noises."""
    for sigma in (0.1, 0.5, 1.0, 4.0, 20.0):
        worst = max(gradient_error(theta, sigma) for theta in (-1.5, 0.3, 2.0))
        job.measure("gradient_error", worst, sigma=sigma)
