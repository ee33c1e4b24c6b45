"""What experiment.yaml names: training, sampling, counting and timing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.msd import images as pictures_of
from methods.msd import method as msd
from methods.msd import networks as nets
from methods.msd import toy as plane
from repro.metrics.cost import count_macs, count_parameters, interleaved
from repro.zoo.judge import Judge

if TYPE_CHECKING:
    from repro.job import Job

State = dict[str, Tensor]

# Problem A ---------------------------------------------------------------------------------------


def _sets(job: Job) -> list[plane.Students]:
    return [plane.Students(**chosen) for chosen in job.params.sets]


def train_toy(job: Job) -> State:
    """All sets of students of a card: those of the same start, batch and length train as one."""
    toy, p = plane.Toy(job), job.params
    fake = plane.fake_from_teacher(toy)
    groups: dict[tuple[str, int, int], list[plane.Students]] = {}
    for chosen in _sets(job):
        size = p.batch // chosen.students if chosen.variant == "small-batch" else p.batch
        kind = chosen.variant if chosen.variant in ("tsm", "post") else "plain"
        groups.setdefault((kind, size, chosen.times), []).append(chosen)
    state: State = {}
    # Post-distillation needs finished students: it comes last.
    for (variant, size, _), sets in sorted(groups.items(), key=lambda group: group[0][0] == "post"):
        start: plane.MLPDenoisers | None = None
        if variant == "tsm":
            start = plane.matched_students(toy, sets)
        elif variant == "post":
            plain = plane.Students(sets[0].students)
            finished = _loaded(toy, plain, state, p.width)
            start = plane.regressed_students(toy, sets, finished, toy.partition(plain))
        state |= plane.distribution_matching(toy, sets, fake, batch_size=size, start=start)
    return state


def _loaded(toy: plane.Toy, chosen: plane.Students, state: State, width: int) -> list[msd.Denoiser]:
    """The students of a set from weights whose names start with that of the set."""
    prefix = f"{chosen.name}."
    students = toy.denoisers(chosen.students, width, "load")
    students.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    return [students.one(k) for k in range(chosen.students)]


def train_toy_consistency(job: Job) -> State:
    """The same by consistency distillation."""
    return plane.consistency_distillation(plane.Toy(job), _sets(job))


def _judged(job: Job, toy: plane.Toy) -> tuple[Tensor, Tensor, Tensor]:
    """Noises (n, 2) and labels (n,) of the evaluation, and the histogram of exact samples."""
    c = torch.arange(toy.p.points * toy.p.classes) % toy.p.classes
    z = torch.randn(len(c), 2, generator=job.rng("evaluation"))
    real = toy.mixture.draw(c, job.rng("real"))
    return z, c, plane.histogram(real, c, toy.p.classes)


@torch.no_grad()
def toy_students(job: Job) -> None:
    """L1 distance of every set of students to the mixture, and the updates that it had."""
    toy, p = plane.Toy(job), job.params
    z, c, real = _judged(job, toy)
    (name,) = [m for m in job.model_paths if m.startswith("toy")]
    trained, state = job.model_params(name), job.model(name)
    for chosen in (plane.Students(**s) for s in trained.sets):
        students = _loaded(toy, chosen, state, trained.width)
        x = msd.sample(students, toy.partition(chosen), z, c, p.sigma_max)
        job.measure("l1", plane.l1_distance(plane.histogram(x, c, p.classes), real), **chosen.at)
        updates = trained.iterations * chosen.times * chosen.students
        job.measure("updates", updates, **chosen.at)
        job.save(f"points-{chosen.name}", x[: 500 * p.classes])


@torch.no_grad()
def toy_teacher(job: Job) -> None:
    """The exact denoiser with many steps, and fresh exact samples: the floor of the distance."""
    toy, p = plane.Toy(job), job.params
    z, c, real = _judged(job, toy)
    again = toy.mixture.draw(c, job.rng("again"))
    job.measure("l1", plane.l1_distance(plane.histogram(again, c, p.classes), real), of="exact")
    x = toy.solve(z, c)
    job.measure("l1", plane.l1_distance(plane.histogram(x, c, p.classes), real), of="teacher")
    job.save("points", x[: 500 * p.classes])
    job.save("labels", c[: 500 * p.classes])


# Problem B ---------------------------------------------------------------------------------------


@torch.inference_mode()
def image_teacher(job: Job) -> None:
    """The teacher by DDIM from the evaluation noises, at several numbers of steps."""
    judge, pictures, p = Judge(job), pictures_of.Pictures(job), job.params
    c = torch.arange(len(judge.noise), device=job.device) % p.classes
    for steps in p.steps:
        x = pictures.sample_teacher(judge.noise, c, steps, 999, p.batch)
        judge.measure(x, nfe=steps, part="teacher")
        judge.save_grid(x, f"teacher-{steps}", 2 * p.classes)


@torch.inference_mode()
def image_students(job: Job) -> None:
    """Students after each stage: balanced labels, each by the student that owns it."""
    judge, pictures, p = Judge(job), pictures_of.Pictures(job), job.params
    (name,) = [m for m in job.model_paths if "/" not in m]
    trained, state = job.model_params(name), job.model(name)
    c = torch.arange(len(judge.noise), device=job.device) % p.classes
    for stage in ("dm", "adm"):
        if not any(n.startswith(f"{stage}.") for n in state):
            continue
        students = []
        for k in range(trained.students):
            prefix = f"{stage}.{k}."
            weights = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            student = pictures.network(weights, channels=trained.channels)
            students.append(student.to(job.device).eval())
        parts = zip(judge.noise.split(p.batch), c.split(p.batch), strict=True)
        x = torch.cat(
            [msd.sample(students, state["assign"], z, y, pictures.sigma_max) for z, y in parts]
        )
        at = {"students": trained.students, "stage": stage}
        judge.measure(x, nfe=1, **at)
        judge.save_grid(x, f"students-{stage}", 2 * p.classes)
    updates = {"dm": trained.dm_iterations, "adm": trained.adm_iterations}
    for stage, each in updates.items():
        if each:
            job.measure("updates", each * trained.students, students=trained.students, stage=stage)
    job.measure("parameters", count_parameters(students[0]), students=trained.students, of="one")
    job.measure(
        "parameters", sum(count_parameters(s) for s in students),
        students=trained.students, of="all",
    )  # fmt: skip


# Exact and structural ----------------------------------------------------------------------------


@torch.no_grad()
def structure(job: Job) -> None:
    """Sizes of the teacher and the students at the paper's scale, and what a request runs."""
    image = torch.zeros(1, 3, 64, 64, device="meta")
    sigma, label = torch.ones(1, device="meta"), torch.zeros(1, 1000, device="meta")
    for size in nets.SIZES:
        with torch.device("meta"):
            network = nets.imagenet(size).eval()
        job.measure("parameters", count_parameters(network), net=size)
        job.measure("tensors", len(network.state_dict()), net=size)
        macs = count_macs(network, image, sigma, label)
        # The box filters are not counted: they have no weights (0.007 % of the teacher's MACs).
        job.measure("gmacs", (macs.conv + macs.linear) / 1e9, net=size, kind="conv-linear")
        job.measure("gmacs", macs.total / 1e9, net=size, kind="all")
        for students in (1, 4):
            stored = students * count_parameters(network)
            job.measure("stored", stored / 1e6, net=size, students=students)
    with torch.device("meta"):
        job.measure("parameters", count_parameters(nets.Head()), net="head")
    _count_forwards(job)


