"""Quantised networks on real int8 kernels of the CPU.

`export` writes what `quantise` and `calibrate` made as an ONNX file. Its grids are our grids, in
standard operators:

    QuantizeLinear      q = saturate(round(x / δ) + z)     at the input of every layer, q in 8 bits
    DequantizeLinear    x̂ = (q - z) · δ                    after it, and on weights stored as int8

so the file *is* the fake-quantised network, and a runtime that knows the pattern computes its
convolutions and matrix products on the codes:

    Σ (q_x - z)·q_w · δ_x·δ_w = Σ x̂·ŵ

OpenVINO does, for convolutions and linear layers, with floats in between. What it computes differs
from the simulation in two ways only. Sums are taken in another order: integers add up exactly,
floats do not. And norms and activations between layers round differently in the last bits, so that
a value next to the middle between two codes can take the other code, which moves one input of one
layer by one step δ; later layers carry it on.

That holds on processors that add products in 32 bits (`wide_sums`: AVX-512 VNNI and later). Older
x86 kernels add pairs of them in 16 bits, where 2 · 255 · 127 saturates: the error of ε against the
simulation grows from 0.6 % to 7.9 % there. Weights of 7 bits, also stored as int8, cannot saturate
(2 · 255 · 63 < 2^15).

Measured on the 2.54 M-parameter U-Net of the zoo (torch 2.14, AVX-512 VNNI, batch 64, one thread),
the other routes were: ONNX Runtime 1.32 computes the pattern in floats, because its int8
convolution wants a quantised *output* too, and its ConvInteger takes 4.2 times as long as its float
convolution. torchao 0.18 lowers the same pattern to int8 in PyTorch (PT2E), but only through a
private function; run as it is, it is as slow as floats, and TorchInductor makes it as fast as
OpenVINO with a C++ compiler on the target and 100 s of compilation, where OpenVINO takes 2 s.

`export`, `export_float` and `Deployed` need onnx, onnxscript and openvino: the dependency group
`deploy` of pyproject.toml.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro import store
from repro.errors import ReproError
from repro.numbers import finite
from repro.official import files
from repro.quant.affine import Grid, code_span
from repro.quant.layers import (
    ActivationQuantiser,
    QuantisedLayer,
    activation_quantisers,
    quantised_layers,
)

OPSET = 21
_EXPORTED = "a network that repro.quant.deploy.export() writes"


PACKAGES = ("onnx", "onnxscript", "openvino")


def missing() -> list[str]:
    """The packages of `PACKAGES` that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ReproError(
            f"deployment needs the package '{name}'; run: pip install onnx onnxscript openvino"
        ) from error


class _QuantiseDequantise(nn.Module):
    """A calibrated activation quantiser in ONNX operators: x -> x̂, any shape."""

    delta: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid):
        super().__init__()
        kind = torch.uint8 if grid.lo == 0 else torch.int8
        self.register_buffer("delta", grid.delta.detach().float().reshape(()).clone())
        self.register_buffer("zero_point", grid.zero_point.detach().reshape(()).to(kind))

    def forward(self, x: Tensor, own: bool = False) -> Tensor:
        grid = (self.delta, self.zero_point)
        q = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, *grid), dtype=self.zero_point.dtype, shape=x.shape
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (q, *grid), dtype=torch.float32, shape=x.shape
        )


class _Weight(nn.Module):
    """A weight stored as int8 codes with a step per output channel: () -> ŵ."""

    codes: Tensor
    delta: Tensor
    zero_point: Tensor

    def __init__(self, codes: Tensor, grid: Grid):
        super().__init__()
        self.register_buffer("codes", finite(codes, "codes of weights").to(torch.int8).clone())
        self.register_buffer("delta", grid.delta.detach().float().flatten().clone())
        self.register_buffer("zero_point", torch.zeros(len(codes), dtype=torch.int8))

    def forward(self) -> Tensor:
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.codes, self.delta, self.zero_point),
            attrs={"axis": 0},
            dtype=torch.float32,
            shape=self.codes.shape,
        )


