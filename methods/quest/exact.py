"""Identities and printed values that the implementation has to meet, each as an error or a count.

The numbers are those that the released quantiser prints for the toy tensors below, and closed
forms.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from methods.quest import method as qu
from repro.quant import rounded
from repro.quant.affine import Grid
from repro.quant.calibration import CalibrationSet
from repro.quant.ranges import minmax_grid
from repro.quant.rounding import fixed_rounding
from repro.quant.search import dimension_grid, percentile_grid, released_edge_grid

X = torch.tensor([-1, -0.6, -0.25, -0.1, 0, 0.05, 0.3, 0.7, 1.5])


def _gap(value: Tensor, expected: Tensor | list[float] | float) -> float:
    return float((value.double() - torch.as_tensor(expected, dtype=torch.float64)).abs().max())


def grid_errors() -> dict[str, float]:
    """Largest deviation from the printed δ, z and x̂ at 4 bits (edges: 8), by item."""
    ramp = percentile_grid(torch.linspace(-1, 3, 100_001), 4)
    errors = {
        "ramp-step": _gap(ramp.delta, 0.266133),
        "ramp-closed-form": _gap(ramp.delta, 4 * 0.998 / 15),
        "ramp-zero-point": _gap(ramp.zero_point, 4),
    }
    nine = percentile_grid(X, 4)
    printed = [-0.99616, -0.664107, -0.332053, -0.166027, 0, 0, 0.332053, 0.664107, 1.49424]
    errors["nine-step"] = _gap(nine.delta, 0.166027)
    errors["nine-zero-point"] = _gap(nine.zero_point, 6)
    errors["nine-values"] = _gap(nine(X), printed)

    two = torch.stack([X[:8], 10 * X[:8]]).reshape(1, 2, 2, 4)
    grid = dimension_grid(two, 4, minmax_grid, 1)
    assert isinstance(grid, Grid)
    errors["channels-step"] = _gap(grid.delta.flatten(), [0.113333, 1.133333])
    errors["channels-zero-point"] = _gap(grid.zero_point.flatten(), [9, 9])
    tokens = dimension_grid(two.reshape(1, 2, 8).transpose(1, 2), 4, minmax_grid, -1)
    shapes = ((tuple(grid.delta.shape), (1, 2, 1, 1)), (tuple(tokens.delta.shape), (1, 1, 2)))
    errors["channels-shape"] = float(sum(found != wanted for found, wanted in shapes))

    edge = released_edge_grid(X)
    errors["edge-step"] = _gap(edge.delta, 0.00585938)
    errors["edge-codes"] = float(abs(edge.lo + 257) + abs(edge.hi - 256))
    return errors


def outliers(generator: torch.Generator) -> dict[str, float]:
    """200,000 values 0.5 N(0, 1), 20 of them 30: clipping wins the search and destroys them.

    outliers-ratio: error of clipping at percentile .9999 over that of covering. outliers-clipping,
    outliers-covering: relative deviation from the printed errors .0836 and .2250. outliers-left:
    what is left of a value of 30, as a fraction of it, under the range that the search chooses.
    """
    x = 0.5 * torch.randn(200_000, generator=generator)
    x[:20] = 30
    mse = [
        float((percentile_grid(x, 4, percentiles=(p,))(x) - x).square().mean())
        for p in (0.9999, 0.99999)
    ]
    left = float(percentile_grid(x, 4)(torch.tensor(30.0))) / 30
    return {
        "outliers-ratio": mse[0] / mse[1],
        "outliers-clipping": abs(mse[0] / 0.0836 - 1),
        "outliers-covering": abs(mse[1] / 0.2250 - 1),
        "outliers-left": left,
    }


def theorem_errors(generator: torch.Generator) -> dict[str, float]:
    """Theorem 3.2 for L(z) = ‖z - y‖², whose second-order expansion is exact: with Δ = K ε,

    Σ_{i=1..K} [2 εᵀ(z + (i - 1)ε - y) + εᵀε] = L(z + Δ) - L(z).
    """
    z, y, step = torch.randn(3, 64, generator=generator, dtype=torch.float64)
    errors = {}
    for parts in (1, 7, 100):
        eps = step / parts
        total = sum(2 * eps @ (z + (i - 1) * eps - y) + eps @ eps for i in range(1, parts + 1))
        change = (z + step - y).square().sum() - (z - y).square().sum()
        errors[f"theorem-{parts}"] = float((total - change).abs())
    return errors


def tuned_weight_errors() -> dict[str, float]:
    """With directions fixed, ∂ŵ/∂w is 1 inside the range and 0 outside; w + δ gives ŵ + δ."""
    grid = Grid(torch.tensor(0.25), torch.tensor(8.0), 0, 15)
    w = torch.tensor([-5.0, -0.6, 0.1, 0.9, 5.0], requires_grad=True)
    rounding = fixed_rounding(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    [gradient] = torch.autograd.grad(grid(w, rounding).sum(), w)
    with torch.no_grad():
        moved = grid(w + grid.delta, rounding) - grid(w, rounding)
    return {
        "weight-gradient": _gap(gradient, [0, 1, 1, 1, 0]),
        "weight-moves": _gap(moved[1:4], 0.25),
    }


def lookup_error(steps: int = 200, tables: int = 20) -> float:
    """Steps of sampling at which the table changes, against 0, 10, ..., 190: how many differ."""
    grid = torch.arange(steps).flip(0) * 5
    clock = qu.Clock(grid[:: steps // tables])
    entries = [clock.look_up(float(t)) for t in grid]
    changes = {0} | {i for i in range(1, steps) if entries[i] != entries[i - 1]}
    in_order = entries == sorted(entries) and len(set(entries)) == tables
    return float(len(changes ^ set(range(0, steps, steps // tables))) + (not in_order))


def frozen(network: nn.Module, data: CalibrationSet) -> dict[str, int]:
    """Both stages on a 4-bit copy: tensors that changed although they must not, and tuned ones that
    did not.

    Also: α, δ and z of weights, which may not change whatever is tuned, and whether the copy
    computes the same as before where nothing was learned (rates of 0).
    """
    base = qu.quantised(network, data, 4, 4, qu.Granularity(channels=True, tables=True))
    state = rounded.export(base)
    lesson = qu.lesson(network, data)
    found = {"changed-outside": 0, "changed-grids": 0, "same-inside": 0}
    for stage in ("tla", "cma"):
        copied = copy.deepcopy(base)
        before = qu.tensors(copied)
        with qu.Tuner(copied, lesson, state, stage, qu.RELEASED, rate=100.0) as tuner:
            tuner.step(torch.arange(4))
        changed = _changed(before, qu.tensors(copied))
        weights = {f"{name}.layer.{leaf}" for name in tuner.tuned for leaf in ("weight", "bias")}
        allowed = weights | _tuned_steps(changed, stage, tuner.tuned)
        found["changed-outside"] += len(changed - allowed)
        found["changed-grids"] += sum(".weight_grid." in name for name in changed)
        found["changed-grids"] += len(_changed(state, rounded.export(copied)))
        found["same-inside"] += len(weights - changed)
    with qu.Tuner(base, lesson, state, "tla", qu.RELEASED, rate=0.0) as tuner:
        expected = _eps(base, data)
        tuner.step(torch.arange(4))
    found["changed-function"] = int(not torch.equal(_eps(base, data), expected))
    return found


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(after[name], value)}


def _tuned_steps(changed: set[str], stage: str, tuned: Iterable[str]) -> set[str]:
    """The changed step sizes of activations that a stage may tune: those of its layers (TLA), or
    all but those of the time embedding (CMA).
    """
    own = tuple(f"{name}.activations" for name in tuned)
    return {
        name
        for name in changed
        if name.endswith(".delta")
        and (".activations." in name or "quantised_attend" in name)
        and (name.startswith(own) if stage == "tla" else "emb" not in name)
    }


@torch.no_grad()
def _eps(network: nn.Module, data: CalibrationSet) -> Tensor:
    return torch.cat([network(data.x[index], data.t[index]) for index in qu.entries_of(data)])
