"""Published checkpoints of the networks that the quantisation papers start from, or hand out.

`load_ddpm`         DDPM on CIFAR-10, ``model-790000.ckpt``: a plain state dict, 328 tensors
`load_compvis`      latent and Stable Diffusion, ``model.ckpt``, ``sd-v1-4.ckpt``
`load_quantised`    the quantised networks of Q-Diffusion and of QuEST
`load_calibration`  Q-Diffusion's calibration sets

Files end in ``.safetensors`` or are read as PyTorch files with ``weights_only=True``: nothing in
them runs. A file must hold exactly the tensors that its network has; else a `ReproError` names the
file, the first tensor at fault and the remedy. Networks may be on the meta device, and come back in
eval mode with float32 weights.

Layouts: the released code of Q-Diffusion (Li et al., ICCV 2023), QuEST (Wang et al., ICCV 2025),
latent diffusion (Rombach et al., CVPR 2022) and pesser/pytorch_diffusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.nets import ldm, unet
from repro.quant.affine import Grid, code_span
from repro.quant.calibration import CalibrationSet
from repro.quant.layers import shortcut_splits
from repro.quant.rounding import hard_rounding

__all__ = [
    "ActivationGrids",
    "Bits",
    "CalibrationFile",
    "CompVisFile",
    "QuantisedState",
    "load_calibration",
    "load_compvis",
    "load_ddpm",
    "load_quantised",
    "read_compvis",
]

Network = TypeVar("Network", bound=nn.Module)


class _Inert:
    """Stands in for classes that training files mention beside their tensors."""


_MENTIONED = ["pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"]


def _read(path: Path, what: str) -> Any:
    if not path.is_file():
        raise ReproError(f"{path}: is missing; put {what} there")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([(_Inert, name) for name in _MENTIONED]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle, safetensors and torch raise a dozen types here
        text = str(error).strip()
        first = text.splitlines()[0][:100] if text else type(error).__name__
        raise ReproError(
            f"{path}: cannot be read as tensors alone ({first}); it is truncated, or holds Python "
            f"objects: fetch {what} again or convert its tensors to .safetensors"
        ) from error


def _tensors(path: Path, content: Any, what: str) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise ReproError(f"{path}: holds a {type(content).__name__}, no state dict; give {what}")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise ReproError(
                f"{path}: `{name}` is a {type(value).__name__}, not a tensor; give {what}"
            )
    return {str(name): value for name, value in content.items()}


def _match_names(path: Path, expected: Iterable[str], found: Iterable[str], what: str) -> None:
    expected, found = set(expected), set(found)
    missing, foreign = sorted(expected - found), sorted(found - expected)
    if missing or foreign:
        first = f"it lacks {missing[0]}" if missing else f"it holds {foreign[0]}"
        raise ReproError(
            f"{path}: does not fit the network: {first} ({len(missing)} of {len(expected)} tensors "
            f"missing, {len(foreign)} foreign); give {what}"
        )


def _check(path: Path, name: str, value: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    if tuple(value.shape) != tuple(shape):
        raise ReproError(
            f"{path}: {name} has shape {tuple(value.shape)}, in the network {tuple(shape)}; "
            f"give {what}"
        )
    if not torch.isfinite(value).all():
        raise ReproError(f"{path}: {name} holds NaN or infinity; fetch the file again")
    return value.float()


def _fill(path: Path, network: Network, state: Mapping[str, Tensor], what: str) -> Network:
    own = network.state_dict()
    _match_names(path, own, state, what)
    checked = {k: _check(path, k, state[k], tuple(v.shape), what) for k, v in own.items()}
    network.load_state_dict(checked, strict=True, assign=True)
    return network.eval()


def load_ddpm(path: str | Path, network: unet.UNet | None = None) -> unet.UNet:
    """The DDPM U-Net of a plain state dict such as ``model-790000.ckpt`` (328 tensors).

    network: which to fill; None makes the CIFAR-10 one.
    Raises ReproError: missing, truncated, not a plain state dict, or of another network.
    """
    path, what = Path(path), "the DDPM checkpoint of this size (CIFAR-10: model-790000.ckpt)"
    if network is None:
        with torch.device("meta"):
            network = unet.UNet()
    return _fill(path, network, _tensors(path, _read(path, what), what), what)


@dataclass(frozen=True)
class CompVisFile:
    """The groups of a latent-diffusion checkpoint; prefixes are cut off the names.

    unet: ``model.diffusion_model.``. ema: ``model_ema.``, averages under names without dots
    (``diffusion_modelout2weight``). first_stage, cond_stage: autoencoder and conditioner.
    other: buffers of the schedule and the like. global_step: training steps, None if not said.
    """

    path: Path
    unet: dict[str, Tensor] = field(default_factory=dict)
    ema: dict[str, Tensor] = field(default_factory=dict)
    first_stage: dict[str, Tensor] = field(default_factory=dict)
    cond_stage: dict[str, Tensor] = field(default_factory=dict)
    other: dict[str, Tensor] = field(default_factory=dict)
    global_step: int | None = None


_GROUPS = {
    "model.diffusion_model.": "unet",
    "model_ema.": "ema",
    "first_stage_model.": "first_stage",
    "cond_stage_model.": "cond_stage",
}
_COMPVIS = "a CompVis checkpoint of this network (model.ckpt, sd-v1-4.ckpt)"


def read_compvis(path: str | Path) -> CompVisFile:
    """Reads a latent-diffusion checkpoint, ``.ckpt`` or ``.safetensors``, and sorts its tensors.

    Raises ReproError: missing, truncated, unsafe, or without ``model.diffusion_model.*``.
    """
    path = Path(path)
    content, step = _read(path, _COMPVIS), None
    if isinstance(content, Mapping) and "state_dict" in content:
        step, content = content.get("global_step"), content["state_dict"]
    elif path.suffix != ".safetensors":
        raise ReproError(f"{path}: has no `state_dict`; give {_COMPVIS}")
    file = CompVisFile(path, global_step=step if isinstance(step, int) else None)
    for name, tensor in _tensors(path, content, _COMPVIS).items():
        prefix = next((p for p in _GROUPS if name.startswith(p)), "")
        getattr(file, _GROUPS.get(prefix, "other"))[name.removeprefix(prefix)] = tensor
    if not file.unet:
        raise ReproError(f"{path}: holds no model.diffusion_model.* tensors; give {_COMPVIS}")
    return file


def load_compvis(
    path: str | Path, network: str | ldm.LatentUNet, *, ema: bool = True
) -> ldm.LatentUNet:
    """The U-Net of a latent-diffusion checkpoint.

    network: a key of `ldm.CONFIGS` ("bedroom", "church", "cin256", "sd-v1"), or a network.
    ema: take the averaged weights, as the papers do, or else those of the last step.
    Raises ReproError: see `read_compvis`; or no averages, or of another network.
    """
    if isinstance(network, str):
        if network not in ldm.CONFIGS:
            raise ReproError(
                f"no latent-diffusion network `{network}`; choose from {', '.join(ldm.CONFIGS)}"
            )
        with torch.device("meta"):
            network = ldm.LatentUNet(ldm.CONFIGS[network])
    file = read_compvis(path)
    if not ema:
        return _fill(file.path, network, file.unet, _COMPVIS)
    if not file.ema:
        raise ReproError(
            f"{file.path}: holds no averaged weights (model_ema.*); load it with ema=False"
        )
    names = {f"diffusion_model{k.replace('.', '')}": k for k in network.state_dict()}
    averages = {k: v for k, v in file.ema.items() if k not in ("decay", "num_updates")}
    return _fill(file.path, network, {names.get(k, k): v for k, v in averages.items()}, _COMPVIS)


@dataclass(frozen=True)
class Bits:
    """Widths behind a quantised file, which does not say them.

    weight: bits of all weights. activation: bits of the inputs of layers and of q, k, v.
    softmax: bits of the softmax matrix (16 for Stable Diffusion).
    signed: activations were quantised symmetrically. The softmax matrix follows, except in
        unconditional latent-diffusion networks, where it is unsigned always.
    wide_edges: the inputs of the first and of the last convolution have 256 levels, as QuEST's
        released code patches it; signed codes then run from -257 to 256.
    """

    weight: int = 4
    activation: int = 8
    softmax: int = 8
    signed: bool = True
    wide_edges: bool = False


class ActivationGrids(NamedTuple):
    """Activation grids of one time step, or of all.

    layers: layer name -> a grid for its input, or two for the parts of a split input.
    attention: block name + ``.q``, ``.k``, ``.v`` or ``.w`` (softmax matrix) -> grid.
    """

    layers: dict[str, tuple[Grid, ...]]
    attention: dict[str, Grid]


@dataclass(frozen=True)
class QuantisedState:
    """A quantised network read from a file.

    weights: complete state dict with the hard-rounded ŵ in place of each quantised weight; fills
        the plain network. floats: the original weights by layer.
    weight_grids, alphas: by layer, for each part of the weight (two where the layer is split):
        δ, z of shape (out, 1, …) and α of the shape of the part.
    activations: empty if the file has none; one entry for Q-Diffusion; T_c for QuEST, in the order
        of the calibration time steps.
    splits: layer name -> input channels of its first part.
    """

    weights: dict[str, Tensor]
    floats: dict[str, Tensor]
    weight_grids: dict[str, tuple[Grid, ...]]
    alphas: dict[str, tuple[Tensor, ...]]
    activations: tuple[ActivationGrids, ...]
    splits: dict[str, int]


_QUANTISED = "the quantised checkpoint of this network"
_LAYERS = (nn.Conv2d, nn.Conv1d, nn.Linear)


def load_quantised(
    path: str | Path,
    network: nn.Module,
    bits: Bits | None = None,
    *,
    splits: Mapping[str, int] | None = None,
) -> QuantisedState:
    """Reads a quantised state dict of Q-Diffusion or of QuEST.

    Names start with ``model.``. Beside the floating-point tensors of the network, a layer L has
    ``L.weight_quantizer.{alpha,delta,zero_point}`` and ``L.act_quantizer.{delta,zero_point}``; a
    split layer has the same again with ``_0``. Attention has ``act_quantizer_{q,k,v,w}``. QuEST
    stores ``delta_list`` and ``zero_point_list`` of shape (T_c, C, 1, 1), (T_c, 1, C) or (T_c, C)
    instead; its ``current_delta`` is dropped. The weights follow from

        ŵ = (clamp(floor(w/δ) + 1[α ≥ 0] + z, 0, 2^n - 1) - z) δ

    network: `unet.UNet` or `ldm.LatentUNet`; not changed. Fill it afterwards with
        ``network.load_state_dict(state.weights, assign=True)``.
    bits: the widths, W4A8 with symmetric activations if None.
    splits: which layers are split, and at which channel; None: where the file has two quantisers
        anywhere, all layers fed with a raw concatenation.
    Raises ReproError: missing, truncated, tensors that lack, are foreign or have another shape,
        steps that are not positive, zero-points that are not integers or contradict ``bits``.
    """
    path, bits = Path(path), bits or Bits()
    state = _tensors(path, _read(path, _QUANTISED), _QUANTISED)
    state = {k: v for k, v in state.items() if "current_delta" not in k}
    alien = next((k for k in state if not k.startswith("model.")), None)
    if alien is not None:
        raise ReproError(f"{path}: {alien} does not start with `model.`; give {_QUANTISED}")
    state = {k.removeprefix("model."): v for k, v in state.items()}
    if splits is None:
        halved = any("weight_quantizer_0." in k for k in state)
        splits = {**shortcut_splits(network), **ldm.skip_splits(network)} if halved else {}

    layout = _Layout.of(path, network, splits, state)
    _match_names(path, layout.names(network), state, _QUANTISED)
    own = network.state_dict()
    weights = {k: _check(path, k, state[k], tuple(v.shape), _QUANTISED) for k, v in own.items()}
    floats, grids, alphas = {}, {}, {}
    for name in layout.layers:
        floats[name] = w = weights[f"{name}.weight"]
        keys = layout.keys(name, "weight_quantizer")
        read = [
            _weight_part(path, key, part, state, bits.weight)
            for key, part in zip(keys, w.split(layout.parts[name], 1), strict=True)
        ]
        grids[name], alphas[name], rounded = zip(*read, strict=True)
        weights[f"{name}.weight"] = torch.cat(rounded, 1)
    tables = _activations(path, layout, state, bits) if layout.active else ()
    return QuantisedState(weights, floats, grids, alphas, tables, dict(splits))


@dataclass(frozen=True)
class _Layout:
    """Which quantisers a file has, and under which keys."""

    layers: dict[str, nn.Module]
    parts: dict[str, list[int]]
    operands: dict[str, tuple[str, bool]]
    active: bool
    leaves: tuple[str, str]

    @classmethod
    def of(
        cls, path: Path, network: nn.Module, splits: Mapping[str, int], state: Mapping[str, Tensor]
    ) -> _Layout:
        layers = {n: m for n, m in network.named_modules() if isinstance(m, _LAYERS)}
        parts = {}
        for name, module in layers.items():
            total, at = module.weight.shape[1], splits.get(name)
            parts[name] = [total] if at is None else [at, total - at]
        if unknown := sorted(splits.keys() - layers.keys()):
            raise ReproError(f"{path}: no layer is called {unknown[0]}; correct `splits`")
        timed = any(k.endswith(".delta_list") for k in state)
        return cls(
            layers,
            parts,
            dict(_operands(network)),
            timed or any("act_quantizer" in k for k in state),
            ("delta_list", "zero_point_list") if timed else ("delta", "zero_point"),
        )

    def keys(self, layer: str, quantiser: str) -> list[str]:
        return [f"{layer}.{quantiser}{'_0' * i}" for i in range(len(self.parts[layer]))]

    def names(self, network: nn.Module) -> Iterator[str]:
        yield from network.state_dict()
        active = list(self.operands)
        for layer in self.layers:
            for key in self.keys(layer, "weight_quantizer"):
                yield from (f"{key}.{leaf}" for leaf in ("alpha", "delta", "zero_point"))
            active += self.keys(layer, "act_quantizer")
        if self.active:
            yield from (f"{key}.{leaf}" for key in active for leaf in self.leaves)


def _weight_part(
    path: Path, key: str, part: Tensor, state: Mapping[str, Tensor], bits: int
) -> tuple[Grid, Tensor, Tensor]:
    """Grid, α and ŵ of a weight or of one of its two parts."""
    name = f"{key}.alpha"
    alpha = _check(path, name, state[name], tuple(part.shape), _QUANTISED).detach()
    grid = _grid(path, key, state, ("delta", "zero_point"), *code_span(bits))
    shape = (len(part),) + (1,) * (part.ndim - 1)
    if tuple(grid.delta.shape) not in (shape, shape[:1]):
        raise ReproError(
            f"{path}: {key}.delta has shape {tuple(grid.delta.shape)}, not {shape}; {_ADVICE}"
        )
    grid = Grid(grid.delta.reshape(shape), grid.zero_point.reshape(shape), grid.lo, grid.hi)
    with torch.no_grad():
        return grid, alpha, grid(part, hard_rounding(alpha))


def _activations(
    path: Path, layout: _Layout, state: Mapping[str, Tensor], bits: Bits
) -> tuple[ActivationGrids, ...]:
    """One entry for each time step; a single one where the file has no time steps."""
    convolutions = [n for n, m in layout.layers.items() if not isinstance(m, nn.Linear)]
    layers: dict[str, list[list[Grid]]] = {}
    for name, module in layout.layers.items():
        wide = bits.wide_edges and name in (convolutions[0], convolutions[-1])
        span = _span(256 if wide else 2**bits.activation, bits.signed, wide)
        keys = layout.keys(name, "act_quantizer")
        layers[name] = [
            _table(path, key, state, layout.leaves, span, bits.signed, module, width)
            for key, width in zip(keys, layout.parts[name], strict=True)
        ]
    attention: dict[str, list[Grid]] = {}
    for key, (name, signable) in layout.operands.items():
        softmax = name.endswith(".w")
        signed = bits.signed and (signable or not softmax)
        span = _span(2 ** (bits.softmax if softmax else bits.activation), signed, False)
        attention[name] = _table(path, key, state, layout.leaves, span, signed)
    lengths = {len(t) for tables in layers.values() for t in tables}
    lengths |= {len(t) for t in attention.values()}
    if len(lengths) > 1:
        raise ReproError(
            f"{path}: its step tables have different lengths ({sorted(lengths)}); fetch it again"
        )
    return tuple(
        ActivationGrids(
            {name: tuple(table[i] for table in tables) for name, tables in layers.items()},
            {name: table[i] for name, table in attention.items()},
        )
        for i in range(lengths.pop())
    )


def _span(levels: int, signed: bool, patched: bool) -> tuple[int, int]:
    if not signed:
        return 0, levels - 1
    return (-levels - 1, levels) if patched else (-(levels // 2), levels // 2 - 1)


def _operands(network: nn.Module) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Key in the file -> (name, whether the softmax matrix may be signed)."""
    for name, module in network.named_modules():
        if isinstance(module, unet.AttentionBlock | ldm.CrossAttention):
            for o in "qkvw":
                yield f"{name}.act_quantizer_{o}", (f"{name}.{o}", True)
        elif isinstance(module, ldm.AttentionBlock):
            for o in "qkvw":
                product = "qkv_matmul" if o in "qk" else "smv_matmul"
                yield f"{name}.attention.{product}.act_quantizer_{o}", (f"{name}.{o}", False)