class _Layer(nn.Module):
    """A `QuantisedLayer` in ONNX operators. A split layer is the sum of the layers of its parts, so
    that each has one grid.
    """

    def __init__(self, source: QuantisedLayer):
        super().__init__()
        self.parts, self.activations = source.parts, source.activations
        parts = source.layer.weight.detach().split(source.parts, 1)
        grids = [grid for grid in source.weight_grids if isinstance(grid, Grid)]
        rules = zip(grids, parts, source.roundings, strict=True)
        self.weights = nn.ModuleList(_Weight(g.codes(w, r), g) for g, w, r in rules)
        self.layer = copy.deepcopy(source.layer)
        del self.layer.weight  # the codes replace it

    def forward(self, x: Tensor) -> Tensor:
        dim = -1 if isinstance(self.layer, nn.Linear) else 1
        parts = x.split(self.parts, dim) if len(self.parts) > 1 else (x,)
        total: Tensor | None = None
        bias: Tensor | None = self.layer.bias
        for part, activation, weight in zip(parts, self.activations, self.weights, strict=True):
            if isinstance(self.layer, nn.Linear):
                y = F.linear(activation(part), weight(), bias)
            else:
                y = self.layer._conv_forward(activation(part), weight(), bias)
            total, bias = y if total is None else total + y, None
        assert total is not None, "a layer has at least one part"
        return total


def _check(network: nn.Module) -> None:
    """Raises ReproError unless every layer can run on int8 kernels."""
    layers = quantised_layers(network)
    if not layers:
        raise ReproError("this network has no quantised layer; give export() what quantise() made")
    for name, layer in layers.items():
        _check_layer(name, layer)
    for name, quantiser in activation_quantisers(network).items():
        _activation_grid(name, quantiser)


def _check_layer(name: str, layer: QuantisedLayer) -> None:
    if layer.side != "input":
        raise ReproError(
            f"layer {name} quantises its output, so its input is a float and no int8 kernel "
            "can compute it; deploy a recipe with side='input'"
        )
    if not layer.weight_on or any(
        not isinstance(g, Grid) or g.lo >= 0 or g.hi > 127 or g.zero_point.any()
        for g in layer.weight_grids
    ):
        raise ReproError(
            f"the weights of layer {name} are not symmetric and of at most 8 bits; use "
            "minmax_grid(..., symmetric=True, channel_wise=True) with weight_bits=8"
        )
    if any(g.delta.numel() != len(layer.layer.weight) for g in layer.weight_grids):
        raise ReproError(
            f"the weights of layer {name} have no step per output channel; use channel_wise"
        )
    if not layer.activations:
        raise ReproError(
            f"layer {name} has no quantised activations; give the recipe activation_bits=(8,)"
        )


def _activation_grid(name: str, quantiser: ActivationQuantiser) -> Grid:
    """The grid in use; raises ReproError unless the kernels can compute it."""
    grid = quantiser.grids.get(quantiser.bits)
    if quantiser.mode != "quantise" or grid is None:
        raise ReproError(
            f"the activations of {name} are not quantised; run calibrate() on a calibration set"
        )
    if not isinstance(grid, Grid) or (grid.lo, grid.hi) not in (
        code_span(8),
        code_span(8, signed=True),
    ):
        raise ReproError(
            f"the activations of {name} have {quantiser.bits} bits and the kernels 8; "
            "prepare and select 8 bits"
        )
    if not bool(((grid.zero_point >= grid.lo) & (grid.zero_point <= grid.hi)).all()):
        raise ReproError(
            f"the zero-point of the activations of {name} is none of their codes; widen their "
            "range to hold 0"
        )
    if grid.delta.numel() != 1:
        raise ReproError(f"the activations of {name} need one grid for the whole tensor")
    return grid