def _count_forwards(job: Job) -> None:
    """Networks that run for one request to four students of ImageNet-64, and how often."""
    with torch.device("meta"):
        students = [nets.imagenet("71").eval() for _ in range(4)]
    calls = [0] * 4
    for k, student in enumerate(students):

        def count(module: nn.Module, inputs: tuple, output: Tensor, k: int = k) -> None:
            calls[k] += 1

        student.model.register_forward_hook(count)

    def one_hot(student: nn.Module) -> msd.Denoiser:
        return lambda x, s, c: student(
            x.to("meta"), s.to("meta"), torch.zeros(len(x), 1000, device="meta")
        )

    assign = msd.consecutive(1000, 4)
    for label in (0, 249, 250, 999):
        c = torch.tensor([label])
        owner = students[assign[label]]
        before = list(calls)
        msd.generate(one_hot(owner), torch.zeros(1, 3, 64, 64), c, msd.SIGMA_MAX)
        ran = [b - a for a, b in zip(before, calls, strict=True)]
        job.measure("nfe", sum(ran), label=label)
        job.measure("networks", sum(n > 0 for n in ran), label=label)


@torch.inference_mode()
def latency(job: Job) -> None:
    """Time of one image from the teacher-sized student, the smaller ones, and one of several.

    All have random weights, which does not change the time. The routed request goes through the
    label router to one of four students that share memory, as the time needs no other weights.
    """
    p = job.params
    z = torch.randn(1, 3, 64, 64, generator=job.rng("noise")).to(job.device)
    label = torch.zeros(1, 1000, device=job.device)
    c = torch.tensor([250], device=job.device)
    assign = msd.consecutive(1000, 4)

    def denoiser(size: str) -> msd.Denoiser:
        with torch.device(job.device):
            network = nets.imagenet(size).eval()
        return lambda x, s, y: network(x, s, label)

    students = {size: denoiser(size) for size in p.nets}
    calls: dict[str, Callable[[], Tensor]] = {
        size: partial(msd.generate, student, z, c, msd.SIGMA_MAX)
        for size, student in students.items()
    }
    smallest = p.nets[-1]
    several = [students[smallest]] * 4
    calls["routed"] = lambda: msd.sample(several, assign, z, c, msd.SIGMA_MAX)
    rounds = interleaved(calls, p.repeats, warmup=1)
    for name, found in rounds.items():
        job.measure("seconds", found.median, net=name)
    for name in p.nets[1:]:
        job.measure("latency_ratio", rounds.ratio(name, p.nets[0]).median, net=name)
    job.measure("latency_ratio", rounds.ratio("routed", smallest).median, net="routed")
