"""Every fault that published files have, for every loader: one table of faults, one of loaders.

A fault is refused in one line ``<path>: <what is wrong>; <remedy>`` that says what it is and never
advises to open the file unsafely; nothing in a file runs.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from methods.autodiffusion import official as autodiffusion
from methods.diffusion_mbir import official as diffusion_mbir
from methods.msd import official as msd
from methods.msd.networks import Head
from methods.ptq4dm import official as ptq4dm
from methods.ptq4dm.networks import ImprovedUNet
from methods.radd import official as radd
from methods.radd.networks import Gpt2, Gpt2Size
from methods.slimflow import official as slimflow
from methods.slimflow.networks import Published
from methods.superdiff import official as superdiff
from methods.superdiff.networks import ScoreUNet
from repro.errors import ReproError
from repro.metrics import image
from repro.nets.adm import ADMConfig, ADMUNet
from repro.nets.ddpmpp import DDPMpp, DDPMppConfig
from repro.nets.edm import DhariwalUNet, EDMPrecond
from repro.nets.ldm import LatentUNet
from repro.nets.ncsnpp import NCSNpp, NCSNppConfig
from repro.nets.transformer import Config, Transformer
from repro.nets.unet import UNet
from repro.official.calibration import load_calibration
from repro.official.compvis import load_compvis
from repro.official.ddpm import load_ddpm
from repro.official.quantised import Bits, load_quantised
from repro.official.statistics import load_statistics
from repro.zoo import pretrained
from tests.official.making import SMALL, TINY, on_meta, quantised_file

MBIR = NCSNppConfig(
    image_size=16, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(16,), num_scales=7
)
EDM = dict(resolution=8, channels=16, mult=(1, 2), blocks=1, attention=(4,), classes=3)
HEAD = dict(channels=32, size=4, groups=4)
RADD = Config(vocab=11, d=16, blocks=1, heads=2)
JUDGE = Gpt2Size(vocab=13, positions=6, d=8, blocks=1, heads=2)
ADM = ADMConfig(8, 32, (1,), 1, (8,), head=32)
SLIM = Published(
    lambda: DDPMpp(
        DDPMppConfig(image_size=16, nf=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,))
    ),
    16,
)
SCORE = dict(channels=32, mult=(1, 2), blocks=1, resolution=8, attention=(8, 4), groups=8)


# Loaders ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loader:
    """One way to read a published file.

    content: what `torch.save` writes for it. at: keys that lead to one of its weights.
    load: path -> anything. got: what was loaded -> that weight, where it can be seen.
    averages: keys that lead to the averages, whose lack must not be passed over.
    last: path -> what `ema=False` loads. config: the config.json beside it.
    """

    content: Callable[[], Any]
    at: tuple[Any, ...]
    load: Callable[[Path], Any]
    got: Callable[[Any], Tensor] | None = None
    file: str = "model.pt"
    averages: tuple[Any, ...] = ()
    last: Callable[[Path], Any] | None = None
    config: str = ""


def improved() -> ImprovedUNet:
    return ImprovedUNet(
        image_size=8, channel_mult=(1, 2), channels=32, num_res_blocks=1, attention=(4,), heads=2
    )


def generator() -> EDMPrecond:
    return EDMPrecond(DhariwalUNet(**EDM))


def state_of(make: Callable[..., nn.Module], *args: Any, prefix: str = "", **kwargs: Any) -> dict:
    """A state dict of small random numbers, without building the weights twice."""
    torch.manual_seed(0)
    network = on_meta(make, *args, **kwargs)
    return {
        prefix + k: torch.rand(v.shape)
        if v.is_floating_point()
        else torch.zeros_like(v, device="cpu")
        for k, v in network.state_dict().items()
    }


def training(make: Callable[..., nn.Module], *args: Any) -> dict:
    """A training checkpoint with averages in a list."""
    network = on_meta(make, *args)
    torch.manual_seed(1)
    shadow = [torch.rand(p.shape) for p in network.parameters() if p.requires_grad]
    return {
        "optimizer": {"state": {}, "param_groups": []},
        "model": state_of(make, *args, prefix="module."),
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow},
        "step": 7,
    }


def compvis() -> dict:
    state = state_of(LatentUNet, TINY)
    plain = {f"model.diffusion_model.{k}": v for k, v in state.items()}
    averages = {f"model_ema.diffusion_model{k.replace('.', '')}": v for k, v in state.items()}
    counters = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(7)}
    return {"state_dict": plain | averages | counters, "global_step": 1}


def quantised(path: Path, bits: Bits | None = None):
    return load_quantised(path, on_meta(UNet, **SMALL), bits or Bits(4))


def guidance() -> dict:
    state: dict[str, Tensor] = {"karras_sigmas": torch.rand(1000)}
    for prefix in ("real_unet.", "fake_unet."):
        state |= state_of(generator, prefix=prefix)
    return state | state_of(Head, prefix="cls_pred_branch.", **HEAD)


def students(path: Path):
    partition = {"kind": "label", "K": 1, "assign": [0]}
    (path.parents[1] / "partition.json").write_text(json.dumps(partition))
    return msd.load_students(path.parents[1])


def radd_config() -> str:
    model = {"hidden_size": RADD.d, "n_heads": RADD.heads, "n_blocks": RADD.blocks}
    return json.dumps({"tokens": RADD.vocab, "model": model})


def flax(name: str) -> dict:
    network = on_meta(ScoreUNet, **SCORE)
    own = network.state_dict()
    torch.manual_seed(0)
    return {
        f"{name}/{flax}": torch.rand(superdiff._published(own[to], how).shape)
        for flax, (to, how) in superdiff.layout(network).items()
    }


@functools.cache
def imagenet(name: str) -> dict:
    """torchvision's names and shapes, each tensor one number in the file."""
    import torchvision

    own = on_meta(getattr(torchvision.models, name)).state_dict()
    return {k: torch.ones((), dtype=v.dtype).expand(v.shape) for k, v in own.items()}


