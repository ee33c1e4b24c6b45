"""Measures the ratios, prints the table and keeps it as work/bench/bench.md and bench.csv."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy
import pandas as pd
import scipy
import torch

from benchmarks import rows
from benchmarks.measure import CLOCKS
from repro.errors import ReproError
from repro.places import work_root


def machine() -> str:
    """One line on what the numbers hold for."""
    return (
        f"{platform.machine()}, {torch.get_num_threads()} thread(s), Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}, "
        f"scipy {scipy.__version__}"
    )


def main() -> int:
    """Runs the named groups of rows and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *rows.ALL], help="all by default")
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: CPU time over all threads, for a machine that others keep busy",
    )
    arguments = parser.parse_args()
    names, clock = arguments.names, arguments.clock
    start, measured = time.perf_counter(), []
    for name in names or rows.ALL:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            measured += rows.ALL[name](clock)
        except ReproError as error:
            print(error, file=sys.stderr)
            return 1
    table = pd.DataFrame([row.cells() for row in measured])
    text = (
        f"{table.to_markdown(index=False, disable_numparse=True)}\n\n"
        "Ratio: our time over the reference's, median over rounds in which both ran; below 1 is "
        "faster.\nThe interval is distribution-free; of fewer than six rounds it is the range.\n"
        f"Measured in {time.perf_counter() - start:.0f} s ({clock} time) on {machine()}.\n"
    )
    folder: Path = work_root() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.md").write_text(text, encoding="utf-8")
    table.to_csv(folder / "bench.csv", index=False)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
