"""Problem A: conditional mixtures in the plane, whose denoiser is known in closed form.

Each of C classes is a mixture of M Gaussians of deviation s around means that are uniform in
[-1, 1]². All students of a training run as one batch of independent networks, each with its own
fake denoiser; a step costs little more for many students than for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from methods.msd import method as msd
from methods.msd.networks import MLPDenoisers
from repro.diffusion.samplers import heun
from repro.diffusion.schedules import karras_sigmas
from repro.errors import ReproError
from repro.numbers import finite
from repro.training.fit import fit, fit_alternating, fit_and_save
from repro.training.settings import Batch, Loss, Optimiser, Turn

if TYPE_CHECKING:
    from repro.job import Job

GRID = 1000
VARIANTS = ("plain", "small-batch", "filtered", "random", "tsm", "post", "consistency")


@dataclass(frozen=True)
class Mixture:
    """means (C, M, 2) and the deviation s of every Gaussian."""

    means: Tensor
    s: float = 0.06

    @classmethod
    def drawn(cls, classes: int, modes: int, generator: Generator) -> Mixture:
        return cls(2 * torch.rand(classes, modes, 2, generator=generator) - 1)

    @property
    def classes(self) -> int:
        return len(self.means)

    def draw(self, c: Tensor, generator: Generator) -> Tensor:
        """Points (..., 2) of classes c (...)."""
        mode = torch.randint(self.means.shape[1], c.shape, generator=generator)
        return self.means[c, mode] + self.s * torch.randn(*c.shape, 2, generator=generator)

    def denoise(self, x: Tensor, sigma: Tensor, c: Tensor) -> Tensor:
        """E[x_0 | x_0 + σ n = x, c]: x (..., 2), sigma and c (...) -> (..., 2)."""
        means, sigma = self.means.to(x.device)[c], sigma[..., None]
        variance = sigma**2 + self.s**2
        near = -(x[..., None, :] - means).square().sum(-1) / (2 * variance)
        mean = (near.softmax(-1)[..., None] * means).sum(-2)
        return (sigma**2 * mean + self.s**2 * x) / variance


def histogram(x: Tensor, c: Tensor, classes: int, bins: int = 40, limit: float = 1.5) -> Tensor:
    """Share of each class's points x (n, 2) in each cell of [-limit, limit]²: (C, bins²).

    Points outside are in no cell. Raises ReproError for NaN and infinity, which would be outside,
    for labels that are no class, and for a class without points.
    """
    if not len(c) or int(c.min()) < 0 or int(torch.bincount(c, minlength=classes).min()) < 1:
        raise ReproError(f"every one of {classes} classes needs points; draw more, label from 0")
    if len(x) != len(c) or int(c.max()) >= classes:
        raise ReproError(f"{len(c)} labels up to {int(c.max())} do not fit {len(x)} points")
    finite(x, "points")
    cell = ((x + limit) / (2 * limit) * bins).floor().long()
    inside = ((cell >= 0) & (cell < bins)).all(-1)
    index = (c * bins + cell[:, 0]) * bins + cell[:, 1]
    counts = torch.bincount(index[inside], minlength=classes * bins * bins)
    return counts.view(classes, -1) / torch.bincount(c, minlength=classes)[:, None]


def l1_distance(a: Tensor, b: Tensor) -> float:
    """L1 distance of histograms (C, cells), mean over classes; in 0..2."""
    return (a - b).abs().sum(-1).mean().item()


@dataclass(frozen=True)
class Students:
    """One set of students: how many, what is changed about training, and how long it is.

    variant: small-batch divides the batch by the number of students; filtered takes pairs of the
    part alone; random splits classes at random; tsm and post start from teacher score matching and
    from a regression on the outputs of the finished plain students.
    times: factor of the number of iterations.
    """

    students: int
    variant: str = "plain"
    times: int = 1

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ReproError(
                f"there is no variant `{self.variant}`; choose one of {', '.join(VARIANTS)}"
            )

    @property
    def name(self) -> str:
        return f"{self.students}-{self.variant}" + (f"-x{self.times}" if self.times > 1 else "")

    @property
    def at(self) -> dict[str, int | str]:
        """Coordinates of its measurements."""
        return {"students": self.students, "variant": self.variant, "times": self.times}

    def partition(self, mixture: Mixture, generator: Generator) -> Tensor:
        """The student of each class (C,): coherent blocks (by mean position), or at random."""
        if self.variant == "random":
            return msd.shuffled(mixture.classes, self.students, generator)
        return msd.sorted_by(mixture.means.mean(1)[:, 0], self.students)


class Choices:
    """Lists of different lengths, one a network, from which rows are drawn together."""

    def __init__(self, lists: Sequence[Tensor]) -> None:
        self.sizes = torch.tensor([len(part) for part in lists])
        self.table = nn.utils.rnn.pad_sequence(list(lists), batch_first=True)

    def draw(self, n: int, generator: Generator) -> Tensor:
        """n entries of each list: (N, n)."""
        u = torch.rand(len(self.sizes), n, generator=generator)
        return self.table.gather(1, (u * self.sizes[:, None]).long())


class Toy:
    """What every training and evaluation of a seed shares: the mixture, its pairs, the grid.

    job: its card declares `classes`, `modes`, `sigma_min`, `sigma_max`, `pairs`, `heun_steps`.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.p = job, job.params
        self.mixture = Mixture.drawn(self.p.classes, self.p.modes, job.rng("mixture"))
        self.grid = karras_sigmas(GRID, self.p.sigma_min, self.p.sigma_max).float()

    def solve(self, z: Tensor, c: Tensor) -> Tensor:
        """The teacher's sample of noises z (n, 2): Heun's method on the probability-flow ODE."""
        sigmas = karras_sigmas(self.p.heun_steps, self.p.sigma_min, self.p.sigma_max).float()
        return heun(
            lambda x, sigma: self.mixture.denoise(x, sigma, c), self.p.sigma_max * z, sigmas
        )

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """(z (n, 2), c (n,), y (n, 2)) of the teacher, all classes."""
        generator = self.job.rng("pairs")
        z = torch.randn(self.p.pairs, 2, generator=generator)
        c = torch.randint(self.p.classes, (self.p.pairs,), generator=generator)
        return z, c, self.solve(z, c)

    def partition(self, chosen: Students) -> Tensor:
        return chosen.partition(self.mixture, self.job.rng("partition"))

    def denoisers(self, networks: int, width: int, stream: str) -> MLPDenoisers:
        return MLPDenoisers(
            networks, self.p.classes, width=width, generator=self.job.rng("initialise", stream)
        )

    def parts(self, sets: Sequence[Students]) -> Choices:
        """The classes of every student of some sets."""
        assigned = [(self.partition(chosen), chosen.students) for chosen in sets]
        return Choices(
            [
                (assign == k).nonzero()[:, 0]
                for assign, students in assigned
                for k in range(students)
            ]
        )

    def pair_choices(self, sets: Sequence[Students], c: Tensor) -> Choices:
        """Rows of the pairs, whose classes are c, for every student: all, unless filtered."""
        rows = []
        for chosen in sets:
            owner = self.partition(chosen)[c]
            for k in range(chosen.students):
                filtered = chosen.variant == "filtered"
                rows.append((owner == k).nonzero()[:, 0] if filtered else torch.arange(len(c)))
        return Choices(rows)

    def noises(self, shape: tuple[int, ...], first: int, last: int, generator: Generator) -> Tensor:
        return self.grid[torch.randint(first, last + 1, shape, generator=generator)]