class Features:
    """What `colour_features` asks of a job."""

    device = torch.device("cpu")

    def __init__(self, path: Path) -> None:
        self.path = path

    def data(self, name: str) -> Path:
        return self.path


def squeezenet(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return image.lpips("squeeze", path)


LOADERS = {
    "autodiffusion": Loader(
        lambda: state_of(ADMUNet, ADM),
        ("out.2.weight",),
        lambda p: autodiffusion.load_adm(p, on_meta(ADMUNet, ADM)),
        lambda n: n.out[2].weight,
    ),
    "ptq4dm": Loader(
        lambda: state_of(improved),
        ("out.2.weight",),
        lambda p: ptq4dm.load_checkpoint(p, on_meta(improved)),
        lambda n: n.out[2].weight,
    ),
    "ddpm": Loader(
        lambda: state_of(UNet, **SMALL),
        ("conv_in.weight",),
        lambda p: load_ddpm(p, on_meta(UNet, **SMALL)),
        lambda n: n.conv_in.weight,
    ),
    "compvis": Loader(
        compvis,
        ("state_dict", "model_ema.diffusion_modelout2weight"),
        lambda p: load_compvis(p, on_meta(LatentUNet, TINY)),
        lambda n: n.out[2].weight,
        averages=("state_dict", "model_ema."),
        last=lambda p: load_compvis(p, on_meta(LatentUNet, TINY), ema=False),
    ),
    "compvis, last step": Loader(
        compvis,
        ("state_dict", "model.diffusion_model.out.2.weight"),
        lambda p: load_compvis(p, on_meta(LatentUNet, TINY), ema=False),
        lambda n: n.out[2].weight,
    ),
    "quantised, weight": Loader(
        lambda: quantised_file(on_meta(UNet, **SMALL)),
        ("model.conv_in.weight",),
        quantised,
        lambda s: s.floats["conv_in"],
    ),
    "quantised, rounding": Loader(
        lambda: quantised_file(on_meta(UNet, **SMALL)),
        ("model.conv_in.weight_quantizer.alpha",),
        quantised,
        lambda s: s.alphas["conv_in"][0],
    ),
    "quantised, step": Loader(
        lambda: quantised_file(on_meta(UNet, **SMALL)),
        ("model.conv_in.weight_quantizer.delta",),
        quantised,
        lambda s: s.weight_grids["conv_in"][0].delta,
    ),
    "calibration": Loader(
        lambda: {"xs": torch.ones(4, 3, 1, 8, 8), "ts": torch.arange(12).reshape(4, 3)},
        ("xs",),
        load_calibration,
        lambda f: f.xs,
    ),
    "diffusion-mbir": Loader(
        lambda: training(NCSNpp, MBIR),
        ("ema", "shadow_params", 4),
        lambda p: diffusion_mbir.load_score(p, MBIR),
        lambda n: n.all_modules[3].weight,
        averages=("ema",),
        last=lambda p: diffusion_mbir.load_score(p, MBIR, ema=False),
    ),
    "diffusion-mbir, last step": Loader(
        lambda: training(NCSNpp, MBIR),
        ("model", "module.all_modules.3.weight"),
        lambda p: diffusion_mbir.load_score(p, MBIR, ema=False),
        lambda n: n.all_modules[3].weight,
    ),
    "msd, generator": Loader(
        lambda: state_of(generator),
        ("model.out_conv.weight",),
        lambda p: msd.load_generator(p, EDM),
        lambda n: n.model.out_conv.weight,
    ),
    "msd, guidance": Loader(
        guidance,
        ("real_unet.model.out_conv.weight",),
        lambda p: msd.load_guidance(p, EDM, HEAD),
        lambda g: g.teacher.model.out_conv.weight,
    ),
    "radd, published": Loader(
        lambda: state_of(Transformer, RADD),
        ("vocab_embed.embedding",),
        lambda p: radd.load_published(p.parent),
        lambda o: o.network.vocab_embed.embedding,
        file="model.safetensors",
        config=radd_config(),
    ),
    "radd, training": Loader(
        lambda: training(Transformer, RADD),
        ("ema", "shadow_params", 0),
        lambda p: radd.load_training(p, p.parent / "config.json"),
        lambda o: o.network.vocab_embed.embedding,
        averages=("ema",),
        last=lambda p: radd.load_training(p, p.parent / "config.json", ema=False),
        config=radd_config(),
    ),
    "radd, training, last step": Loader(
        lambda: training(Transformer, RADD),
        ("model", "module.vocab_embed.embedding"),
        lambda p: radd.load_training(p, p.parent / "config.json", ema=False),
        lambda o: o.network.vocab_embed.embedding,
        config=radd_config(),
    ),
    "radd, judge": Loader(
        lambda: state_of(Gpt2, JUDGE),
        ("wte.weight",),
        lambda p: radd.Gpt2Judge(p.parent, torch.device("cpu"), 2, JUDGE),
        lambda j: j.network.wte.weight,
        file="model.safetensors",
    ),
    "slimflow": Loader(
        lambda: training(SLIM.build),
        ("ema", "shadow_params", 4),
        lambda p: slimflow.fill(p, SLIM),
        lambda n: n.all_modules[2].weight,
        averages=("ema",),
        last=lambda p: slimflow.fill(p, SLIM, ema=False),
    ),
    "slimflow, last step": Loader(
        lambda: training(SLIM.build),
        ("model", "module.all_modules.2.weight"),
        lambda p: slimflow.fill(p, SLIM, ema=False),
        lambda n: n.all_modules[2].weight,
    ),
    "superdiff": Loader(
        lambda: flax("params_ema") | flax("model_params"),
        ("params_ema/GroupNorm_0/scale",),
        lambda p: superdiff.load_checkpoint(p, on_meta(ScoreUNet, **SCORE)),
        lambda n: n.norm_out.weight,
        file="chkpt5.npz",
        averages=("params_ema/",),
        last=lambda p: superdiff.load_checkpoint(p, on_meta(ScoreUNet, **SCORE), ema=False),
    ),
    "mobilenet": Loader(
        lambda: dict(imagenet("mobilenet_v2")),
        ("features.0.0.weight",),
        lambda p: pretrained.colour_features(Features(p)),
    ),
    "lpips": Loader(
        lambda: dict(imagenet("squeezenet1_1")),
        ("features.0.weight",),
        squeezenet,
    ),
}

STUDENTS = Loader(
    lambda: state_of(generator),
    ("model.out_conv.weight",),
    students,
    lambda s: s[0][0]["model.out_conv.weight"],
    file="students/0.pt",
)
"""Students of any size: names and shapes are not compared."""

ANY = {**LOADERS, "msd, students": STUDENTS}


def write(loader: Loader, folder: Path, content: Any) -> Path:
    plain = isinstance(content, dict) and all(map(is_plain, content.values()))
    if loader.file.endswith(".safetensors") and plain:
        return write_bytes(loader, folder, safetensors.torch.save(content))
    return write_bytes(loader, folder, saved(content))


def write_bytes(loader: Loader, folder: Path, data: bytes) -> Path:
    path = folder / loader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if loader.config:
        (folder / "config.json").write_text(loader.config)
    return path


@functools.cache
def pristine(loader: Loader) -> Any:
    return loader.content()


def content_of(loader: Loader) -> Any:
    """The content of the file without a fault, in dictionaries and lists that a test may change."""

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: copied(v) for k, v in value.items()}
        return [copied(v) for v in value] if isinstance(value, list) else value

    return copied(pristine(loader))


