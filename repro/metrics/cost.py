r"""What a network costs: evaluations, parameters, operations, bytes, time, memory.

Rules, printed with every number that follows from them:

* MAC: one multiply-accumulate; FLOPs = 2 MAC. Convolutions, linear layers and batched matrix
  products (attention) are counted apart; norms and activations are not counted.
* Size: 10^6 bytes to the MB. "All" counts every parameter at the quantised width; "honest" counts
  the weights of convolutions and linear layers at that width and the rest as 32-bit floats.
* BOPs = 2 MAC x weight bits x activation bits, where a 32-bit float counts as the 23 bits of its
  mantissa. This is the rule behind the tables of Q-Diffusion (Li et al., 2023); other papers use
  others.
"""

from __future__ import annotations

import copy
import gc
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from repro.errors import ReproError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from repro.job import Job

__all__ = [
    "Latency",
    "Macs",
    "NFECounter",
    "Rounds",
    "bops",
    "count_macs",
    "count_parameters",
    "interleaved",
    "latency",
    "measure_interval",
    "model_size_bytes",
    "peak_memory",
]


class NFECounter:
    """Wraps a network and counts its evaluations.

    Attributes:
        calls: how often the network was called.
        rows: samples that went through it: the sum of the batch sizes of the first argument.

    Every other attribute is the network's own.
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        self._network = network
        self.reset()

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        self.rows += len(x)
        return self._network(x, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_network":  # copies and pickles ask before __init__ has run
            raise AttributeError(name)
        return getattr(self._network, name)

    def reset(self) -> None:
        """Sets both counts to zero."""
        self.calls = 0
        self.rows = 0


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Returns the number of parameters (shared ones once), or of those that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass."""

    conv: int
    linear: int
    attention: int

    @property
    def total(self) -> int:
        return self.conv + self.linear + self.attention


def count_macs(module: nn.Module, *args: Any, **kwargs: Any) -> Macs:
    """Counts the multiply-accumulates of `module(*args, **kwargs)`.

    The pass runs on the meta device, on shapes alone: no weight is copied and nothing is computed,
    so networks of any size can be counted.

    Arguments:
        module: on any device; not changed.
        args, kwargs: its inputs; tensors of any device.

    Returns:
        Counts of convolutions (transposed and 1-D too), linear layers (and other unbatched matrix
        products) and batched matrix products, for the batch size of the inputs.
    """
    import torch
    from torch import nn
    from torch.utils._pytree import tree_map
    from torch.utils.flop_counter import FlopCounterMode

    def to_meta(value: Any) -> Any:
        return value.to("meta") if isinstance(value, torch.Tensor) else value

    args, kwargs = tree_map(to_meta, args), tree_map(to_meta, kwargs)
    # Meta copies of the tensors go in through the memo, so that deepcopy copies no weight.
    memo: dict[int, Any] = {}
    for p in module.parameters():
        memo[id(p)] = nn.Parameter(p.detach().to("meta"), requires_grad=False)
    for b in module.buffers():
        memo[id(b)] = b.detach().to("meta")
    shadow = copy.deepcopy(module, memo).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(*args, **kwargs)
    counts = counter.get_flop_counts()

    def flops(scope: str, *names: str) -> int:
        return sum(n for op, n in counts.get(scope, {}).items() if op.__name__ in names)

    batched = ("bmm", "baddbmm")
    attention = sum(
        n
        for op, n in counts.get("Global", {}).items()
        if op.__name__ in batched or "attention" in op.__name__
    )
    # A linear layer on a strided input may run as a batched product.
    root = type(shadow).__name__
    strided = sum(
        flops(f"{root}.{name}" if name else root, *batched)
        for name, m in shadow.named_modules()
        if isinstance(m, nn.Linear)
    )
    return Macs(
        conv=flops("Global", "convolution", "_convolution") // 2,
        linear=(flops("Global", "mm", "addmm") + strided) // 2,
        attention=(attention - strided) // 2,
    )


def model_size_bytes(module: nn.Module, bits: int = 32, *, honest: bool = False) -> float:
    """Returns the size of the parameters in bytes; divide by 10^6 for MB.

    Arguments:
        module: the network.
        bits: width of quantised parameters.
        honest: quantise the weights of convolutions and linear layers only, and count everything
            else as 32-bit floats; else count every parameter at `bits`, as papers do.

    Returns:
        Bytes, without scales, zero-points or file overhead.

    Source:
        Rule of the tables of Q-Diffusion (Li et al., 2023).
    """
    _check_width(bits)
    everything = count_parameters(module)
    if not honest:
        return everything * bits / 8
    quantised = quantisable_weights(module)
    return quantised * bits / 8 + (everything - quantised) * 4


def _check_width(bits: int) -> None:
    if not 1 <= bits <= 64:
        raise ReproError(f"a number of {bits} bits is not representable; choose 1 to 64 bits")


