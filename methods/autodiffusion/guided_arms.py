"""The arms under classifier guidance: identities, uniform grids, searches, transfers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from methods.autodiffusion import exact as identities
from methods.autodiffusion import method as ad
from methods.autodiffusion import searches
from methods.autodiffusion.arms import _judge, _report_search
from methods.autodiffusion.guided import Guided, guided, log_gradient
from methods.autodiffusion.problems import Images, Mixture, grid
from repro.errors import ReproError

if TYPE_CHECKING:
    from collections.abc import Callable

    from repro.job import Job

LABELS = 100_000


def exact(job: Job) -> None:
    """Bayes' rule, the closed form of a guided chain, labels, counts, and s = 0."""
    problem = Guided(job)
    found = bayes_errors(job.rng) | {
        "guidance-zero": _zero(job, problem),
        "guidance-labels": chi_square(problem.labels(LABELS, "uniform"), problem.classes),
        "guidance-steps": float(_other_steps(problem)),
        "guidance-frozen": _frozen(job, problem),
    }
    for item, error in found.items():
        job.measure("error", error, item=item)


def bayes_errors(rng: Callable[..., Generator]) -> dict[str, float]:
    r"""Guidance where the classifier is that of a mixture of Gaussians, in closed form, float64.

    $\log p(y | x_t)$ is the log-softmax of $-|x_t - \sqrt{\bar\alpha} \mu_m|^2 / 2v$, so its
    gradient is $\sqrt{\bar\alpha} (\mu_y - \sum_m r_m \mu_m) / v$. At s = 1 the guided noise is
    that of one Gaussian, $\sqrt{1 - \bar\alpha} (x_t - \sqrt{\bar\alpha} \mu_y) / v$, along which
    DDIM multiplies $x_t - \sqrt{\bar\alpha} \mu_y$ by the factors of `exact.factors`.
    """
    mixture = Mixture(rng, schedule="cosine", d=4, components=6, std=identities.S2**0.5, real=100)
    mixture.means = mixture.means.double()
    means, table, S2 = mixture.means, mixture.alphas_cumprod, identities.S2

    def column(t: Tensor) -> tuple[Tensor, Tensor]:
        a = table[t][:, None]
        return a, a * S2 + 1 - a

    def classify(x: Tensor, t: Tensor) -> Tensor:
        a, v = column(t)
        return -(x[:, None] - a.sqrt()[..., None] * means).square().sum(-1) / (2 * v)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        return mixture.eps(x[:, None], table[t])[:, 0]

    n = 64
    x = torch.randn(n, mixture.d, generator=rng("bayes"), dtype=torch.float64)
    y = torch.randint(len(means), (n,), generator=rng("bayes labels"))
    t = torch.randint(1000, (n,), generator=rng("bayes times"))
    a, v = column(t)
    gradient = log_gradient(classify, x, t, y)
    posterior = classify(x, t).softmax(1)
    closed = a.sqrt() * (means[y] - posterior @ means) / v
    one = (1 - a).sqrt() * (x - a.sqrt() * means[y]) / v
    errors = {
        "guidance-gradient": float((gradient - closed).abs().max()),
        "guidance-bayes": float((guided(eps(x, t), gradient, table[t], 1.0) - one).abs().max()),
        "guidance-chain": 0.0,
    }
    for tau in (grid("stride", 4), identities.RELEASED_6):

        def predict(x: Tensor, t: Tensor, i: int) -> Tensor:
            x, t = x[0], t.expand(n)
            gradient = log_gradient(classify, x, t, y)
            return guided(eps(x, t), gradient, table[t], 1.0)[None]

        chain = torch.tensor([tau])
        made = ad.ddim_chains(predict, x[None], chain, table)[0]
        start = x - table[tau[-1]].sqrt() * means[y]
        expected = means[y] + identities.factors(chain, table) * start
        error = float((made - expected).abs().max())
        errors["guidance-chain"] = max(errors["guidance-chain"], error)
    return errors


def chi_square(labels: Tensor, classes: int) -> float:
    """Of counts of labels (n,) against as many of each class; about classes - 1 by chance.

    Raises ReproError for a label that is no class.
    """
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ReproError(f"labels have to lie in 0 ... {classes - 1}")
    counts = torch.bincount(labels.cpu(), minlength=classes).double()
    expected = len(labels) / classes
    return float(((counts - expected).square() / expected).sum())


def _chain(job: Job) -> ad.Candidate:
    return ad.Candidate(grid("stride", job.params.K))


def _zero(job: Job, problem: Guided) -> float:
    """Largest difference of samples at s = 0 to those of the sampler without a classifier.

    Both where no gradient is taken and where it is taken and weighed by nothing.
    """
    x, candidate = problem.judge.noise[None], _chain(job)
    y = problem.labels(x.shape[1], "evaluation")
    plain = Images(job)
    classes = y if plain.classes is not None else None
    expected = plain.generate([candidate], x, classes)
    scale, problem.scale = problem.scale, 0.0
    skipped = problem.generate([candidate], x, y)
    problem.scale = scale
    t = torch.full((len(y),), 500, device=y.device)
    gradient = log_gradient(problem.guide, x[0], t, y)
    eps = plain.predict(x[0], t, classes, [ad.NONE])
    weighed = guided(eps, gradient, problem.abar[t], 0.0)
    return max(float((skipped - expected).abs().max()), float((weighed - eps).abs().max()))


