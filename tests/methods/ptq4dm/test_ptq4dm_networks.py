"""The Improved-DDPM network at its published sizes, and the files that hold it."""

import numpy as np
import pytest
import torch

from methods.ptq4dm import official
from methods.ptq4dm.networks import CONFIGS, ImprovedUNet, count, unet
from repro.errors import ReproError

PUBLISHED = {
    "cifar10": {
        "params": 52_546_438,
        "tensors": 446,
        "conv2d": 85,
        "linear": 32,
        "conv1d": 30,
        "params_time_embed": 328_704,
        "params_input_blocks": 16_926_848,
        "params_middle_block": 3_151_360,
        "params_output_blocks": 32_132_352,
        "params_out": 7_174,
    },
    "imagenet64": {
        "params": 121_063_942,
        "tensors": 450,
        "conv2d": 87,
        "linear": 32,
        "conv1d": 30,
        "params_time_embed": 328_704,
        "params_input_blocks": 36_505_984,
        "params_middle_block": 11_545_600,
        "params_output_blocks": 72_676_480,
        "params_out": 7_174,
    },
}
GIGA_MACS = {  # conv2d, linear, conv1d, attention products, all
    "cifar10": (7.53834, 0.00727, 0.59140, 0.24969, 8.38671),
    "imagenet64": (37.74611, 0.01055, 1.59384, 0.38588, 39.73638),
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def counted(request):
    with torch.device("meta"):
        network = unet(request.param)
    return request.param, network, count(network, CONFIGS[request.param]["image_size"])


def test_published_counts(counted):
    name, _, found = counted
    assert {key: found[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    kinds = ("mac_conv2d", "mac_linear", "mac_conv1d", "mac_attention", "mac")
    assert tuple(round(found[k] / 1e9, 5) for k in kinds) == GIGA_MACS[name]


def test_size_and_share_left_in_float(counted):
    name, network, found = counted
    megabytes, share = {"cifar10": (52.55, 0.075), "imagenet64": (121.06, 0.104)}[name]
    assert round(found["params"] / 1e6, 2) == megabytes
    kinds = torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Linear
    weights = sum(m.weight.numel() for m in network.modules() if isinstance(m, kinds))
    assert round(found["attention_weights"] / weights, 3) == share


def test_published_names(counted):
    _, network, _ = counted
    state = network.state_dict()
    assert len(network.input_blocks) == len(network.output_blocks) == 16
    block = {k.removeprefix("output_blocks.4.") for k in state if k.startswith("output_blocks.4.")}
    layers = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
    expected = {f"0.{layer}" for layer in (*layers, "skip_connection")}
    expected |= {f"1.{layer}" for layer in ("norm", "qkv", "proj_out")}
    assert block == {f"{layer}.{kind}" for layer in expected for kind in ("weight", "bias")}
    assert {"time_embed.0.weight", "input_blocks.4.0.op.weight", "output_blocks.7.2.conv.weight",
            "middle_block.1.qkv.weight", "out.2.weight"} <= set(state)  # fmt: skip
    width = state["middle_block.1.qkv.weight"].shape[1]
    assert state["middle_block.1.qkv.weight"].shape == (3 * width, width, 1)
    assert state["out.2.weight"].shape == (6, 128, 3, 3)


def test_unknown_network_is_named():
    with pytest.raises(ReproError, match="cifar10"):
        unet("cifar100")


def small():
    return ImprovedUNet(
        image_size=8, channel_mult=(1, 2), channels=32, num_res_blocks=1, attention=(4,), heads=2
    )


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return small().state_dict()


def on_meta():
    with torch.device("meta"):
        return small()


def test_checkpoint_loads_strictly(tmp_path, state):
    torch.save(state, tmp_path / "model.pt")
    network = official.load_checkpoint(tmp_path / "model.pt", on_meta())
    reference = small()
    reference.load_state_dict(state)
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 9])
    with torch.no_grad():
        assert torch.equal(network(x, t), reference.eval()(x, t))


def test_foreign_checkpoints_are_named(tmp_path, state):
    path = tmp_path / "model.pt"
    cases = {
        "lacks `out.2.bias`": {k: v for k, v in state.items() if k != "out.2.bias"},
        "holds `label_emb.weight`": {**state, "label_emb.weight": torch.zeros(3)},
        "`out.2.bias` has shape": {**state, "out.2.bias": torch.zeros(7)},
        "NaN": {**state, "out.2.bias": torch.full((6,), float("nan"))},
        "is a training checkpoint, not a plain state dict": {"model": state, "step": 3},
    }
    for message, content in cases.items():
        torch.save(content, path)
        with pytest.raises(ReproError, match=message) as caught:
            official.load_checkpoint(path, on_meta())
        assert "model.pt" in str(caught.value) and "\n" not in str(caught.value)


def test_the_other_published_checkpoint_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "small.pt")
    with pytest.raises(ReproError, match="missing"):
        official.load_checkpoint(tmp_path / "small.pt", "cifar10")


def test_image_batches_round_trip(tmp_path):
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    np.savez(tmp_path / "batch.npz", arr_0=images)
    x = official.load_images(tmp_path / "batch.npz")
    assert x.shape == (4, 3, 8, 8) and float(x.min()) == -1 and float(x.max()) == 1
    official.save_images(tmp_path / "again.npz", x)
    with np.load(tmp_path / "again.npz") as archive:
        assert np.abs(archive["arr_0"].astype(int) - images).max() <= 1


def test_foreign_image_batches_are_named(tmp_path):
    path = tmp_path / "batch.npz"
    with pytest.raises(ReproError, match="is missing"):
        official.load_images(path)
    np.savez(path, mu=np.zeros(3))
    with pytest.raises(ReproError, match="arr_0"):
        official.load_images(path)
    np.savez(path, arr_0=np.zeros((2, 3, 8, 8), dtype=np.float32))
    with pytest.raises(ReproError, match="uint8"):
        official.load_images(path)
    np.savez(path, arr_0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ReproError, match="Python objects"):
        official.load_images(path)
    path.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(ReproError, match="truncated"):
        official.load_images(path)