def initial_students(toy: Toy, sets: Sequence[Students]) -> MLPDenoisers:
    """Untrained students of some sets. The i-th of every set has the same weights."""
    order = [k for chosen in sets for k in range(chosen.students)]
    students = toy.denoisers(len(order), toy.p.width, "students")
    students.copy_from(toy.denoisers(toy.p.classes, toy.p.width, "students"), order)
    return students


def imitation(toy: Toy) -> Optimiser:
    """How every network is trained that imitates another one."""
    return Optimiser(lr=toy.p.lr, schedule="cosine", clip=None, ema=None)


def fake_from_teacher(toy: Toy) -> MLPDenoisers:
    """One fake denoiser that imitates the teacher's: the start of all students' fakes."""
    p = toy.p

    def batch(step: int, generator: Generator) -> tuple[Tensor, ...]:
        c = torch.randint(p.classes, (1, p.warm_batch), generator=generator)
        x = toy.mixture.draw(c, generator)
        sigma = toy.noises(c.shape, 0, GRID - 1, generator)
        return x, c, sigma, torch.randn(x.shape, generator=generator)

    def loss(network: MLPDenoisers, data: tuple[Tensor, ...], generator: Generator) -> Tensor:
        x, c, sigma, noise = data
        weight = msd.edm_weight(sigma, network.sigma_data)
        return msd.teacher_score_matching(network, toy.mixture.denoise, x, c, sigma, noise, weight)

    network = toy.denoisers(1, p.fake_width, "fake")
    fit(toy.job, network, loss, batch, imitation(toy), steps=p.warm_iterations, name="fake")
    return network


