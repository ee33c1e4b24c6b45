"""Files that the paper starts from: OpenAI's Improved-DDPM checkpoints and `.npz` image batches.

| file | network |
| --- | --- |
| cifar10_uncond_50M_500K.pt | `networks.unet("cifar10")`, 446 tensors |
| imagenet64_uncond_100M_1500K.pt | `networks.unet("imagenet64")`, 450 tensors |

Diffusion behind them: cosine schedule, T = 4000 with labels rescaled to 0..1000, ε and Σ learned,
x̂_0 clipped to [-1, 1]. The paper publishes no quantised checkpoint.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from methods.ptq4dm.networks import ImprovedUNet, unet
from repro.errors import ReproError


def load_checkpoint(path: str | Path, network: str | ImprovedUNet) -> ImprovedUNet:
    """The network of a released checkpoint, in eval mode.

    network: "cifar10" or "imagenet64", or an `ImprovedUNet` (on any device, the meta device too)
    whose tensors the file must match one to one. Nothing is unpickled but tensors.
    Raises ReproError if the file is missing, truncated, not a state dict, or another network's.
    """
    path = Path(path)
    if isinstance(network, str):
        with torch.device("meta"):
            network = unet(network)
    state = _read_state(path)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    missing, foreign = sorted(expected.keys() - found), sorted(found.keys() - expected)
    if missing or foreign:
        first = f"it lacks {missing[0]}" if missing else f"it holds {foreign[0]}"
        raise ReproError(
            f"{path.name} is not this network's checkpoint: {first} ({len(missing)} tensors "
            f"missing, {len(foreign)} foreign); take the unconditional Improved-DDPM checkpoint "
            "of this size"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise ReproError(
                f"{path.name}: {name} has shape {found[name]}, not {shape}; take the checkpoint of "
                "the same resolution"
            )
        if not torch.isfinite(state[name]).all():
            raise ReproError(f"{path.name}: {name} holds NaN or infinity; fetch the file again")
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ReproError(
            f"{path.name} is not there; put the released Improved-DDPM checkpoint at {path}"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ReproError(
            f"{path.name} cannot be read as a PyTorch checkpoint ({type(error).__name__}); it "
            "may be truncated: fetch it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ReproError(
            f"{path.name} is not a plain state dict; use the released file of EMA weights, not a "
            "training snapshot"
        )
    return {str(name): tensor.float() for name, tensor in state.items()}


def load_images(path: str | Path) -> Tensor:
    """Images of an evaluation batch as (N, 3, H, W) float32 in [-1, 1].

    The file is an `.npz` whose `arr_0` is uint8 (N, H, W, 3), the layout of sample files and of
    reference batches. Raises ReproError on any other file.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files if isinstance(archive, np.lib.npyio.NpzFile) else []
            images = archive["arr_0"] if "arr_0" in names else None
    except FileNotFoundError as error:
        raise ReproError(f"{path.name} is not there; put the .npz batch at {path}") from error
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise ReproError(
            f"{path.name} cannot be read as an .npz file ({type(error).__name__}); it may be "
            "truncated: fetch it again"
        ) from error
    if images is None:
        raise ReproError(
            f"{path.name} holds no `arr_0`; give a batch of uint8 images, not statistics"
        )
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ReproError(
            f"{path.name}: arr_0 is {images.dtype} of shape {images.shape}; it must be uint8 "
            "(N, H, W, 3)"
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def save_images(path: str | Path, x: Tensor) -> None:
    """Write samples (N, 3, H, W) in [-1, 1] as the `.npz` that the ADM evaluator reads."""
    images = ((x.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1)
    np.savez(path, arr_0=images.contiguous().cpu().numpy())