def quantisable_weights(module: nn.Module) -> int:
    """Returns the number of weights of convolutions and linear layers, biases not counted."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    weights = {
        id(m.weight): m.weight.numel()
        for m in module.modules()
        if isinstance(m, nn.Linear | _ConvNd)
    }
    return sum(weights.values())


def bops(macs: int, weight_bits: int, activation_bits: int) -> int:
    """Returns bit operations, 2 x MAC x weight bits x activation bits.

    Arguments:
        macs: multiply-accumulates, attention products included.
        weight_bits, activation_bits: 32 means float and counts as 23.

    Source:
        Derived from the tables of Q-Diffusion (Li et al., 2023), which it meets within 0.25 %.
    """
    _check_width(weight_bits)
    _check_width(activation_bits)
    if macs < 0:
        raise ReproError(f"{macs} multiply-accumulates are no count; give 0 or more")
    w, a = (23 if bits == 32 else bits for bits in (weight_bits, activation_bits))
    return 2 * macs * w * a


@dataclass(frozen=True)
class Latency:
    """A median with its distribution-free 95 % interval (lo, hi), and what it was taken over."""

    median: float
    lo: float
    hi: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Any) -> Latency:
        """Summarises repeats by order statistics.

        The interval reaches from the k-th smallest to the k-th largest value, with the largest k
        that keeps the median inside with probability 0.95 or more. With fewer than six repeats no
        k does, and the interval is the whole range.
        """
        ordered = sorted(float(v) for v in values)
        n = len(ordered)
        if not all(math.isfinite(v) for v in ordered):
            raise ReproError("a median of NaN or infinite repeats is undefined; check the clock")
        if n == 0:
            raise ReproError("a median of no repeats is undefined; measure at least once")
        k, tail = 0, 0.0
        while True:  # tail = P(Binomial(n, 1/2) <= k - 1)
            tail += math.comb(n, k) / 2**n
            if 2 * tail > 0.05 or k + 1 > n // 2:
                break
            k += 1
        k = max(k, 1)
        return cls(float(np.median(ordered)), ordered[k - 1], ordered[n - k], tuple(ordered))


class Rounds(dict[str, Latency]):
    """Latencies in seconds of functions that took turns; also their ratios, round by round."""

    def __init__(self, seconds: Mapping[str, list[float]]) -> None:
        super().__init__({name: Latency.of(values) for name, values in seconds.items()})
        self.seconds = {name: list(values) for name, values in seconds.items()}

    def ratio(self, name: str, reference: str) -> Latency:
        """Returns the median of time(name) / time(reference) over the rounds."""
        if not all(self.seconds[reference]):
            raise ReproError(f"`{reference}` took no time that the clock can tell; repeat it more")
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return Latency.of([a / b for a, b in pairs])


def _synchronise() -> None:
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _seconds(function: Callable[[], Any], clock: Callable[[], float]) -> float:
    _synchronise()
    start = clock()
    function()
    _synchronise()
    return clock() - start


def interleaved(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Times functions that take turns, so that a drift of the machine hits all of them.

    Every round calls each function once; each round starts with the next of them. The garbage
    collector rests meanwhile, and an accelerator is waited for.

    Arguments:
        functions: name -> function without arguments.
        repeats: rounds that count.
        warmup: rounds before them.
        clock: seconds; `time.process_time` instead of the default counts CPU time over all threads,
            which a busy machine disturbs less.
    """
    if not functions or repeats < 1 or warmup < 0:
        raise ReproError(
            f"{len(functions)} functions, {repeats} repeats and a warm-up of {warmup} measure "
            "nothing; give at least one function and one repeat"
        )
    names = list(functions)
    for _ in range(warmup):
        for function in functions.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for r in range(repeats):
            for i in range(len(names)):
                name = names[(r + i) % len(names)]
                seconds[name].append(_seconds(functions[name], clock))
    finally:
        if collecting:
            gc.enable()
    return Rounds(seconds)


def measure_interval(job: Job, name: str, latency: Latency, *, per: float = 1.0, **at: Any) -> None:
    """Measures a median as `name` and the ends of its interval as `name_low` and `name_high`.

    Arguments:
        job: it declares all three names.
        latency: seconds, or a ratio of `Rounds`.
        per: what the three are divided by, e.g. the samples that a call makes.
        at: coordinates.
    """
    job.measure(name, latency.median / per, **at)
    job.measure(f"{name}_low", latency.lo / per, **at)
    job.measure(f"{name}_high", latency.hi / per, **at)


def latency(function: Callable[[], Any], warmup: int = 3, repeats: int = 20) -> Latency:
    """Returns the median wall-clock seconds of a call, with its 95 % interval.

    Arguments:
        function: called without arguments.
        warmup: calls that do not count.
        repeats: calls that count.
    """
    return interleaved({"it": function}, repeats, warmup)["it"]


def peak_memory(function: Callable[[], Any], device: str | torch.device = "cpu") -> int:
    """Returns how many bytes of tensors a call needs at its peak, beyond those there before.

    On the CPU the allocations of PyTorch are traced, which slows the call down but depends on
    nothing else that the process did. On CUDA the caching allocator is asked.

    Arguments:
        function: called once, without arguments.
        device: where its tensors live.
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before

    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it reports missing GPUs as errors
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        function()
    events = [
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    events.sort(key=lambda event: event[0])
    running = np.cumsum([size for _, size in events])
    return int(max(0, running.max(initial=0)))
