"""Files that the paper starts from, compares with, or hands out.

| file | read by |
| --- | --- |
| 64x64_diffusion.pt, lsun_cat.pt, lsun_bedroom.pt (guided-diffusion) | `load_adm` |
| sd-v1-4.ckpt (Stable Diffusion) | `repro.nets.official.load_compvis` |
| VIRTUAL_imagenet64_labeled.npz and other batches of images | `repro.data.arrays.npz_images` |
| statistics of features, `mu` and `sigma` in an .npz | `load_statistics` |
| candidates as the released search prints them | `read_candidate` |

The released search keeps its statistics as pickled objects. Nothing is unpickled here: convert such
a file to an .npz with `mu` and `sigma`, or compute the statistics from images with
`repro.metrics.fid.gaussian_statistics`.
"""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from methods.autodiffusion.method import Candidate
from repro.errors import ReproError
from repro.nets.adm import IMAGENET_64, LSUN_256, ADMUNet
from repro.nets.official import _fill, _read, _tensors

NETWORKS = {"imagenet-64": IMAGENET_64, "lsun-256": LSUN_256}


def load_adm(path: str | Path, network: str | ADMUNet) -> ADMUNet:
    """The network of a guided-diffusion checkpoint, a plain state dict, in eval mode.

    network: "imagenet-64" or "lsun-256", or an `ADMUNet` (on any device) that the file must match
        tensor by tensor. Half precision is read as single.
    Raises ReproError: missing, truncated, holding more than tensors, or of another network.
    """
    path, what = Path(path), "the released guided-diffusion checkpoint of this network"
    if isinstance(network, str):
        if network not in NETWORKS:
            raise ReproError(f"no network `{network}`; known: {', '.join(NETWORKS)}")
        with torch.device("meta"):
            network = ADMUNet(NETWORKS[network])
    return _fill(path, network, _tensors(path, _read(path, what), what), what)


def load_statistics(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) of features, float64, from an .npz with `mu` and `sigma`.

    Raises ReproError: missing, truncated, pickled, without both, or of shapes that do not fit.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files if isinstance(archive, np.lib.npyio.NpzFile) else []
            mu, sigma = (archive[n] if n in names else None for n in ("mu", "sigma"))
    except FileNotFoundError as error:
        raise ReproError(f"{path}: is missing; put the .npz with mu and sigma there") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ReproError(
            f"{path}: is not a whole .npz without pickles ({type(error).__name__}); store the "
            "arrays mu and sigma with numpy.savez"
        ) from error
    if mu is None or sigma is None:
        held = f"holds {', '.join(names)}" if names else "is no .npz archive"
        raise ReproError(f"{path}: {held}; mu and sigma are expected")
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ReproError(
            f"{path}: mu has shape {mu.shape} and sigma {sigma.shape}; they do not fit"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ReproError(f"{path}: holds NaN or infinity; fetch the file again")
    return mu.astype(np.float64), sigma.astype(np.float64)


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
