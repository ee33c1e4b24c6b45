"""Images from what a person brings: a diffusers pipeline, weights of a zoo network, a function.

They go into an npz that `repro measure` reads. Each batch has a generator of its own and is kept
in the work folder when it is done, so that a command that was stopped goes on where it was, and
gives what it would have given. Nothing of this enters a record, a verdict or ``results/``.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from repro import display, documents, store
from repro.errors import ReproError, nearest
from repro.places import work_root

log = logging.getLogger("repro.sample")

Draw = Callable[[int, Any], np.ndarray]
"""Number of images and a CPU generator -> uint8 (n, H, W) or (n, H, W, C)."""


@dataclass(frozen=True)
class Asked:
    """What a person asks for; exactly one of the first three is given.

    Attributes:
        pipeline: folder of a diffusers pipeline, as `save_pretrained` writes it.
        weights: a checkpoint of the zoo network ``network``.
        sampler: ``module:function``, called with (count, generator, **settings).
        steps: network evaluations; None for the default of the sampler.
        settings: further arguments of the sampler.
    """

    pipeline: Path | None = None
    weights: Path | None = None
    sampler: str | None = None
    network: str | None = None
    count: int = 1000
    steps: int | None = None
    seed: int = 0
    batch: int = 100
    device: str = "cpu"
    settings: Mapping[str, Any] = field(default_factory=dict)


def sample(asked: Asked, target: Path) -> dict[str, Any]:
    """Write images into a new npz, ``arr_0``; returns what made them.

    Raises:
        ReproError: the target is there, what is asked for is not, or images that are none.
    """
    if target.suffix.lower() != ".npz":
        raise ReproError(f"{target}: name a file <name>.npz for the images")
    if os.path.lexists(target):
        raise ReproError(f"{target} is there already; give another name, or remove it")
    given = [asked.pipeline, asked.weights, asked.sampler]
    if sum(one is not None for one in given) != 1:
        raise ReproError("give one of --pipeline, --weights and --sampler")
    if (asked.network is None) != (asked.weights is None):
        raise ReproError("--weights and --network go together: the file, and the zoo's network")
    draw, source = _source(asked)
    about = {
        **source,
        "steps": asked.steps,
        "seed": asked.seed,
        "batch": asked.batch,
        "device": asked.device,
        "settings": dict(asked.settings),
    }
    images = _drawn(draw, about, asked)
    with store.atomic(target) as temporary, temporary.open("wb") as handle:
        np.savez(handle, arr_0=images, about=np.array(json.dumps(about, sort_keys=True)))
    return about


def _source(asked: Asked) -> tuple[Draw, dict[str, Any]]:
    if asked.pipeline is not None:
        return _pipeline(asked.pipeline, asked)
    if asked.weights is not None:
        return _zoo(asked.weights, str(asked.network), asked)
    return _function(str(asked.sampler), asked)


def _drawn(draw: Draw, about: Mapping[str, Any], asked: Asked) -> np.ndarray:
    """Images (count, H, W[, C]), batch by batch."""
    import torch

    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    folder = work_root() / "samples" / key[:20]
    total = math.ceil(asked.count / asked.batch)
    meter = display.Meter("batches of images", total, log)
    found = []
    try:
        for k in range(total):
            path = folder / f"{k}.npz"
            if not path.is_file():
                seed = hashlib.sha256(f"{asked.seed}/{k}".encode()).digest()[:7]
                generator = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
                store.write_arrays(path, {"images": draw(asked.batch, generator)})
            found.append(store.read_arrays(path)["images"])
            meter.update(k + 1)
    finally:
        meter.close()
    return np.concatenate(found)[: asked.count]


def _bytes(x: Any, what: str) -> np.ndarray:
    """A tensor (n, C, H, W) in about [-1, 1] -> uint8 (n, H, W) or (n, H, W, 3).

    Raises:
        ReproError: another shape, or not finite.
    """
    from repro.numbers import to_bytes

    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ReproError(f"{what} gave {tuple(x.shape)}; (n, 1 or 3, H, W) in [-1, 1] is due")
    images = to_bytes(x, f"images of {what}").permute(0, 2, 3, 1).cpu().numpy()
    return np.ascontiguousarray(images[..., 0] if images.shape[-1] == 1 else images)


# A diffusers pipeline -------------------------------------------------------------------------


def _pipeline(folder: Path, asked: Asked) -> tuple[Draw, dict[str, Any]]:
    """An unconditional pipeline of a folder; nothing is fetched, unpickled or run from it."""
    if not (folder / "model_index.json").is_file():
        raise ReproError(
            f"{folder} is no folder of a diffusers pipeline (no model_index.json); write it with "
            "save_pretrained"
        )
    try:
        import diffusers
        import torch
    except ImportError as error:
        raise ReproError("diffusers is not installed; run `make env`") from error
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True
        ).to(asked.device)
    except Exception as error:  # each part of a pipeline has its own
        why = documents.one_line(error, 200)
        raise ReproError(f"{folder} cannot be loaded ({why}); save it again") from error
    pipe.set_progress_bar_config(disable=True)
    takes = inspect.signature(pipe.__call__).parameters
    name = type(pipe).__name__
    if "batch_size" not in takes or "prompt" in takes:
        raise ReproError(f"{folder} is a {name}, which needs more than noise; give --sampler")
    settings = dict(asked.settings)
    if asked.steps is not None:
        settings["num_inference_steps"] = asked.steps
    _refuse_settings(name, settings, takes)

    def draw(n: int, generator: Any) -> np.ndarray:
        images = pipe(batch_size=n, generator=generator, output_type="np", **settings).images
        x = torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2)
        return _bytes(x * 2 - 1, name)

    files = sorted(p for p in folder.rglob("*") if p.is_file())
    lines = [f"{p.relative_to(folder).as_posix()} {store.sha256(p)}\n" for p in files]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return draw, {"pipeline": name, "sha256": digest}


def _refuse_settings(what: str, settings: Mapping[str, Any], takes: Mapping[str, Any]) -> None:
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values()):
        return
    for key in settings:
        if key not in takes:
            raise ReproError(f"{what} takes no `{key}`{nearest(key, takes)}; leave out --set {key}")


# Weights of a zoo network ---------------------------------------------------------------------

STEPS = 50


def _zoo(path: Path, name: str, asked: Asked) -> tuple[Draw, dict[str, Any]]:
    """DDIM with a network of the zoo and a person's weights for it."""
    import torch

    from repro.diffusion.samplers import ddim
    from repro.diffusion.schedules import alphas_cumprod, linear_betas, timesteps_uniform
    from repro.nets.unet import UNet
    from repro.official import reader
    from repro.suite import zoo

    net = zoo.build(name)
    if not isinstance(net, UNet):
        known = [one for one in zoo.names() if one.endswith("conditional")]
        raise ReproError(f"`{name}` makes no images; --network takes {', '.join(known)}")
    layout = reader.Layout(f"weights of the zoo's {name}")
    net = reader.load(path, net, layout).requires_grad_(False).to(asked.device)
    shape = _shape(zoo.params(name))
    abar = alphas_cumprod(linear_betas())
    steps = timesteps_uniform(len(abar), asked.steps or STEPS)
    settings = {"eta": 0.0, "clip": 1.0, **asked.settings}
    for key in settings:
        if key not in ("eta", "clip"):
            raise ReproError(f"DDIM takes eta and clip, not `{key}`; leave out --set {key}")

    def draw(n: int, generator: Any) -> np.ndarray:
        x = torch.randn(n, *shape, generator=generator).to(asked.device)
        return _bytes(ddim(net, x, steps, abar, generator=generator, **settings), name)

    return draw, {"network": name, "sha256": store.sha256(path)}


