"""The released checkpoint and volume formats, on synthetic files with the released keys."""

from pathlib import Path

import numpy as np
import pytest
import torch

from methods.diffusion_mbir import official
from repro.errors import ReproError
from repro.nets.ncsnpp import NCSNpp, NCSNppConfig
from repro.official.reader import OfficialFile

TINY = NCSNppConfig(
    image_size=16, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(16,), num_scales=7
)


def content(config=TINY, scales=None, seed=1):
    """A released dictionary: `model` of one seed, averages of another."""
    model = NCSNpp(config, generator=torch.Generator().manual_seed(seed))
    average = NCSNpp(config, generator=torch.Generator().manual_seed(seed + 1))
    state = {f"module.{k}": v.clone() for k, v in model.state_dict().items()}
    if scales is not None:
        state["module.sigmas"] = torch.linspace(1, 0, scales)
    shadow = [p.detach().clone() for p in average.parameters() if p.requires_grad]
    ema = {"decay": 0.999, "num_updates": 10, "shadow_params": shadow}
    optimizer = {"state": {}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    return {"optimizer": optimizer, "model": state, "ema": ema, "step": 185}, model, average


def save(tmp_path, value, name="checkpoint_185.pth"):
    torch.save(value, tmp_path / name)
    return tmp_path / name


def test_averages_overwrite_the_trainable_parameters_only(tmp_path):
    value, model, average = content()
    network = official.load_score(save(tmp_path, value), TINY)
    for (name, p), own, averaged in zip(
        network.named_parameters(), model.parameters(), average.parameters(), strict=True
    ):
        expected = own if name == "all_modules.0.W" else averaged
        assert torch.equal(p, expected), name
        assert not p.requires_grad
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator())
    assert torch.isfinite(network(x, torch.tensor([0.1, 1.0]))).all()


def test_sigmas_of_another_length_are_dropped(tmp_path):
    value, _, _ = content(scales=2000)
    network = official.load_score(save(tmp_path, value), TINY)
    assert network.sigmas.shape == (7,)


def test_released_shapes_on_the_meta_device():
    """The full-size dictionary, with the keys the file has, without its 250 MB."""
    with torch.device("meta"):
        network = NCSNpp(official.CT)
    zero = torch.zeros(())
    state = {f"module.{k}": zero.expand(v.shape) for k, v in network.state_dict().items()}
    shadow = [zero.expand(p.shape) for p in network.parameters() if p.requires_grad]
    assert len(state) == 522 and len(shadow) == 520
    assert "module.all_modules.27.NIN_0.W" in state
    shadow[4] = shadow[4] + 1
    content = {"model": state, "ema": {"shadow_params": shadow}, "step": 1}
    averages = OfficialFile(Path("file"), official.LAYOUT, content).averages(network)
    assert (averages["all_modules.3.weight"] == 1).all()
    assert sum(p.numel() for p in averages.values()) == 61_433_473


def test_mri_configuration_has_the_same_tensors():
    with torch.device("meta"):
        ct, mri = NCSNpp(official.CT), NCSNpp(official.MRI)
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (ct, mri)]
    assert shapes[0] == shapes[1]


def test_the_last_step_is_taken_on_request(tmp_path):
    value, model, _ = content()
    del value["ema"]
    path = save(tmp_path, value)
    with pytest.raises(ReproError, match="no averaged weights.*with ema=False"):
        official.load_score(path, TINY)
    network = official.load_score(path, TINY, ema=False)
    for own, loaded in zip(model.parameters(), network.parameters(), strict=True):
        assert torch.equal(own, loaded)


@pytest.mark.parametrize("damage", ["key", "extra", "shape", "shadow", "shadow-shape", "ema"])
def test_wrong_configurations_are_named(tmp_path, damage):
    value, _, _ = content()
    if damage == "key":
        del value["model"]["module.all_modules.3.weight"]
    elif damage == "extra":
        value["model"]["module.head.weight"] = torch.zeros(1)
    elif damage == "shape":
        value["model"]["module.all_modules.3.weight"] = torch.zeros(8, 3, 3, 3)
    elif damage == "shadow":
        value["ema"]["shadow_params"].insert(0, torch.zeros(8))
    elif damage == "shadow-shape":
        value["ema"]["shadow_params"][0] = torch.zeros(3)
    else:
        value["ema"] = []
    with pytest.raises(ReproError, match=r"checkpoint_185\.pth"):
        official.load_score(save(tmp_path, value), TINY)


def slices(folder, count, side, scale=1.0):
    folder.mkdir()
    for k in range(count):
        value = np.full((side, side), scale * k / count, dtype=np.float64)
        np.save(folder / f"{k}.npy", value)
    return folder


def test_volumes_are_sorted_by_number_and_scaled(tmp_path):
    x = official.load_volume("aapm-l067", slices(tmp_path / "ct", 12, 256))
    assert x.shape == (12, 1, 256, 256) and x.dtype == torch.float32
    assert x[:, 0, 0, 0].tolist() == pytest.approx([k / 12 for k in range(12)])
    y = official.load_volume("brats-aam1", slices(tmp_path / "mr", 3, 240, scale=300.0))
    assert y.shape == (3, 1, 240, 240)
    assert float(y.max()) == pytest.approx(1.0, abs=1e-6)


def test_malformed_volumes(tmp_path):
    with pytest.raises(ReproError, match="aapm-l067 or brats-aam1"):
        official.load_volume("knee")
    with pytest.raises(ReproError):
        official.load_volume("aapm-l067", tmp_path / "none")
    with pytest.raises(ReproError, match="shape"):
        official.load_volume("aapm-l067", slices(tmp_path / "small", 3, 64))
