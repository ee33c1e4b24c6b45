"""Make shipped weights: ``python -m repro.suite.ship NAME``.

Trains a zoo model by the function and parameters of its card, measures it, and writes
``weights/NAME.safetensors``, its provenance ``weights/NAME.json`` and a sample grid
``docs/zoo/NAME.png``. Stopped at any moment, the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro import store
from repro.data import catalogue, items
from repro.diffusion import samplers
from repro.diffusion.schedules import (
    alphas_cumprod,
    geometric_sigmas,
    linear_betas,
    timesteps_uniform,
)
from repro.errors import ReproError
from repro.job import Job, Params
from repro.metrics.fid import frechet_from_features
from repro.numbers import to_bytes
from repro.places import ROOT
from repro.suite import fingerprint, zoo
from repro.suite.cards import library
from repro.suite.cards.experiment import Model
from repro.zoo import judge, pretrained, slices
from repro.zoo.train import images, scaled

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "numpy", "safetensors")
# The Fréchet distance falls with the number of samples: only equal numbers compare.
SAMPLES = {"fashion-mnist-unconditional": 5000, "fashion-mnist-conditional": 2000}
FEWER = 1000
STEPS = 50
CRITIC = "zoo/fashion-mnist-classifier"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def _commit(train: str) -> str:
    """The commit of the code, which must be what is on disk.

    train: the function of the card; with what it reaches and the card it makes the weights.

    Raises ReproError where the sources of the weights have uncommitted changes.
    """
    sources = [*fingerprint.sources(train), ROOT / "repro" / "zoo" / "zoo.yaml"]
    changed = _git("status", "--porcelain", "--", *map(str, sources))
    if changed:
        raise ReproError(
            f"{changed.split()[-1]} has uncommitted changes; commit first, so that the provenance "
            "names the code that made the weights"
        )
    return _git("rev-parse", "HEAD")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _train(job: Job, card: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train, or take up what an earlier call of this command trained."""
    tensors, note = job.scratch / "trained.safetensors", job.scratch / "trained.json"
    if not note.exists():
        commit = _commit(card.train)
        resumed = (job.scratch / "fit.checkpoint").exists()
        started = time.monotonic()
        module, _, function = card.train.partition(":")
        with items.reading(items.Reading("trained")) as reading:
            state = getattr(importlib.import_module(module), function)(job)
        curve = job.arrays["curve"]
        blocks = np.array_split(curve, min(200, len(curve)))
        store.write_tensors(tensors, state, {})
        store.write_json(
            note,
            {
                "commit": commit,
                "train_hours": round((time.monotonic() - started) / 3600, 4),
                "resumed": resumed,
                "curve": [round(float(b.mean()), 6) for b in blocks],
                "params": job.params.as_dict(),
                "train": card.train,
                "seed": job.seed,
                "data": {n: catalogue.fingerprint(n) for n in card.data},
                "items": items.recorded(reading.found),
                "threads": job.threads,
                "processor": _processor(),
                "python": platform.python_version(),
                "libraries": {n: metadata.version(n) for n in LIBRARIES},
            },
        )
    record = store.read_json(note)
    if record["params"] != json.loads(json.dumps(job.params.as_dict())):
        raise ReproError(f"{note} was made with other parameters; delete its folder to train anew")
    return store.read_tensors(tensors), record


def sample(
    network: nn.Module,
    job: Job,
    count: int,
    shape: tuple[int, ...],
    *,
    labels: bool,
    batch: int = 100,
) -> Tensor:
    """DDIM samples on ``STEPS`` uniform steps, images clipped to [-1, 1]: (count, *shape).

    Labels, where there are any, cycle through the ten classes.
    """
    abar = alphas_cumprod(linear_betas())
    grid = timesteps_uniform(len(abar), STEPS)
    parts = []
    for start in job.progress(range(0, count, batch), f"{job.name}: samples"):
        x = torch.randn(min(batch, count - start), *shape, generator=job.rng("samples", start))
        y = (torch.arange(len(x)) + start) % 10 if labels else None
        parts.append(samplers.ddim(partial(network, y=y), x, grid, abar, clip=1.0))
    return torch.cat(parts).clamp(-1, 1)


