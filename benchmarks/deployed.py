"""A quantised network on int8 kernels against floats: `python -m benchmarks.deployed`.

The U-Net of the zoo at W8A8 (Fashion-MNIST, 2.54 M parameters, trained), through OpenVINO and, in
floats, through PyTorch: milliseconds of a call, bytes on disk, peak memory, and how far the result
is from the simulation. Runs that are compared take turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.measure import CLOCKS
from repro import store
from repro.diffusion import samplers, schedules
from repro.errors import ReproError
from repro.metrics.cost import interleaved
from repro.places import work_root
from repro.quant import deploy
from repro.quant.calibration import Trajectory, record, uniform_grid
from repro.quant.layers import Recipe, calibrate, quantise
from repro.quant.ranges import RunningRange, minmax_grid
from repro.suite import zoo

NAME = "fashion-mnist-unconditional"
FLOAT, HALF = "PyTorch float32", "PyTorch bfloat16"
DEPLOYED = {
    "OpenVINO float32": ("float32.onnx", "float32"),
    "OpenVINO bfloat16": ("float32.onnx", "bfloat16"),
    "OpenVINO int8": ("int8.onnx", "float32"),
    "OpenVINO int8, rest bfloat16": ("int8.onnx", "bfloat16"),
}
VARIANTS = (FLOAT, HALF, *DEPLOYED)
Run = Callable[[Tensor, Tensor], Tensor]


def network() -> nn.Module:
    """The trained network."""
    made = zoo.build(NAME)
    made.load_state_dict(zoo.shipped(NAME)[0])
    return made.eval().requires_grad_(False)


def states(plain: nn.Module, batch: int, steps: int) -> Trajectory:
    """What the network meets in a DDIM run of `steps` steps from `batch` noises."""
    abar = schedules.alphas_cumprod(schedules.linear_betas())
    timesteps = schedules.timesteps_uniform(1000, steps)
    noise = torch.randn(batch, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return record(plain, lambda eps: samplers.ddim(eps, noise, timesteps, abar))


def simulated(plain: nn.Module, met: Trajectory) -> nn.Module:
    """The network at W8A8: symmetric weights per output channel, running ranges of inputs."""
    symmetric = partial(minmax_grid, symmetric=True, channel_wise=True)
    recipe = Recipe(8, (8,), symmetric, lambda widths: RunningRange())
    batches = uniform_grid(met, len(met.t), 8).batches(8 * len(met.t))
    return calibrate(quantise(plain, recipe), batches)


def write(folder: Path, plain: nn.Module, w8a8: nn.Module, met: Trajectory) -> None:
    """The files that the deployed variants run."""
    example = met.x[0, :1], met.t[:1]
    store.write_tensors(folder / "torch-float32.safetensors", plain.state_dict(), {})
    half = {k: v.bfloat16() for k, v in plain.state_dict().items()}
    store.write_tensors(folder / "torch-bfloat16.safetensors", half, {})
    deploy.export_float(plain, folder / "float32.onnx", example)
    deploy.export(w8a8, folder / "int8.onnx", example)


def file_of(folder: Path, variant: str) -> Path:
    """The file that holds the weights of a variant."""
    torch_files = {FLOAT: "torch-float32.safetensors", HALF: "torch-bfloat16.safetensors"}
    return folder / (torch_files[variant] if variant in torch_files else DEPLOYED[variant][0])


def runner(folder: Path, variant: str, threads: int) -> Run:
    """`(x, t) -> eps` of a variant on `threads` threads. PyTorch's are set for the process."""
    if variant in DEPLOYED:
        name, precision = DEPLOYED[variant]
        return deploy.Deployed(folder / name, threads, precision)
    torch.set_num_threads(threads)
    plain = network()
    if variant == HALF:
        return deploy.bfloat16(plain)
    return torch.inference_mode()(lambda x, t: plain(x, t))


