"""The arms that checks are held against."""

import math

import pytest
import torch

from methods.q_diffusion import controls
from repro.nets.unet import UNet
from repro.quant import rounded
from repro.quant.calibration import CalibrationSet


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    made = UNet(
        resolution=8, in_channels=1, channels=8, mult=(1, 2), blocks=1, groups=4, attention=()
    )
    return made.eval().requires_grad_(False)


def test_undecided_roundings_are_those_between():
    limit = math.log(11)
    ends = torch.tensor([-9.0, -limit, limit, 9.0])
    assert controls.undecided_share([ends]) == 0
    assert controls.undecided_share([ends, torch.tensor([0.0, 0.8, -0.8, 1.6])]) == 0.5


def test_halves_are_those_of_the_decoder_part(teacher):
    splits = rounded.splits(teacher)
    name, at = next(iter(splits.items()))
    x = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data, seen = CalibrationSet(x, torch.arange(10)), []
    hook = teacher.get_submodule(name).register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    found = controls.halves_of_decoder(teacher, data, splits, batch=4)
    hook.remove()
    own = torch.cat(seen)[:, :at]
    assert found[name] == tuple(float(half.abs().max()) for half in own.split(at // 2, 1))
    assert not teacher.get_submodule(name)._forward_pre_hooks


def test_layers_beside_the_shortcuts_are_as_many_and_of_one_source(teacher):
    splits = rounded.splits(teacher)
    found = controls.layers_beside(teacher, splits)
    assert len(found) == len(splits) and not set(found) & set(splits)
    for name, at in found.items():
        assert teacher.get_submodule(name).in_channels == 2 * at
