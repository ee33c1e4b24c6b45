"""``repro sample``: images from a pipeline, weights or a function of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from repro.display import Output
from repro.errors import ReproError


def sample(
    images: Annotated[Path, typer.Argument(help="the .npz to write; `repro measure` reads it")],
    pipeline: Annotated[
        Path | None, typer.Option(help="folder of an unconditional diffusers pipeline")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="weights of your own for --network")] = None,
    network: Annotated[
        str | None, typer.Option(help="of the zoo, as fashion-mnist-unconditional")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="module:function(count, generator, **settings)")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=10**6, help="how many images")] = 1000,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="network evaluations an image")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="of the noise")] = 0,
    batch: Annotated[int, typer.Option(min=1, max=10**5, help="images at once")] = 100,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for the sampler (repeatable)")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Draw images from a model of your own, to be measured like those of the papers.

    A command that was stopped goes on where it was. Example: repro sample mine.npz --weights
    mine.safetensors --network fashion-mnist-unconditional
    """
    from repro.suite import sampling
    from repro.suite.run import Options, device_for

    device = device_for(Options("smoke", device=device))
    settings = dict(_setting(one) for one in set_ or ())
    asked = sampling.Asked(
        pipeline, weights, sampler, network, count, steps, seed, batch, device, settings
    )
    sampling.sample(asked, images)
    Output().print(f"wrote {count} images to {images}; `repro measure {images} --against …`")


def _setting(text: str) -> tuple[str, Any]:
    """``steps=4`` -> ("steps", 4); what is no JSON is text.

    Raises:
        ReproError: it has no key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ReproError(f"--set takes key=value, not `{text}`")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