def _grid(
    path: Path, key: str, state: Mapping[str, Tensor], leaves: tuple[str, str], lo: int, hi: int
) -> Grid:
    delta, zero_point = (state[f"{key}.{leaf}"].detach().float() for leaf in leaves)
    if not (torch.isfinite(delta).all() and (delta > 0).all()):
        raise ReproError(f"{path}: {key}.{leaves[0]} is not positive; fetch the file again")
    if not torch.equal(zero_point, zero_point.round()):
        raise ReproError(f"{path}: {key}.{leaves[1]} is not an integer; fetch the file again")
    if zero_point.numel() not in (1, delta.numel()):
        raise ReproError(
            f"{path}: {key}.{leaves[1]} has shape {tuple(zero_point.shape)}, its step "
            f"{tuple(delta.shape)}; fetch the file again"
        )
    if zero_point.shape != delta.shape:
        zero_point = zero_point.reshape(-1).expand(delta.numel()).reshape(delta.shape)
    return Grid(delta, zero_point + 0.0, lo, hi)


def _table(
    path: Path,
    key: str,
    state: Mapping[str, Tensor],
    leaves: tuple[str, str],
    span: tuple[int, int],
    signed: bool,
    layer: nn.Module | None = None,
    width: int | None = None,
) -> list[Grid]:
    """The grids of one activation, one for each time step; a single one without time steps."""
    grid = _grid(path, key, state, leaves, *span)
    if signed and grid.zero_point.any():
        raise ReproError(
            f"{path}: {key} has zero-points other than 0, so it is asymmetric; read it with "
            "Bits(signed=False)"
        )
    shape = tuple(grid.delta.shape)
    if leaves[0] == "delta":
        if grid.delta.numel() != 1:
            raise ReproError(f"{path}: {key}.delta has shape {shape}, not one step; {_ADVICE}")
        return [Grid(grid.delta.reshape(()), grid.zero_point.reshape(()), *span)]
    tail = shape[1:]
    if layer is None:
        fits = len(tail) in (1, 2, 3)
    elif isinstance(layer, nn.Linear):
        fits = tail in ((1, width), (width,))
    elif isinstance(layer, nn.Conv1d):
        fits = tail in ((width, 1), (width, 1, 1))
        tail = (width, 1)
    else:
        fits = tail == (width, 1, 1)
    if not shape or not shape[0] or not fits:
        channels = "" if width is None else f" for {width} channels"
        raise ReproError(
            f"{path}: {key}.{leaves[0]} has shape {shape}, which is no step table{channels}; "
            f"{_ADVICE}"
        )
    grids = []
    for delta, zero_point in zip(grid.delta, grid.zero_point, strict=True):
        if (delta == delta.flatten()[0]).all() and (zero_point == zero_point.flatten()[0]).all():
            grids.append(Grid(delta.flatten()[0], zero_point.flatten()[0], *span))
        else:
            grids.append(Grid(delta.reshape(tail), zero_point.reshape(tail), *span))
    return grids


