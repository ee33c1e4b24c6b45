"""Latent-diffusion checkpoints, on files that the tests make with their names and shapes."""

import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repro.nets.ldm import CONFIGS, LatentUNet
from repro.official.compvis import load_compvis, read_compvis
from tests.official.making import TINY, on_meta, refused, save, zeros_of


def compvis(network, ema=2.0, plain=1.0, step=440_000):
    state = {f"model.diffusion_model.{k}": v + plain for k, v in network.items()}
    state |= {f"model_ema.diffusion_model{k.replace('.', '')}": v + ema for k, v in network.items()}
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    state |= {"first_stage_model.decoder.conv_in.weight": torch.zeros(2), "betas": torch.zeros(4)}
    state |= {"cond_stage_model.embedding.weight": torch.zeros(3, 2)}
    return {"state_dict": state, "global_step": step, "epoch": 1}


@pytest.fixture(scope="module")
def zeros():
    return {k: torch.zeros(v.shape) for k, v in on_meta(LatentUNet, TINY).state_dict().items()}


def test_compvis_groups_and_averages(tmp_path, zeros):
    path = save(compvis(zeros), tmp_path / "model.ckpt")
    file = read_compvis(path)
    assert file.global_step == 440_000
    assert file.unet.keys() == zeros.keys()
    assert len(file.ema) == len(zeros) + 2 and "diffusion_modelout2weight" in file.ema
    assert list(file.first_stage) == ["decoder.conv_in.weight"]
    assert list(file.cond_stage) == ["embedding.weight"] and list(file.other) == ["betas"]
    for ema, value in ((True, 2.0), (False, 1.0)):
        network = load_compvis(path, on_meta(LatentUNet, TINY), ema=ema)
        assert all((p == value).all() for p in network.parameters())
        assert not network.training


def test_compvis_as_safetensors_and_half_precision(tmp_path, zeros):
    state = {k: v.half() for k, v in compvis(zeros)["state_dict"].items() if "ema" not in k}
    path = tmp_path / "sd.safetensors"
    save_file(state, path)
    network = load_compvis(path, on_meta(LatentUNet, TINY), ema=False)
    assert all(p.dtype == torch.float32 and (p == 1).all() for p in network.parameters())
    assert read_compvis(path).global_step is None
    refused(
        lambda: load_compvis(path, on_meta(LatentUNet, TINY)), "sd.safetensors", "with ema=False"
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_published_averages_have_names_of_their_own(name):
    names = list(on_meta(LatentUNet, CONFIGS[name]).state_dict())
    assert len({n.replace(".", "") for n in names}) == len(names)
    assert len(names) == {"bedroom": 368, "church": 520, "cin256": 688, "sd-v1": 686}[name]


def test_published_compvis_file(tmp_path):
    shapes = on_meta(LatentUNet, CONFIGS["bedroom"]).state_dict()
    state = {f"model.diffusion_model.{k}": zeros_of(v.shape) for k, v in shapes.items()}
    path = save({"state_dict": state, "global_step": 1}, tmp_path / "model.ckpt")
    network = load_compvis(path, "bedroom", ema=False)
    assert sum(p.numel() for p in network.parameters()) == 274_056_163
    refused(lambda: load_compvis(path, "church", ema=False), "model.ckpt", "520 tensors missing")
    refused(lambda: load_compvis(path, "sd-v2"), "sd-v2", "choose from bedroom")


def test_training_leftovers_are_inert(tmp_path, zeros, monkeypatch):
    """The released files mention a callback class, which must not be imported."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    cls = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = cls
    with monkeypatch.context() as patch:
        for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patch.setitem(sys.modules, part, types.ModuleType(part))
        patch.setitem(sys.modules, module.__name__, module)
        content = compvis(zeros) | {"callbacks": {cls: {"best_model_score": np.float64(1)}}}
        path = save(content, tmp_path / "model.ckpt")
    before = set(sys.modules)
    load_compvis(path, on_meta(LatentUNet, TINY))
    assert not any(n.startswith("pytorch_lightning") for n in set(sys.modules) - before)


def test_foreign_compvis_files_are_refused(tmp_path, zeros):
    path, key = tmp_path / "model.ckpt", "model_ema.diffusion_modelout2bias"
    good = compvis(zeros)["state_dict"]
    cases = {
        "holds no `model.diffusion_model.*`": zeros,
        "lacks `out.2.bias`": {"state_dict": {k: v for k, v in good.items() if k != key}},
        "holds `diffusion_modelout29`": {"state_dict": good | {f"{key[:-4]}9": torch.zeros(1)}},
        "`out.2.bias` has shape (3,)": {"state_dict": good | {key: torch.zeros(3)}},
        "`betas` is a int": {"state_dict": good | {"betas": 3}},
    }
    for message, content in cases.items():
        save(content, path)
        refused(lambda: load_compvis(path, on_meta(LatentUNet, TINY)), "model.ckpt", message)