def _imitators(
    toy: Toy, sets: Sequence[Students], loss: Loss, batch: Batch, name: str
) -> MLPDenoisers:
    students = initial_students(toy, sets)
    fit(toy.job, students, loss, batch, imitation(toy), steps=toy.p.tsm_iterations, name=name)
    return students


def matched_students(toy: Toy, sets: Sequence[Students]) -> MLPDenoisers:
    """TSM: students that imitate the teacher's denoiser on noised data of their part."""
    p, parts = toy.p, toy.parts(sets)

    def batch(step: int, generator: Generator) -> tuple[Tensor, ...]:
        c = parts.draw(p.batch, generator)
        x = toy.mixture.draw(c, generator)
        log_sigma = -1.2 + 1.2 * torch.randn(c.shape, generator=generator)
        sigma = log_sigma.exp().clamp(p.sigma_min, p.sigma_max)
        # Half of the noises from the grid: a student is run at the largest of all.
        half = torch.rand(c.shape, generator=generator) < 0.5
        sigma = torch.where(half, sigma, toy.noises(c.shape, 0, GRID - 1, generator))
        return x, c, sigma, torch.randn(x.shape, generator=generator)

    def loss(network: MLPDenoisers, data: tuple[Tensor, ...], generator: Generator) -> Tensor:
        x, c, sigma, noise = data
        weight = msd.edm_weight(sigma, network.sigma_data)
        return network.networks * msd.teacher_score_matching(
            network, toy.mixture.denoise, x, c, sigma, noise, weight
        )

    return _imitators(toy, sets, loss, batch, "tsm")


def regressed_students(
    toy: Toy, sets: Sequence[Students], finished: Sequence[msd.Denoiser], assign: Tensor
) -> MLPDenoisers:
    """Post-distillation: students that imitate the outputs of finished one-step students."""
    p, parts = toy.p, toy.parts(sets)

    def batch(step: int, generator: Generator) -> tuple[Tensor, ...]:
        c = parts.draw(p.batch, generator)
        z = torch.randn(*c.shape, 2, generator=generator)
        with torch.no_grad():
            y = msd.sample(finished, assign, z.flatten(0, 1), c.flatten(), p.sigma_max)
        return z, c, y.view_as(z)

    def loss(network: MLPDenoisers, data: tuple[Tensor, ...], generator: Generator) -> Tensor:
        z, c, y = data
        x = msd.generate(network, z, c, p.sigma_max)
        return network.networks * msd.regression_loss(x, y)

    return _imitators(toy, sets, loss, batch, "post")