def _shape(params: Mapping[str, Any]) -> tuple[int, int, int]:
    unet = params["unet"]
    return unet["in_channels"], unet["resolution"], unet["resolution"]


# A function -----------------------------------------------------------------------------------


def _function(dotted: str, asked: Asked) -> tuple[Draw, dict[str, Any]]:
    """A person's own sampler, imported from the folder that the command was started in."""
    module_name, _, name = dotted.partition(":")
    if not module_name or not name.isidentifier():
        raise ReproError(f"`{dotted}` names no function; write --sampler module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        why = documents.one_line(f"{type(error).__name__}: {error}", 200)
        raise ReproError(
            f"`{module_name}` cannot be imported ({why}); start the command in its folder"
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    function = getattr(module, name, None)
    if not callable(function):
        raise ReproError(f"`{module_name}` has no function `{name}`{nearest(name, dir(module))}")
    settings = dict(asked.settings)
    if asked.steps is not None:
        settings["steps"] = asked.steps
    _refuse_settings(f"`{dotted}`", settings, inspect.signature(function).parameters)

    def draw(n: int, generator: Any) -> np.ndarray:
        try:
            images = function(n, generator, **settings)
        except ReproError:
            raise
        except Exception as error:
            why = documents.one_line(f"{type(error).__name__}: {error}", 200)
            raise ReproError(
                f"`{dotted}` failed ({why}); REPRO_DEBUG=1 shows where, what is done stays done"
            ) from error
        if not hasattr(images, "shape") or len(images) != n:
            raise ReproError(f"`{dotted}` gave {documents.quoted(images)}, not {n} images")
        return _given(images, dotted)

    file = getattr(module, "__file__", None)
    digest = store.sha256(Path(file)) if file else None
    return draw, {"sampler": dotted, "sha256": digest}


def _given(images: Any, what: str) -> np.ndarray:
    """Bytes (n, H, W[, 3]) as they are, or a float tensor or array (n, C, H, W) in [-1, 1]."""
    import torch

    if str(images.dtype) in ("uint8", "torch.uint8"):
        array = np.asarray(images)
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in (1, 3)):
            raise ReproError(
                f"{what} gave bytes of {array.shape}; (n, H, W) or (n, H, W, 3) is due"
            )
        return array
    return _bytes(torch.as_tensor(images).detach(), what)
