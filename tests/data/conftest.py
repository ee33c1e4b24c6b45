import sys
from pathlib import Path

import pytest

from repro.data import cache, catalogue, tokens

sys.path.insert(0, str(Path(__file__).parent))  # for archives_made


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty cache folder of its own, without network."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REPRO_DATA", str(folder))
    monkeypatch.setenv("REPRO_OFFLINE", "1")
    return folder


@pytest.fixture
def have():
    """Load a real data set; skips only where it is not cached and the network is forbidden."""

    def load(name):
        if not catalogue.is_cached(name) and cache.offline():
            pytest.skip(f"{name} is not in the cache and REPRO_OFFLINE is set")
        return catalogue.load(name)

    return load


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE with single characters and one merge, `th`."""
    symbols = [*(chr(c) for c in range(33, 127)), "Ġ", "Ċ", "th"]
    return tokens.build_gpt2({s: i for i, s in enumerate(symbols)}, [("t", "h")])
