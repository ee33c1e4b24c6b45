"""Invented papers and runs that exercise every part of the report; no number here was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from repro import store
from repro.suite import records, verdict
from repro.suite.cards import library
from repro.suite.report import inputs

SCALE, LARGER = "small", "gpu"
SEEDS = 3
STEPS = [8, 16, 32, 64, 128]


def paper(slug: str, short: str, title: str, **given) -> dict:
    return {
        "slug": slug,
        "short": short,
        "title": title,
        "authors": ["Ada Example", "Bo Sample", "Cy Placeholder"],
        "venue": "Conference on Invented Results",
        "year": 2024,
        "arxiv": "2400.00001",
        "doi": None,
        "licence": {"code": "Apache-2.0", "weights": None, "data": "CC BY 4.0"},
        "repository": {"url": f"https://example.org/{slug}", "commit": "60b772df0c1d"},
        **given,
    }


def claim(id: str, statement: str, **given) -> dict:
    return {
        "id": id,
        "statement": statement,
        "where": "Table 3",
        "evidence": "paper",
        "best_tier": "reduced",
        "kind": {"exact": "theorem", "structural": "structure"}.get(
            given.get("best_tier", ""), "empirical"
        ),
        **given,
    }


MASKED = paper(
    "masked-text",
    "MaskedText",
    "Masked text diffusion needs no clock",
    field="text",
    summary="Absorbing diffusion replaces tokens by a mask and learns to undo that. This invented "
    "paper drops the noise level from the network's input, so that a sampling step which changes "
    "nothing can reuse the previous output. Four losses turn out to be one function, `L(c)`.",
    claims=[
        claim(
            "expected-evaluations",
            "The expected number of network evaluations has the closed form n(1 − (1 − 1/n)^l).",
            metric="relative error",
            where="Equation 3.4, Figure 2a",
            best_tier="exact",
            evidence="derived",
        ),
        claim(
            "parameters",
            "The small network has 162,265,682 parameters.",
            metric="parameters",
            method=162265682,
            best_tier="structural",
            evidence="measured",
        ),
        claim(
            "fewer-evaluations",
            "Caching needs at most 65 % of the evaluations when there are as many steps as tokens.",
            metric="evaluations",
            baseline=1024,
            method=647.5,
            setting="length 1024, 1024 steps",
        ),
        claim(
            "faster",
            "Sampling is up to 3.6 times faster than the baseline at 4096 steps.",
            metric="time per sample",
            unit="s",
            baseline=109.9,
            method=30.7,
            setting="medium network, 4096 steps, batch 1, a GPU with 24 GB",
            where="Table 5",
        ),
        claim(
            "clock-free",
            "Removing the clock does not hurt the likelihood, in all of ten comparisons.",
            metric="perplexity",
            baseline=65.38,
            method=61.99,
            setting="small network, 400k updates, mean of five test sets",
            where="Table 1",
        ),
        claim(
            "losses-differ",
            "The fourth loss gives clearly better models than the first.",
            metric="perplexity",
            baseline="61.99",
            method="61.52",
            where="Table 1",
        ),
        claim(
            "zero-shot",
            "Better zero-shot perplexity than the baseline on five sets.",
            metric="perplexity",
            baseline=50.42,
            method=46.42,
            where="Table 2",
            best_tier="paper",
            evidence="unsure",
        ),
    ],
    tables=[
        {
            "id": "t3",
            "title": "Time and quality by steps",
            "where": "Table 3",
            "evidence": "paper",
            "unit": "s",
            "columns": ["Network", "32", "64", "128", "256", "512", "1024", "2048", "4096"],
            "rows": [
                ["baseline", 0.52, 0.99, 1.91, 3.78, 7.49, 14.93, 29.82, 59.56],
                ["cached", 0.45, 0.8, 1.54, 2.96, 5.32, 8.39, 12.28, 18.2],
            ],
            "note": "Medium network, batch 16.",
        },
        {
            "id": "t9",
            "title": "Recalled numbers",
            "where": "Table 9",
            "evidence": "unsure",
            "columns": ["Network", "A"],
            "rows": [["baseline", 1.5], ["cached", None]],
        },
    ],
    notes=[
        "The paper's weight decay is 0.03, its code has 0.",
        "Table 4 needs `float32` sampling.",
    ],
)

MASKED_RUN = {
    "paper": "masked-text",
    "models": {
        "denoiser": {
            "train": "methods.masked_text.arms:train",
            "title": "Denoiser",
            "params": {"updates": None, "lr": 2e-3},
            "per_seed": True,
        }
    },
    "arms": {
        "exact": {
            "run": "methods.masked_text.arms:exact",
            "title": "Identities",
            "deterministic": True,
        },
        "cached": {
            "run": "methods.masked_text.arms:sample",
            "title": "Cached",
            "models": ["denoiser"],
            "params": {"steps": None, "length": 64},
        },
        "baseline": {
            "run": "methods.masked_text.arms:sample",
            "title": "With clock",
            "models": ["denoiser"],
            "params": {"steps": None, "length": 64},
            "baseline": True,
        },
    },
    "measurements": {
        "error": {
            "title": "Relative error",
            "format": ".2e",
            "at": {"arms": "exact", "item": ["closed-form", "weights"]},
        },
        "params": {"title": "Parameters", "at": {"arms": "exact"}},
        "nll": {"title": "Test loss", "unit": "nats/char", "direction": "lower", "format": ".3f"},
        "entropy": {"title": "Entropy", "unit": "nats", "direction": "higher", "format": ".3f"},
        "nfe": {
            "title": "Evaluations",
            "direction": "lower",
            "format": ".1f",
            "at": {"steps": "$steps"},
        },
        "latency": {
            "title": "Latency",
            "unit": "ms",
            "direction": "lower",
            "timing": True,
            "at": {"steps": "$steps"},
        },
        "loss": {"title": "Training loss", "unit": "nats"},
    },
    "scales": {
        scale: {"seeds": SEEDS, "params": {"steps": STEPS, "updates": 800}}
        for scale in (SCALE, LARGER)
    },
    "figures": [
        {
            "id": "evaluations",
            "run": "tests.suite.report.drawings:evaluations",
            "title": "Evaluations by steps",
            "caption": "Cached sampling saves evaluations as soon as steps outnumber tokens; "
            "bands are the range over seeds.",
        },
        {
            "id": "quality",
            "run": "tests.suite.report.drawings:quality",
            "title": "Quality against cost",
            "caption": "At equal evaluations both samplers give the same loss.",
        },
    ],
    "tables": [
        {
            "id": "quality",
            "title": "Likelihood and entropy",
            "caption": "One scoring for all networks: the same masks, the same windows.",
            "measurements": ["nll", "entropy"],
            "arms": ["cached", "baseline"],
        }
    ],
}


MASKED_CHECKS = {
    "claims": {
        "expected-evaluations": {
            "checks": [
                {
                    "id": "closed-form",
                    "tier": "exact",
                    "expect": "abs(error[exact, item=closed-form]) <= 1e-9",
                    "why": "a closed form: only rounding may differ",
                }
            ]
        },
        "parameters": {
            "checks": [
                {
                    "id": "parameters",
                    "tier": "structural",
                    "expect": "params[exact] == 162265682",
                    "why": "counted on the network of the paper",
                    "comparable": True,
                }
            ]
        },
        "fewer-evaluations": {
            "checks": [
                {
                    "id": "fewer-evaluations",
                    "tier": "reduced",
                    "expect": "nfe[cached, steps=64] / nfe[baseline, steps=64] <= 0.65",
                    "why": "The formula gives 0.635 when steps equal tokens; 0.65 leaves 2 % for "
                    "sampling.",
                },
                {
                    "id": "fewer-evaluations-long",
                    "tier": "reduced",
                    "expect": "nfe[cached, steps=128] / nfe[baseline, steps=128] <= 0.5",
                    "why": "The formula gives 0.39 with twice as many steps as tokens.",
                    "paper": "0.393 (from the formula)",
                },
            ]
        },
        "faster": {
            "checks": [
                {
                    "id": "faster",
                    "tier": "reduced",
                    "expect": "latency[baseline, steps=128] / latency[cached, steps=128] >= 2",
                    "why": "The ideal gain is 2.5; the paper reaches four fifths of it.",
                }
            ]
        },
        "clock-free": {
            "checks": [
                {
                    "id": "clock-free",
                    "tier": "reduced",
                    "expect": "nll[cached] <= nll[baseline] + 0.02",
                    "why": "The paper gains 1 to 10 % of perplexity, 0.01 to 0.1 nats a token.",
                }
            ]
        },
        "losses-differ": {
            "checks": [
                {
                    "id": "losses-differ",
                    "tier": "reduced",
                    "expect": "entropy[cached] - entropy[baseline] >= 0.5",
                    "why": "The paper calls the difference clear; half a nat is what a reader "
                    "would see.",
                }
            ],
            "findings": [
                {
                    "text": "The two losses have the same gradient, so the paper's difference is "
                    "noise of training: swapping the draw of the noise level moves the result by "
                    "as much.",
                }
            ],
        },
    }
}


def masked_runs(rng: np.random.Generator) -> dict:
    runs: dict = {
        ("exact", 0): [
            ("error", {"item": "closed-form"}, 3.1e-16),
            ("error", {"item": "weights"}, 0.0),
            ("params", {}, 162265682),
        ]
    }
    for seed in range(SEEDS):
        for arm, level in (("cached", 0.0), ("baseline", 1.0)):
            rows = [
                ("nll", {}, 2.29 + 0.005 * level + 0.004 * rng.standard_normal()),
                ("entropy", {}, 2.80 - 0.01 * level + 0.01 * rng.standard_normal()),
            ]
            for n in STEPS:
                ideal = n * (1 - (1 - 1 / n) ** 64)
                nfe = n if level else ideal * (1 + 0.004 * rng.standard_normal())
                rows.append(("nfe", {"steps": n}, nfe))
                rows.append(("latency", {"steps": n}, nfe * (1.1 + 0.05 * rng.standard_normal())))
            runs[arm, seed] = rows
    return runs


EIGHT = paper(
    "eight-bit",
    "EightBit",
    "Quantising a denoiser to eight bits without training: which samples to calibrate on, which "
    "operations to quantise, and which metric to search with",
    field="image-quantisation",
    repository=None,
    arxiv=None,
    summary="A quantiser needs ranges, and ranges need calibration samples. This invented paper "
    "draws them from the whole chain of denoising, biased towards its clean end.",
    claims=[
        claim(
            "maintains",
            "Eight bits keep the Fréchet distance of the full-precision network within 10 %.",
            metric="FID",
            baseline=21.63,
            method=23.96,
            where="Table 5",
        ),
        claim(
            "biased-best",
            "Calibration biased towards the clean end beats uniform calibration.",
            metric="FID",
            baseline=26.19,
            method=24.26,
            where="Table 3",
        ),
        claim(
            "size",
            "Weights take a quarter of the memory.",
            metric="bytes",
            method=0.25,
            best_tier="structural",
            where="Section 4",
        ),
    ],
)

EIGHT_RUN = {
    "paper": "eight-bit",
    "arms": {
        "full": {"run": "methods.eight_bit.arms:run", "title": "Full precision", "baseline": True},
        "uniform": {
            "run": "methods.eight_bit.arms:run",
            "title": "W8A8, uniform",
            "baseline": True,
        },
        "biased": {"run": "methods.eight_bit.arms:run", "title": "W8A8, biased (released code)"},
    },
    "measurements": {
        "fid": {"title": "FID", "direction": "lower", "format": ".2f"},
        "precision": {"title": "Precision", "direction": "higher", "format": ".3f"},
        "size": {"title": "Weights", "unit": "MB", "direction": "lower", "format": ".2f"},
    },
    "scales": {SCALE: {"seeds": SEEDS}, LARGER: {"seeds": SEEDS}},
    "figures": [
        {
            "id": "samples",
            "run": "tests.suite.report.drawings:samples",
            "title": "Samples from the same noise",
            "caption": "The same starting noise through the three networks: differences are "
            "due to quantisation alone.",
        },
        {
            "id": "distances",
            "run": "tests.suite.report.drawings:distances",
            "title": "Fréchet distance",
            "caption": "Bars are medians, dots are seeds.",
        },
    ],
    "tables": [
        {
            "id": "main",
            "title": "Quality and size",
            "measurements": ["fid", "precision", "size"],
        }
    ],
}


EIGHT_CHECKS = {
    "claims": {
        "maintains": {
            "checks": [
                {
                    "id": "maintains",
                    "tier": "reduced",
                    "expect": "fid[biased] / fid[full] <= 1.1",
                    "why": "The paper loses 11 % on one set and gains on another; 10 % is its own "
                    "word.",
                }
            ]
        },
        "biased-best": {
            "checks": [
                {
                    "id": "biased-best",
                    "tier": "reduced",
                    "expect": "fid[biased] <= fid[uniform]",
                    "why": "The paper gains 7 %; any gain counts.",
                }
            ]
        },
        "size": {
            "checks": [
                {
                    "id": "size",
                    "tier": "structural",
                    "expect": "0.25 <= size[biased] / size[full] <= 0.26",
                    "why": "Eight bits against 32, plus one scale per channel.",
                    "comparable": True,
                }
            ]
        },
    }
}


def eight_runs(rng: np.random.Generator) -> dict:
    runs = {}
    for seed in range(SEEDS):
        base = 20 + rng.standard_normal()
        for arm, factor, size in (
            ("full", 1.0, 6.25),
            ("uniform", 1.04, 1.6),
            ("biased", 1.045, 1.6),
        ):
            runs[arm, seed] = [
                ("fid", {}, base * (factor + 0.01 * rng.standard_normal())),
                ("precision", {}, 0.61 + 0.01 * rng.standard_normal()),
                ("size", {}, size),
            ]
    return runs


METHODS = {
    "masked-text": (MASKED, MASKED_RUN, MASKED_CHECKS, masked_runs),
    "eight-bit": (EIGHT, EIGHT_RUN, EIGHT_CHECKS, eight_runs),
}


def write_cards(root: Path) -> None:
    for slug, (about, experiment, checks, _) in METHODS.items():
        folder = root / "methods" / slug.replace("-", "_")
        folder.mkdir(parents=True)
        cards = {"paper": about, "experiment": experiment, "checks": checks}
        for name, content in cards.items():
            text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def write_record(folder: Path, slug: str, name: str, seed: int, measured: list, **given) -> None:
    folder.mkdir(parents=True)
    record = {
        "method": slug,
        "arm": name,
        "seed": seed,
        "scale": SCALE,
        "params": {"steps": STEPS, "length": 64},
        "fingerprint": "0123456789abcdef0123",
        "commit": "4e5e6e8f3a9b4e0c8d7f6a5b4c3d2e1f0a9b8c7d",
        "versions": {"python": "3.11.2", "torch": "2.14.1", "numpy": "2.4.6"},
        "device": "Invented CPU at 2.4 GHz, 2 cores",
        "threads": 1,
        "started": f"2026-01-02T03:{seed:02d}:05+00:00",
        "wall_s": 41.5 + 7 * seed,
        "peak_memory_mb": 812.4,
        "measurements": [{"name": n, "at": at, "value": value} for n, at, value in measured],
        "arrays": [],
        **given,
    }
    store.write_sealed(folder / "record.json", record)


def pictures(rng: np.random.Generator) -> np.ndarray:
    """Smooth blobs, uint8 (8, 32, 32, 3)."""
    y, x = np.mgrid[0:32, 0:32] / 32
    waves = [
        np.sin(6 * rng.random() * x + 6 * rng.random() * y + 6 * rng.random()) for _ in range(24)
    ]
    return np.uint8(127 + 120 * np.stack(waves).reshape(8, 3, 32, 32).transpose(0, 2, 3, 1))


def write_work(root: Path, work: Path, scale: str = SCALE) -> None:
    """Records, arrays and verdicts of all invented methods under `work`."""
    for slug, (_, experiment, _, make) in METHODS.items():
        rng = np.random.default_rng(7)
        for (arm, seed), measured in make(rng).items():
            folder = work / "runs" / slug / arm / str(seed)
            arrays = {"samples": pictures(rng)} if slug == "eight-bit" else {}
            write_record(folder, slug, arm, seed, measured, arrays=list(arrays), scale=scale)
            if arrays:
                np.savez(folder / "arrays.npz", **arrays)
        for name in experiment.get("models", {}):
            for seed in range(SEEDS):
                curve = [
                    ("loss", {"step": step}, 2.3 + 1.2 * np.exp(-step / 200) + 0.01 * seed)
                    for step in range(0, 801, 50)
                ]
                folder = work / "models" / slug / name / str(seed)
                write_record(folder, slug, name, seed, curve, wall_s=212.0, scale=scale)
        attest(root, work, slug)


def attest(root: Path, work: Path, slug: str, judged: dict | None = None) -> None:
    """Write verdicts, by default those of the judge, as of the invented runs that are there."""
    made = inputs.Work(work.name, work, root).runs(slug)
    judged = judged or verdict.judge(library.load(slug, root), work.name, made)
    path = work / "verdicts" / f"{slug}.json"
    store.write_sealed(path, judged | {"evidence": records.evidence(made)})


def keep_verdicts(bare: Any, slug: str) -> None:
    """Let the verdicts be of the runs as they are now, whatever those say."""
    judged = store.read_sealed(bare.work / "verdicts" / f"{slug}.json")
    attest(bare.root, bare.work, slug, judged)


def edit(bare: Any, slug: str, arm: str, change: Callable[[dict], object]) -> None:
    """Change the records of an arm ("*": of all) as if they had been made so."""
    for path in (bare.work / "runs" / slug).glob(f"{arm}/*/record.json"):
        record = store.read_sealed(path)
        change(record)
        store.write_sealed(path, record)
    keep_verdicts(bare, slug)
