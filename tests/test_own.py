"""The examples of docs/own.md, run as they stand there."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from repro.places import ROOT

PAGE = (ROOT / "docs" / "own.md").read_text()


def blocks(heading):
    """Language and text of the examples below a heading."""
    (section,) = re.findall(rf"^## {re.escape(heading)}$(.*?)(?=^## |\\Z)", PAGE, re.M | re.S)
    return re.findall(r"^```(\w+)$(.*?)^```$", section, re.M | re.S)


def run(folder, *words):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": "work", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def follow(folder, heading):
    """Run the examples of a section; what each of its commands printed."""
    said = []
    for language, text in blocks(heading):
        if language == "python":
            run(folder, "-c", text)
        elif language == "sh":
            for line in text.strip().splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "repro"
                said.append(run(folder, "-m", "repro", *words))
    return said


@pytest.mark.slow
def test_images_against_a_reference(tmp_path):
    table, text = follow(tmp_path, "Images")
    assert "500 images of images against" in table and "digits-classifier" in table
    assert all(
        name in table for name in ("Fréchet distance", "kernel distance", "precision", "recall")
    )
    (fid,) = json.loads(text)["metrics"]
    assert fid["low"] > fid["floor"] > 0, "blurred digits are worse than real ones"
