"""Released checkpoints and pair sets on synthetic files; foreign and broken ones."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from methods.slimflow import official
from methods.slimflow.networks import NETWORKS, Published
from repro.errors import ReproError
from repro.nets.ddpmpp import DDPMpp, DDPMppConfig
from repro.nets.edm import DhariwalUNet

TINY = Published(
    lambda: DDPMpp(
        DDPMppConfig(image_size=16, nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,))
    ),
    16,
)
TINY_CLASSES = Published(
    lambda: DhariwalUNet(
        resolution=16, classes=5, channels=16, mult=(1, 2), blocks=1, attention=(8,)
    ),
    16,
    5,
)


def checkpoint(published, prefix="module.", seed=0):
    torch.manual_seed(seed)
    network = published.build()
    state = {k: torch.randn_like(v) for k, v in network.state_dict().items()}
    shadow = [torch.randn_like(p) for p in network.parameters()]
    content = {
        "optimizer": {"state": {}, "param_groups": []},
        "model": {prefix + k: v for k, v in state.items()},
        "ema": {"decay": 0.999999, "num_updates": 7, "shadow_params": shadow},
        "step": 7,
    }
    return content, state, dict(zip(dict(network.named_parameters()), shadow, strict=True))


def write(tmp_path, content):
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize(("published", "prefix"), [(TINY, "module."), (TINY_CLASSES, "")])
@pytest.mark.parametrize("average", [True, False])
def test_a_checkpoint_loads_with_its_averages_or_without(tmp_path, published, prefix, average):
    content, state, shadow = checkpoint(published, prefix)
    network = official.fill(write(tmp_path, content), published, ema=average)
    own = network.state_dict()
    for name, value in (state | shadow if average else state).items():
        assert torch.equal(own[name], value), name
    assert not network.training
    x, t, *label = published.example(2, "cpu")
    assert network(x, t, *label).shape == x.shape


def test_published_names_of_a_true_size():
    keys = NETWORKS["cifar-15.7"].meta().state_dict()
    assert len(keys) == 289
    for name, shape in {
        "sigmas": (1000,),
        "all_modules.0.weight": (384, 96),
        "all_modules.1.weight": (384, 384),
        "all_modules.2.weight": (96, 3, 3, 3),
        "all_modules.3.Dense_0.weight": (96, 384),
    }.items():
        assert tuple(keys[name].shape) == shape, name
    classes = NETWORKS["imagenet-80.7"].meta().state_dict()
    assert tuple(classes["map_label.weight"].shape) == (512, 1000)
    assert {"enc.64x64_conv.weight", "dec.8x8_in0.qkv.weight", "out_norm.weight"} < set(classes)


def broken(change):
    content, *_ = checkpoint(TINY)
    change(content)
    return content


def shorten(content):
    content["ema"]["shadow_params"].pop()


def reshape(content):
    content["model"]["module.all_modules.2.weight"] = torch.zeros(16, 4, 3, 3)
    content["ema"]["shadow_params"][4] = torch.zeros(16, 4, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("ema"), "holds no averaged weights (`ema.shadow_params`)"),
        (lambda c: c["model"].pop("module.sigmas"), "lacks `sigmas`"),
        (lambda c: c["model"].update({"module.extra": torch.zeros(1)}), "holds `extra`"),
        (shorten, "`ema.shadow_params` lists"),
        (lambda c: c["ema"].update(shadow_params=None), "of the last step with ema=False"),
        (reshape, "`all_modules.2.weight` has shape (16, 4, 3, 3), expected (16, 3, 3, 3)"),
    ],
)
def test_foreign_checkpoints_are_named(tmp_path, change, message):
    path = write(tmp_path, broken(change))
    with pytest.raises(ReproError, match=re.escape(message)) as error:
        official.fill(path, TINY)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_network_is_named(tmp_path):
    with pytest.raises(ReproError, match="no published network `cifar-16`"):
        official.load(tmp_path / "none.pth", "cifar-16")


def save_pairs(folder, z=(6, 3, 4, 4), x=(6, 3, 4, 4), label=None):
    rng = np.random.default_rng(0)
    for name, shape in {"z0.npy": z, "z1.npy": x, "label.npy": label}.items():
        if shape:
            array = rng.normal(size=shape).clip(-3, 3)
            array = (
                np.eye(shape[1])[rng.integers(0, shape[1], shape[0])] if name[0] == "l" else array
            )
            np.save(folder / name, array.astype(np.float32))


def test_pairs_with_and_without_labels(tmp_path):
    save_pairs(tmp_path)
    found = official.load_pairs(tmp_path)
    assert found.z.shape == found.x.shape == (6, 3, 4, 4) and found.label is None
    assert torch.equal(found.x, torch.from_numpy(np.load(tmp_path / "z1.npy")))
    save_pairs(tmp_path, label=(6, 10))
    assert official.load_pairs(tmp_path).label.shape == (6, 10)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": None}, "z1.npy: is missing"),
        ({"x": (5, 3, 4, 4)}, "give both files of one pair set"),
        ({"z": (6, 48)}, "expected 4 axes of floats"),
        ({"label": (5, 10)}, "label.npy has 5 rows for 6 pairs"),
    ],
)
def test_odd_pair_sets_are_named(tmp_path, shapes, message):
    save_pairs(tmp_path, **shapes)
    with pytest.raises(ReproError, match=re.escape(message)):
        official.load_pairs(tmp_path)


def test_damaged_pair_sets_are_named(tmp_path):
    save_pairs(tmp_path)
    array = np.load(tmp_path / "z0.npy")
    array[0, 0, 0, 0] = np.nan
    np.save(tmp_path / "z0.npy", array)
    with pytest.raises(ReproError, match="NaN or infinity"):
        official.load_pairs(tmp_path)
    whole = (tmp_path / "z1.npy").read_bytes()
    np.save(tmp_path / "z0.npy", np.nan_to_num(array))
    (tmp_path / "z1.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReproError, match="truncated"):
        official.load_pairs(tmp_path)
    np.save(tmp_path / "z1.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ReproError, match="holds Python objects"):
        official.load_pairs(tmp_path)
