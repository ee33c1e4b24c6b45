"""Forward operators, schedules and samplers: shapes, types, units and ends of both sides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torture.case import Case

SHAPE = "shape and unit checked on one side"
ENDS = "schedules and steps outside their range"

Make = Callable[[], Any]
W, V, L = 16, 6, 23
"""Width of the images, views, and detector bins of a padded image."""


def _case(kind: str, name: str, make: Make, right: Callable[[Any], bool] | None = None) -> Case:
    def run(folder: Path) -> Any:
        torch.set_num_threads(1)
        return make()

    return Case(kind, name, run, right)


def _randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Operators ----------------------------------------------------------------------------------


def _operators() -> dict[str, Callable[[], Any]]:
    from repro.inverse.base import Identity
    from repro.inverse.fourier import MaskedFourier
    from repro.inverse.radon import CompatRadon, ParallelBeam, sparse_view_angles

    def mask() -> Tensor:
        return (torch.arange(W) % 2 == 0).float().expand(W, W).clone()

    return {
        "ParallelBeam": lambda: ParallelBeam(W, sparse_view_angles(V)),
        "CompatRadon": lambda: CompatRadon(W, sparse_view_angles(V)),
        "MaskedFourier": lambda: MaskedFourier(mask()),
        "MaskedFourier, released": lambda: MaskedFourier(mask(), norm="backward"),
        "Identity": Identity,
    }


IMAGES: dict[str, Make] = {
    "wider": lambda: _randn(2, 1, 20, 20),
    "narrower": lambda: _randn(2, 1, 12, 12),
    "not square": lambda: _randn(2, 1, 12, 16),
    "lying": lambda: _randn(2, 1, 16, 12),
    "of one pixel": lambda: _randn(2, 1, 1, 1),
    "of one row": lambda: _randn(2, 1, 1, W),
    "without channel": lambda: _randn(2, W, W),
    "a plane": lambda: _randn(W, W),
    "three channels": lambda: _randn(2, 3, W, W),
    "flat": lambda: _randn(2, 1, W * W),
    "integers": lambda: torch.ones(2, 1, W, W, dtype=torch.int64),
    "bytes": lambda: torch.full((2, 1, W, W), 255, dtype=torch.uint8),
    "complex": lambda: torch.ones(2, 1, W, W, dtype=torch.complex64),
}

SINOGRAMS: dict[str, Make] = {
    "transposed": lambda: _randn(2, 1, V, L),
    "of the image's width": lambda: _randn(2, 1, W, V),
    "one view more": lambda: _randn(2, 1, L, V + 1),
    "one view": lambda: _randn(2, 1, L, 1),
    "one bin less": lambda: _randn(2, 1, L - 1, V),
    "flat": lambda: _randn(2, 1, L * V),
    "without channel": lambda: _randn(2, L, V),
    "three channels": lambda: _randn(2, 3, L, V),
    "integers": lambda: torch.ones(2, 1, L, V, dtype=torch.int64),
    "complex": lambda: torch.ones(2, 1, L, V, dtype=torch.complex64),
}

SPECTRA: dict[str, Make] = {
    "real": lambda: _randn(2, 1, W, W),
    "half": lambda: torch.fft.rfft2(_randn(2, 1, W, W)),
    "of one row": lambda: torch.fft.fft2(_randn(2, 1, 1, W)),
    "of one column": lambda: torch.fft.fft2(_randn(2, 1, W, 1)),
    "two channels": lambda: _randn(2, 2, W, W),
    "without channel": lambda: torch.fft.fft2(_randn(2, W, W)),
    "integers": lambda: torch.ones(2, 1, W, W, dtype=torch.int64),
}

ANY = ("wider", "narrower", "not square", "lying", "of one pixel", "of one row")
"""Images that the identity takes."""


def _of_operators() -> Iterator[Case]:
    for (name, build), (what, image), does in itertools.product(
        _operators().items(), IMAGES.items(), ("forward", "normal")
    ):
        if name == "Identity" and what in ANY:
            continue

        def run(build=build, image=image, does=does) -> Any:
            return getattr(build(), does)(image())

        yield _case(SHAPE, f"{name}.{does} of images {what}", run)
    sides = {
        "ParallelBeam": (SINOGRAMS, ("adjoint", "transpose", "fbp")),
        "CompatRadon": (SINOGRAMS, ("adjoint", "fbp")),
        "MaskedFourier": (SPECTRA, ("adjoint", "zero_filled")),
        "MaskedFourier, released": (SPECTRA, ("adjoint", "zero_filled")),
    }
    for name, (bad, methods) in sides.items():
        for (what, data), does in itertools.product(bad.items(), methods):

            def back(name=name, data=data, does=does) -> Any:
                return getattr(_operators()[name](), does)(data())

            yield _case(SHAPE, f"{name}.{does} of measurements {what}", back)
    for name in ("ParallelBeam", "MaskedFourier", "MaskedFourier, released", "Identity"):
        yield _case(
            SHAPE,
            f"{name}: the adjoint is one",
            partial(_dot_product, name),
            lambda gap: gap < 1e-4,
        )
    for name in _operators():
        yield _case(
            SHAPE,
            f"{name}: NaN in an image is NaN in its measurements",
            lambda name=name: _operators()[name]().normal(
                _randn(2, 1, W, W).index_fill(2, torch.tensor([8]), torch.nan)
            ),
            lambda x: bool(x.isnan().any()),
        )
    for kind in (torch.float64, torch.float16):
        yield _case(
            SHAPE,
            f"ParallelBeam of images of {kind}",
            lambda kind=kind: _operators()["ParallelBeam"]().forward(_randn(1, 1, W, W).to(kind)),
        )


def _dot_product(name: str) -> float:
    A = _operators()[name]()
    x = _randn(2, 1, W, W)
    y = A.forward(x)
    v = _randn(*y.shape, seed=1)
    v = torch.complex(v, _randn(*y.shape, seed=2)) if y.is_complex() else v
    left, right = A.scale * (y.conj() * v).real.sum(), (x * A.adjoint(v)).sum()
    return float((left - right).abs() / left.abs())


def _of_geometry() -> Iterator[Case]:
    from repro.inverse import radon

    degrees = np.arange(V) * 180.0 / V
    angles: dict[str, Any] = {
        "in degrees": degrees,
        "in degrees, a few": [0.0, 45.0],
        "in negative degrees": -degrees,
        "NaN": [0.0, math.nan],
        "infinite": [0.0, math.inf],
        "none": [],
        "of two axes": np.zeros((2, 3)),
        "with one twice": [0.0, 1.0, 1.0],
        "with a turn between two": [0.0, 2 * math.pi, 1.0],
    }
    for (what, values), width in itertools.product(angles.items(), (W,)):
        for build in (radon.ParallelBeam, radon.CompatRadon, radon.projection_matrix):

            def run(build=build, values=values, width=width) -> Any:
                return build(width, values)

            yield _case(SHAPE, f"{build.__name__} of angles {what}", run)
    for width in (0, -1, 2.5):
        for build in (radon.ParallelBeam, radon.CompatRadon):
            yield _case(
                SHAPE, f"{build.__name__} of width {width}", partial(build, width, [0.0, 1.0])
            )
        yield _case(SHAPE, f"padding of width {width}", partial(radon.padded_width, width))
    yield _case(
        SHAPE,
        "filtered back-projection of a disc",
        _disc,
        lambda error: error < 0.1,
    )
    for views in (0, -3):
        yield _case(SHAPE, f"{views} sparse views", partial(radon.sparse_view_angles, views))
    for arc in (0, -90, math.pi, 400):
        yield _case(SHAPE, f"an arc of {arc:g} degrees", partial(radon.limited_angles, arc))
    for step in (0.0, -1.0, math.nan):
        yield _case(
            SHAPE,
            f"an arc in steps of {step}",
            lambda step=step: radon.limited_angles(90, step=step),
        )
    for length in (0, -4):
        yield _case(SHAPE, f"a ramp of {length} bins", partial(radon.ramp_filter, length))
    for what in ("flat", "without channel", "integers", "complex"):
        yield _case(
            SHAPE,
            f"filtering a sinogram {what}",
            lambda what=what: radon.filter_sinogram(SINOGRAMS[what]()),
        )
    yield from _of_masks()


def _disc() -> float:
    """Largest error inside of a disc of ones, reconstructed from 90 views."""
    from repro.inverse.radon import ParallelBeam, sparse_view_angles

    u = torch.linspace(-1, 1, 64)
    radius = (u[:, None] ** 2 + u**2).sqrt()
    A = ParallelBeam(64, sparse_view_angles(90))
    x = A.fbp(A.forward((radius < 0.6).float()[None, None]))
    return float((x[0, 0][radius < 0.4] - 1).abs().mean())


def _of_masks() -> Iterator[Case]:
    from repro.inverse.fourier import MaskedFourier, uniform1d_mask

    masks: dict[str, Make] = {
        "three axes": lambda: torch.ones(1, W, W),
        "one axis": lambda: torch.ones(W),
        "no pixels": lambda: torch.ones(0, W),
        "halves": lambda: torch.full((W, W), 0.5),
        "values of bytes": lambda: torch.full((W, W), 255.0),
        "a negative one": lambda: -torch.ones(W, W),
        "NaN": lambda: torch.full((W, W), torch.nan),
        "integers": lambda: torch.ones(W, W, dtype=torch.int64),
        "truth values": lambda: torch.ones(W, W, dtype=torch.bool),
        "complex": lambda: torch.ones(W, W, dtype=torch.complex64),
    }
    for (what, mask), norm in itertools.product(masks.items(), ("ortho", "backward")):

        def run(mask=mask, norm=norm) -> Any:
            A = MaskedFourier(mask(), norm=norm)
            return A.norm((W, W))

        yield _case(SHAPE, f"a mask with {what}, {norm}", run)
    yield _case(
        SHAPE,
        "the norm of an operator that measures nothing",
        lambda: MaskedFourier(torch.zeros(W, W)).norm((W, W)),
    )
    yield _case(
        SHAPE,
        "the norm of an operator on another size",
        lambda: _operators()["ParallelBeam"]().norm((20, 20)),
    )
    for name, options in {
        "acceleration 0.5": (W, 0.5, 0.1),
        "acceleration -2": (W, -2.0, 0.1),
        "acceleration NaN": (W, math.nan, 0.1),
        "acceleration infinite": (W, math.inf, 0.0),
        "a centre of -0.1": (W, 2.0, -0.1),
        "a centre of 1.5": (W, 1.0, 1.5),
        "a centre in percent": (W, 2.0, 8.0),
        "a centre of NaN": (W, 2.0, math.nan),
        "width 0": (0, 2.0, 0.0),
        "width -16": (-16, 2.0, 0.0),
    }.items():
        yield _case(
            SHAPE,
            f"a random mask of {name}",
            lambda options=options: uniform1d_mask(*options, torch.Generator().manual_seed(0)),
        )


# Schedules and samplers ---------------------------------------------------------------------


def _of_schedules() -> Iterator[Case]:
    from repro.diffusion import multistep, schedules

    ones, nan = torch.ones(4), torch.tensor([0.5, math.nan])
    abar = schedules.alphas_cumprod(schedules.linear_betas(100))
    made: dict[str, Make] = {
        "no betas": lambda: schedules.linear_betas(0),
        "betas from 0": lambda: schedules.linear_betas(10, 0.0),
        "betas to 20": lambda: schedules.linear_betas(10, 0.1, 20.0),
        "betas from NaN": lambda: schedules.linear_betas(10, math.nan),
        "no cosine betas": lambda: schedules.cosine_betas(0),
        "products of betas above 1": lambda: schedules.alphas_cumprod(2 * ones),
        "products of negative betas": lambda: schedules.alphas_cumprod(-ones),
        "products of NaN": lambda: schedules.alphas_cumprod(nan),
        "products over two axes": lambda: schedules.alphas_cumprod(ones[None] / 2),
        "noise levels of signal 0": lambda: schedules.vp_sigmas(0 * ones),
        "noise levels of signal 2": lambda: schedules.vp_sigmas(2 * ones),
        "noise levels of NaN": lambda: schedules.vp_sigmas(nan),
        "0 times": lambda: schedules.timesteps_uniform(100, 0),
        "more times than steps": lambda: schedules.timesteps_inclusive(100, 101),
        "1 quadratic time": lambda: schedules.timesteps_quad(100, 1),
        "0 strides": lambda: schedules.timesteps_stride(100, 0),
        "0 real times": lambda: multistep.times_uniform(0),
        "real times that are NaN": lambda: multistep.alpha_at(nan, abar),
        "real times above 1": lambda: multistep.alpha_at(2 * ones, abar),
        "signal at real times of betas": lambda: multistep.alpha_at(
            ones, schedules.linear_betas(100)
        ),
    }
    for name, make in made.items():
        yield _case(ENDS, name, make)
    for name, build in {
        "geometric": schedules.geometric_sigmas,
        "Karras": schedules.karras_sigmas,
    }.items():
        for n, low, high in (
            (0, 0.1, 1.0),
            (-3, 0.1, 1.0),
            (5, 0.0, 1.0),
            (5, -0.1, 1.0),
            (5, 1.0, 0.1),
            (5, math.nan, 1.0),
            (5, 0.1, math.nan),
            (5, 0.1, math.inf),
        ):
            yield _case(
                ENDS, f"{n} {name} levels from {low} to {high}", partial(build, n, low, high)
            )
        yield _case(
            ENDS,
            f"1 {name} level",
            lambda build=build: build(1, 0.5, 0.5).tolist(),
            lambda levels: levels == [0.5],
        )
    for rho in (0.0, -7.0, math.nan):
        yield _case(
            ENDS,
            f"Karras levels with rho {rho}",
            partial(schedules.karras_sigmas, 5, 0.1, 1.0, rho),
        )
    for name, t in {
        "-1": torch.tensor([3, -1]),
        "of floats": torch.tensor([3.0, 1.0]),
    }.items():

        def noised(t: Tensor = t) -> Any:
            x = _randn(2, 1, 4, 4)
            return schedules.q_sample(x, t, abar, x)

        yield _case(ENDS, f"noised data at steps {name}", noised)
    levels: dict[str, list[float]] = {
        "none": [],
        "NaN": [0.5, math.nan],
        "descending": [2.0, 1.0],
        "shuffled": [1.0, 3.0, 2.0],
        "negative": [-1.0, 1.0],
    }
    for name, values in levels.items():
        yield _case(
            ENDS,
            f"a walk down noise levels {name}",
            lambda values=values: list(schedules.descend(torch.tensor(values), 0.0)),
        )


def _of_samplers() -> Iterator[Case]:
    from repro.diffusion import multistep, samplers, schedules

    x = _randn(2, 1, 4, 4)
    abar = schedules.alphas_cumprod(schedules.linear_betas(100))
    generator = torch.Generator().manual_seed(0)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return 0.1 * x

    walks: dict[str, Callable[..., Any]] = {
        "ddim": samplers.ddim,
        "ddpm": partial(samplers.ddpm, generator=generator),
        "plms": multistep.plms,
        "dpm_solver_pp_2m": multistep.dpm_solver_pp_2m,
    }
    grids: dict[str, tuple[Tensor, Tensor]] = {
        "that descend": (torch.tensor([50, 20, 5]), abar),
        "that are shuffled": (torch.tensor([5, 50, 20]), abar),
        "from -1": (torch.tensor([-1, 5]), abar),
        "beyond the last": (torch.tensor([5, 100]), abar),
        "of floats": (torch.tensor([5.0, 50.0]), abar),
        "of two axes": (torch.tensor([[5, 50]]), abar),
        "that are none": (torch.tensor([], dtype=torch.int64), abar),
        "of betas": (torch.tensor([5, 50]), schedules.linear_betas(100)),
        "of a signal that grows": (torch.tensor([5, 50]), abar.flip(0)),
        "of a signal of NaN": (torch.tensor([5, 50]), abar * math.nan),
    }
    for (name, walk), (what, (grid, table)) in itertools.product(walks.items(), grids.items()):
        yield _case(
            ENDS,
            f"{name} along steps {what}",
            lambda walk=walk, grid=grid, table=table: walk(network, x, grid, table),
        )
    steps = torch.tensor([5, 50])
    for name, walk in walks.items():
        for clip in (0.0, -1.0, math.nan):
            yield _case(
                ENDS,
                f"{name} clipped at {clip}",
                lambda walk=walk, clip=clip: walk(network, x, steps, abar, clip=clip),
            )
        yield _case(
            ENDS,
            f"{name} along two steps",
            lambda walk=walk: walk(network, x, steps, abar),
            lambda found: bool(found.isfinite().all()),
        )
    for eta in (-0.5, 5.0, math.nan):
        yield _case(
            ENDS,
            f"ddim with eta {eta}",
            lambda eta=eta: samplers.ddim(network, x, steps, abar, eta=eta, generator=generator),
        )
    sigmas: dict[str, Tensor] = {
        "that descend": torch.tensor([2.0, 1.0]),
        "that are shuffled": torch.tensor([1.0, 3.0, 2.0]),
        "of NaN": torch.tensor([1.0, math.nan]),
        "that end infinite": torch.tensor([1.0, math.inf]),
        "from -1": torch.tensor([-1.0, 1.0]),
        "of two axes": torch.ones(1, 2),
        "that are none": torch.tensor([]),
        "of one NaN": torch.tensor([math.nan]),
    }
    for name, values in sigmas.items():
        yield _case(ENDS, f"heun at levels {name}", partial(samplers.heun, network, x, values))
        yield _case(ENDS, f"diffusion_mbir at levels {name}", partial(_mbir, values))
    for name, options in {
        "S_churn -1": {"S_churn": -1.0},
        "S_churn NaN": {"S_churn": math.nan},
        "S_noise 0": {"S_churn": 1.0, "S_noise": 0.0},
        "S_noise NaN": {"S_churn": 1.0, "S_noise": math.nan},
    }.items():
        yield _case(
            ENDS,
            f"heun with {name}",
            lambda options=options: samplers.heun(
                network, x, torch.tensor([1.0, 2.0]), generator=generator, **options
            ),
        )
    times: dict[str, list[float]] = {
        "that descend": [1.0, 0.5],
        "of NaN": [0.1, math.nan],
        "from 0": [0.0, 0.5],
        "beyond 1": [0.5, 50.0],
        "that are one": [0.5],
    }
    for name, ends in times.items():
        yield _case(
            ENDS,
            f"dpm_solver_pp_2m_times at times {name}",
            lambda ends=ends: multistep.dpm_solver_pp_2m_times(
                network, x, torch.tensor(ends, dtype=torch.float64), abar
            ),
        )


def _mbir(sigmas: Tensor) -> Any:
    from methods.diffusion_mbir.method import diffusion_mbir, gaussian_noise
    from repro.inverse.base import Identity

    shape = (2, 1, 4, 4)
    return diffusion_mbir(
        lambda x, sigma: -x / (1 + sigma[:, None, None, None] ** 2),
        Identity(),
        torch.zeros(shape),
        shape,
        sigmas,
        gaussian_noise(torch.Generator().manual_seed(0)),
        lam=1e-4,
        rho=0.025,
    )


def cases() -> Iterator[Case]:
    yield from _of_operators()
    yield from _of_geometry()
    yield from _of_schedules()
    yield from _of_samplers()