_ADVICE = f"give {_QUANTISED}"


@dataclass(frozen=True)
class CalibrationFile:
    """Inputs met while sampling, in the order of the sampler.

    xs (S, B, C, H, W), ts (S, B); cs, ucs (S, B, ...) context and null context, or None.
    """

    xs: Tensor
    ts: Tensor
    cs: Tensor | None = None
    ucs: Tensor | None = None

    def uniform(self, steps: int, per_step: int) -> tuple[Tensor, ...]:
        """``steps`` steps at stride S // steps from the first, the first ``per_step`` samples each.

        Returns x (N, C, H, W), t (N,) and, where the file has contexts, c (N, ...), with
        N = steps · per_step; with contexts N is twice that, first all contexts, then all null
        contexts, over the same x and t. Source: Q-Diffusion, section 3.2 and its released code.
        Raises ReproError: the file has fewer steps or samples.
        """
        total, samples = self.ts.shape
        if not 0 < steps <= total or not 0 < per_step <= samples:
            raise ReproError(
                f"cannot take {per_step} samples of {steps} steps from a calibration file of "
                f"{samples} samples and {total} steps; ask for fewer"
            )
        index = torch.arange(steps) * (total // steps)

        def take(values: Tensor) -> Tensor:
            return values[index, :per_step].flatten(0, 1)

        x, t = take(self.xs), take(self.ts)
        if self.cs is None:
            return x, t
        return torch.cat([x, x]), torch.cat([t, t]), torch.cat([take(self.cs), take(self.ucs)])

    def calibration_set(self, steps: int, per_step: int) -> CalibrationSet:
        """`uniform` of an unconditional file as the suite's `CalibrationSet`."""
        if self.cs is not None:
            raise ReproError("the calibration file has contexts; take its `uniform` batches")
        return CalibrationSet(*self.uniform(steps, per_step))


def load_calibration(path: str | Path) -> CalibrationFile:
    """Reads a calibration file of Q-Diffusion: tensors ``xs``, ``ts`` and maybe ``cs``, ``ucs``.

    Raises ReproError: missing, truncated, other keys, or shapes that do not belong together.
    """
    path, what = Path(path), "a calibration file with xs, ts and maybe cs and ucs"
    content = _tensors(path, _read(path, what), what)
    keys = {"xs", "ts"} | ({"cs", "ucs"} & content.keys() and {"cs", "ucs"})
    missing, foreign = sorted(keys - content.keys()), sorted(content.keys() - keys)
    if missing or foreign:
        first = f"it lacks `{missing[0]}`" if missing else f"it holds `{foreign[0]}`"
        raise ReproError(f"{path}: is no calibration file, {first}; give {what}")
    xs, ts = content["xs"], content["ts"]
    if xs.ndim != 5 or not xs.is_floating_point() or not xs.numel():
        raise ReproError(
            f"{path}: xs is {xs.dtype} of shape {tuple(xs.shape)}; it must be floats "
            "(steps, samples, channels, height, width)"
        )
    for name, value in content.items():
        if name != "xs" and value.shape[:2] != xs.shape[:2] or name == "ts" and value.ndim != 2:
            raise ReproError(
                f"{path}: {name} has shape {tuple(value.shape)}, which does not begin like that of "
                f"xs, {tuple(xs.shape[:2])}; give {what}"
            )
        if not torch.isfinite(value).all():
            raise ReproError(f"{path}: {name} holds NaN or infinity; collect the set again")
    if "cs" in content and content["cs"].shape != content["ucs"].shape:
        raise ReproError(
            f"{path}: cs has shape {tuple(content['cs'].shape)}, ucs "
            f"{tuple(content['ucs'].shape)}; give {what}"
        )
    return CalibrationFile(xs, ts, content.get("cs"), content.get("ucs"))
