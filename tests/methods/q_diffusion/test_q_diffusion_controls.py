"""The arms that checks are held against."""

import pytest
import torch

from methods.q_diffusion import controls
from methods.q_diffusion.arms import undecided_of
from repro.nets.unet import UNet
from repro.quant import rounded
from repro.quant.calibration import CalibrationSet
from repro.quant.reconstruction import UnitReport


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    made = UNet(
        resolution=8, in_channels=1, channels=8, mult=(1, 2), blocks=1, groups=4, attention=()
    )
    return made.eval().requires_grad_(False)


def test_shares_of_layers_count_by_their_weights():
    reports = [
        UnitReport("a", 2, 1, 1, 5, {"a.x": 0.5, "a.y": 0.0}, {"a.x": 10, "a.y": 90}),
        UnitReport("b", 2, 1, 1, 5, {"b": 0.1}, {"b": 100}),
    ]
    assert undecided_of(reports) == (pytest.approx(15 / 200), 0.5)


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
