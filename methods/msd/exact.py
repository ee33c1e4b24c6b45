"""Closed forms and identities of the method, each as the error of a computed value."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from methods.msd import method as msd
from methods.msd.networks import MLPDenoisers
from repro.diffusion.schedules import expand, karras_sigmas
from repro.job import Job
from repro.nets import edm
from repro.training.fit import fit_alternating
from repro.training.settings import Optimiser, Turn

Errors = dict[str, float]


def partition_errors() -> Errors:
    """Parts are disjoint, complete, of equal size; floor(c K / C) at ImageNet's edges."""
    assign = msd.consecutive(1000, 4)
    edges = {0: 0, 249: 0, 250: 1, 999: 3}
    uneven = [torch.bincount(msd.consecutive(c, k)) for c in range(2, 40) for k in range(1, c + 1)]
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(40, 6, generator=generator)
    others = [
        msd.shuffled(40, 4, generator),
        msd.balanced_clusters(embeddings, 4, generator),
        msd.sorted_by(embeddings[:, 0], 4),
        msd.principal_quadrants(embeddings)[2],
    ]
    return {
        "route": float(max(abs(assign[c].item() - k) for c, k in edges.items())),
        "part-sizes": float((torch.bincount(assign) - 250).abs().max()),
        "uneven-sizes": float(max((sizes.max() - sizes.min()).item() for sizes in uneven)),
        "other-partitions": float(
            max((torch.bincount(a, minlength=4) - 10).abs().max() for a in others)
        ),
    }


def gaussian_errors(theta: float = 2.0, sigma: float = 1.0, n: int = 64) -> Errors:
    """DM's gradient where all is Gaussian: p_real = N(0, 1), G(z) = θ + z, exact denoisers.

    D_fake - D_real = θ σ² / (1 + σ²) wherever, and the difference of the scores θ / (1 + σ²) is the
    gradient in θ of KL = θ² / (2 (1 + σ²)); all are 1 for θ = 2, σ = 1.
    """
    t = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    xt = torch.linspace(-4, 6, n, dtype=torch.float64)
    total = 1 + sigma**2
    real, fake = xt / total, t + (xt - t) / total
    difference = fake - real
    scores = (fake - xt) / sigma**2 - (real - xt) / sigma**2
    kl = t**2 / (2 * total)
    (kl_gradient,) = torch.autograd.grad(kl, t)
    expected = theta * sigma**2 / total
    return {
        "gaussian-difference": (difference - expected).abs().max().item(),
        "gaussian-score": (scores - kl_gradient).abs().max().item(),
        "gaussian-kl": abs(kl.item() - theta**2 / (2 * total)),
        "gaussian-one": max(
            abs(difference[0].item() - 1), abs(kl_gradient.item() - 1), abs(kl.item() - 1)
        ),
    }


def gradient_errors(generator: Generator) -> Errors:
    """The surrogate's gradient is g over the number of entries, 0 where both denoisers agree."""
    x = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    fake, teacher = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in "ab")
    sigma = torch.ones(3, dtype=torch.float64)
    g = msd.dm_gradient(x.detach(), fake, teacher, sigma)
    (found,) = torch.autograd.grad(msd.dm_loss(x, g), x)
    zero = msd.dm_gradient(x.detach(), teacher, teacher, sigma)
    (nothing,) = torch.autograd.grad(msd.dm_loss(x, zero), x)
    # The normaliser is each sample's own: doubling one sample's residual leaves the others alone.
    by_hand = (fake - teacher)[1] / (x.detach() - teacher)[1].abs().mean()
    return {
        "surrogate-gradient": (found - g / x.numel()).abs().max().item(),
        "surrogate-zero": nothing.abs().max().item(),
        "normaliser": (g[1] - by_hand).abs().max().item(),
    }


def constant_errors() -> Errors:
    """GAN terms at logit 0, weights, preconditioning at σ = 80 and the grid: printed numbers."""
    zero = torch.zeros(5, dtype=torch.float64)
    c_skip, c_out, c_in, c_noise = edm.coefficients(torch.tensor(80.0, dtype=torch.float64), 0.5)
    grid = karras_sigmas(1000, msd.SIGMA_MIN, msd.SIGMA_MAX)
    printed = {0: 0.002, 20: 0.00323159, 100: 0.0167514, 250: 0.170312, 500: 2.52651,
               750: 17.6173, 980: 72.0539, 999: 80.0}  # fmt: skip
    relative = {
        "c_skip": (c_skip.item(), 3.9061e-05),
        "c_out": (c_out.item(), 0.499990),
        "c_in": (c_in.item(), 0.0124998),
        "c_noise": (c_noise.item(), 1.095507),
    }
    one = torch.tensor(1.0, dtype=torch.float64)
    return {
        "gan-generator": abs(msd.gan_generator_loss(zero).item() - math.log(2)),
        "gan-discriminator": abs(msd.gan_discriminator_loss(zero, zero).item() - 2 * math.log(2)),
        "weight": abs(msd.edm_weight(one).item() - 5),
        "preconditioning": max(abs(a / b - 1) for a, b in relative.values()),
        "karras-grid": max(abs(grid[i].item() / v - 1) for i, v in printed.items()),
    }


