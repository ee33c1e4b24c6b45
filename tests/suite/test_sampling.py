"""`repro sample`: images of a person's own model, resumed where they were, or refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repro.errors import ReproError
from repro.suite import sampling, zoo
from repro.suite.commands.sample import _setting
from repro.suite.sampling import Asked

MODULE = """
import torch

calls = []

def good(count, generator, level=0.5):
    calls.append(count)
    if len(calls) == STOP:
        raise ValueError("stopped\\nhere")
    return torch.full((count, 1, 8, 8), level) + 0 * torch.randn(1, generator=generator)

def short(count, generator):
    return good(count - 1, generator)

def odd(count, generator):
    return torch.zeros(count, 2, 8, 8)

def nan(count, generator):
    return torch.full((count, 1, 8, 8), float("nan"))

def noise(count, generator):
    return torch.rand(count, 3, 8, 8, generator=generator) * 2 - 1
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_WORK", "work")

    def write(stop=0):
        name = f"own_module_{tmp_path.name}_{stop}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(MODULE.replace("STOP", str(stop)))
        return name

    return tmp_path, write


def arrays(path):
    with np.load(path) as found:
        return found["arr_0"], json.loads(str(found["about"]))


def test_a_function_of_ones_own(here):
    folder, write = here
    name = write()
    sampling.sample(Asked(sampler=f"{name}:good", count=25, batch=10), folder / "a.npz")
    images, about = arrays(folder / "a.npz")
    assert images.shape == (25, 8, 8) and (images == 191).all()
    assert about["sampler"] == f"{name}:good" and len(about["sha256"]) == 64
    asked = Asked(sampler=f"{name}:good", count=5, settings={"level": -1.0})
    sampling.sample(asked, folder / "b.npz")
    assert (arrays(folder / "b.npz")[0] == 0).all()


def test_batches_are_kept_and_have_streams_of_their_own(here):
    folder, write = here
    name = write()
    asked = Asked(sampler=f"{name}:noise", count=30, batch=10)
    sampling.sample(asked, folder / "a.npz")
    first = arrays(folder / "a.npz")[0]
    assert first.shape == (30, 8, 8, 3) and not (first[:10] == first[10:20]).all()
    kept = sorted((folder / "work" / "samples").glob("*/*.npz"))
    assert len(kept) == 3
    kept[1].unlink()
    sampling.sample(asked, folder / "b.npz")
    assert (arrays(folder / "b.npz")[0] == first).all()


def test_what_is_done_stays_done(here):
    folder, write = here
    asked = Asked(sampler=f"{write(stop=3)}:good", count=40, batch=10)
    with pytest.raises(ReproError, match="failed .ValueError: stopped here.*stays done"):
        sampling.sample(asked, folder / "a.npz")
    assert not (folder / "a.npz").exists()
    assert len(list((folder / "work" / "samples").glob("*/*.npz"))) == 2
    sampling.sample(asked, folder / "a.npz")
    assert len(arrays(folder / "a.npz")[0]) == 40


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("short", {}, "not 10 images"),
        ("odd", {}, r"gave \(10, 2, 8, 8\)"),
        ("nan", {}, "not finite"),
        ("nope", {}, "has no function `nope`"),
        ("good", {"levle": 1}, "takes no `levle`; did you mean|takes no `levle`"),
    ],
)
def test_functions_that_are_refused(name, settings, message, here):
    folder, write = here
    asked = Asked(sampler=f"{write()}:{name}", count=10, batch=10, settings=settings)
    with pytest.raises(ReproError, match=message) as caught:
        sampling.sample(asked, folder / "a.npz")
    assert "\n" not in str(caught.value) and not (folder / "a.npz").exists()


def test_what_is_asked_for_has_to_make_sense(here, tmp_path):
    folder, _ = here
    (folder / "there.npz").write_bytes(b"x")
    for asked, target, message in (
        (Asked(), "a.npz", "give one of"),
        (Asked(sampler="a:b", pipeline=folder), "a.npz", "give one of"),
        (Asked(weights=folder), "a.npz", "--weights and --network go together"),
        (Asked(sampler="a:b"), "a.png", "name a file <name>.npz"),
        (Asked(sampler="a:b"), "there.npz", "is there already"),
        (Asked(sampler="nothing"), "a.npz", "names no function"),
        (Asked(sampler="no_such_module:f"), "a.npz", "cannot be imported"),
        (Asked(pipeline=folder), "a.npz", "no model_index.json"),
    ):
        with pytest.raises(ReproError, match=message):
            sampling.sample(asked, folder / target)
    assert _setting("a=1") == ("a", 1) and _setting("a=b") == ("a", "b")
    with pytest.raises(ReproError, match="key=value"):
        _setting("a")


def test_weights_are_read_strictly(here):
    folder, _ = here
    state, _ = zoo.shipped("digits-unconditional")
    name = "digits-unconditional"
    key = next(iter(state))
    for k, (wrong, message) in enumerate((
        ({n: v for n, v in state.items() if n != key}, key),
        ({**state, key: state[key] * float("nan")}, "finite|NaN"),
        ({**state, key: torch.zeros(3)}, key),
    )):  # fmt: skip
        path = folder / f"{k}.safetensors"
        save_file(wrong, path)
        with pytest.raises(ReproError, match=message):
            sampling.sample(Asked(weights=path, network=name), folder / "a.npz")
    with pytest.raises(ReproError, match="no model 'digit"):
        sampling.sample(Asked(weights=folder / "0.safetensors", network="digit"), folder / "a.npz")
    with pytest.raises(ReproError, match="makes no images; --network takes digits-unconditional"):
        asked = Asked(weights=folder / "0.safetensors", network="digits-classifier")
        sampling.sample(asked, folder / "a.npz")
