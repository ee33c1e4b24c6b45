import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for archives_made


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty cache folder of its own, without network."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REPRO_DATA", str(folder))
    monkeypatch.setenv("REPRO_OFFLINE", "1")
    return folder
