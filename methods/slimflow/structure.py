"""What can be counted on the true architectures without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.slimflow import method as slim
from methods.slimflow.networks import NETWORKS
from repro.metrics.cost import NFECounter, count_macs, count_parameters

if TYPE_CHECKING:
    from repro.job import Job


def filter_macs(network: nn.Module, arguments: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of EDM's box filters: 4 for every coarse value, up or down.

    The published code runs them as convolutions, so its counts hold them; here they are a
    repetition or a mean, which no counter sees.
    """
    total = 0

    def count(module: nn.Module, args: tuple, output: Tensor) -> None:
        nonlocal total
        if getattr(module, "mode", None) and hasattr(module, "resample_filter"):
            total += 4 * (args[0].numel() if module.mode == "up" else args[0].numel() // 4)

    handles = [module.register_forward_hook(count) for module in network.modules()]
    with torch.no_grad():
        network(*arguments)
    for handle in handles:
        handle.remove()
    return total


def measure(job: Job) -> None:
    """Parameters, tensors and operations of the published networks."""
    for name, published in NETWORKS.items():
        network, arguments = published.meta(), published.example()
        job.measure("parameters", count_parameters(network) + published.augmentation, network=name)
        job.measure("tensors", len(network.state_dict()), network=name)
        macs, filters = count_macs(network, *arguments), filter_macs(network, arguments)
        visible = (macs.conv + macs.linear + filters) / 1e9
        job.measure("gmac", visible, network=name, kind="conv-linear")
        job.measure("gmac", (macs.total + filters) / 1e9, network=name, kind="all")
    counted = NFECounter(NETWORKS["cifar-15.7"].meta())
    with torch.no_grad():
        slim.one_step(counted, torch.zeros(2, 3, 32, 32, device="meta"))
    job.measure("evaluations", counted.rows / 2, network="cifar-15.7")