def distribution_matching(
    toy: Toy,
    sets: Sequence[Students],
    fake: MLPDenoisers,
    *,
    batch_size: int,
    start: MLPDenoisers | None = None,
) -> dict[str, Tensor]:
    """DM with regression of all students of some sets, as one batch; their weights by name.

    The sets have the same batch size and length. start: weights to start from, for all students.
    """
    p, mixture = toy.p, toy.mixture
    parts, (z_pairs, c_pairs, y_pairs) = toy.parts(sets), toy.pairs()
    pairs = toy.pair_choices(sets, c_pairs)
    students = start if start is not None else initial_students(toy, sets)
    networks = students.networks
    name = "dm-" + "-".join(chosen.name for chosen in sets)
    fakes = toy.denoisers(networks, p.fake_width, name)
    fakes.copy_from(fake, [0] * networks)

    def batch(step: int, generator: Generator) -> dict[str, Tensor]:
        c = parts.draw(batch_size, generator)
        i = pairs.draw(batch_size, generator)
        points = (*c.shape, 2)
        return {
            "z": torch.cat([torch.randn(points, generator=generator), z_pairs[i]], 1),
            "c": torch.cat([c, c_pairs[i]], 1),
            "y": y_pairs[i],
            "dm_sigma": toy.noises(c.shape, *msd.DM_STEPS, generator),
            "dm_noise": torch.randn(points, generator=generator),
            "sigma": toy.noises(c.shape, 0, GRID - 1, generator),
            "noise": torch.randn(points, generator=generator),
        }

    def student_loss(nets: Any, d: dict, generator: Generator, shared: dict) -> Tensor:
        # Losses are means over all networks: the factor gives each the gradient it has alone.
        x = msd.generate(nets["students"], d["z"], d["c"], p.sigma_max)
        x, regressed = x[:, :batch_size], x[:, batch_size:]
        c = d["c"][:, :batch_size]
        shared["x"], shared["c"] = x.detach(), c
        dm = msd.distribution_matching(
            x, c, d["dm_sigma"], d["dm_noise"], nets["fakes"], mixture.denoise
        )
        return networks * (dm + p.regression * msd.regression_loss(regressed, d["y"]))

    def fake_loss(nets: Any, d: dict, generator: Generator, shared: dict) -> Tensor:
        weight = msd.edm_weight(d["sigma"], nets["fakes"].sigma_data)
        return networks * msd.fake_score_loss(
            shared["x"], shared["c"], d["sigma"], d["noise"], nets["fakes"], weight
        )

    optimiser = Optimiser(lr=p.lr, schedule="linear", clip=None, ema=None)
    found = fit_alternating(
        toy.job,
        {"students": students, "fakes": fakes},
        {"students": Turn(student_loss, optimiser), "fakes": Turn(fake_loss, optimiser)},
        batch,
        steps=p.iterations * sets[0].times,
        name=name,
    )
    toy.job.save(f"curve-{name}", found.curves["students"])
    return _by_set(found.state_dicts["students"], sets)


def _by_set(state: dict[str, Tensor], sets: Sequence[Students]) -> dict[str, Tensor]:
    """Weights of stacked networks, cut by set: names start with that of the set."""
    out: dict[str, Tensor] = {}
    first = 0
    for chosen in sets:
        rows = slice(first, first + chosen.students)
        out |= {f"{chosen.name}.{k}": v[rows].clone() for k, v in state.items()}
        first += chosen.students
    return out


class _WithTarget(nn.Module):
    """A student beside its moving average, the target of consistency distillation."""

    def __init__(self, student: MLPDenoisers, target: MLPDenoisers) -> None:
        super().__init__()
        self.student, self.target = student, target.requires_grad_(False)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        pairs = zip(self.target.parameters(), self.student.parameters(), strict=True)
        for mine, theirs in pairs:
            mine.lerp_(theirs, 1 - decay)


def consistency_distillation(toy: Toy, sets: Sequence[Students]) -> dict[str, Tensor]:
    """The same students by consistency distillation; their weights by name."""
    p, mixture, parts = toy.p, toy.mixture, toy.parts(sets)
    grid = karras_sigmas(p.consistency_steps, p.sigma_min, p.sigma_max).float()

    def batch(step: int, generator: Generator) -> tuple[Tensor, ...]:
        c = parts.draw(p.batch, generator)
        i = torch.randint(1, len(grid), c.shape, generator=generator)
        x = mixture.draw(c, generator)
        return x, c, grid[i], grid[i - 1], torch.randn(x.shape, generator=generator)

    def loss(network: _WithTarget, data: tuple[Tensor, ...], generator: Generator) -> Tensor:
        network.follow(p.target_decay)
        x, c, sigma, lower, noise = data
        return network.student.networks * msd.consistency_loss(
            network.student, network.target, mixture.denoise, x, c, sigma, lower, noise
        )

    network = _WithTarget(initial_students(toy, sets), initial_students(toy, sets))
    state = fit_and_save(
        toy.job, network, loss, batch, imitation(toy),
        steps=p.iterations, name="consistency", curve="curve-consistency",
    )  # fmt: skip
    prefix = "student."
    return _by_set({k.removeprefix(prefix): state[k] for k in state if k.startswith(prefix)}, sets)