def peak_mb(folder: Path, variant: str, batch: int) -> float:
    """Peak resident memory of a process that loads a variant and calls it twice on one thread,
    beyond what it has after its imports, in 10^6 bytes. Linux only.
    """
    command = [sys.executable, "-m", "benchmarks.deployed", "--memory", variant]
    command += ["--folder", str(folder), "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ReproError(f"measuring the memory of {variant} failed: {done.stderr.strip()[-300:]}")
    return float(done.stdout.split()[-1])


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def _memory(folder: Path, variant: str, batch: int) -> float:
    # Not ru_maxrss: a process inherits that of its parent.
    if variant in DEPLOYED:
        import openvino  # noqa: F401
    before = _resident("VmRSS:")
    run = runner(folder, variant, 1)
    x, t = torch.randn(batch, 1, 32, 32), torch.full((batch,), 500)
    run(x, t)
    run(x, t)
    return (_resident("VmHWM:") - before) * 1024 / 1e6


def speeds(
    folder: Path, met: Trajectory, batch: int, threads: int, rounds: int, clock: str
) -> list[dict[str, object]]:
    """A row a variant: times of calls that take turns, and their ratios to PyTorch float32."""
    middle = len(met.t) // 2
    x, t = met.x[middle, :batch], met.t[middle].expand(batch).contiguous()
    runs = {variant: runner(folder, variant, threads) for variant in VARIANTS}
    times = interleaved(
        {variant: partial(run, x, t) for variant, run in runs.items()}, rounds, 2, CLOCKS[clock]
    )
    rows = []
    for variant in VARIANTS:
        ratio = times.ratio(variant, FLOAT)
        rows.append(
            {
                "threads": threads,
                "batch": batch,
                "variant": variant,
                "ms": f"{1e3 * times[variant].median:.2f}",
                "95 % interval": f"{1e3 * times[variant].lo:.2f} to {1e3 * times[variant].hi:.2f}",
                f"over {FLOAT}": f"{ratio.median:.2f} ({ratio.lo:.2f} to {ratio.hi:.2f})",
            }
        )
    return rows


def costs(
    folder: Path, plain: nn.Module, w8a8: nn.Module, met: Trajectory
) -> list[dict[str, object]]:
    """A row a variant: bytes, memory, and relative errors of ε over the states of all steps."""
    rows = []
    for variant in VARIANTS:
        run, against = runner(folder, variant, 1), {"plain": [0.0, 0.0], "w8a8": [0.0, 0.0]}
        with torch.inference_mode():
            for x, t in zip(met.x, met.t, strict=True):
                t = t.expand(len(x)).contiguous()
                got = run(x, t)
                for name, reference in (("plain", plain(x, t)), ("w8a8", w8a8(x, t))):
                    against[name][0] += float((got - reference).square().sum())
                    against[name][1] += float(reference.square().sum())
        error = {name: (a / b) ** 0.5 for name, (a, b) in against.items()}
        rows.append(
            {
                "variant": variant,
                "file, MB": f"{file_of(folder, variant).stat().st_size / 1e6:.2f}",
                "peak memory, MB, batch 1": f"{peak_mb(folder, variant, 1):.0f}",
                "peak memory, MB, batch 64": f"{peak_mb(folder, variant, 64):.0f}",
                "ε against float32": f"{error['plain']:.1e}",
                "ε against simulated W8A8": f"{error['w8a8']:.1e}",
            }
        )
    return rows


def main() -> int:
    """Measures, prints both tables and keeps them as work/bench/deployed.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deployed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="of batch 1; batch 64 has a third")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--folder", type=Path, default=work_root() / "bench" / "deployed")
    parser.add_argument("--memory", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=64, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(_memory(arguments.folder, arguments.memory, arguments.batch))
        return 0

    from benchmarks.__main__ import machine

    start, folder = time.perf_counter(), arguments.folder
    before = torch.get_num_threads()
    try:
        plain = network()
        met = states(plain, 64, 10)
        w8a8 = simulated(plain, met)
        write(folder, plain, w8a8, met)
        times = [
            row
            for threads in dict.fromkeys((1, deploy.all_threads()))
            for batch, rounds in ((1, arguments.rounds), (64, max(6, arguments.rounds // 3)))
            for row in speeds(folder, met, batch, threads, rounds, arguments.clock)
        ]
        others = costs(folder, plain, w8a8, met)
    except ReproError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        torch.set_num_threads(before)
    tables = [
        pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
        for rows in (times, others)
    ]
    text = (
        "\n\n".join(tables) + "\n\n"
        "Ratio: median over rounds in which every variant ran once. Memory: peak of a process of "
        "its own beyond its imports, loading and compiling included. Errors: relative, over the 10 "
        "steps of a DDIM run of 64 samples.\n"
        f"Measured in {time.perf_counter() - start:.0f} s ({arguments.clock} time) on {machine()}, "
        f"{deploy.all_threads()} processors.\n"
    )
    store.write_text(work_root() / "bench" / "deployed.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