def tsm_errors(generator: Generator) -> Errors:
    """TSM is 0 for a copy of the teacher; for D(x) = w x least squares finds the teacher's w*."""
    teacher = MLPDenoisers(1, 3, width=8, generator=generator)
    copy = MLPDenoisers(1, 3, width=8, generator=generator)
    copy.load_state_dict(teacher.state_dict())
    x, noise = (torch.randn(1, 32, 2, generator=generator) for _ in "ab")
    c = torch.randint(3, (1, 32), generator=generator)
    sigma = 0.1 + torch.rand(1, 32, generator=generator)
    weight = msd.edm_weight(sigma, 0.6)
    same = msd.teacher_score_matching(copy, teacher, x, c, sigma, noise, weight)

    true, sigma = 0.37, sigma.double()
    xt = x.double() + sigma[..., None] * noise.double()
    weighted = expand(msd.edm_weight(sigma, 0.6), xt)
    w = ((weighted * xt * (true * xt)).sum() / (weighted * xt.square()).sum()).requires_grad_()
    loss = msd.teacher_score_matching(
        lambda y, s, c: w * y, lambda y, s, c: true * y, x.double(), c, sigma, noise.double(),
        msd.edm_weight(sigma, 0.6),
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, w)
    return {
        "tsm-copy": same.item(),
        "tsm-linear": max(abs(w.item() - true), gradient.abs().item()),
    }


def routing_errors(generator: Generator) -> Errors:
    """A request runs one student; a batch of mixed labels gives what single requests give."""
    assign, calls = msd.consecutive(8, 4), [0] * 4
    networks = MLPDenoisers(4, 8, width=16, generator=generator)

    def counted(k: int) -> msd.Denoiser:
        student = networks.one(k)

        def run(x: Tensor, sigma: Tensor, c: Tensor) -> Tensor:
            calls[k] += 1
            return student(x, sigma, c)

        return run

    students = [counted(k) for k in range(4)]
    z = torch.randn(24, 2, generator=generator)
    c = torch.randint(8, (24,), generator=generator)
    mixed = msd.sample(students, assign, z, c, 10.0)
    most, wrong, single = 0, 0, torch.empty_like(mixed)
    for i in range(len(z)):
        before = list(calls)
        single[i] = msd.sample(students, assign, z[i : i + 1], c[i : i + 1], 10.0)[0]
        ran = [k for k in range(4) if calls[k] != before[k]]
        most = max(most, sum(calls) - sum(before))
        wrong += ran != [assign[c[i]].item()]
    return {
        "students-per-request": abs(most - 1.0),
        "wrong-student": float(wrong),
        "mixed-batch": (mixed - single).abs().max().item(),
    }


