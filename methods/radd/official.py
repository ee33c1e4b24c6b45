"""The released checkpoints of RADD and SEDD.

Two layouts:

- published: a folder with ``model.safetensors`` and ``config.json``, the complete training
  configuration, either at the top level or under a key ``config``;
- training: one file, a dict of ``optimizer``, ``model``, ``ema`` and ``step``, where ``ema`` holds
  ``shadow_params``, the averaged parameters in the order in which the network lists them.

Which network it is shows in the tensors: only SEDD has ``sigma_map``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from methods.radd.networks import Gpt2, Gpt2Size
from repro.nets.transformer import MEDIUM, SMALL, Config, Transformer
from repro.official import files
from repro.official.reader import Layout, OfficialFile, load


class Published(NamedTuple):
    """A published model: who hands it out, and its sizes."""

    source: str
    config: Config


PUBLISHED = {
    "radd-lambda-dce": Published("JingyangOu/radd-lambda-dce on Hugging Face", SMALL),
    "radd-t-dce": Published("JingyangOu/radd-t-dce on Hugging Face", SMALL),
    "sedd-small": Published("louaaron/sedd-small on Hugging Face", replace(SMALL, cond=128)),
    "sedd-medium": Published("louaaron/sedd-medium on Hugging Face", replace(MEDIUM, cond=128)),
}
"""The published models by the name of their folder."""

CONFIG = "config.json of the model"
TRAINING = Layout(
    "a training checkpoint of RADD or SEDD that its configuration describes",
    group="model",
    averages=("ema", "shadow_params"),
)
JUDGE = Layout(
    "model.safetensors of gpt2-large",
    prefixes=("transformer.",),
    extra=("h.*.attn.bias", "h.*.attn.masked_bias", "lm_head.weight"),
)
"""Causal masks and the head, which is tied to the embedding, may be stored too."""


class Official(NamedTuple):
    """A loaded model: the network (float32, eval mode), whether its score is scaled, its length."""

    network: Transformer
    scaled: bool
    length: int


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint, in the order of the network."""
    d, n, cond = config.d, config.vocab + 1, config.cond or 0
    timed = config.cond is not None
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
    raw = files.read_json(path, CONFIG)
    if isinstance(raw, Mapping) and isinstance(raw.get("config"), Mapping):
        raw = raw["config"]

    def field(*keys: str, kind: type = int, default: Any = None) -> Any:
        value: Any = raw
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        value = default if value is None else value
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
            wrong = f"field {'.'.join(keys)} is missing or not of type {kind.__name__}"
            raise files.refusal(path, wrong, f"fetch {CONFIG} again")
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

    name: of a model of `PUBLISHED`, whose sizes the files must have; "" for any.
    Raises:
        ReproError: see `repro.official.reader.load`; or the sizes are those of another model.
    """
    published = PUBLISHED.get(name)
    source = published.source if published else "the authors' page"
    layout = Layout(f"model.safetensors of {source}, beside its config.json")
    loaded = _load(OfficialFile.open(folder / "model.safetensors", layout), folder / "config.json")
    if published and loaded.network.config != published.config:
        wrong = f"describes {loaded.network.config}, but {name} is {published.config}"
        raise files.refusal(folder / "config.json", wrong, f"put both files of {source} there")
    return loaded


def load_training(path: Path, config_path: Path, *, ema: bool = True) -> Official:
    """Read a training checkpoint; nothing in it is executed.

    ema: take the moving averages of the parameters, as the released evaluation does, or else the
        parameters of the last step.
    Raises:
        ReproError: see `repro.official.reader.load`.
    """
    return _load(OfficialFile.open(path, TRAINING), config_path, ema=ema)


def _load(file: OfficialFile, config_path: Path, *, ema: bool = True) -> Official:
    state = file.tensors()
    timed = any(key.startswith("sigma_map.") for key in state)
    config, scaled, length = read_config(config_path, timed)
    with torch.device("meta"):
        network = Transformer(config)
    return Official(file.fill(network, state, ema=ema), scaled, length)


class Gpt2Judge:
    """GPT-2 as a judge of generated ids, without a token in front of them."""

    def __init__(
        self, folder: Path, device: torch.device, batch: int, size: Gpt2Size | None = None
    ) -> None:
        """Read ``model.safetensors`` from a folder.

        size: that of the paper's judge, GPT-2 large, if None.
        Raises:
            ReproError: see `repro.official.reader.load`; GPT-2 of another size is refused.
        """
        with torch.device("meta"):
            network = Gpt2(size)
        network = load(folder / "model.safetensors", network, JUDGE)
        self.network = network.to(device).requires_grad_(False)
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
