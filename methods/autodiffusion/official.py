"""Files that the paper starts from, compares with, or hands out.

| file | read by |
| --- | --- |
| 64x64_diffusion.pt, lsun_cat.pt, lsun_bedroom.pt (guided-diffusion) | `load_adm` |
| sd-v1-4.ckpt (Stable Diffusion) | `repro.official.compvis.load_compvis` |
| VIRTUAL_imagenet64_labeled.npz and other batches of images | `repro.data.arrays.npz_images` |
| statistics of features, `mu` and `sigma` in an .npz | `repro.official.statistics` |
| candidates as the released search prints them | `read_candidate` |

The released search keeps its statistics as pickled objects. Nothing is unpickled here: convert such
a file to an .npz with `mu` and `sigma`, or compute the statistics from images with
`repro.metrics.fid.gaussian_statistics`.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import torch

from methods.autodiffusion.method import Candidate
from repro.errors import ReproError
from repro.nets.adm import IMAGENET_64, LSUN_256, ADMUNet
from repro.official import reader

LAYOUT = reader.Layout("the released guided-diffusion checkpoint of this network")
NETWORKS = {"imagenet-64": IMAGENET_64, "lsun-256": LSUN_256}


def load_adm(path: str | Path, network: str | ADMUNet) -> ADMUNet:
    """The network of a guided-diffusion checkpoint, a plain state dict, float32, in eval mode.

    network: "imagenet-64" or "lsun-256", or an `ADMUNet` (on any device) that the file must match
        tensor by tensor.
    Raises ReproError: unknown network, or see `repro.official.reader.load`.
    """
    if isinstance(network, str):
        if network not in NETWORKS:
            raise ReproError(f"no network `{network}`; known: {', '.join(NETWORKS)}")
        with torch.device("meta"):
            network = ADMUNet(NETWORKS[network])
    return reader.load(path, network, LAYOUT)


def read_candidate(text: str, L: int = 58) -> Candidate:
    """A candidate as the released search prints it, in the order in which it stands.

    text: `[94, 217, ...]`, or `{'timesteps': [...], 'skip_layers': [[...], ...]}`.
    L: number of blocks. Raises ReproError where it is neither, or holds impossible numbers.
    """
    try:
        content = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError) as error:
        raise ReproError(f"`{text[:60]}` is no list or dictionary of a candidate") from error
    skips: Any = None
    if isinstance(content, dict):
        if not {"timesteps", "skip_layers"} <= set(content):
            raise ReproError("a candidate of steps and blocks has `timesteps` and `skip_layers`")
        content, skips = content["timesteps"], content["skip_layers"]
    if not _whole(content, 1000) or not content:
        raise ReproError("time steps are a list of whole numbers from 0 to 999")
    if skips is None:
        return Candidate(tuple(content))
    if not isinstance(skips, list) or not all(_whole(s, L) for s in skips):
        raise ReproError(f"blocks are lists of whole numbers from 0 to {L - 1}, one a step")
    return Candidate(tuple(content), tuple(frozenset(s) for s in skips))


def _whole(values: Any, end: int) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < end for v in values)
