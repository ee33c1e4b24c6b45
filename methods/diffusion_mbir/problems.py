"""The reconstruction problems that the arms share: a volume, an operator, noise-free measurements.

A problem's name is ``<dataset>-<task>``. Datasets: ``ellipsoids`` (a new volume for every seed; the
prior's training volumes are others), ``mni`` (the slices of the MNI152 template that no prior
saw) and ``mni-plateaus`` (the same, every fourth held for four positions, hence piecewise constant
along z). Tasks: ``ct<V>`` sparse-view CT of V views, ``la<D>`` limited angle of D one-degree views,
``mri<R>`` uniform random columns of acceleration R with the released 15 % centre (8 % from R = 4).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.diffusion_mbir.method import CT_CHUNK, MRI_CHUNK
from methods.diffusion_mbir.volumes import ellipsoids, to_stack
from repro.data import items
from repro.errors import ReproError
from repro.inverse.fourier import MaskedFourier, uniform1d_mask
from repro.inverse.radon import ParallelBeam, limited_angles, sparse_view_angles
from repro.zoo.slices import HELD_OUT, training_slices, volume_3mm

if TYPE_CHECKING:
    from repro.job import Job

#: Slices of the 3 mm template on which λ and ρ are chosen. The prior saw them; tests use others.
VALIDATION = range(8, 20)
DATASETS = ("ellipsoids", "mni", "mni-plateaus")
PLATEAU = 4


Operator = ParallelBeam | MaskedFourier


@dataclass
class Problem:
    """One volume to reconstruct.

    truth (Z, 1, H, W); y = A truth; norm = ‖AᵀA‖, the unit of λ and ρ; tomography: final step on.
    """

    name: str
    dataset: str
    truth: Tensor
    A: Operator
    y: Tensor
    norm: float
    tomography: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.truth.shape)

    @property
    def chunk(self) -> int:
        """Slices per network call, as released."""
        return CT_CHUNK if self.tomography else MRI_CHUNK

    def floor(self) -> Tensor:
        """FBP, or the zero-filled inverse FFT."""
        return floor_of(self.A, self.y)


def floor_of(A: Operator, y: Tensor) -> Tensor:
    """FBP of projections, or the zero-filled inverse FFT of k-space."""
    return A.fbp(y) if isinstance(A, ParallelBeam) else A.zero_filled(y)


def operator(task: str, width: int, generator: torch.Generator, device) -> Operator:
    """Forward operator of a task on width × width slices; ``generator`` draws the MRI mask.

    Raises
    ------
    ReproError : unknown task.
    """
    match = re.fullmatch(r"(ct|la|mri)(\d+)", task)
    if match is None:
        raise ReproError(f"unknown task {task!r}; use ct<views>, la<degrees> or mri<acceleration>")
    kind, number = match[1], int(match[2])
    if kind == "mri":
        centre = 0.15 if number < 4 else 0.08
        return MaskedFourier(uniform1d_mask(width, number, centre, generator).to(device))
    angles = sparse_view_angles(number) if kind == "ct" else limited_angles(number)
    return ParallelBeam(width, angles, device=device)


def volume(job: Job, dataset: str, split: str) -> Tensor:
    """Truth of a split ("test" or "validation"), (Z, 1, H, W).

    Raises
    ------
    ReproError : unknown dataset.
    """
    p = job.params
    if dataset == "ellipsoids":
        items.made(dataset, [(job.seed, "volume", split)])
        return to_stack(ellipsoids(job.numpy_rng("volume", split), p.slices, p.width))
    if dataset in ("mni", "mni-plateaus"):
        chosen = HELD_OUT if split == "test" else VALIDATION
        stack = volume_3mm(job.data("mni152").t1)[list(chosen)][:, None]
        items.only("mni152", (3 * z + k for z in chosen for k in range(3)))
        return stack if dataset == "mni" else stack[::PLATEAU].repeat_interleave(PLATEAU, 0)
    raise ReproError(f"unknown dataset {dataset!r}; use {', '.join(DATASETS)}")


def training_stack(job: Job, dataset: str) -> Tensor:
    """Axial slices that a prior may learn from, (N, 1, H, W)."""
    p = job.params
    if dataset in ("mni", "mni-plateaus"):
        return training_slices(job.data("mni152").t1)[:, None]
    items.made("ellipsoids", [(job.seed, "volume", "train", k) for k in range(p.volumes)])
    volumes = [
        to_stack(ellipsoids(job.numpy_rng("volume", "train", k), p.slices, p.width))
        for k in range(p.volumes)
    ]
    return torch.cat(volumes)


def split_name(name: str) -> tuple[str, str]:
    """``"mni-ct8"`` to ``("mni", "ct8")``."""
    dataset, _, task = name.rpartition("-")
    return dataset, task


def problems(job: Job, split: str = "test") -> Iterator[Problem]:
    """The problems of ``job.params.problems``, with the volumes and masks of the job's seed."""
    for name in job.params.problems:
        dataset, task = split_name(name)
        truth = volume(job, dataset, split).to(job.device)
        width = truth.shape[-1]
        A = operator(task, width, job.rng("mask", split, task), job.device)
        norm = A.norm((width, width))
        y = A.forward(truth)
        A.counts.forward = 0
        yield Problem(name, dataset, truth, A, y, norm, isinstance(A, ParallelBeam))
