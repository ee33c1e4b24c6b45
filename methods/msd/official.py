"""Published files that a reproduction at the paper's scale starts from, and MSD's own layout.

MSD has published nothing. What exists are

- a generator of DMD2 (``pytorch_model.bin``): the state dict of `EDMPrecond`, keys ``model.*``;
- its guidance networks (``pytorch_model_1.bin``): ``real_unet.*`` (the EDM teacher),
  ``fake_unet.*``, ``cls_pred_branch.{0,1,3,4,6}.*`` (the discriminator's head), ``karras_sigmas``;
- EDM's reference statistics (``imagenet-64x64.npz``), which `repro.official.statistics` reads.

EDM's own teacher is a pickle of Python objects, which this suite does not open: the same weights
are in DMD2's guidance file. Students of this suite are stored as ``students/<k>.pt`` beside
``partition.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from methods.msd.networks import SIZES, Head
from repro import store
from repro.errors import ReproError
from repro.nets.edm import DhariwalUNet, EDMPrecond
from repro.official.reader import Layout, OfficialFile, assign, load

AUGMENTATION = "model.map_augment.weight"
"""The map of augmentation labels, which are zero outside training: dropped."""

NOISE_LEVELS = 1000
GENERATOR = Layout("a generator of DMD2 of this size (pytorch_model.bin)", extra=(AUGMENTATION,))
GUIDANCE = Layout(
    "DMD2's guidance file of this size (pytorch_model_1.bin)", extra=(f"*.{AUGMENTATION}",)
)
STUDENT = Layout("the state dict of a student that save_students wrote")

State = Mapping[str, Tensor]


class Guidance(NamedTuple):
    """DMD2's guidance networks, in eval mode, and the noise levels (1000,) of training."""

    teacher: EDMPrecond
    fake: EDMPrecond
    head: Head
    sigmas: Tensor


def load_generator(path: Path | str, arguments: Mapping[str, Any] | None = None) -> EDMPrecond:
    """A generator of DMD2, or a student: float32, eval mode.

    arguments: of `DhariwalUNet`; the teacher's size where not given.
    Raises ReproError: see `repro.official.reader.load`.
    """
    return load(path, _precond(arguments), GENERATOR)


def load_guidance(
    path: Path | str,
    arguments: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
) -> Guidance:
    """DMD2's guidance networks. arguments: of `DhariwalUNet`; head: of `Head`.

    Raises ReproError: as `load_generator`, or another group of tensors is missing or unknown.
    """
    file = OfficialFile.open(path, GUIDANCE)
    teacher, fake = _precond(arguments), _precond(arguments)
    with torch.device("meta"):
        branch = Head(**(head or {}))
        expected = {"karras_sigmas": torch.empty(NOISE_LEVELS)}
    networks = {"real_unet.": teacher, "fake_unet.": fake, "cls_pred_branch.": branch}
    for prefix, network in networks.items():
        expected |= {prefix + k: v for k, v in network.state_dict().items()}
    state = file.match(expected, file.tensors())
    for prefix, network in networks.items():
        assign(network, {k: state[prefix + k] for k in network.state_dict()})
    return Guidance(teacher, fake, branch, state["karras_sigmas"])


def _precond(arguments: Mapping[str, Any] | None) -> EDMPrecond:
    with torch.device("meta"):
        return EDMPrecond(DhariwalUNet(**(SIZES["teacher"] if arguments is None else arguments)))


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
    files = [OfficialFile.open(folder / f"students/{k}.pt", STUDENT) for k in range(students)]
    states = [{k: file.value(k, v) for k, v in file.tensors().items()} for file in files]
    return states, torch.tensor(assign)
