"""Calibration files of Q-Diffusion."""

import torch

from repro.official.calibration import load_calibration
from tests.official.making import refused, save


def calibration(steps=10, samples=6, context=False):
    torch.manual_seed(0)
    t = torch.arange(steps - 1, -1, -1)[:, None].expand(steps, samples).clone()
    content = {"xs": torch.randn(steps, samples, 3, 8, 8), "ts": t * 100}
    if context:
        content |= {k: torch.randn(steps, samples, 7, 12) for k in ("cs", "ucs")}
    return content


def test_calibration_files(tmp_path):
    content = calibration()
    file = load_calibration(save(content, tmp_path / "cali.pt"))
    chosen = file.calibration_set(4, 3)
    assert chosen.x.shape == (12, 3, 8, 8)
    assert chosen.t.tolist() == [900] * 3 + [700] * 3 + [500] * 3 + [300] * 3
    assert torch.equal(chosen.x[3:6], content["xs"][2, :3])
    refused(lambda: file.uniform(11, 1), "10 steps", "ask for fewer")
    refused(lambda: file.uniform(5, 7), "6 samples", "ask for fewer")


def test_calibration_files_with_contexts(tmp_path):
    content = calibration(context=True)
    file = load_calibration(save(content, tmp_path / "cali.pt"))
    x, t, c = file.uniform(5, 2)
    assert len(x) == len(t) == len(c) == 20
    assert torch.equal(x[:10], x[10:]) and torch.equal(t[:10], t[10:])
    assert torch.equal(c[:2], content["cs"][0, :2]) and torch.equal(c[12:14], content["ucs"][2, :2])
    refused(lambda: file.calibration_set(2, 2), "uniform")


def test_foreign_calibration_files_are_refused(tmp_path):
    path, good, paired = tmp_path / "cali.pt", calibration(), calibration(context=True)
    cases = {
        "lacks `ts`": {"xs": good["xs"]},
        "lacks `ucs`": {**good, "cs": torch.zeros(10, 6, 2)},
        "holds `labels`": {**good, "labels": torch.zeros(1)},
        "`xs` has shape (10, 3)": {**good, "xs": torch.zeros(10, 3)},
        "`ts` has shape (10, 5)": {**good, "ts": torch.zeros(10, 5)},
        "`ts` has shape (10, 6, 1)": {**good, "ts": torch.zeros(10, 6, 1)},
        "but `ucs` (10, 6, 1, 2)": {**paired, "ucs": torch.zeros(10, 6, 1, 2)},
        "`xs` holds NaN": {**good, "xs": good["xs"] / 0 * 0},
        "holds a list": [good["xs"]],
        "`xs` is a list": {**good, "xs": [1.0]},
    }
    for message, content in cases.items():
        save(content, path)
        refused(lambda: load_calibration(path), "cali.pt", message, "; ")
