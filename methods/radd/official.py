"""The released checkpoints of RADD and SEDD.

Two layouts:

- published: a folder with ``model.safetensors`` and ``config.json``, the complete training
  configuration, either at the top level or under a key ``config``;
- training: one file, a dict of ``optimizer``, ``model``, ``ema`` and ``step``, where ``ema`` holds
  ``shadow_params``, the averaged parameters in the order in which the network lists them.

Which network it is shows in the tensors: only SEDD has ``sigma_map``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repro.errors import ReproError
from repro.nets.transformer import Config, Transformer

PUBLISHED = {
    "radd-lambda-dce": "JingyangOu/radd-lambda-dce on Hugging Face",
    "radd-t-dce": "JingyangOu/radd-t-dce on Hugging Face",
    "sedd-small": "louaaron/sedd-small on Hugging Face",
    "sedd-medium": "louaaron/sedd-medium on Hugging Face",
}
"""The published models by the name of their folder, and who hands them out."""


class Official(NamedTuple):
    """A loaded model: the network (float32, eval mode), whether its score is scaled, its length."""

    network: Transformer
    scaled: bool
    length: int


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint, in the order of the network."""
    d, n, cond = config.d, config.vocab + 1, config.cond
    timed = cond is not None
    norm = [("weight", (d,))] + ([] if timed else [("bias", (d,))])
    out: dict[str, tuple[int, ...]] = {"vocab_embed.embedding": (n, d)}
    if timed:
        out |= {
            "sigma_map.mlp.0.weight": (cond, config.frequencies),
            "sigma_map.mlp.0.bias": (cond,),
            "sigma_map.mlp.2.weight": (cond, cond),
            "sigma_map.mlp.2.bias": (cond,),
        }
    out["rotary_emb.inv_freq"] = (d // config.heads // 2,)
    for i in range(config.blocks):
        block: dict[str, tuple[int, ...]] = {f"norm1.{k}": v for k, v in norm}
        block |= {"attn_qkv.weight": (3 * d, d), "attn_out.weight": (d, d)}
        block |= {f"norm2.{k}": v for k, v in norm}
        block |= {"mlp.0.weight": (4 * d, d), "mlp.0.bias": (4 * d,)}
        block |= {"mlp.2.weight": (d, 4 * d), "mlp.2.bias": (d,)}
        if timed:
            block |= {"adaLN_modulation.weight": (6 * d, cond), "adaLN_modulation.bias": (6 * d,)}
        out |= {f"blocks.{i}.{k}": v for k, v in block.items()}
    out |= {f"output_layer.norm_final.{k}": v for k, v in norm}
    out |= {"output_layer.linear.weight": (n, d), "output_layer.linear.bias": (n,)}
    if timed:
        out |= {
            "output_layer.adaLN_modulation.weight": (2 * d, cond),
            "output_layer.adaLN_modulation.bias": (2 * d,),
        }
    return out


def read_config(path: Path, timed: bool) -> tuple[Config, bool, int]:
    """Sizes of the network, whether the score is scaled, and the length, from ``config.json``.

    Raises:
        ReproError: unreadable, or a field is missing or of another type.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReproError(
            f"{path}: cannot be read as JSON ({error}); download config.json of the model again"
        ) from error
    if isinstance(raw, Mapping) and isinstance(raw.get("config"), Mapping):
        raw = raw["config"]

    def field(*keys: str, kind: type = int, default: Any = None) -> Any:
        value: Any = raw
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        value = default if value is None else value
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
            raise ReproError(
                f"{path}: field {'.'.join(keys)} is missing or not of type {kind.__name__}; "
                "download config.json of the model again"
            )
        return value

    config = Config(
        vocab=field("tokens"),
        d=field("model", "hidden_size"),
        blocks=field("model", "n_blocks"),
        heads=field("model", "n_heads"),
        cond=field("model", "cond_dim") if timed else None,
    )
    scaled = field("model", "scale_by_sigma", kind=bool) if timed else False
    return config, scaled, field("model", "length", default=1024)


def load_published(folder: Path, name: str = "") -> Official:
    """Read ``model.safetensors`` and ``config.json`` from a folder.

    name: of the model, for the message that says where missing files come from.
    Raises:
        ReproError: missing, truncated, or not exactly the tensors that the configuration implies.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    for file in (path, folder / "config.json"):
        if not file.is_file():
            source = PUBLISHED.get(name, "the authors' page")
            raise ReproError(f"{file}: is missing; put the file of {source} there")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ReproError(
            f"{path}: is not a whole safetensors file ({error}); download it again"
        ) from error
    timed = any(key.startswith("sigma_map.") for key in state)
    config, scaled, length = read_config(folder / "config.json", timed)
    return Official(_network(path, state, config), scaled, length)


def load_training(path: Path, config_path: Path, *, average: bool = True) -> Official:
    """Read a training checkpoint; nothing in it is executed.

    average: overwrite the parameters by their moving average, as the released evaluation does.
    Raises:
        ReproError: unreadable, unsafe, or not exactly the tensors that the configuration implies.
    """
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch raise a dozen different types here
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ReproError(
            f"{path}: cannot be read as a plain checkpoint ({first}); give a file that holds "
            "tensors alone, with the keys model, ema and step"
        ) from error
    if not isinstance(raw, Mapping) or not isinstance(raw.get("model"), Mapping):
        raise ReproError(f"{path}: has no state dict under `model`; give a training checkpoint")
    # Distributed training puts "module." in front of every name.
    state = {key.removeprefix("module."): value for key, value in raw["model"].items()}
    timed = any(key.startswith("sigma_map.") for key in state)
    config, scaled, length = read_config(config_path, timed)
    network = _network(path, state, config)
    if average:
        ema = raw.get("ema")
        shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
        parameters = list(network.named_parameters())
        if not isinstance(shadow, list) or len(shadow) != len(parameters):
            found = len(shadow) if isinstance(shadow, list) else "none"
            raise ReproError(
                f"{path}: expected {len(parameters)} averaged parameters under "
                f"ema.shadow_params, found {found}; give a whole checkpoint or turn averaging off"
            )
        for (name, parameter), value in zip(parameters, shadow, strict=True):
            if not isinstance(value, Tensor) or value.shape != parameter.shape:
                raise ReproError(
                    f"{path}: the averaged parameter for {name} has shape "
                    f"{_shape(value)}, expected {tuple(parameter.shape)}; "
                    "the checkpoint is of another network"
                )
            parameter.data = value.detach().float()
    return Official(network, scaled, length)


# The judge of the paper's samples


class Gpt2:
    """GPT-2 for scoring, on the tensors of its release: ids (B, L) -> logits (B, L, vocab).

    state: names as published, with or without the prefix ``transformer.``; matrices are stored
    (in, out). The head dimension is 64 in every released size.
    """

    def __init__(self, state: Mapping[str, Tensor], head: int = 64) -> None:
        self.w = {k.removeprefix("transformer."): v.float() for k, v in state.items()}
        self.head = head
        self.blocks = len({k.split(".")[1] for k in self.w if k.startswith("h.")})

    def __call__(self, ids: Tensor) -> Tensor:
        w, (b, length) = self.w, ids.shape
        x = w["wte.weight"][ids] + w["wpe.weight"][:length]
        for i in range(self.blocks):
            p = f"h.{i}."
            qkv = self._linear(self._norm(x, p + "ln_1"), p + "attn.c_attn")
            q, k, v = (
                t.view(b, length, -1, self.head).transpose(1, 2) for t in qkv.chunk(3, dim=-1)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self._linear(y.transpose(1, 2).reshape(b, length, -1), p + "attn.c_proj")
            y = F.gelu(self._linear(self._norm(x, p + "ln_2"), p + "mlp.c_fc"), approximate="tanh")
            x = x + self._linear(y, p + "mlp.c_proj")
        return self._norm(x, "ln_f") @ w["wte.weight"].T

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"] + self.w[f"{name}.bias"]


class Gpt2Judge:
    """GPT-2 as a judge of generated ids, without a token in front of them."""

    def __init__(self, folder: Path, device: torch.device, batch: int, head: int = 64) -> None:
        """Read ``model.safetensors`` from a folder.

        Raises:
            ReproError: missing, truncated, or not GPT-2.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = folder / "model.safetensors"
        if not path.is_file():
            raise ReproError(f"{path}: is missing; put model.safetensors of gpt2-large there")
        try:
            self.network = Gpt2(load_file(path, device=str(device)), head)
        except (SafetensorError, OSError) as error:
            raise ReproError(
                f"{path}: is not a whole safetensors file ({error}); download it again"
            ) from error
        needed = ["wte.weight", "wpe.weight", "ln_f.bias", "h.0.attn.c_attn.weight"]
        missing = [key for key in needed if key not in self.network.w]
        if missing:
            raise ReproError(f"{path}: has no tensor {missing[0]}; put gpt2-large there")
        self.device, self.batch = device, batch

    @torch.no_grad()
    def nll(self, tokens: Any) -> np.ndarray:
        """Mean nats per next token, (B,) for tokens (B, L): L - 1 predictions a sequence."""
        parts = []
        for rows in torch.as_tensor(tokens).split(self.batch):
            rows = rows.to(self.device)
            log_p = self.network(rows)[:, :-1].log_softmax(-1)
            parts.append(-log_p.gather(-1, rows[:, 1:, None])[..., 0].double().mean(1).cpu())
        return torch.cat(parts).numpy()


def _network(path: Path, state: Mapping[str, Any], config: Config) -> Transformer:
    expected = shapes(config)
    missing = [key for key in expected if key not in state]
    foreign = [key for key in state if key not in expected]
    wrong = [k for k, v in expected.items() if k in state and _shape(state[k]) != v]
    if missing or foreign or wrong:
        if missing:
            what = f"{len(missing)} of {len(expected)} tensors are missing, first {missing[0]}"
        elif foreign:
            what = f"{len(foreign)} tensors are foreign, first {foreign[0]}"
        else:
            key = wrong[0]
            what = f"{key} has shape {_shape(state[key])}, expected {expected[key]}"
        raise ReproError(
            f"{path}: {what}; it is not the checkpoint that its configuration describes, "
            "download both again"
        )
    with torch.device("meta"):
        network = Transformer(config)
    network.load_state_dict({k: v.float() for k, v in state.items()}, strict=True, assign=True)
    return network.eval()


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
