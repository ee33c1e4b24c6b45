"""Costs of the released configuration, counted on the meta device: no weights, no data."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from methods.diffusion_mbir.method import CT_CHUNK, diffusion_mbir, gaussian_noise, predict_correct
from repro.diffusion.schedules import geometric_sigmas
from repro.inverse.base import Identity
from repro.nets.ncsnpp import NCSNpp, NCSNppConfig, count_macs

if TYPE_CHECKING:
    from repro.job import Job


class MemoryMeter(TorchDispatchMode):
    """Bytes of the tensors made and still alive inside the context, and their peak.

    Works on any device, also meta, where nothing is computed; views add nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def _free(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in given or storage in self._known:
                continue
            size = storage.nbytes()
            self._known[storage] = size
            weakref.finalize(storage, self._free, size)
            self.live += size
        self.peak = max(self.peak, self.live)
        return out


def activation_bytes(config: NCSNppConfig, size: int, slices: int, chunk: int) -> int:
    """Peak bytes of the network's activations during a predictor–corrector pass over a volume."""
    peaks = []
    with torch.device("meta"), torch.no_grad():
        network = NCSNpp(config)

        def score(x: Tensor, sigma: Tensor) -> Tensor:
            with MemoryMeter() as meter:
                out = network(x, sigma)
            peaks.append(meter.peak)
            return out

        x = torch.empty(slices, config.channels, size, size)
        predict_correct(score, x, 1.0, 0.9, 0.16, chunk, lambda shape: torch.empty(shape))
    return max(peaks)


def run_costs(levels: int) -> tuple[float, int, int]:
    """(network evaluations per slice, A applications, Aᵀ applications) of a whole fast run.

    The run is real, with the full number of levels, on two tiny slices whose score is −x/(1 + σ²).
    """
    A, slices = Identity(), 2
    evaluated = 0

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal evaluated
        evaluated += len(x)
        return -x / (1 + sigma[:, None, None, None] ** 2)

    shape = (slices, 1, 4, 4)
    diffusion_mbir(
        score, A, torch.zeros(shape), shape, geometric_sigmas(levels, 0.01, 378.0),
        gaussian_noise(torch.Generator().manual_seed(0)), lam=1e-4, rho=0.025,
    )  # fmt: skip
    return evaluated / slices, A.counts.forward, A.counts.adjoint


def measure(job: Job) -> None:
    """What the paper's own architecture and algorithm cost, counted without weights."""
    config, image_size = NCSNppConfig(), job.params.image_size
    with torch.device("meta"):
        network = NCSNpp(config)
    parameters = list(network.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    job.measure("params", trainable, kind="trainable")
    job.measure("params", sum(p.numel() for p in parameters) - trainable, kind="fixed")
    job.measure("tensors", len(network.state_dict()))
    for kind, macs in count_macs(config, image_size).items():
        job.measure("macs", macs / 1e9, kind=kind)
    nfe, forward, adjoint = run_costs(job.params.noise_levels)
    job.measure("nfe", nfe, problem="any")
    job.measure("operator_calls", forward, operator="forward")
    job.measure("operator_calls", adjoint, operator="adjoint")
    # Slice counts whose largest chunk is a full one: 2 and 4 chunks of at most 12.
    for slices in (23, 47):
        for chunk, size in ((CT_CHUNK, CT_CHUNK), ("volume", slices + 1)):
            found = activation_bytes(config, image_size, slices, size) / 2**20
            job.measure("activation_memory", found, slices=slices, chunk=chunk)
