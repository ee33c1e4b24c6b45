"""Published files that a reproduction at the paper's scale starts from, and MSD's own layout.

MSD has published nothing. What exists are

- a generator of DMD2 (``pytorch_model.bin``): the state dict of `EDMPrecond`, keys ``model.*``;
- its guidance networks (``pytorch_model_1.bin``): ``real_unet.*`` (the EDM teacher),
  ``fake_unet.*``, ``cls_pred_branch.{0,1,3,4,6}.*`` (the discriminator's head), ``karras_sigmas``;
- EDM's reference statistics (``imagenet-64x64.npz``: ``mu`` (F,), ``sigma`` (F, F)).

EDM's own teacher is a pickle of Python objects, which this suite does not open: the same weights
are in DMD2's guidance file. Students of this suite are stored as ``students/<k>.pt`` beside
``partition.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from methods.msd.networks import SIZES, Head
from repro import store
from repro.errors import ReproError
from repro.nets.edm import DhariwalUNet, EDMPrecond

AUGMENTATION = "model.map_augment.weight"
"""The map of augmentation labels, which are zero outside training: dropped."""

State = Mapping[str, Tensor]


class Guidance(NamedTuple):
    """DMD2's guidance networks, in eval mode, and the noise levels (1000,) of training."""

    teacher: EDMPrecond
    fake: EDMPrecond
    head: Head
    sigmas: Tensor


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of `torch.save` or of safetensors, nothing unpickled.

    Raises ReproError where the file is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise ReproError(f"{path}: is missing; put the published file there")
    if path.suffix == ".safetensors":
        return store.read_tensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ReproError(
            f"{path}: is not a whole file of tensors ({type(error).__name__}); download it again, "
            "and convert an EDM pickle to a state dict first"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ReproError(f"{path}: holds more than tensors by name; give a plain state dict")
    return dict(content)


def fill(path: Path, network: nn.Module, state: State) -> nn.Module:
    """Load a state dict strictly; the network comes back in eval mode.

    Raises ReproError that names the first key which is missing, unknown or of another shape.
    """
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    for kind, names in (
        ("lacks", [k for k in expected if k not in state]),
        ("has an unknown", [k for k in state if k not in expected]),
    ):
        if names:
            raise ReproError(
                f"{path}: {kind} tensor `{names[0]}` ({len(names)} in all); it is another network, "
                "check its size"
            )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise ReproError(
                f"{path}: tensor `{name}` has shape {tuple(state[name].shape)}, expected {shape}; "
                "it is another network, check its size"
            )
    network.load_state_dict(state)
    return network.eval()


def _precond(path: Path, state: State, arguments: Mapping[str, Any]) -> EDMPrecond:
    state = {k: v for k, v in state.items() if k != AUGMENTATION}
    network = EDMPrecond(DhariwalUNet(**arguments))
    fill(path, network, state)
    return network


def load_generator(path: Path, arguments: Mapping[str, Any] | None = None) -> EDMPrecond:
    """A generator of DMD2, or a student: float32, eval mode.

    arguments: of `DhariwalUNet`; the teacher's size where not given.
    """
    return _precond(path, read_state(path), SIZES["teacher"] if arguments is None else arguments)


def load_guidance(
    path: Path,
    arguments: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
) -> Guidance:
    """DMD2's guidance networks. arguments: of `DhariwalUNet`; head: of `Head`."""
    state = read_state(path)
    arguments = SIZES["teacher"] if arguments is None else arguments
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        prefix, _, rest = name.partition(".")
        groups.setdefault(prefix, {})[rest] = value
    wanted = {"real_unet", "fake_unet", "cls_pred_branch", "karras_sigmas"}
    if set(groups) != wanted:
        odd = sorted(set(groups) ^ wanted)[0]
        raise ReproError(
            f"{path}: `{odd}` is {'unknown' if odd in groups else 'missing'}; expected the groups "
            f"{', '.join(sorted(wanted))} of DMD2's guidance file"
        )
    branch = Head(**(head or {}))
    fill(path, branch, groups["cls_pred_branch"])
    return Guidance(
        _precond(path, groups["real_unet"], arguments),
        _precond(path, groups["fake_unet"], arguments),
        branch,
        groups["karras_sigmas"][""],
    )


def load_reference(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean (F,) and covariance (F, F) of Inception features of the real images."""
    content = store.read_arrays(path)
    if set(content) != {"mu", "sigma"}:
        raise ReproError(f"{path}: holds {', '.join(sorted(content))}; expected mu and sigma")
    mu, sigma = content["mu"], content["sigma"]
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ReproError(
            f"{path}: mu {mu.shape} and sigma {sigma.shape} are no mean and covariance"
        )
    return mu, sigma


# MSD's own layout --------------------------------------------------------------------------------


def save_students(folder: Path, states: Sequence[State], assign: Tensor) -> None:
    """Write ``students/<k>.pt`` and ``partition.json``; assign (C,): the student of each class."""
    for k, state in enumerate(states):
        with store.atomic(folder / "students" / f"{k}.pt") as temporary:
            torch.save(dict(state), temporary)
    content = {"kind": "label", "K": len(states), "assign": assign.tolist()}
    store.write_json(folder / "partition.json", content)


def load_students(folder: Path) -> tuple[list[dict[str, Tensor]], Tensor]:
    """State dicts of the students and the student of each class (C,).

    Raises ReproError where a file is missing or damaged, or the partition names other students.
    """
    path = folder / "partition.json"
    content = store.read_json(path)
    students, assign = content.get("K"), content.get("assign")
    if content.get("kind") != "label" or not isinstance(students, int) or not assign:
        raise ReproError(f"{path}: is no partition of labels; it needs kind, K and assign")
    if set(assign) != set(range(students)):
        raise ReproError(f"{path}: assigns classes to {sorted(set(assign))}, but K is {students}")
    states = [read_state(folder / "students" / f"{k}.pt") for k in range(students)]
    return states, torch.tensor(assign)
