"""Networks that several methods share, trained on real data, with weights that ship.

Cards: ``zoo.yaml``. Weights: ``weights/<name>.safetensors`` beside ``weights/<name>.json``, which
says how they were made and holds their SHA-256. An arm names a network as ``zoo/<name>`` in its
card and gets it from `network`; with ``retrain`` the DAG trains it anew by the same function that
made the shipped weights (`repro.zoo.train`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro import store
from repro.errors import ReproError
from repro.nets.classifier import Classifier
from repro.nets.preconditioned import PreconditionedDenoiser
from repro.nets.unet import UNet
from repro.numbers import clipped
from repro.official import reader

if TYPE_CHECKING:
    from repro.job import Job

N = TypeVar("N", bound=nn.Module)
State = Mapping[str, Tensor]
Extractor = Callable[[Tensor], Tensor]


_MOBILENET = reader.Layout(
    "torchvision's MobileNetV2 (delete this file and run `repro data mobilenetv2-imagenet`)"
)


def _bare(name: str) -> str:
    return name.removeprefix("zoo/")


def build(values: Mapping[str, Any]) -> nn.Module:
    """The untrained network of a zoo model, initialised from the global generator.

    values: parameters of its card; ``unet``, ``denoiser`` or ``classifier`` holds the arguments of
        the class.
    """
    if "classifier" in values:
        return Classifier(**values["classifier"])
    network = UNet(**values["unet"])
    if "denoiser" in values:
        return PreconditionedDenoiser(network, **values["denoiser"])
    return network


def shipped(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights that come with the suite and how they were made.

    Returns (state dict in float32, provenance).

    Raises ReproError where a file is missing, or is not the one that the provenance describes.
    """
    remedy = "restore it with `git checkout`, or train the model anew with --retrain"
    note = path.with_suffix(".json")
    for file in (path, note):
        if not file.is_file():
            raise ReproError(f"{file} is missing; {remedy}")
    provenance = store.read_json(note)
    digest = store.sha256(path)
    if digest != provenance.get("sha256"):
        raise ReproError(
            f"{path} is damaged or is not the file that {note.name} describes "
            f"(SHA-256 {digest[:12]}…, expected {str(provenance.get('sha256'))[:12]}…); {remedy}"
        )
    state = store.read_tensors(path)
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, provenance


def _load(name: str, state: State, parameters: Mapping[str, Any]) -> nn.Module:
    module = build(parameters)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ReproError(
            f"the weights given for zoo model '{_bare(name)}' do not fit its network "
            f"({str(error).splitlines()[-1].strip()}); use the weights and the card of one commit"
        ) from error
    return module.eval().requires_grad_(False)


def _with_prefix(name: str) -> str:
    return f"zoo/{_bare(name)}"


def network(job: Job, name: str) -> nn.Module:
    """A trained zoo network for a job, in eval mode, without gradients, on the job's device.

    ``*-unconditional``, ``*-conditional``: ε-network, (x, t, y=None) -> ε. x float32 in [-1, 1]
    plus noise: Fashion-MNIST (B, 1, 32, 32), zero-padded by 2 so that the background is -1;
    CIFAR-10 (B, 3, 32, 32); digits (B, 1, 8, 8). t (B,) long in 0..999, linear betas 1e-4..0.02,
    T = 1000. y (B,) long in 0..9; 10 or None: no class.
    ``fashion-mnist-classifier``: (B, 1, 32, 32) in [-1, 1] -> (B, 10) logits.
    ``mni152-score``: `PreconditionedDenoiser` over MNI152 slices (B, 1, 64, 64) in [0, 1]; its
    `score` is that of the variance-exploding prior, trained for σ of 0.01 to 50.
    """
    full = _with_prefix(name)
    return _load(full, job.model(full), job.model_params(full).as_dict()).to(job.device)


def of_type(kind: type[N], job: Job, name: str) -> N:
    """`network` where an arm needs one of a type; raises ReproError on another."""
    found = network(job, name)
    if not isinstance(found, kind):
        raise ReproError(
            f"zoo model '{_bare(name)}' is a {type(found).__name__} where a {kind.__name__} is "
            "needed; name another one in the card"
        )
    return found


def features(job: Job, name: str = "zoo/fashion-mnist-classifier") -> Extractor:
    """Penultimate features of a zoo classifier: (B, 1, 32, 32) in [-1, 1] -> (B, F) float32.

    job: its card lists the classifier. Batches of any size.
    """
    classifier, device = of_type(Classifier, job, name), job.device

    @torch.no_grad()
    def extract(x: Tensor) -> Tensor:
        return torch.cat([classifier.features(part.to(device).float()) for part in x.split(256)])

    return extract


def colour_features(job: Job, size: int = 224) -> Extractor:
    """MobileNetV2 features of colour images: (B, 3, H, W) in [-1, 1] -> (B, 1280) float32.

    torchvision's ImageNet network; its input is resized (bilinear, antialiased) to ``size`` and
    normalised by the ImageNet mean and deviation; pooled activations before the last layer. A
    distance of these features is a "Fréchet distance, MobileNetV2", not an FID. The job's card
    lists the dataset ``mobilenetv2-imagenet``.
    """
    from torchvision.models import mobilenet_v2

    with torch.device("meta"):
        net = mobilenet_v2()
    net = reader.load(job.data("mobilenetv2-imagenet"), net, _MOBILENET)
    net = net.requires_grad_(False).to(job.device)
    mean = torch.tensor([0.485, 0.456, 0.406], device=job.device)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], device=job.device)[:, None, None]

    @torch.no_grad()
    def extract(x: Tensor) -> Tensor:
        parts = []
        for part in x.split(64):
            image = (clipped(part.to(job.device).float()) + 1) / 2
            image = F.interpolate(image, (size, size), mode="bilinear", antialias=True)
            h = net.features((image - mean) / deviation)
            parts.append(h.mean((2, 3)))
        return torch.cat(parts)

    return extract