@functools.cache
def whole(loader: Loader) -> bytes:
    """The file without a fault."""
    content = pristine(loader)
    if loader.file.endswith(".safetensors"):
        return safetensors.torch.save(content)
    return saved(content)


def is_plain(value: Any) -> bool:
    """Whether safetensors can hold it."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_quantized or value.is_meta)
    )


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def holder(content: Any, at: tuple[Any, ...]) -> Any:
    """The dictionary or list in which a weight lies."""
    for key in at[:-1]:
        content = content[key]
    return content


def refused(load: Callable[[Path], Any], path: Path, expected: str) -> None:
    with pytest.raises(ReproError) as caught:
        load(path)
    text = str(caught.value)
    wrong, _, remedy = text.removeprefix(f"{path}: ").partition("; ")
    assert text.startswith(f"{path}: ") and "\n" not in text and remedy, text
    assert re.search(expected, wrong), text
    assert not re.search("weights_only|safe_globals|torch.load|trust", text), text


def every(loaders: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("loader", [*loaders.values()], ids=[*loaders])


@every(ANY)
def test_the_file_without_a_fault_loads(loader, tmp_path):
    content = content_of(loader)
    files = (whole(loader), saved(content, _use_new_zipfile_serialization=False))
    for data in files:
        found = loader.load(write_bytes(loader, tmp_path, data))
        if loader.got:
            value = loader.got(found)
            assert torch.equal(value, holder(content, loader.at)[loader.at[-1]])
            assert value.dtype == torch.float32


# Faults of the file -------------------------------------------------------------------------------


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        import os

        return os.mkdir, (self.folder,)


def archived(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def objects() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **dict.fromkeys(("mu", "sigma", "arr_0"), np.array([None])))
    return buffer.getvalue()


def bare_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 2), np.float32))
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>Google Drive - Virus scan warning</title></head></html>"
)
DENIED = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda b: b"", "^is empty"),
    "zeros": (lambda b: bytes(len(b)), "^begins with zeros"),
    "cut in half": (lambda b: b[: len(b) // 2], "^is (truncated|not JSON)"),
    "last bytes cut": (lambda b: b[:-60], "^is (truncated|not JSON)"),
    "web page": (lambda b: PAGE, "^is a web page"),
    "web page, indented": (lambda b: b"\r\n  " + PAGE.lower(), "^is a web page"),
    "denied by a web server": (lambda b: DENIED, "^is a web page"),
    "LFS pointer": (lambda b: POINTER, "^is a Git LFS pointer"),
    "plain text": (lambda b: "404: Not Found – café".encode(), "^is (plain text|not JSON)"),
    "JSON": (lambda b: b'{"error": "Invalid credentials"}', "^is JSON text|^field "),
    "long text": (lambda b: "é".encode() * 5000, "^is (plain text|not JSON)"),
    "compressed": (gzip.compress, "^is a compressed archive|^is not JSON"),
    "pickle": (lambda b: pickle.dumps(Trap(TRAP)), "^is a pickle of Python obj|^is not JSON"),
    "arrays of objects": (lambda b: objects(), "^holds Python objects|^is not JSON|format npz"),
    "noise": (lambda b: bytes(range(1, 256)) * 9, "^is damaged|^is not JSON"),
}
"""Faults of any file, whatever lies in it."""

TRAP = Path("sprung")

TENSOR_BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = BYTES | {
    "old torch, cut": (
        lambda b: saved({"a": torch.zeros(999)}, _use_new_zipfile_serialization=False)[:-99],
        "^is truncated",
    ),
    "zip of the file": (lambda b: archived(**{"model.pt": b}), "^is a zip archive of model.pt"),
    "safetensors, cut": (
        lambda b: b"\x20" + bytes(7) + b'{"a":{"dtype":"F32","shape":[9]',
        "^is truncated",
    ),
    "objects": (
        lambda b: saved({"a": torch.zeros(3), "b": Trap(TRAP)}),
        r"^holds Python objects \(\w+\.mkdir\)",
    ),
    "old torch, objects": (
        lambda b: saved({"b": Trap(TRAP)}, _use_new_zipfile_serialization=False),
        r"^holds Python objects \(\w+\.mkdir\)",
    ),
    "whole network": (
        lambda b: saved(nn.Linear(2, 2)),
        r"^holds Python objects \(torch.nn.modules.linear.Linear\)",
    ),
    "another protocol": (lambda b: saved({"a": 1}, pickle_protocol=4), "^holds more than tensors"),
    "TorchScript": (lambda b: script(), "^is a TorchScript program"),
    "bare array": (lambda b: bare_array(), "^holds a bare array"),
    "optimiser": (
        lambda b: saved(torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict()),
        "^is the state of an optimiser",
    ),
    "checkpoint without weights": (
        lambda b: saved({"optimizer": {"state": {}}, "epoch": 3, "step": 7}),
        "^is a training checkpoint",
    ),
    "a tensor": (lambda b: saved(torch.zeros(3)), "^holds a Tensor in place of a state dict"),
    "a list": (lambda b: saved([torch.zeros(3)]), "^holds a list in place of a state dict"),
    "nothing": (lambda b: saved({}), "^holds no tensors|^has no `model`: it holds nothing"),
}


@every(ANY)
@pytest.mark.parametrize("fault", TENSOR_BYTES)
def test_files_that_are_something_else(loader, fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, expected = TENSOR_BYTES[fault]
    path = write_bytes(loader, tmp_path, change(whole(loader)))
    refused(loader.load, path, expected)
    assert not (tmp_path / TRAP).exists()


@every(ANY)
def test_missing_files(loader, tmp_path):
    path = write_bytes(loader, tmp_path, b"")
    path.unlink()
    refused(loader.load, path, "^is missing$")
    path.mkdir()
    refused(loader.load, path, "^is a folder")


# Faults of a tensor -------------------------------------------------------------------------------


def spoiled(value: Tensor, bad: float) -> Tensor:
    value = value.clone()
    value.flatten()[-1] = bad
    return value


def wider(value: Tensor) -> Tensor:
    return torch.cat([value, value[:1]])


def quantised_tensor(value: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


KINDS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "NaN": (lambda v: spoiled(v, torch.nan), "holds NaN or infinity"),
    "infinity": (lambda v: spoiled(v, -torch.inf), "holds NaN or infinity"),
    "too large": (lambda v: spoiled(v.double(), 1e300), "holds NaN or infinity"),
    "int8": (lambda v: v.to(torch.int8), "is int8 where floats"),
    "uint16": (lambda v: v.to(torch.int32).to(torch.uint16), "is uint16 where floats"),
    "bool": (lambda v: v > 0, "is bool where floats"),
    "complex": (lambda v: v.to(torch.complex64), "is complex64 where floats"),
    "float8": (lambda v: v.to(torch.float8_e4m3fn), "is float8_e4m3fn where floats"),
    "sparse": (lambda v: v.to_sparse(), "is sparse_coo where floats"),
    "quantised": (quantised_tensor, "is quantised where floats"),
    "without values": (lambda v: v.to("meta"), "is without values where floats"),
    "list": (lambda v: v.tolist(), "is a list, not a tensor|is a list$"),
    "nothing": (lambda v: None, "is a NoneType, not a tensor"),
}
SHAPES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "wider": (wider, "shape"),
    "one more axis": (lambda v: v[None], "shape"),
    "a number": (lambda v: v.flatten()[0], "shape"),
    "a vector": (lambda v: v.flatten()[:1], "shape"),
}


@every(ANY)
@pytest.mark.parametrize("fault", KINDS)
def test_tensors_of_another_kind(loader, fault, tmp_path):
    refuse_changed(loader, *KINDS[fault], tmp_path)


@every(LOADERS)
@pytest.mark.parametrize("fault", SHAPES)
def test_tensors_of_another_shape(loader, fault, tmp_path):
    refuse_changed(loader, *SHAPES[fault], tmp_path)


def refuse_changed(loader, change, expected, folder):
    content = content_of(loader)
    holder(content, loader.at)[loader.at[-1]] = change(holder(content, loader.at)[loader.at[-1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about sparse and quantised tensors
        refused(loader.load, write(loader, folder, content), expected)


def test_a_vector_of_one_is_no_number(tmp_path):
    """torch would take it; and a count of steps must be a whole number."""
    loader, name = LOADERS["mobilenet"], "features.0.1.num_batches_tracked"
    for value, expected in (
        (torch.zeros(1, dtype=torch.int64), rf"`{name}` has shape \(1,\), expected \(\)"),
        (torch.tensor(1.0), f"`{name}` is float32 where int64 are due"),
    ):
        path = write(loader, tmp_path, {**content_of(loader), name: value})
        refused(loader.load, path, expected)


@every(ANY)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_become_float32(loader, dtype, tmp_path):
    content = content_of(loader)
    place, key = holder(content, loader.at), loader.at[-1]
    place[key] = place[key].to(dtype)
    found = loader.load(write(loader, tmp_path, content))
    if loader.got:
        value = loader.got(found)
        assert value.dtype == torch.float32 and torch.equal(value, place[key].float())


# Faults of names ----------------------------------------------------------------------------------

NAMED = {k: v for k, v in LOADERS.items() if isinstance(v.at[-1], str)}


@every(NAMED)
def test_missing_foreign_and_doubled_names(loader, tmp_path):
    content = content_of(loader)
    place, key = holder(content, loader.at), loader.at[-1]
    for change, expected in (
        ({f"module.{key.removeprefix('module.')}" + "_2": place[key].clone()}, r"\(1 foreign\)"),
        ({f"_orig_mod.{key}": place[key].clone()}, "twice"),
    ):
        held = dict(place)
        place.update(change)
        refused(loader.load, write(loader, tmp_path, content), expected)
        place.clear()
        place.update(held)
    del place[key]
    refused(loader.load, write(loader, tmp_path, content), r"lacks `.*\(1 of \d+ tensors missing")


@every(NAMED)
def test_another_model(loader, tmp_path):
    content = content_of(loader)
    place = holder(content, loader.at)
    place.clear()
    place.update({f"encoder.{i}.weight": torch.zeros(3) for i in range(5)})
    expected = (
        r"lacks `.*\(\d+ of \d+ tensors missing\) and holds `encoder.0.weight` \(5 foreign\)"
        "|holds no `model.diffusion_model|`encoder.0.weight` does not start with `model.`"
        "|holds no averaged weights"
    )
    refused(loader.load, write(loader, tmp_path, content), expected)


def test_names_are_quoted_on_one_line(tmp_path):
    loader = LOADERS["ddpm"]
    content = content_of(loader) | {"a\n\x1b[31mb": torch.zeros(1)}
    refused(loader.load, write(loader, tmp_path, content), r"^holds `a  \[31mb` \(1 foreign\)$")


@every(NAMED)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapped_networks_are_cut_off(loader, prefix, tmp_path):
    content = content_of(loader)
    place, key = holder(content, loader.at), loader.at[-1]
    wrapped = {prefix + k: v for k, v in place.items()}
    expected = place[key]
    place.clear()
    place.update(wrapped)
    found = loader.load(write(loader, tmp_path, content))
    if loader.got:
        assert torch.equal(loader.got(found), expected)


# Averages -----------------------------------------------------------------------------------------

AVERAGED = {k: v for k, v in LOADERS.items() if v.averages}
LISTED = {k: v for k, v in AVERAGED.items() if v.averages == ("ema",)}


@every(AVERAGED)
def test_the_last_step_never_stands_in_for_missing_averages(loader, tmp_path):
    content = content_of(loader)
    place = holder(content, loader.averages)
    for key in [k for k in place if k.startswith(loader.averages[-1])]:
        del place[key]
    path = write(loader, tmp_path, content)
    refused(loader.load, path, "holds no averaged weights")
    with pytest.raises(ReproError, match="; .* with ema=False$"):
        loader.load(path)
    loader.last(path)


@every(LISTED)
def test_lists_of_averages_are_whole(loader, tmp_path):
    content = content_of(loader)
    shadow = content["ema"]["shadow_params"]
    for ema, expected in (
        ({"shadow_params": None}, "holds no averaged weights"),
        ({"shadow_params": []}, "holds no averaged weights"),
        ([], "holds no averaged weights"),
        ({"shadow_params": shadow[:-1]}, r"lists \d+ averages, the network trains \d+"),
        ({"shadow_params": [*shadow, shadow[0]]}, r"lists \d+ averages, the network trains \d+"),
        ({"shadow_params": shadow[::-1]}, r"`ema.shadow_params\[0\], \S+` has shape"),
    ):
        refused(loader.load, write(loader, tmp_path, {**content, "ema": ema}), expected)


# Arrays and configurations ------------------------------------------------------------------------


@dataclass(frozen=True)
class Other:
    """A file that is not of weights. make: writes it to a path."""

    file: str
    make: Callable[[Path], Any]
    load: Callable[[Path], Any]


def pair_set(path: Path) -> None:
    for name in ("z0.npy", "z1.npy"):
        np.save(path.parent / name, np.zeros((2, 3, 4, 4), np.float32))


def configured(path: Path) -> None:
    path.write_text(radd_config())
    state = state_of(Transformer, RADD)
    (path.parent / "model.safetensors").write_bytes(safetensors.torch.save(state))


OTHERS = {
    "statistics": Other(
        "stats.npz", lambda p: np.savez(p, mu=np.zeros(40), sigma=np.eye(40)), load_statistics
    ),
    "slimflow, pairs": Other("z0.npy", pair_set, lambda p: slimflow.load_pairs(p.parent)),
    "ptq4dm, images": Other(
        "batch.npz", lambda p: np.savez(p, arr_0=np.zeros((9, 8, 8, 3), np.uint8)),
        ptq4dm.load_images,
    ),
    "radd, configuration": Other(
        "config.json", configured, lambda p: radd.load_published(p.parent)
    ),
}  # fmt: skip


@every(OTHERS)
@pytest.mark.parametrize("fault", BYTES)
def test_arrays_and_configurations_that_are_something_else(loader, fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / loader.file
    loader.make(path)
    loader.load(path)
    change, expected = BYTES[fault]
    path.write_bytes(change(path.read_bytes()))
    refused(
        loader.load, path, "^is not JSON" if "cut" in fault and path.suffix == ".json" else expected
    )
    assert not (tmp_path / TRAP).exists()


@every(OTHERS)
def test_missing_arrays_and_configurations(loader, tmp_path):
    path = tmp_path / loader.file
    loader.make(path)
    path.unlink()
    refused(loader.load, path, "^is missing$")
    path.mkdir()
    refused(loader.load, path, "^is a folder")


@pytest.mark.parametrize("name", ["statistics", "slimflow, pairs", "ptq4dm, images"])
def test_tensors_are_no_arrays(name, tmp_path):
    path = tmp_path / OTHERS[name].file
    OTHERS[name].make(path)
    torch.save({"mu": torch.zeros(2)}, path)
    refused(OTHERS[name].load, path, r"^is a file of the format torch, not an \.np[yz]")