class _Case(nn.Module):
    """A small set of students with all that one DM step needs, for the two checks below."""

    classes, batch, sigma_max = 4, 16, 10.0

    def __init__(self, students: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.students = MLPDenoisers(1, self.classes, width=8, generator=generator)
        self.fake = MLPDenoisers(1, self.classes, width=8, generator=generator)
        self.teacher = MLPDenoisers(1, self.classes, width=8, generator=generator)
        self.teacher.requires_grad_(False)
        self.assign = msd.consecutive(self.classes, students)
        self.grid = karras_sigmas(1000, 0.02, self.sigma_max).float()
        self.z = torch.randn(64, 2, generator=generator)
        self.c = torch.arange(64) % self.classes
        self.y = torch.randn(64, 2, generator=generator)

    def draw(self, student: int, generator: Generator) -> dict[str, Tensor]:
        shape = (1, self.batch)
        i = torch.randint(len(self.c), shape, generator=generator)
        first, last = msd.DM_STEPS
        return {
            "c": msd.draw_conditions(self.assign, student, self.batch, generator)[None],
            "z": torch.randn(*shape, 2, generator=generator),
            "dm": self.grid[torch.randint(first, last + 1, shape, generator=generator)],
            "dm_noise": torch.randn(*shape, 2, generator=generator),
            "sigma": self.grid[torch.randint(1000, shape, generator=generator)],
            "noise": torch.randn(*shape, 2, generator=generator),
            "pair": i,
        }

    def student_loss(self, student: msd.Denoiser, fake: msd.Denoiser, d: dict) -> tuple:
        x = msd.generate(student, d["z"], d["c"], self.sigma_max)
        dm = msd.distribution_matching(x, d["c"], d["dm"], d["dm_noise"], fake, self.teacher)
        z, c, y = self.z[d["pair"]], self.c[d["pair"]], self.y[d["pair"]]
        regressed = msd.generate(student, z, c, self.sigma_max)
        return dm + 0.25 * msd.regression_loss(regressed, y), x.detach()

    def fake_loss(self, fake: msd.Denoiser, x: Tensor, d: dict) -> Tensor:
        weight = msd.edm_weight(d["sigma"], 0.6)
        return msd.fake_score_loss(x, d["c"], d["sigma"], d["noise"], fake, weight)


def reduction_errors(scratch: Path, steps: int = 10) -> Errors:
    """K = 1 is DMD: the same losses and weights, bit for bit, as a plain loop without parts."""
    job = Job.for_test(method="msd", name="reduction", scratch=scratch)
    case = _Case(1)

    def student(nets: Any, d: dict, generator: Generator, shared: dict) -> Tensor:
        loss, shared["x"] = case.student_loss(nets["student"], nets["fake"], d)
        return loss

    def fake(nets: Any, d: dict, generator: Generator, shared: dict) -> Tensor:
        return case.fake_loss(nets["fake"], shared["x"], d)

    optimiser = Optimiser(lr=1e-3, weight_decay=0.01, clip=10.0, ema=None)
    found = fit_alternating(
        job,
        {"student": case.students, "fake": case.fake},
        {"student": Turn(student, optimiser), "fake": Turn(fake, optimiser)},
        lambda step, generator: case.draw(0, generator),
        steps=steps,
    )
    plain = _Case(1)
    losses = _dmd(plain, job, steps)
    pairs = zip(case.parameters(), plain.parameters(), strict=True)
    return {
        "reduction-losses": max(
            abs(float(a) - b) for a, b in zip(found.curves["student"], losses, strict=True)
        ),
        "reduction-weights": max((a - b).abs().max().item() for a, b in pairs),
    }


def _dmd(case: _Case, job: Job, steps: int) -> list[float]:
    """DMD as published: no parts, conditions uniform over all classes, two AdamW optimisers."""
    student, fake = case.students, case.fake
    first, second = (
        torch.optim.AdamW(n.parameters(), 1e-3, weight_decay=0.01, fused=True)
        for n in (student, fake)
    )
    losses = []
    for n in range(steps):
        generator = job.rng("fit", n)
        d = case.draw(0, generator)
        loss, x = case.student_loss(student, fake, d)
        losses.append(loss.item())
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 10.0, foreach=True)
        first.step()
        first.zero_grad()
        second.zero_grad()
        case.fake_loss(fake, x, d).backward()
        nn.utils.clip_grad_norm_(fake.parameters(), 10.0, foreach=True)
        second.step()
        second.zero_grad()
    return losses


def isolation_errors() -> Errors:
    """DM for one part moves no other student; pairs hold all classes, conditions the part's."""
    case, networks = _Case(2), []
    for k in range(2):
        networks.append(
            MLPDenoisers(1, 4, width=8, generator=torch.Generator().manual_seed(20 + k))
        )
    generator = torch.Generator().manual_seed(3)
    before = [p.clone() for p in networks[1].parameters()]
    start = [p.clone() for p in networks[0].parameters()]
    optimiser = torch.optim.AdamW([p for n in networks for p in n.parameters()], 1e-2,
                                  weight_decay=0.0)  # fmt: skip
    conditions, paired = set(), set()
    for _ in range(5):
        d = case.draw(0, generator)
        conditions |= set(d["c"].flatten().tolist())
        paired |= set(case.c[d["pair"]].flatten().tolist())
        loss, _ = case.student_loss(networks[0], case.fake, d)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    moved = sum(
        (a - b).abs().sum().item() for a, b in zip(networks[1].parameters(), before, strict=True)
    )
    own = sum(
        (a - b).abs().sum().item() for a, b in zip(networks[0].parameters(), start, strict=True)
    )

    # Networks that are trained as one batch are as isolated: the gradient of one loss, by row.
    stacked = MLPDenoisers(2, 4, width=8, generator=generator)
    x = torch.randn(2, 16, 2, generator=generator)
    c, sigma = torch.zeros(2, 16, dtype=torch.long), torch.ones(2, 16)
    stacked(x, sigma, c)[0].square().mean().backward()
    gradients = [p.grad for p in stacked.parameters() if p.grad is not None]
    stray = max(gradient[1].abs().max().item() for gradient in gradients)
    return {
        "isolation": moved if own else math.inf,
        "isolation-in-a-batch": stray,
        "conditions-outside-the-part": float(len(conditions - {0, 1})),
        "classes-missing-from-pairs": float(len({0, 1, 2, 3} - paired)),
    }


def all_errors(rng: Callable[[str], Generator], scratch: Path) -> Errors:
    """Every check by name."""
    return (
        partition_errors()
        | gaussian_errors()
        | gradient_errors(rng("gradient"))
        | constant_errors()
        | tsm_errors(rng("tsm"))
        | routing_errors(rng("routing"))
        | reduction_errors(scratch)
        | isolation_errors()
    )


def measure(job: Job) -> None:
    """Closed forms, identities, routing and isolation."""
    for item, error in all_errors(job.rng, job.scratch / "exact").items():
        job.measure("error", error, item=item)
