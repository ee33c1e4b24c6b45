"""The DDPM checkpoint of CIFAR-10, on files that the tests make with its names and shapes."""

import torch
from safetensors.torch import save_file

from repro.nets.unet import UNet
from repro.official.ddpm import load_ddpm
from tests.official.making import SMALL, on_meta, refused, save, zeros_of


def test_ddpm_of_cifar10(tmp_path):
    state = {k: zeros_of(v.shape) for k, v in on_meta(UNet).state_dict().items()}
    assert len(state) == 328
    assert sum(v.numel() for v in state.values()) == 35_746_307
    path = save(state, tmp_path / "model-790000.ckpt")
    network = load_ddpm(path)
    assert not network.training and network.conv_in.weight.shape == (128, 3, 3, 3)
    assert not any(p.is_meta for p in network.parameters())


def test_ddpm_gives_the_same_function(tmp_path):
    torch.manual_seed(0)
    reference = UNet(**SMALL).eval()
    x, t = torch.randn(2, 1, 32, 32), torch.tensor([3, 900])
    for name, write in (("a.ckpt", torch.save), ("a.safetensors", save_file)):
        write(reference.state_dict(), tmp_path / name)
        network = load_ddpm(tmp_path / name, on_meta(UNet, **SMALL))
        with torch.no_grad():
            assert torch.equal(network(x, t), reference(x, t))


def test_foreign_ddpm_files_are_refused(tmp_path):
    state = UNet(**SMALL).state_dict()
    path = tmp_path / "model.ckpt"
    cases = {
        "lacks `conv_out.bias`": {k: v for k, v in state.items() if k != "conv_out.bias"},
        "holds `label.weight`": {**state, "label.weight": torch.zeros(1)},
        "`conv_out.bias` has shape (2,), expected (1,)": {
            **state,
            "conv_out.bias": torch.zeros(2),
        },
        "`conv_out.bias` holds NaN": {**state, "conv_out.bias": torch.full((1,), torch.nan)},
        "`model` is a OrderedDict, not a tensor": {"model": state},
        "holds a list": [1, 2],
    }
    for message, content in cases.items():
        save(content, path)
        refused(lambda: load_ddpm(path, on_meta(UNet, **SMALL)), "model.ckpt", message, "; ")
