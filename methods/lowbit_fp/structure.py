"""What can be counted without weights: formats, and the networks that the paper quantises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from repro.metrics.cost import count_parameters
from repro.nets.ldm import BEDROOM, SD_V1, LatentUNet
from repro.nets.unet import UNet
from repro.quant.affine import code_span
from repro.quant.floating import dynamic_range, float_values

if TYPE_CHECKING:
    from repro.job import Job

FLOATS = ("E2M1", "E1M2", "E3M0", "E2M5", "E3M4", "E4M3", "E5M2")
TAG_BYTES = 5
"""A range (float32) and the tag of a format, for each tensor."""


def formats() -> dict[str, tuple[int, float]]:
    """Format -> (distinct values, largest over smallest positive value), codes enumerated."""
    found = {}
    for name in FLOATS:
        exponent, mantissa = int(name[1]), int(name[3])
        values = float_values(exponent, mantissa, 0.0)
        signed = torch.cat([-values, values]).unique()
        assert len(signed) == 2 * len(values) - 1
        found[name] = len(signed), dynamic_range(exponent, mantissa)
    for bits in (8, 4):
        low, high = code_span(bits, signed=True)
        found[f"INT{bits}"] = high - low + 1, float(high)
        low, high = code_span(bits)
        found[f"INT{bits}-asym"] = high - low + 1, float(high)
    return found


def networks() -> dict[str, dict[str, int]]:
    """Parameters, quantised layers and their output channels of the networks at published size."""
    found = {}
    with torch.device("meta"):
        models = {
            "ddim-cifar10": UNet(),
            "ldm4-bedroom": LatentUNet(BEDROOM),
            "sd-v1": LatentUNet(SD_V1),
        }
    for name, network in models.items():
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv1d | nn.Linear)]
        found[name] = {
            "params": count_parameters(network),
            "layers": len(layers),
            "channels": sum(len(m.weight) for m in layers),
        }
    return found


def measure(job: Job) -> None:
    """Codes and dynamic ranges of the formats, sizes of the networks that the paper quantises."""
    for form, (values, dynamic) in formats().items():
        job.measure("codes", values, format=form)
        job.measure("dynamic_range", dynamic, format=form)
    for model, found in networks().items():
        job.measure("params", found["params"], model=model)
        job.measure("layers", found["layers"], model=model)
        for bits in (32, 8, 4):
            job.measure("size", found["params"] * bits / 8e6, model=model, bits=bits)
        overhead = TAG_BYTES * found["layers"] / (found["params"] / 2)
        job.measure("overhead", overhead, model=model, granularity="tensor")
        overhead = (4 * found["channels"] + found["layers"]) / (found["params"] / 2)
        job.measure("overhead", overhead, model=model, granularity="channel")