def lowered(network: nn.Module) -> nn.Module:
    """A copy of a calibrated network whose quantisers are ONNX operators, for `export`.

    network: made by `quantise` and `calibrate`; inputs of its layers at 8 bits, weights symmetric
        per output channel at 8 bits or fewer.

    Raises ReproError where a layer cannot run on int8 kernels.
    """
    _check(network)
    network = copy.deepcopy(network).eval()
    for name, layer in quantised_layers(network).items():
        network.set_submodule(name, _Layer(layer))
    for name, quantiser in activation_quantisers(network).items():
        network.set_submodule(name, _QuantiseDequantise(_activation_grid(name, quantiser)))
    assert not any(isinstance(m, ActivationQuantiser) for m in network.modules())
    return network.requires_grad_(False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress and its plans; errors still raise."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def export_float(network: nn.Module, path: str | Path, example: tuple[Tensor, ...]) -> Path:
    """Writes a network as an ONNX file in float32, whole in one file.

    network: any, on the CPU; its signature is that of `example`.
    example: arguments such as (x, t) that share their first size, the batch. The file holds for
        every batch size, and for the other sizes of the example alone.

    Returns `path`. Raises ReproError where onnx or onnxscript is missing.
    """
    for name in ("onnx", "onnxscript"):
        _package(name)
    path = Path(path)
    # A batch of one would be taken for a constant.
    example = tuple(v[:1].repeat(2, *[1] * (v.ndim - 1)) for v in example)
    batch = torch.export.Dim("batch")
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network.eval(),
            example,
            dynamo=True,
            dynamic_shapes=tuple({0: batch} for _ in example),
            opset_version=OPSET,
            optimize=False,  # it would fold int8 weights back into floats
            input_names=["x", "t", "y"][: len(example)],
            output_names=["eps"],
            verbose=False,
        )
        assert program is not None, "the exporter returns its program with dynamo=True"
        model = program.model_proto
    # A quarter of a small file, and the paths of this machine among it.
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for item in (*model.graph.node, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    with store.atomic(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return path


def export(network: nn.Module, path: str | Path, example: tuple[Tensor, ...]) -> Path:
    """Writes a calibrated quantised network as an ONNX file with int8 weights and 8-bit inputs of
    its layers.

    network: made by `quantise` and `calibrate` (see `lowered`), on the CPU. Learned roundings are
        written as the codes that they give.
    path: of the file, usually `*.onnx`.
    example: as for `export_float`.

    Returns `path`. Raises ReproError where a layer cannot run on int8 kernels or a package is
    missing.
    """
    return export_float(lowered(network), path, example)


def wide_sums() -> bool:
    """Whether the int8 kernels of this processor add products in 32 bits, as far as is known.

    Reads the flags that Linux tells of x86 processors; True elsewhere.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), None)
    return flags is None or any(f in flags for f in ("avx512_vnni", "avx_vnni", "amx_int8"))


def all_threads() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Deployed:
    """Runs an exported network: `(x, t) -> eps`, float32 tensors of the CPU.

    path: a file of `export` or `export_float`.
    threads: processor threads of one call; None: all that the process may use.
    precision: type of what is not int8, `float32` or `bfloat16`. The latter rounds norms and sums
        to 8 bits of mantissa, so it no longer computes what the simulation computes.

    The first call with a new batch size compiles for it; later ones reuse that.

    Raises ReproError where OpenVINO or the file is missing.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = 1,
        precision: Literal["float32", "bfloat16"] = "float32",
    ):
        openvino = _package("openvino")
        files.check(Path(path), _EXPORTED)
        if threads is not None and threads < 1:
            raise ReproError(f"a network cannot run on {threads} threads; give 1 or more, or None")
        hints = {"float32": "f32", "bfloat16": "bf16"}
        if precision not in hints:
            raise ReproError(f"precision '{precision}' is unknown; choose float32 or bfloat16")
        self.path, self.threads = Path(path), threads or all_threads()
        self._core = openvino.Core()
        self._options = {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": hints[precision],
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # pinned threads wait where others keep the machine busy
        }
        self._compiled: dict[int, Any] = {}

    def compiled(self, batch: int) -> Any:
        """The OpenVINO model for a batch size."""
        if batch not in self._compiled:
            try:
                model = self._core.read_model(str(self.path))
            except RuntimeError as error:
                raise files.damaged(self.path, _EXPORTED) from error
            shapes = {}
            for port in model.inputs:
                shape = port.get_partial_shape()
                shape[0] = batch
                shapes[port.get_any_name()] = shape
            model.reshape(shapes)
            self._compiled[batch] = self._core.compile_model(model, "CPU", self._options)
        return self._compiled[batch]

    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        """x (B, ...), others (B, ...) in the order of export -> eps, of the shape of the network's.

        Types are those of the example of export.
        """
        run = self.compiled(len(x))
        arrays = [v.detach().contiguous().numpy() for v in (x, *others)]
        return torch.from_numpy(run(arrays)[0].copy())

    def kernels(self, batch: int = 1) -> Counter[tuple[str, str]]:
        """How many convolutions and matrix products run, by (kind, type of their input).

        Kinds and types are OpenVINO's: `Convolution`, `FullyConnected`, `MatMul`; `u8`, `i8`,
        `f32`.
        """
        counts: Counter[tuple[str, str]] = Counter()
        for node in self.compiled(batch).get_runtime_model().get_ordered_ops():
            about = {k: getattr(v, "value", v) for k, v in node.get_rt_info().items()}
            if about.get("layerType") in ("Convolution", "FullyConnected", "MatMul"):
                counts[about["layerType"], about["runtimePrecision"]] += 1
        return counts


def bfloat16(network: nn.Module) -> Callable[..., Tensor]:
    """`network` in PyTorch with bfloat16 convolutions and matrix products: same arguments, float32
    result.
    """

    @torch.inference_mode()
    def run(*arguments: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(*arguments).float()

    return run
