"""What the stand-in must raise, and what must come out as on the CPU.

Each function is one check; it passes unless it raises: ``python -m tools.rehearsal --check``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tools.rehearsal.device import Device, install


def run() -> Iterator[tuple[str, str]]:
    """Name of each check → what is wrong, or nothing."""
    device = install()
    for name, check in CHECKS.items():
        device.forget()
        try:
            check(device)
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            yield name, f"{type(error).__name__}: {first[:200]}"
        else:
            yield name, ""


CHECKS: dict[str, Callable[[Device], None]] = {}


def check(function: Callable[[Device], None]) -> Callable[[Device], None]:
    CHECKS[function.__name__.replace("_", " ")] = function
    return function


@contextmanager
def raises(kind: type[Exception], words: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        assert words in str(error), f"another error: {str(error)[:160]}"
    else:
        raise AssertionError(f"no {kind.__name__} that says `{words}`")


TWO_DEVICES = "Expected all tensors to be on the same device"


def pair() -> tuple[Any, Any]:
    """The same (2, 3) floats on the device and on the CPU."""
    import torch

    on_cpu = torch.arange(6.0).reshape(2, 3)
    return on_cpu.cuda(), on_cpu


@check
def a_device_is_there(device: Device) -> None:
    import torch

    assert device.replaced > 1000, f"only {device.replaced} kernels replaced"
    assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    assert str(pair()[0].device) == "cuda:0"


@check
def raises_on_tensors_of_two_devices(device: Device) -> None:
    import torch

    x, c = pair()
    for wrong in (
        lambda: x + c,
        lambda: x @ c.T,
        lambda: torch.cat([x, c]),
        lambda: x.index_select(0, torch.tensor([0])),
        lambda: torch.where(c > 0, x, x),
        lambda: c.copy_(x).add_(x),
        lambda: c[torch.tensor([0], device="cuda")],
        lambda: torch.nn.Linear(3, 2)(x),
    ):
        with raises(RuntimeError, TWO_DEVICES):
            wrong()


@check
def takes_scalars_and_indices_of_the_cpu(device: Device) -> None:
    import torch

    x, c = pair()
    assert torch.equal((x * torch.tensor(2.0)).cpu(), 2 * c)
    assert torch.equal(x[torch.tensor([1])].cpu(), c[[1]])
    assert torch.equal(x[c > 0].cpu(), c[c > 0])


@check
def raises_on_a_generator_of_the_cpu(device: Device) -> None:
    import torch

    with raises(RuntimeError, "Expected a 'cuda' device type for generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())
    with raises(RuntimeError, "cuda"):
        torch.randn(3, generator=torch.Generator("cuda"))


@check
def raises_on_numpy_of_a_device_tensor(device: Device) -> None:
    import numpy as np

    x, _ = pair()
    with raises(TypeError, "can't convert cuda:0 device type tensor to numpy"):
        x.numpy()
    with raises(TypeError, "can't convert cuda:0 device type tensor to numpy"):
        np.asarray(x)


@check
def raises_on_products_of_integers(device: Device) -> None:
    x = pair()[0].long()
    with raises(RuntimeError, "not implemented for 'Long'"):
        x @ x.T


@check
def trains_as_the_cpu_does(device: Device) -> None:
    import torch
    from torch import nn

    here = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(256, 3),
    )
    there, x = copy.deepcopy(here).cuda(), torch.randn(5, 1, 8, 8)
    torch.backends.cudnn.allow_tf32 = False
    for network, inputs in ((here, x), (there, x.cuda())):
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            network(inputs).square().mean().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
    for p, q in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(p, q.cpu()), "other weights after three updates"


@check
def computes_what_the_cpu_computes(device: Device) -> None:
    import torch

    x, c = pair()
    for f in (
        lambda t: torch.linalg.svdvals(t),
        lambda t: t.sort(descending=True).values,
        lambda t: t.unique(),
        lambda t: torch.fft.fft2(t),
        lambda t: t.long().flatten().bincount(),
        lambda t: t.softmax(-1).log().topk(2).indices,
        lambda t: torch.nn.functional.scaled_dot_product_attention(t, t, t),
        lambda t: torch.func.jvp(lambda u: u.sin(), (t,), (t,))[1],
        lambda t: torch.vmap(lambda u: u.cumsum(0))(t),
    ):
        assert torch.equal(f(x).cpu(), f(c))


@check
def draws_from_its_own_generator(device: Device) -> None:
    import torch

    torch.manual_seed(0)
    first, second = torch.randn(3, device="cuda"), torch.randn(3, device="cuda")
    torch.manual_seed(0)
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.randn(3, device="cuda"))
    state = torch.cuda.get_rng_state()
    third = torch.randn(3, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.equal(third, torch.randn(3, device="cuda"))


@check
def autocast_events_and_memory_work(device: Device) -> None:
    import torch

    x, _ = pair()
    with torch.autocast("cuda", torch.bfloat16):
        assert (x @ x.T).dtype == torch.bfloat16
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    ended.record()
    torch.cuda.synchronize()
    assert began.elapsed_time(ended) >= 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    large = torch.zeros(1 << 20, device="cuda")
    assert torch.cuda.max_memory_allocated() - before == 4 * large.numel()


@check
def rounds_to_tf32_where_torch_allows_it(device: Device) -> None:
    import torch

    c = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    w = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    m = w.flatten(1)
    for allowed in (True, False):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
        here, there = torch.conv2d(c, w), torch.conv2d(c.cuda(), w.cuda()).cpu()
        assert torch.equal(here, there) is not allowed
        assert torch.equal(m @ m.T, (m.cuda() @ m.cuda().T).cpu()) is not allowed


@check
def counts_launches_and_refuses_what_is_not_deterministic(device: Device) -> None:
    import torch

    x, _ = pair()
    weights, places = x.flatten(), x.flatten().long()
    device.forget()
    torch.use_deterministic_algorithms(True, warn_only=True)
    for _ in range(2):
        places.bincount(weights)
    places.bincount()
    x.cumsum(0)
    seen = device.seen()
    assert seen.nondeterministic == {"bincount": 2}, seen
    assert seen.launches >= 4, seen
    torch.use_deterministic_algorithms(True)
    with raises(RuntimeError, "does not have a deterministic implementation"):
        places.bincount(weights)
    with raises(RuntimeError, "does not have a deterministic implementation"):
        x.median(0)
    assert x.median() == 2
    torch.use_deterministic_algorithms(False)


@check
def sees_a_clock_that_does_not_wait(device: Device) -> None:
    import torch

    device.watch_clocks()
    read: dict[str, Any] = {"__name__": "methods.some.arms", "time": time}
    exec(
        "def clock():\n    return time.perf_counter()\ndef cpu():\n    return time.process_time()",
        read,
    )
    x, _ = pair()
    torch.cuda.synchronize()
    read["clock"]()
    assert not device.seen().clocks
    x + 1
    time.perf_counter()  # not in the code that measures
    assert not device.seen().clocks
    read["clock"]()
    (x + 1).sum().item()
    read["clock"]()
    assert device.seen().clocks == {"perf_counter at methods/some/arms.py:2": 1}
    read["cpu"]()
    assert len(device.seen().clocks) == 2


@check
def sees_a_device_that_is_seeded_anew(device: Device) -> None:
    import torch

    torch.randn(2, device="cuda", generator=torch.Generator("cuda").manual_seed(3))
    assert not device.seen().reseeded
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
    assert device.seen().reseeded