def _other_steps(problem: Guided) -> int:
    """Rows at which the classifier saw another step than the network, over a chain."""
    seen: dict[str, list[Tensor]] = {"network": [], "guide": []}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[1]))
        for name, module in (("network", problem.network), ("guide", problem.guide))
    ]
    problem.ddim(ad.Candidate((17, 333, 801)))
    for handle in handles:
        handle.remove()
    network, guide = (torch.cat(times) for times in seen.values())
    assert len(network) == 3 * len(problem.judge.noise)
    return int((network != guide).sum())


def _frozen(job: Job, problem: Guided) -> float:
    """Whether a guided search changes a bit of the network or of the classifier: 0 or 1."""

    def digest() -> list[str]:
        return [identities.digest(m.state_dict()) for m in (problem.network, problem.guide)]

    before = digest()
    s = searches.settings(job, problem.network.L)
    ad.search(problem.evaluate, s, lambda epoch: job.numpy_rng("evolution", "frozen", epoch))
    return float(digest() != before)


# Samples ------------------------------------------------------------------------------------------


def _measure(job: Job, problem: Guided, candidate: ad.Candidate, picture: str, **at: Any) -> None:
    """Judge a chain from the evaluation noises; gradients of a sample are counted, not assumed."""
    evaluations, gradients = problem.network_evaluations, problem.gradients
    images = _judge(job, problem, lambda: problem.ddim(candidate), **at)
    nfe = (problem.network_evaluations - evaluations) // len(images)
    job.measure("gradients", (problem.gradients - gradients) / len(images), nfe=nfe, **at)
    problem.judge.save_grid(images, picture)


def uniform(job: Job) -> None:
    """Guided DDIM along grids that nothing was searched for."""
    problem, p = Guided(job), job.params
    for K in job.progress(p.Ks, "guided"):
        for name in p.grids:
            at, suffix = ({}, "") if name == "stride" else ({"grid": name}, f"-{name}")
            _measure(job, problem, ad.Candidate(grid(name, K)), f"pictures-{K}{suffix}", **at)


def _winner(job: Job, name: str, guidance: float) -> ad.Candidate:
    """What a search found.

    Raises ReproError where it searched at another guidance scale than the arm means.
    """
    found = float(job.model(name)["guidance"])
    if found != guidance:
        raise ReproError(
            f"`{name}` was searched at guidance scale {found:g} and `{job.name}` means "
            f"{guidance:g}; give both the same `guidance` in experiment.yaml"
        )
    return searches.candidate(job.model(name))


def searched(job: Job) -> None:
    """What a guided search found, judged anew at its scale; and what the search cost."""
    problem, p = Guided(job), job.params
    found = _winner(job, p.found, problem.scale)
    evaluations, gradients = problem.network_evaluations, problem.gradients
    _report_search(job, problem, p.found, found)
    again = problem.network_evaluations - evaluations
    per_evaluation = (problem.gradients - gradients) / again
    network = float(job.model(p.found)["cost"][1])
    job.measure("evaluations", network * per_evaluation, of="gradients")
    _measure(job, problem, found, "pictures")


def transfer_guidance(job: Job) -> None:
    """Sequences found with and without guidance, each used with and without, from equal noises.

    That found with guidance and used with it is the arm `searched-guided`.
    """
    problem, s = Guided(job), float(job.params.guidance)
    scales = {"guided": s, "unguided": 0.0}
    for name, found in (("steps-conditional", "unguided"), ("steps-guided", "guided")):
        winner = _winner(job, name, scales[found])
        job.save(f"steps-{found}", list(winner.chain()[0]))
        for used, problem.scale in scales.items():
            if (found, used) != ("guided", "guided"):
                at = {"found": found, "used": used}
                _measure(job, problem, winner, f"pictures-{found}-{used}", **at)


def transfer(job: Job) -> None:
    """What a guided search found, on another network at the same scale."""
    problem = Guided(job)
    _measure(job, problem, _winner(job, job.params.found, problem.scale), "pictures")


# The order of clipping ----------------------------------------------------------------------------


def order(job: Job) -> None:
    """How far guided samples are from those of the released order: clip, then guide.

    The released sampler clips x0 of the network's own noise, moves the noise that belongs to it by
    the gradient, and leaves x0 of the moved noise as it is.
    """
    problem = Guided(job)
    chain = _chain(job)
    expected = clipped_then_guided(problem, chain)
    error = (problem.ddim(chain) - expected).abs().mean() / expected.abs().mean()
    job.measure("error", float(error), item="clip-then-guide")


@torch.inference_mode()
def clipped_then_guided(problem: Guided, candidate: ad.Candidate) -> Tensor:
    """Samples (n, C, H, W) of guided DDIM in the released order, from the evaluation noises."""
    x, scale, clip = problem.judge.noise, problem.scale, problem.p.clip
    y = problem.labels(len(x), "evaluation")
    steps = candidate.chain()[0]
    for s, step in zip((None, *steps)[-2::-1], reversed(steps), strict=True):
        a = problem.abar[step]
        a_s = torch.ones_like(a) if s is None else problem.abar[s]
        t = torch.full((len(x),), step, device=x.device)
        problem.scale = 0.0
        eps = problem.predict(x, t, y, [ad.NONE])
        problem.scale = scale
        x0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-clip, clip)
        eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
        eps = guided(eps, log_gradient(problem.guide, x, t, y), a.expand(len(x)), scale)
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = a_s.sqrt() * x0 + (1 - a_s).sqrt() * eps
    return x.float()
