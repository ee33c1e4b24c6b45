"""Networks that several methods share, trained on real data, with weights that ship.

Cards: ``zoo.yaml``. Weights: ``weights/<name>.safetensors`` beside ``weights/<name>.json``, which
says how they were made and holds their SHA-256. An arm names a network as ``zoo/<name>`` in its
card and gets it from `network`; with ``retrain`` the DAG trains it anew by the same function that
made the shipped weights (`repro.zoo.train`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro import cards, store
from repro.errors import ReproError
from repro.nets.classifier import Classifier
from repro.nets.preconditioned import PreconditionedDenoiser
from repro.nets.unet import UNet
from repro.official import reader

if TYPE_CHECKING:
    from repro.job import Job

State = Mapping[str, Tensor]
Extractor = Callable[[Tensor], Tensor]

_MOBILENET = reader.Layout(
    "torchvision's MobileNetV2 (delete this file and run `repro data get mobilenetv2-imagenet`)"
)


def _bare(name: str) -> str:
    return name.removeprefix("zoo/")


def params(name: str) -> dict[str, Any]:
    """Parameters of a zoo model as its card gives them.

    Raises ReproError where the zoo has no such model.
    """
    models = cards.zoo().models
    if _bare(name) not in models:
        raise ReproError(
            f"the zoo has no model '{name}'{cards.nearest(_bare(name), models)}; "
            f"repro/zoo/zoo.yaml lists {', '.join(models)}"
        )
    return dict(models[_bare(name)].params)


def build(name: str, parameters: Mapping[str, Any] | None = None) -> nn.Module:
    """The untrained network of a zoo model, initialised from the global generator.

    parameters: those of the card, or a job's, where given; ``unet``, ``denoiser`` or ``classifier``
        holds the arguments of the class.
    """
    values = dict(parameters) if parameters is not None else params(name)
    if "classifier" in values:
        return Classifier(**values["classifier"])
    network = UNet(**values["unet"])
    if "denoiser" in values:
        return PreconditionedDenoiser(network, **values["denoiser"])
    return network


def shipped(name: str, path: Path | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights that come with the suite and how they were made.

    Returns (state dict in float32, provenance).

    Raises ReproError where a file is missing, or is not the one that the provenance describes.
    """
    bare = _bare(name)
    if path is None:
        params(bare)
        card = cards.zoo().models[bare]
        if card.shipped is None:
            raise ReproError(f"zoo model '{bare}' has no shipped weights; train it with --retrain")
        path = cards.shipped_path(card.shipped)
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


def _load(name: str, state: State, parameters: Mapping[str, Any] | None) -> nn.Module:
    module = build(name, parameters)
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
    ``mni152-score``: `PreconditionedDenoiser`; see `ve_score`.
    """
    full = _with_prefix(name)
    return _load(full, job.model(full), _job_params(job, full)).to(job.device)


def _job_params(job: Job, name: str) -> Mapping[str, Any] | None:
    try:
        return job.model_params(name).as_dict()
    except KeyError:
        # A job built by hand carries weights but no record: the card's parameters made them.
        return None


def features(source: Job | State, name: str = "zoo/fashion-mnist-classifier") -> Extractor:
    """Penultimate features of a zoo classifier: (B, 1, 32, 32) in [-1, 1] -> (B, F) float32.

    source: a job whose card lists the classifier, or its state dict. Batches of any size.
    """
    full = _with_prefix(name)
    if isinstance(source, Mapping):
        classifier, device = _load(full, source, None), torch.device("cpu")
    else:
        classifier, device = network(source, full), source.device

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
            image = (part.to(job.device).float().clamp(-1, 1) + 1) / 2
            image = F.interpolate(image, (size, size), mode="bilinear", antialias=True)
            h = net.features((image - mean) / deviation)
            parts.append(h.mean((2, 3)))
        return torch.cat(parts)

    return extract


def ve_score(source: State | nn.Module) -> Callable[[Tensor, Tensor | float], Tensor]:
    """Score of the variance-exploding prior over MNI152 slices: (x, σ) -> ∇ log p(x; σ).

    source: the state dict of ``zoo/mni152-score``, or the network itself. x (B, 1, 64, 64): slices
    in [0, 1] plus noise of deviation σ; σ a number or (B,), trained for 0.01 to 50. The result is
    shaped like x, on x's device. Song et al. 2021 (arXiv 2011.13456), eq. 3 of Karras et al. 2022.
    """
    module = source if isinstance(source, nn.Module) else _load("mni152-score", source, None)

    @torch.no_grad()
    def score(x: Tensor, sigma: Tensor | float) -> Tensor:
        return module.to(x.device).score(x, sigma)

    return score


@functools.cache
def names() -> tuple[str, ...]:
    """Names of all zoo models."""
    return tuple(cards.zoo().models)
