"""Networks whose initial weights depend on a named random stream alone.

PyTorch draws initial weights from its global generator, which everything else may have moved. Here
it is seeded for the time of the construction and put back afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Generator

T = TypeVar("T")


def seeded(build: Callable[[], T], generator: Generator) -> T:
    """What ``build`` makes while the global generator has the initial seed of ``generator``.

    How far ``generator`` was used does not matter. The global generator of the CPU is left as it
    was; that of a GPU is not.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        return build()


def seed_global(generator: Generator, device: torch.device) -> None:
    """Give the global generators of the CPU and of ``device`` the initial seed of ``generator``.

    `torch.manual_seed` also notes, with a traceback, what it would tell devices that are not used:
    a millisecond and some memory every time.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(generator.initial_seed())
    else:
        torch.manual_seed(generator.initial_seed())
