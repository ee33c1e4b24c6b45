"""Tables, figures, the ledger and the page: everything that is read off the runs.

Imports no torch, and matplotlib and pandas only once something is drawn or tabulated.

- `Results` and `style`: what the figure functions of a method use.
- `write_tables`, `write_figures`: the outputs of one method at one scale.
- `write_ledger`, `write_comparisons`, `write_page`: the outputs of a scale over all methods.
- `results_readme`: the ledger over all committed scales.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Results": "results",
    "write_tables": "tables",
    "write_figures": "figures",
    "write_ledger": "ledger",
    "results_readme": "ledger",
    "write_comparisons": "comparisons",
    "write_page": "page",
}

__all__ = [*_HOMES, "style"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name == "style":
        return importlib.import_module(f"{__name__}.style")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
