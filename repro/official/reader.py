"""One strict reader of published checkpoints.

A `Layout` declares how a file holds the weights of a network; `load` reads it:

    with torch.device("meta"):
        network = UNet()
    network = load(path, network, Layout("the DDPM checkpoint of CIFAR-10"))

What a file must hold follows from the state dict of the network, which may be on the meta device:
every name, no other, every shape (a number is not a vector of one), and the kind of number. Where
the network has floats, the file has finite real ones of 16, 32 or 64 bits, which come back as
float32; integers, booleans, complex, sparse and quantised tensors are refused. The prefixes
``module.`` and ``_orig_mod.`` of wrapped networks are cut off. Averaged weights are never replaced
by those of the last step, unless the caller says ``ema=False``.

`OfficialFile` has the same steps one by one, for files that hold more than one network. All raise
`ReproError` in the style of `repro.official.files`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.official import files

Network = TypeVar("Network", bound=nn.Module)

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_WRAPPERS = ("module.", "_orig_mod.")
_LEFTOVERS = {"optimizer", "optimizer_states", "opt_state", "step", "global_step", "epoch"}


@dataclass(frozen=True)
class Layout:
    """How a published file holds the weights of a network.

    what: what the file is called, as in "put <what> there".
    group: the key of the state dict in a training checkpoint; "" where the file is one.
    averages: keys that lead to the list of averages of the trainable parameters, in the order of
        the network; () where the weights are the ones that the paper uses.
    prefixes: the names may begin with one of these, which is cut off.
    names: published name -> name in the network, where they differ.
    extra: patterns of tensors that the file may hold besides; they are dropped.
    own: tensors that the network makes itself, whatever the file says; it must not be on the meta
        device then.
    mentions: classes that the file names beside its tensors.
    """

    what: str
    group: str = ""
    averages: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()


def load(path: str | Path, network: Network, layout: Layout, *, ema: bool = True) -> Network:
    """The network with the weights of a published file: float32, in eval mode.

    network: of any device; one on the meta device comes back on the CPU.
    ema: take the averaged weights of a file that holds both, as the papers do, or else those of
        the last step.
    Raises ReproError: the file is missing, damaged, or not exactly what the network needs.
    """
    file = OfficialFile.open(path, layout)
    return file.fill(network, file.tensors(), ema=ema)


@dataclass(frozen=True)
class OfficialFile:
    """An opened file: its path, its layout and its content, which is not checked yet."""

    path: Path
    layout: Layout
    content: Any

    @classmethod
    def open(cls, path: str | Path, layout: Layout) -> OfficialFile:
        """Raises ReproError: missing, damaged, or no file of tensors."""
        path = Path(path)
        return cls(path, layout, files.read(path, layout.what, layout.mentions))

    def refusal(self, wrong: str, remedy: str = "") -> ReproError:
        """The error ``<path>: <wrong>; <remedy>``, with "give <what>" where no remedy is said."""
        return files.refusal(self.path, wrong, remedy or f"give {self.layout.what}")

    def tensors(self, group: str | None = None) -> dict[str, Tensor]:
        """The state dict, without prefixes and without what the layout drops; values unchecked.

        group: its key, "" where the content is one; that of the layout if None.
        Raises ReproError: there is none, it is of an optimiser, or holds more than tensors.
        """
        state, place = self.content, self.layout.group if group is None else group
        if isinstance(state, Mapping):
            if {"state", "param_groups"} <= state.keys():
                raise self.refusal("is the state of an optimiser, without weights")
            if place and place not in state:
                raise self._without(state, place)
            state = state[place] if place else state
        if not isinstance(state, Mapping):
            raise self.refusal(f"holds a {type(state).__name__} in place of a state dict")
        if not state:
            raise self.refusal("holds no tensors")
        return self._named(state)

    def _without(self, content: Mapping[Any, Any], place: str) -> ReproError:
        held = ", ".join(f"`{key}`" for key in list(content)[:4]) or "nothing"
        if _LEFTOVERS & content.keys():
            return self.refusal(
                f"is a training checkpoint without weights: it holds {held}, and no `{place}`"
            )
        return self.refusal(f"has no `{place}`: it holds {held}")

    def _named(self, state: Mapping[Any, Any]) -> dict[str, Tensor]:
        layout, named = self.layout, {}
        for key, value in state.items():
            if not isinstance(value, Tensor):
                wrong = f"`{key}` is a {type(value).__name__}, not a tensor"
                if _LEFTOVERS & state.keys():
                    wrong = f"is a training checkpoint, not a plain state dict: {wrong}"
                raise self.refusal(wrong)
            name = _bare(str(key), (*_WRAPPERS, *layout.prefixes))
            if any(fnmatchcase(name, p) for p in (*layout.extra, *layout.own)):
                continue
            name = layout.names.get(name, name)
            if name in named:
                raise self.refusal(f"holds `{name}` twice, once as `{key}`")
            named[name] = value
        return named

    def match(
        self, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The tensors found, float32 where floats are expected, in the order of ``expected``.

        Raises ReproError: not these names, kinds of number or shapes, or values not finite.
        """
        self.match_names(expected, found)
        for name, like in expected.items():
            self._check_kind(name, found[name], like.dtype)
        wrong = [name for name, like in expected.items() if found[name].shape != like.shape]
        if wrong:
            name, counted = wrong[0], f"{len(wrong)} of {len(expected)} tensors differ"
            raise self.refusal(
                f"`{name}` has shape {tuple(found[name].shape)}, expected "
                f"{tuple(expected[name].shape)} ({counted})"
            )
        return {k: self._converted(k, found[k], like.dtype) for k, like in expected.items()}

    def match_names(self, expected: Iterable[str], found: Iterable[str]) -> None:
        """Raises ReproError, with the first name at fault and counts, unless both are the same."""
        wanted, held = dict.fromkeys(expected), dict.fromkeys(found)
        missing, foreign = wanted.keys() - held.keys(), held.keys() - wanted.keys()
        wrong = []
        if missing:
            first = next(name for name in wanted if name in missing)
            wrong.append(f"lacks `{first}` ({len(missing)} of {len(wanted)} tensors missing)")
        if foreign:
            first = next(name for name in held if name in foreign)
            wrong.append(f"holds `{first}` ({len(foreign)} foreign)")
        if wrong:
            raise self.refusal(" and ".join(wrong))

    def value(
        self,
        name: str,
        found: Any,
        shape: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """One tensor, float32 if ``dtype`` is a float, else exactly of it; of any shape if None.

        Raises ReproError: no tensor, of another kind of number or shape, or not finite.
        """
        if not isinstance(found, Tensor):
            raise self.refusal(f"`{name}` is a {type(found).__name__}, not a tensor")
        self._check_kind(name, found, dtype)
        if shape is not None and tuple(found.shape) != tuple(shape):
            raise self.refusal(f"`{name}` has shape {tuple(found.shape)}, expected {tuple(shape)}")
        return self._converted(name, found, dtype)

    def _check_kind(self, name: str, found: Tensor, dtype: torch.dtype) -> None:
        kind = _storage(found) or str(found.dtype).removeprefix("torch.")
        if _storage(found) or found.dtype not in (FLOATS if dtype.is_floating_point else (dtype,)):
            due = "floats" if dtype.is_floating_point else str(dtype).removeprefix("torch.")
            raise self.refusal(f"`{name}` is {kind} where {due} are due")

    def _converted(self, name: str, found: Tensor, dtype: torch.dtype) -> Tensor:
        if not dtype.is_floating_point:
            return found.detach()
        value = found.detach().float()
        finite = torch.isfinite(value)
        if not finite.all():
            bad = int((~finite).sum())
            raise self.refusal(
                f"`{name}` holds NaN or infinity ({bad} of {finite.numel()} values)",
                f"fetch {self.layout.what} again",
            )
        return value

    def averages(self, network: nn.Module) -> dict[str, Tensor]:
        """The averages of the trainable parameters by name, from the list that the layout names.

        Raises ReproError: there are none, or they are not those of this network.
        """
        place, found = ".".join(self.layout.averages), self.content
        for key in self.layout.averages:
            found = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(found, list | tuple) or not found:
            raise self.without_averages(place)
        trained = {k: p.shape for k, p in network.named_parameters() if p.requires_grad}
        if len(found) != len(trained):
            raise self.refusal(
                f"`{place}` lists {len(found)} averages, the network trains {len(trained)}"
            )
        return {
            name: self.value(f"{place}[{i}], {name}", found[i], shape)
            for i, (name, shape) in enumerate(trained.items())
        }

    def without_averages(self, place: str) -> ReproError:
        """The error for a file that lacks the averages that the paper uses."""
        return self.refusal(
            f"holds no averaged weights (`{place}`), which the paper uses",
            f"give {self.layout.what} with them, or take those of the last step with ema=False",
        )

    def fill(self, network: Network, found: Mapping[str, Tensor], *, ema: bool = True) -> Network:
        """The network with exactly these tensors, in eval mode; see `load`."""
        expected = network.state_dict()
        own = {name: expected.pop(name) for name in self.layout.own}
        state = self.match(expected, found)
        if ema and self.layout.averages:
            state |= self.averages(network)
        return assign(network, {**own, **state})


def assign(network: Network, state: Mapping[str, Tensor]) -> Network:
    """The network with a state that `OfficialFile.match` has checked, in eval mode."""
    on_meta = any(v.is_meta for v in network.state_dict().values())
    network.load_state_dict(state, assign=on_meta)
    return network.eval()


def _bare(name: str, prefixes: tuple[str, ...]) -> str:
    while prefix := next((p for p in prefixes if name.startswith(p)), ""):
        name = name.removeprefix(prefix)
    return name


def _storage(value: Tensor) -> str:
    """How a tensor is stored, if not as plain numbers."""
    if value.is_quantized:
        return "quantised"
    if value.is_meta:
        return "without values"
    if value.is_nested:
        return "nested"
    return "" if value.layout is torch.strided else str(value.layout).removeprefix("torch.")
