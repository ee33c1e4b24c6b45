r"""Multi-student diffusion distillation (MSD): the method, after Song et al. 2024 and DMD2.

The conditions (labels, prompts) are split into K disjoint parts of equal size, and every part gets
a one-step student of its own,

    x = G_k(z, c) = D_θk(σ_max z, σ_max, c),    k = route(c),    z ~ N(0, 1),

a denoiser that is evaluated once, at the largest noise. A request runs exactly one student. Each
is trained by distribution matching (DM): with x_t = x + σ n,

    g = (D_fake(x_t, σ, c) - D_teacher(x_t, σ, c)) / mean_chw |x - D_teacher(x_t, σ, c)|

is the gradient of E KL(p_fake,t || p_real,t) up to weights, where D_fake is a denoiser that is
trained on the student's own outputs meanwhile. Two terms may join it: a regression on pairs
(z_i, c_i, y_i) of the teacher's sampler, from *all* parts, and (ADM, adversarial distribution
matching) a discriminator on the bottleneck of D_fake, with real images of the part. A student that
cannot copy the teacher's weights is trained first to imitate its denoiser (TSM, teacher score
matching). With K = 1 all of this is DMD (Yin et al. 2024a) or DMD2 (Yin et al. 2024b).

Denoisers are called as D(x, sigma, c): x (..., *shape), sigma and c of x's leading shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repro.diffusion.schedules import expand
from repro.numbers import finite

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]

SIGMA_MIN, SIGMA_MAX, SIGMA_DATA = 0.002, 80.0, 0.5
DM_STEPS = (20, 980)
"""First and last grid index of the noises of L_DM; those of the other losses are 0 and 999."""


# Partition and routing ---------------------------------------------------------------------------


def consecutive(classes: int, students: int) -> Tensor:
    """The student of each class, floor(c K / C): consecutive blocks; (C,) long.

    Sizes differ by at most 1, and are equal where K divides C.
    """
    return torch.arange(classes) * students // classes


def shuffled(classes: int, students: int, generator: Generator) -> Tensor:
    """The student of each class after a random relabelling of the classes; (C,) long."""
    return consecutive(classes, students)[torch.randperm(classes, generator=generator)]


def sorted_by(values: Tensor, students: int) -> Tensor:
    """Blocks of classes that are alike: consecutive in the order of values (C,); (C,) long.

    Raises ReproError for NaN, which has no order.
    """
    finite(values, "values of classes")
    assign = torch.empty(len(values), dtype=torch.long)
    assign[values.argsort()] = consecutive(len(values), students)
    return assign


def balanced_clusters(
    embeddings: Tensor, students: int, generator: Generator, iterations: int = 20
) -> Tensor:
    """K-means on class embeddings (C, E) with parts of equal size; (C,) long.

    Each round assigns greedily, nearest pair of class and centre first, and closes a centre that is
    full. The paper names K-means but neither the embeddings nor how sizes are made equal. Raises
    ReproError for NaN.
    """
    finite(embeddings, "embeddings of classes")
    classes = len(embeddings)
    sizes = torch.bincount(consecutive(classes, students), minlength=students)
    centres = embeddings[torch.randperm(classes, generator=generator)[:students]]
    assign = torch.full((classes,), -1)
    for _ in range(iterations):
        order = torch.cdist(embeddings, centres).flatten().argsort().tolist()
        new, left = torch.full((classes,), -1), sizes.tolist()
        for pair in order:
            c, k = divmod(pair, students)
            if new[c] < 0 and left[k]:
                new[c] = k
                left[k] -= 1
        if torch.equal(new, assign):
            break
        assign = new
        centres = torch.stack([embeddings[assign == k].mean(0) for k in range(students)])
    return assign


def principal_quadrants(pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Directions (E, 2), their medians (2,), and the quadrant (n,) of text embeddings (n, E).

    Our reading of the paper's four "quadrants", which leaves open which two coordinates are meant:
    the first two principal components, split at medians. The second split is made at the median
    of each half, so that all four parts have the same size. Raises ReproError for NaN.
    """
    finite(pooled, "embeddings of prompts")
    centred = pooled - pooled.mean(0)
    _, _, v = torch.linalg.svd(centred, full_matrices=False)
    directions = v[:2].T
    first, second = (pooled @ directions).unbind(1)
    right = first > first.median()
    thresholds = torch.stack([first.median(), second[~right].median(), second[right].median()])
    upper = second > torch.where(right, thresholds[2], thresholds[1])
    return directions, thresholds, right.long() * 2 + upper.long()


def route_prompt(pooled: Tensor, directions: Tensor, thresholds: Tensor) -> Tensor:
    """The student of prompts whose pooled embeddings are (n, E); see `principal_quadrants`.

    Raises ReproError for NaN, which is above no threshold.
    """
    finite(pooled, "embeddings of prompts")
    first, second = (pooled @ directions).unbind(1)
    right = first > thresholds[0]
    return right.long() * 2 + (second > torch.where(right, thresholds[2], thresholds[1])).long()


def draw_conditions(assign: Tensor, student: int, n: int, generator: Generator) -> Tensor:
    """n classes (n,) uniformly from those of one student."""
    part = (assign == student).nonzero()[:, 0]
    return part[torch.randint(len(part), (n,), generator=generator)]


