"""The examples of docs/own.md, run as they stand there."""

import json
import re
import shlex

import pytest

from repro.places import ROOT
from tests.suite.export.test_outputs import call

PAGE = (ROOT / "docs" / "own.md").read_text()


@pytest.fixture
def follow(tmp_path, monkeypatch, capsys):
    """Run the examples of a section; what each of its commands printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_WORK", "work")
    monkeypatch.setenv("COLUMNS", "200")

    def run(heading):
        (section,) = re.findall(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
        said = []
        for language, text in re.findall(r"^```(\w+)$(.*?)^```$", section, re.M | re.S):
            if language == "python":
                exec(compile(text, "docs/own.md", "exec"), {})
            for line in text.strip().splitlines() if language == "sh" else ():
                program, *words = shlex.split(line)
                assert program == "repro"
                status, out = call(monkeypatch, capsys, *words)
                assert status == 0
                said.append(out)
        return said

    return run


def test_images_against_a_reference(follow):
    table, text = follow("Images")
    assert "500 images of images against" in table and "digits-classifier" in table
    for name in ("Fréchet distance", "kernel distance", "precision", "recall"):
        assert name in table
    (fid,) = json.loads(text)["metrics"]
    assert fid["low"] > fid["floor"] > 0, "blurred digits are worse than real ones"


def test_a_checkpoint_of_ones_own(follow):
    drawn, table = follow("A checkpoint of your own")
    assert "wrote 200 images to mine.npz" in drawn
    assert "200 images of mine.npz against" in table


def test_a_diffusers_pipeline(follow):
    drawn, table = follow("A diffusers pipeline")
    assert "wrote 40 images to untrained.npz" in drawn
    assert "40 images of untrained.npz against" in table and "40 images are few" in table
