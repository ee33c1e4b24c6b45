"""The W8A8 network on real int8 kernels: how it agrees with its simulation, and what it costs.

Weights are symmetric here (codes around 0), which the kernels need; activations as in the other
arms. Compared: PyTorch in float32 and bfloat16, and OpenVINO in float32 and int8.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.q_diffusion.arms import Protocol
from methods.q_diffusion.method import initialise
from repro import store
from repro.errors import ReproError
from repro.metrics.cost import interleaved
from repro.quant import deploy, rounded
from repro.quant.calibration import Trajectory
from repro.quant.layers import quantise
from repro.quant.ranges import minmax_grid

if TYPE_CHECKING:
    from repro.job import Job

Run = Callable[[Tensor, Tensor], Tensor]


def w8a8(network: nn.Module) -> nn.Module:
    """A copy with symmetric 8-bit weights and 8-bit inputs, to be calibrated."""
    recipe = rounded.recipe(network, 8, 8)
    symmetric = partial(minmax_grid, symmetric=True, channel_wise=True)
    return quantise(network, replace(recipe, weight_grid=symmetric))


def write(folder: Path, plain: nn.Module, simulated: nn.Module, run: Trajectory) -> dict[str, Path]:
    """Files of the float and of the int8 network, and of PyTorch's weights, by runtime."""
    example = run.x[0, :1], run.t[:1]
    files = {name: folder / f"{name}.onnx" for name in ("openvino-float32", "openvino-int8")}
    deploy.export_float(plain, files["openvino-float32"], example)
    deploy.export(simulated, files["openvino-int8"], example)
    for name, kind in (("torch-float32", torch.float32), ("torch-bfloat16", torch.bfloat16)):
        files[name] = folder / f"{name}.safetensors"
        store.write_tensors(files[name], {k: v.to(kind) for k, v in plain.state_dict().items()}, {})
    return files


def agreement(run: Run, simulated: Run, plain: Run, met: Trajectory) -> dict[str, float]:
    """Relative error of ε over all states of a trajectory: of int8 against its simulation, and of
    the simulation against floats.
    """
    sums = {"simulation": [0.0, 0.0], "quantisation": [0.0, 0.0]}
    with torch.inference_mode():
        for x, t in zip(met.x, met.t, strict=True):
            label = t.expand(len(x)).contiguous()
            got, wanted, exact = (f(x, label) for f in (run, simulated, plain))
            for name, a, b in (("simulation", got, wanted), ("quantisation", wanted, exact)):
                sums[name][0] += float((a - b).square().sum())
                sums[name][1] += float(b.square().sum())
    return {name: (a / b) ** 0.5 for name, (a, b) in sums.items()}


def peak_mb(path: Path, shape: tuple[int, ...]) -> float:
    """Peak resident memory of a process that loads a file and runs it twice on one thread, beyond
    what it has after its imports, in 10^6 bytes. Linux only.
    """
    command = [sys.executable, "-m", __name__, str(path), *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ReproError(f"measuring the memory of {path.name} failed: {done.stderr[-300:]}")
    return float(done.stdout.split()[-1])


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def _memory(path: Path, shape: tuple[int, ...]) -> float:
    import openvino  # noqa: F401

    before = _resident("VmRSS:")  # not ru_maxrss, which a process inherits from its parent
    run = deploy.Deployed(path)
    for _ in range(2):
        run(torch.randn(shape), torch.full(shape[:1], 500))
    return (_resident("VmHWM:") - before) * 1024 / 1e6


def deployed(job: Job) -> None:
    """The arm: agreement with the simulation, bytes, memory, time.

    Raises ReproError where the packages of deployment are missing.
    """
    if absent := deploy.missing():
        raise ReproError(
            f"{job.method}/{job.name} needs packages that are not installed; run: pip install "
            f"{' '.join(absent)}"
        )
    protocol = Protocol(job)
    plain, run = protocol.network, protocol.reference
    simulated = w8a8(plain)
    initialise(simulated, protocol.states(), job.params.initial, job.rng("initial states"))
    job.scratch.mkdir(parents=True, exist_ok=True)
    files = write(job.scratch, plain, simulated, run)
    for name, path in files.items():
        job.measure("file_size", path.stat().st_size / 1e6, runtime=name)
    int8 = deploy.Deployed(files["openvino-int8"])
    for name, value in agreement(int8, simulated, plain, run).items():
        job.measure("relative_error", value, of=name)
    kinds = int8.kernels(run.x.shape[1])
    low = sum(n for (_, kind), n in kinds.items() if kind in ("u8", "i8"))
    job.measure("kernels", low, kind="int8")
    job.measure("kernels", sum(kinds.values()), kind="all")
    batch = job.params.batch
    for name in ("openvino-float32", "openvino-int8"):
        shape = (batch, *run.x.shape[2:])
        job.measure("peak_memory", peak_mb(files[name], shape), runtime=name, batch=batch)
    _speeds(job, plain, files, run)


def _speeds(job: Job, plain: nn.Module, files: dict[str, Path], run: Trajectory) -> None:
    middle, before = len(run.t) // 2, torch.get_num_threads()
    try:
        for threads in dict.fromkeys((1, deploy.all_threads())):
            torch.set_num_threads(threads)
            runs: dict[str, Run] = {
                "torch-float32": torch.inference_mode()(lambda x, t: plain(x, t)),
                "torch-bfloat16": deploy.bfloat16(plain),
                "openvino-float32": deploy.Deployed(files["openvino-float32"], threads),
                "openvino-int8": deploy.Deployed(files["openvino-int8"], threads),
            }
            label = "one" if threads == 1 else "all"
            for batch in (1, job.params.batch):
                x = run.x[middle, :batch].contiguous()
                t = run.t[middle].expand(len(x)).contiguous()
                calls = {name: partial(f, x, t) for name, f in runs.items()}
                rounds = interleaved(calls, job.params.repeats, warmup=2)
                for name in runs:
                    at = {"runtime": name, "batch": batch, "threads": label}
                    job.measure("seconds", rounds[name].median, **at)
                    for reference in ("torch-float32", "openvino-float32"):
                        if name != reference:
                            ratio = rounds.ratio(name, reference)
                            job.measure("latency_ratio", ratio.median, over=reference, **at)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    print(_memory(Path(sys.argv[1]), tuple(int(v) for v in sys.argv[2:])))
