"""Measurements of samples (images, text) and of networks (cost).

Importing this package is cheap: the functions below load their module, and the libraries behind it,
when they are first asked for.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "frechet_distance": "fid",
    "gaussian_statistics": "fid",
    "frechet_from_features": "fid",
    "inception_features": "fid",
    "clean_fid": "fid",
    "precision_recall": "fid",
    "psnr": "image",
    "ssim": "image",
    "lpips": "image",
    "NGram": "text",
    "perplexity": "text",
    "generative_perplexity": "text",
    "unigram_entropy": "text",
    "NFECounter": "cost",
    "bops": "cost",
    "count_macs": "cost",
    "count_parameters": "cost",
    "interleaved": "cost",
    "latency": "cost",
    "model_size_bytes": "cost",
    "peak_memory": "cost",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