# One-step generation -----------------------------------------------------------------------------


def generate(student: Denoiser, z: Tensor, c: Tensor, sigma_max: float) -> Tensor:
    """x = G(z, c) = D(σ_max z, σ_max, c): one evaluation."""
    sigma = torch.full(c.shape, sigma_max, dtype=z.dtype, device=z.device)
    return student(sigma_max * z, sigma, c)


def sample(
    students: Sequence[Denoiser], assign: Tensor, z: Tensor, c: Tensor, sigma_max: float
) -> Tensor:
    """Images of labels c (B,) from noises z (B, ...): every row by the student that owns its label.

    A student without rows is not called.
    """
    owner = assign.to(c.device)[c]
    x = torch.empty_like(z)
    for k, student in enumerate(students):
        rows = (owner == k).nonzero()[:, 0]
        if len(rows):
            x[rows] = generate(student, z[rows], c[rows], sigma_max)
    return x


# Losses ------------------------------------------------------------------------------------------


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Mean of values (..., *shape) over what is not in like (...), kept for broadcasting."""
    dims = tuple(range(like.ndim, values.ndim))
    return values.mean(dims, keepdim=True)


def dm_gradient(x: Tensor, d_fake: Tensor, d_teacher: Tensor, sigma: Tensor) -> Tensor:
    """g of the DM loss, shaped like x; the normaliser is of each sample, from the teacher."""
    return (d_fake - d_teacher) / per_sample((x - d_teacher).abs(), sigma)


def dm_loss(x: Tensor, g: Tensor) -> Tensor:
    """0.5 mean (x - stopgrad(x - g))²: its gradient in x is g over the number of entries."""
    return 0.5 * (x - (x - g).detach()).square().mean()


def edm_weight(sigma: Tensor, sigma_data: float = SIGMA_DATA) -> Tensor:
    """σ^-2 + σ_data^-2, which makes the error of an EDM network count alike at every σ."""
    return sigma**-2 + sigma_data**-2


def eps_weight(sigma: Tensor) -> Tensor:
    """σ^-2, the weight under which an error of D is that of the noise that it implies."""
    return sigma**-2


def matching_loss(d: Tensor, target: Tensor, sigma: Tensor, weight: Tensor) -> Tensor:
    """Mean of λ ‖D - target‖². target: x of the student (fake score) or D_teacher (TSM)."""
    return (expand(weight, d) * (d - target.detach()).square()).mean()


def regression_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of G(z_i, c_i) to the teacher's sample y_i, in the place of LPIPS."""
    return (x - y).square().mean()


def gan_generator_loss(logit_fake: Tensor) -> Tensor:
    """softplus(-logit), mean: the student's part of ADM."""
    return F.softplus(-logit_fake).mean()


def gan_discriminator_loss(logit_fake: Tensor, logit_real: Tensor) -> Tensor:
    """softplus(logit(fake)) + softplus(-logit(real)), means: the part of D_fake and its head."""
    return F.softplus(logit_fake).mean() + F.softplus(-logit_real).mean()


def distribution_matching(
    x: Tensor, c: Tensor, sigma: Tensor, noise: Tensor, fake: Denoiser, teacher: Denoiser
) -> Tensor:
    """L_DM of the student's outputs x for conditions c at noises sigma; scalar."""
    with torch.no_grad():
        xt = x + expand(sigma, x) * noise
        g = dm_gradient(x, fake(xt, sigma, c), teacher(xt, sigma, c), sigma)
    return dm_loss(x, g)


def fake_score_loss(
    x: Tensor, c: Tensor, sigma: Tensor, noise: Tensor, fake: Denoiser, weight: Tensor
) -> Tensor:
    """L_fake: denoising of the student's outputs x (detached); scalar."""
    x = x.detach()
    return matching_loss(fake(x + expand(sigma, x) * noise, sigma, c), x, sigma, weight)


def teacher_score_matching(
    student: Denoiser,
    teacher: Denoiser,
    x: Tensor,
    c: Tensor,
    sigma: Tensor,
    noise: Tensor,
    weight: Tensor,
) -> Tensor:
    """L_TSM: the student's denoiser against the teacher's on noised real images x; scalar."""
    xt = x + expand(sigma, x) * noise
    with torch.no_grad():
        target = teacher(xt, sigma, c)
    return matching_loss(student(xt, sigma, c), target, sigma, weight)


def consistency_loss(
    student: Denoiser,
    average: Denoiser,
    teacher: Denoiser,
    x: Tensor,
    c: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    noise: Tensor,
) -> Tensor:
    """Consistency distillation (Song et al. 2023): D(x_t) against the averaged D one step lower.

    The step from sigma to sigma_next is Heun's with the teacher. L2, weight 1; scalar.
    """
    with torch.no_grad():
        s, s_next = expand(sigma, x), expand(sigma_next, x)
        xt = x + s * noise
        slope = (xt - teacher(xt, sigma, c)) / s
        euler = xt + (s_next - s) * slope
        corrected = (euler - teacher(euler, sigma_next, c)) / s_next
        lower = xt + (s_next - s) * (slope + corrected) / 2
        target = average(lower, sigma_next, c)
    return (student(xt, sigma, c) - target).square().mean()