def _measure_denoiser(network: nn.Module, job: Job) -> tuple[dict[str, Any], Tensor]:
    dataset = job.params.dataset
    real = scaled(images(job.data(dataset).test, dataset), dataset)
    count = SAMPLES.get(job.name, FEWER)
    labelled = network.num_classes is not None
    fake = sample(network, job, count, tuple(real.shape[1:]), labels=labelled)
    if dataset == "digits":
        extract: Callable[[Tensor], Tensor] = lambda x: x.flatten(1)  # noqa: E731
        features = "pixels"
    elif dataset == "cifar10":
        extract, features = pretrained.colour_features(job), "MobileNetV2"
        real = real[:count]
    else:
        extract = pretrained.features(zoo.job(models={CRITIC: zoo.shipped(CRITIC)[0]}))
        features = "Fashion-MNIST classifier"
    distance = frechet_from_features(extract(fake), extract(real))
    measured = {
        f"Fréchet distance, {features}": round(float(distance), 4),
        "samples": count,
        "reference": f"test set, {len(real)} images",
        "sampler": f"DDIM, {STEPS} uniform steps, eta 0, clipped",
    }
    if labelled and dataset == "fashion-mnist":
        critic = pretrained.network(zoo.job(models={CRITIC: zoo.shipped(CRITIC)[0]}), CRITIC)
        with torch.no_grad():
            guess = torch.cat([critic(part).argmax(1) for part in fake.split(500)])
        agreement = (guess == torch.arange(count) % 10).float().mean().item()
        measured["classifier agrees with the label"] = round(agreement, 4)
    return measured, fake[: 40 if fake.shape[1] == 3 else 80]


def _measure_classifier(network: nn.Module, job: Job) -> tuple[dict[str, Any], None]:
    dataset = job.params.dataset
    test = job.data(dataset).test
    x, y = scaled(images(test, dataset), dataset), torch.from_numpy(np.array(test.labels))
    with torch.no_grad():
        guess = torch.cat([network(judge.enlarged(part)).argmax(1) for part in x.split(500)])
    return {"test accuracy": round((guess == y).float().mean().item(), 4)}, None


def _measure_slices(network: nn.Module, job: Job) -> tuple[dict[str, Any], Tensor]:
    """Denoising PSNR on held-out slices, and samples of the VE ODE by Heun's method."""
    volume = slices.volume_3mm(job.data(job.params.dataset).t1)
    held = volume[list(slices.HELD_OUT)][:, None]
    measured: dict[str, Any] = {"reference": f"{len(held)} held-out slices"}
    with torch.no_grad():
        for sigma in (0.05, 0.1, 0.2, 0.5, 1.0):
            noise = torch.randn(held.shape, generator=job.rng("denoise", str(sigma)))
            error = (network(held + sigma * noise, sigma) - held).square().mean()
            measured[f"denoised PSNR at sigma {sigma}, dB"] = round(-10 * error.log10().item(), 2)
    sigmas = geometric_sigmas(60, 0.01, 50.0)
    x = sigmas[-1].float() * torch.randn(40, 1, 64, 64, generator=job.rng("samples"))
    drawn = samplers.heun(network, x, sigmas)
    return measured, torch.cat([drawn.clamp(0, 1), held[:10]]) * 2 - 1


def grid_image(x: Tensor, columns: int, zoom: int) -> np.ndarray:
    """Images in [-1, 1] as one picture, (N, C, H, W) -> (height, width[, 3]) uint8.

    Whole rows only; a grey line of ``zoom`` pixels runs right of and below every image.
    """
    pixels = torch.nn.functional.pad(to_bytes(x), (0, 1, 0, 1), value=128)
    rows = [torch.cat(list(r), 2) for r in pixels.split(columns) if len(r) == columns]
    picture = torch.cat(rows, 1).repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    return picture.permute(1, 2, 0).squeeze(2).numpy()


def main(name: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    models = library.zoo().models
    if name not in models:
        raise ReproError(f"the zoo has no model '{name}'; known: {', '.join(models)}")
    card = models[name]
    torch.set_num_threads(card.threads)
    torch.use_deterministic_algorithms(True)
    job = Job(
        "zoo",
        name,
        0,
        "small",
        Params(card.params, f"zoo/{name}"),
        threads=card.threads,
        scratch=Path("work/zoo") / name,
        data_names=card.data,
    )
    state, record = _train(job, card)

    half = card.params.get("store") == "float16"
    kept = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    network = pretrained.build(card.params)
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in kept.items()})
    network.eval().requires_grad_(False)
    measure = {
        "denoiser": _measure_denoiser,
        "classifier": _measure_classifier,
        "slice_denoiser": _measure_slices,
    }[card.train.partition(":")[2]]
    job.data_names = [*card.data, "mobilenetv2-imagenet"]  # judges colour images
    measured, shown = measure(network, job)
    job.log.info("%s: %s", name, measured)

    path = fingerprint.shipped_path(card.shipped or f"weights/{name}.safetensors")
    store.write_tensors(path, kept, {"model": f"zoo/{name}"})
    record |= {
        "model": name,
        "measured": measured,
        "sha256": store.sha256(path),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    store.write_json(path.with_suffix(".json"), record)
    if shown is not None:
        from PIL import Image

        columns = {8: 20, 64: 10}.get(shown.shape[-1], 20)
        picture = ROOT / "docs" / "zoo" / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        zoom = {8: 4, 32: 2}.get(shown.shape[-1], 1)
        Image.fromarray(grid_image(shown, columns, zoom)).save(picture, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a model of repro/zoo/zoo.yaml")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        main(parser.parse_args().name)
    except ReproError as error:
        raise SystemExit(f"error: {error}") from None
