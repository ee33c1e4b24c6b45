"""What is measured. Networks are untrained: time does not depend on what the weights are.

Each function checks first that both sides compute the same thing, then returns its rows.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.measure import Row, compare
from repro.diffusion import absorbing, samplers, schedules
from repro.errors import ReproError
from repro.job import Job
from repro.nets.preconditioned import PreconditionedDenoiser
from repro.nets.transformer import Config, Transformer
from repro.nets.unet import UNet
from repro.training import seeding
from repro.training.fit import fit
from repro.training.settings import Optimiser


def same(ours, theirs, tolerance: float, what: str) -> None:
    """Raises ReproError unless both sides agree: times of unlike things are not compared."""
    ours, theirs = (torch.as_tensor(v, dtype=torch.float64) for v in (ours, theirs))
    difference = (ours - theirs).abs().max().item()
    if not difference <= tolerance:
        raise ReproError(f"{what}: both sides differ by {difference:.2g}; mend it before timing it")


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """A network with reproducible weights, ready for inference."""
    network = seeding.seeded(build, torch.Generator().manual_seed(0))
    return network.eval().requires_grad_(False)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def small_unet() -> nn.Module:
    """About 0.7 M parameters on 8 x 8 images: the smallest network of the suite.

    The smaller the network, the more the loop around it shows.
    """
    return seeded(
        lambda: UNet(
            resolution=8,
            in_channels=1,
            channels=32,
            mult=(1, 2),
            blocks=1,
            attention=(4,),
            groups=8,
        )
    )


def sampler_loop(clock: str) -> list[Row]:
    """A whole DDIM run over as many bare calls of its network."""
    network, x, n = small_unet(), randn(16, 1, 8, 8), 20
    abar = schedules.alphas_cumprod(schedules.linear_betas())
    timesteps = schedules.timesteps_uniform(1000, n)
    levels = [t.expand(len(x)) for t in timesteps.flip(0)]

    @torch.inference_mode()
    def bare() -> None:
        for t in levels:
            network(x, t)

    return [
        compare(
            f"DDIM, {n} steps, over {n} bare network calls",
            lambda: samplers.ddim(network, x, timesteps, abar),
            bare,
            clock=clock,
            goal=1.02,
            why="the loop is two operations a step",
            rounds=41,
            warmup=3,
        )
    ]


def diffusers_loop(clock: str) -> list[Row]:
    """DDIM here and by the scheduler of diffusers, same network, same steps."""
    from diffusers import DDIMScheduler

    network, x, n = small_unet(), randn(16, 1, 8, 8), 20
    abar = schedules.alphas_cumprod(schedules.linear_betas())
    timesteps = schedules.timesteps_uniform(1000, n)
    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, timestep_spacing="leading"
    )
    scheduler.set_timesteps(n)

    def ours() -> torch.Tensor:
        return samplers.ddim(network, x, timesteps, abar)

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        sample = x
        for t in scheduler.timesteps:
            sample = scheduler.step(network(sample, t.expand(len(x))), t, sample).prev_sample
        return sample

    scale = theirs().abs().max().item()  # an untrained network lets the state grow
    same(ours(), theirs(), 1e-5 * max(1.0, scale), "DDIM against diffusers")
    return [
        compare(
            f"DDIM, {n} steps, over diffusers' DDIM",
            ours,
            theirs,
            clock=clock,
            goal=1.0,
            why="no slower than the common library",
            rounds=41,
            warmup=3,
        )
    ]


def frechet(clock: str) -> list[Row]:
    """The Fréchet distance of 2048 features here and in clean-fid, full and deficient rank."""
    from cleanfid import fid as cleanfid

    from repro.metrics import fid

    rows = []
    for n, label in ((4096, "4096 samples"), (512, "512 samples, singular covariances")):
        rng = np.random.default_rng(0)
        scales = np.linspace(1, 0.1, 2048)
        statistics = [
            v
            for shift in (0.0, 0.1)
            for v in fid.gaussian_statistics(shift + rng.standard_normal((n, 2048)) * scales)
        ]
        values = {}

        def ours(values=values, statistics=statistics):
            values["ours"] = fid.frechet_distance(*statistics)

        def theirs(values=values, statistics=statistics):
            values["theirs"] = float(np.real(cleanfid.frechet_distance(*statistics)))

        rows.append(
            compare(
                f"Fréchet distance, 2048 dimensions, {label}, over clean-fid's",
                ours,
                theirs,
                clock=clock,
                goal=0.2,
                why="five times as fast",
                rounds=2 if n > 2048 else 1,
                warmup=0,
            )
        )
        same(values["ours"], values["theirs"], 1e-6 * values["theirs"], "Fréchet distance")
    return rows


def training_loop(clock: str) -> list[Row]:
    """`fit` over a bare loop of forward, backward and step: same network, batches, precision."""
    n, batch = 16, 32
    data = [(randn(batch, 1, 32, 32), torch.full((batch,), 40 * i)) for i in range(n)]

    def fresh() -> UNet:
        network = seeded(lambda: UNet(
            resolution=32, in_channels=1, channels=32, mult=(1, 2, 4), blocks=1, attention=(),
            groups=8, patch=2, dropout=0.0,
        ))  # fmt: skip
        return network.requires_grad_(True)

    def loss(network: nn.Module, item: tuple[torch.Tensor, ...], _: object) -> torch.Tensor:
        x, t = item
        return (network(x, t).float() - x).square().mean()

    def ours(**extras: float | None) -> dict[str, torch.Tensor]:
        with tempfile.TemporaryDirectory() as scratch:
            job = Job.for_test(scratch=Path(scratch))
            job.log.setLevel(logging.ERROR)
            fitted = fit(
                job, fresh(), loss, lambda step, _: data[step], Optimiser(1e-3, **extras),
                steps=n, precision="bf16-mixed",
            )  # fmt: skip
        return fitted.state_dict

    def bare() -> dict[str, torch.Tensor]:
        network = fresh().train()
        optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.0, fused=True)
        for item in data:
            with torch.autocast("cpu", torch.bfloat16):
                # The library that `fit` uses goes backward under autocast as well.
                loss(network, item, None).backward()
            optimiser.step()
            optimiser.zero_grad()
        return network.state_dict()

    plain, reference = ours(clip=None, ema=None), bare()
    for name, tensor in reference.items():
        same(plain[name], tensor, 1e-6, f"training, {name}")
    return [
        compare(
            f"Training, {n} steps with clipping and averaging, over a bare loop",
            ours,
            bare,
            clock=clock,
            goal=1.11,
            why="90 % of the throughput",
            rounds=9,
            warmup=1,
        )
    ]


def generation(clock: str) -> list[Row]:
    """What the samplers at scale small use, over what they could do without."""
    network = seeded(lambda: UNet(
        resolution=32, in_channels=1, channels=32, mult=(1, 2, 4), blocks=1, attention=(8,),
        groups=8, patch=2,
    ))  # fmt: skip
    x, t = randn(256, 1, 32, 32), torch.arange(256)

    @torch.inference_mode()
    def forward(batch: int = 256, half: bool = True) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            parts = zip(x.split(batch), t.split(batch), strict=True)
            return torch.cat([network(*part).float() for part in parts])

    exact = forward(half=False)
    size = exact.abs().max().item()
    same(forward(), exact, 0.05 * size, "a forward pass in bfloat16")
    same(forward(32), forward(), 0.05 * size, "a forward pass in small batches")
    return [
        compare(
            "U-Net, 256 images, bfloat16 over float32",
            forward,
            lambda: forward(half=False),
            clock=clock,
            goal=1.0,
            why="half of the bytes; images of the scale small are sampled so",
            rounds=15,
        ),
        compare(
            "U-Net, 256 images, as one batch over batches of 32",
            forward,
            lambda: forward(32),
            clock=clock,
            goal=1.0,
            why="fewer calls; 256 is the batch of the searches and samplers",
            rounds=15,
        ),
    ]


def radd_cache(clock: str) -> list[Row]:
    """Sampling with and without the cache of conditionals, with n = L and n = 4 L steps."""
    from methods.radd import method as radd

    L, vocab, batch = 64, 28, 8
    network = seeded(lambda: Transformer(Config(vocab=vocab, d=128, blocks=4, heads=4)))
    c_theta = radd.conditionals(network)
    masked = torch.full((batch, L), vocab)
    rows = []
    for factor, goal, why in (
        (1, 0.75, "1 / 1.58 = 0.63 of the evaluations, and the draws"),
        (4, 0.5, "1 / 4.52 = 0.22 of the evaluations, and the draws; half at most"),
    ):
        psi = absorbing.step_probabilities(absorbing.LogLinear(), factor * L)

        def sample(cache: bool, psi=psi):
            generator = torch.Generator().manual_seed(0)
            return radd.tau_leaping(
                c_theta, masked, psi, mask=vocab, generator=generator, cache=cache
            )

        same(sample(True).x, sample(False).x, 0, "RADD with and without cache")
        rows.append(
            compare(
                f"RADD, cached over uncached, L = {L}, n = {'L' if factor == 1 else '4 L'}",
                lambda sample=sample: sample(True),
                lambda sample=sample: sample(False),
                clock=clock,
                goal=goal,
                why=why,
                rounds=9 if factor == 1 else 6,
                warmup=0,
            )
        )
    return rows


def quantised_forward(clock: str) -> list[Row]:
    """A network with 8-bit weights and activations (simulated) over the plain one."""
    from methods.ptq4dm import method as ptq4dm
    from repro.quant.layers import calibrate, quantise

    network = seeded(
        lambda: UNet(resolution=32, in_channels=1, channels=32, mult=(1, 2, 2), blocks=1)
    )
    x, t = randn(16, 1, 32, 32), torch.arange(16) * 60
    with torch.inference_mode():
        quantised = calibrate(quantise(network, ptq4dm.recipe(8, (8,))), [(x, t)])

    @torch.inference_mode()
    def plain():
        return network(x, t)

    @torch.inference_mode()
    def simulated():
        return quantised(x, t)

    # 8 bits keep about two digits: this catches a switch left off or a broken grid.
    error = (simulated() - plain()).norm() / plain().norm()
    if not 0 < error < 0.1:
        raise ReproError(f"8-bit error {error:.2g} is implausible; mend it before timing it")
    return [
        compare(
            "U-Net, W8A8 simulated, over plain forward",
            simulated,
            plain,
            clock=clock,
            goal=1.5,
            why="weights are quantised once; activations cost a pass over memory each",
            rounds=31,
            warmup=3,
        )
    ]


def deployed_int8(clock: str) -> list[Row]:
    """The network of the zoo at W8A8 on int8 kernels over the same runtime in floats; no rows
    without the packages that deployment needs. `python -m benchmarks.deployed` has the whole table.
    """
    import tempfile
    from pathlib import Path

    from benchmarks import deployed
    from repro.quant import deploy

    if missing := deploy.missing():
        print(f"not measured, for want of {', '.join(missing)}", file=sys.stderr)
        return []
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, plain = Path(name), deployed.network()
        met = deployed.states(plain, 64, 10)
        w8a8 = deployed.simulated(plain, met)
        deployed.write(folder, plain, w8a8, met)
        floats = deploy.Deployed(folder / "float32.onnx")
        codes = deploy.Deployed(folder / "int8.onnx")
        for batch, rounds in ((1, 41), (64, 11)):
            x, t = met.x[5, :batch], met.t[5].expand(batch).contiguous()
            with torch.inference_mode():
                expected = w8a8(x, t)
            off = (codes(x, t) - expected).norm() / expected.norm()
            same(off, 0.0, 0.02, "int8 kernels against the simulation, relative")
            rows.append(
                compare(
                    f"U-Net, int8 kernels over float32, OpenVINO, 1 thread, batch {batch}",
                    lambda x=x, t=t: codes(x, t),
                    lambda x=x, t=t: floats(x, t),
                    clock=clock,
                    goal=0.75,
                    why="products at a quarter of the bits; norms and activations stay floats",
                    rounds=rounds,
                    warmup=3,
                )
            )
    return rows


def mbir_iteration(clock: str) -> list[Row]:
    """One noise level of DiffusionMBIR over the two network calls per chunk that it needs."""
    from methods.diffusion_mbir import method as mbir
    from repro.inverse.radon import ParallelBeam, sparse_view_angles

    Z, size = 12, 32
    unet = dict(resolution=size, in_channels=1, channels=32, mult=(1, 2, 2), blocks=1)
    network = seeded(lambda: PreconditionedDenoiser(UNet(**unet, attention=(16,)), sigma_data=0.5))
    A = ParallelBeam(size, sparse_view_angles(8))
    volume = randn(Z, 1, size, size)
    y = A.forward(volume.abs())
    ATy, D = A.adjoint(y), mbir.Differences((0,), True)
    noise = mbir.gaussian_noise(torch.Generator().manual_seed(2))
    parts = list(mbir.chunks(Z, mbir.CT_CHUNK))
    sigma, sigma_next = 1.0, 0.99

    @torch.no_grad()
    def iteration() -> None:
        split = mbir.Split.zeros(D, volume)
        x = mbir.predict_correct(
            network.score, volume, sigma, sigma_next, 0.16, mbir.CT_CHUNK, noise
        )
        mbir.admm(A, ATy, x, split, D, lam=0.04, rho=10.0)

    @torch.no_grad()
    def calls() -> None:
        for part in parts:
            x = volume[part]
            level = x.new_full((len(x),), sigma)
            network.score(x, level)
            network.score(x, level)

    return [
        compare(
            f"DiffusionMBIR, one noise level, {Z} slices of {size}², over its network calls",
            iteration,
            calls,
            clock=clock,
            goal=1.1,
            why="one ADMM step with one CG step: a few passes over the volume",
            rounds=15,
        )
    ]


ALL: dict[str, Callable[[str], list[Row]]] = {
    "sampler": sampler_loop,
    "diffusers": diffusers_loop,
    "training": training_loop,
    "generation": generation,
    "radd": radd_cache,
    "quant": quantised_forward,
    "deploy": deployed_int8,
    "mbir": mbir_iteration,
    "frechet": frechet,
}
