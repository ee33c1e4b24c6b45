"""Metrics, quantisers and draws of NaN, infinity, nothing, wrong shapes, types and ranges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from torture.case import Case

NAN = "NaN becomes a good-looking number"
CLAMP = "invalid input hidden by a clamp"
SHAPE = "shape or type of an input of a metric"
LEVELS = "two conventions for one conversion"
RANGE = "quantiser range edge cases"

Make = Callable[[], Any]


def _case(
    kind: str,
    name: str,
    make: Make,
    right: Callable[[Any], bool] | None = None,
    slow: bool = False,
) -> Case:
    def run(folder: Path) -> Any:
        torch.set_num_threads(1)
        return make()

    return Case(kind, name, run, right, slow=slow)


def _drawn(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def _with(x: np.ndarray, value: Any) -> np.ndarray:
    x = x.copy()
    x[(0,) * x.ndim] = value
    return x


# Distances of features ----------------------------------------------------------------------


BAD_FEATURES: dict[str, Callable[[np.ndarray], Any]] = {
    "one NaN": lambda x: _with(x, np.nan),
    "one infinity": lambda x: _with(x, np.inf),
    "one infinity below": lambda x: _with(x, -np.inf),
    "all NaN": lambda x: np.full_like(x, np.nan),
    "a tensor with a NaN": lambda x: torch.from_numpy(_with(x, np.nan)),
    "no rows": lambda x: x[:0],
    "one row": lambda x: x[:1],
    "no width": lambda x: x[:, :0],
    "another width": lambda x: x[:, :-1],
    "one axis": lambda x: x.ravel(),
    "three axes": lambda x: x[None],
    "text": lambda x: x.astype(str),
    "objects": lambda x: x.astype(object),
    "complex": lambda x: x * 1j,
    "values whose squares overflow": lambda x: x * 1e200,
    "values whose fourth powers overflow": lambda x: x * 1e100,
}


FORMS = ("no rows", "one row", "no width", "another width", "one axis", "three axes")
FORMS = (*FORMS, "text", "objects", "complex")


def _metrics() -> dict[str, Callable[[Any, np.ndarray], Any]]:
    from repro.metrics import fid

    return {
        "frechet_from_features": fid.frechet_from_features,
        "frechet_from_features, real": lambda x, y: fid.frechet_from_features(y, x),
        "precision_recall": lambda x, y: fid.precision_recall(y, x),
        "precision_recall, real": lambda x, y: fid.precision_recall(x, y),
    }


def _features() -> Iterator[Case]:
    for (name, metric), (what, spoil), n in itertools.product(
        _metrics().items(), BAD_FEATURES.items(), (6, 40)
    ):
        kind = SHAPE if what in FORMS else NAN
        fits = "fourth" in what and "precision" in name  # it takes no fourth powers

        def make(metric=metric, spoil=spoil, n=n) -> Any:
            x, y = _drawn(n, 12), _drawn(n, 12, 1)
            bad = spoil(x)
            if (
                isinstance(bad, np.ndarray)
                and bad.dtype == float
                and np.abs(bad).max(initial=0) > 9
            ):
                y = y * (1e200 if np.abs(bad).max() > 1e150 else 1e100)
            return metric(bad, y)

        def right(found: Any, metric=metric, n=n) -> bool:
            return found == metric(_drawn(n, 12), _drawn(n, 12, 1))

        yield _case(kind, f"{name} of {n} vectors: {what}", make, right if fits else None)
    for name, spoil in BAD_FEATURES.items():
        if name in ("another width", "no width") or "overflow" in name:
            continue

        def statistics(spoil=spoil) -> Any:
            from repro.metrics.fid import GaussianStatistics

            return GaussianStatistics().update(_drawn(0, 12)).update(spoil(_drawn(9, 12))).result()

        right = _is_number if name == "no rows" else None
        yield _case(NAN, f"streamed statistics: {name}", statistics, right)
    for k in (0, -1, 9, 1000, 1.5):
        yield _case(SHAPE, f"precision_recall with k = {k}", partial(_neighbours, k))
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.int64):
        yield _case(SHAPE, f"features of {kind}", partial(_typed, kind), _is_number)
    yield _case(RANGE, "an empty batch between two", _empty_between, lambda same: same)
    yield _case(RANGE, "an empty first batch", _empty_first, lambda same: same)
    yield _case(RANGE, "an empty batch of another width", _empty_other)


def _neighbours(k: Any) -> Any:
    from repro.metrics.fid import precision_recall

    return precision_recall(_drawn(9, 3), _drawn(9, 3, 1), k)


def _typed(kind: torch.dtype) -> float:
    from repro.metrics.fid import frechet_from_features

    return frechet_from_features(
        torch.from_numpy(_drawn(20, 3) * 9).to(kind), torch.from_numpy(_drawn(20, 3, 1)).to(kind)
    )


def _is_number(value: Any) -> bool:
    return math.isfinite(value)


def _streamed(*batches: np.ndarray) -> list[np.ndarray]:
    from repro.metrics.fid import gaussian_statistics

    return list(gaussian_statistics(iter(batches)))


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


def _empty_between() -> bool:
    x = _drawn(9, 3)
    return _same(_streamed(x[:4], x[:0], x[4:]), _streamed(x[:4], x[4:]))


def _empty_first() -> bool:
    x = _drawn(9, 3)
    return _same(_streamed(x[:0], x), _streamed(x))


def _empty_other() -> Any:
    return _streamed(_drawn(9, 3), _drawn(0, 4))


# Covariances, in memory and in files --------------------------------------------------------


def _covariances() -> dict[str, tuple[np.ndarray, bool]]:
    """Matrices (4, 4), and whether they are covariances."""
    x = _drawn(3, 4)
    singular = np.cov(x, rowvar=False)
    full = np.cov(_drawn(50, 4), rowvar=False)
    return {
        "-I": (-np.eye(4), False),
        "-1e-3 I": (-1e-3 * np.eye(4), False),
        "one negative variance": (np.diag([1.0, 1, 1, -0.1]), False),
        "indefinite, positive diagonal": (np.eye(4) + 3 * np.eye(4)[::-1], False),
        "indefinite, zero diagonal": (np.eye(4)[::-1].copy(), False),
        "lower triangle": (np.tril(full + 1), False),
        "upper triangle": (np.triu(full + 1), False),
        "one entry changed": (full + np.eye(4, k=1) * [0, 0.2, 0, 0], False),
        "NaN": (_with(full, np.nan), False),
        "infinity": (_with(full, np.inf), False),
        "infinite off the diagonal": (full + np.where(np.eye(4, k=2), np.inf, 0), False),
        "3 x 4": (full[:3], False),
        "3 x 3": (full[:3, :3], False),
        "a vector": (full[0], False),
        "of fewer samples than dimensions": (singular, True),
        "of fewer samples, cast to float32": (singular.astype(np.float32), True),
        "full rank": (full, True),
        "zero": (np.zeros((4, 4)), True),
        "tiny": (1e-12 * full, True),
        "large": (1e12 * full, True),
        "one constant feature": (np.diag([1.0, 2, 3, 0]), True),
    }


def _of_covariances() -> Iterator[Case]:
    for (name, (_, good)), side in itertools.product(_covariances().items(), (1, 2, 3)):

        def distance(name=name, side=side) -> float:
            from repro.metrics.fid import frechet_distance

            mean, cov = np.zeros(4), _covariances()[name][0]
            pair = (cov, np.eye(4)) if side == 1 else (np.eye(4), cov) if side == 2 else (cov, cov)
            return frechet_distance(mean, pair[0], mean, pair[1])

        right = (lambda d: 0 <= d < 1e13) if good else None
        kind = NAN if name == "NaN" else CLAMP
        yield _case(
            kind, f"frechet_distance with a covariance {name}, place {side}", distance, right
        )
    for name, (_, good) in _covariances().items():
        right = (lambda found: np.isfinite(found[1]).all()) if good else None
        yield _file_case(f"a covariance {name}", lambda name=name: _arrays(name), right)
    fields = {"mu": np.zeros(4), "sigma": np.eye(4)}
    for name, changed in {
        "NaN in the mean": {"mu": np.full(4, np.nan)},
        "a mean of integers": {"mu": np.zeros(4, int)},
        "a mean of text": {"mu": np.array(["a"] * 4)},
        "text for both": {"mu": np.array(["a"]), "sigma": np.array([["a"]])},
        "complex": {"sigma": np.eye(4) * (1 + 0j)},
        "nothing": {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
        "swapped": {"mu": np.eye(4), "sigma": np.zeros(4)},
    }.items():
        yield _file_case(name, lambda changed=changed: {**fields, **changed})


def _arrays(name: str) -> dict[str, np.ndarray]:
    return {"mu": np.zeros(4), "sigma": _covariances()[name][0]}


def _file_case(
    name: str, arrays: Callable[[], dict[str, np.ndarray]], right: Callable | None = None
) -> Case:
    def run(folder: Path) -> Any:
        from repro.official.statistics import load_statistics

        np.savez(folder / "statistics.npz", **arrays())  # type: ignore[arg-type]
        return load_statistics(folder / "statistics.npz")

    return Case(CLAMP, f"a file of statistics with {name}", run, right)


# Images -------------------------------------------------------------------------------------


def _image(n: int = 2, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).random((n, side, side))


def _of_images() -> Iterator[Case]:
    from repro.metrics import image

    metrics = {"psnr": image.psnr, "ssim": image.ssim}
    pairs: dict[str, Callable[[], tuple]] = {
        "NaN": lambda: (_with(_image(), np.nan), _image(), 1.0),
        "NaN in the reference": lambda: (_image(), _with(_image(), np.nan), 1.0),
        "infinity": lambda: (_with(_image(), np.inf), _image(), 1.0),
        "no images": lambda: (_image(0), _image(0), 1.0),
        "different shapes": lambda: (_image(2), _image(1), 1.0),
        "text": lambda: (_image().astype(str), _image(), 1.0),
        "data range 0": lambda: (_image(), _image() / 2, 0.0),
        "data range -1": lambda: (_image(), _image() / 2, -1.0),
        "data range NaN": lambda: (_image(), _image() / 2, math.nan),
        "data range infinite": lambda: (_image(), _image() / 2, math.inf),
        "bytes with data range 1": lambda: (255 * _image(), 200 * _image(), 1.0),
        "[-1, 1] with data range 1": lambda: (2 * _image() - 1, 1 - 2 * _image(), 1.0),
    }
    for (name, metric), (what, make), per_image in itertools.product(
        metrics.items(), pairs.items(), (False, True)
    ):
        kind = NAN if "NaN" in what or "infin" in what else SHAPE

        def run(metric=metric, make=make, per_image=per_image) -> Any:
            return metric(*make(), per_image=per_image)

        yield _case(kind, f"{name}{' per image' * per_image}: {what}", run)
    yield _case(
        SHAPE, "ssim of planes below its window", lambda: image.ssim(*[_image(2, 8)] * 2, 1.0)
    )
    yield _case(SHAPE, "psnr of equal images", lambda: image.psnr(*[_image()] * 2, 1.0), math.isinf)
    yield _case(
        SHAPE,
        "psnr of a reconstruction beyond the range",
        lambda: image.psnr(_image() * 1.5, _image(), 1.0),
        _is_number,
    )
    yield _case(
        SHAPE,
        "ssim of a constant image with itself",
        lambda: image.ssim(*[np.ones((11, 11))] * 2, 1.0),
        lambda value: value == 1,
    )


def _levels() -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8)


def _of_levels() -> Iterator[Case]:
    def round_trip(folder: Path) -> bool:
        from methods.ptq4dm.official import load_images, save_images

        first = _levels().reshape(1, 16, 16, 1).expand(1, 16, 16, 3).numpy()
        np.savez(folder / "a.npz", arr_0=first)
        save_images(folder / "b.npz", load_images(folder / "a.npz"))
        return bool((np.load(folder / "b.npz")["arr_0"] == first).all())

    yield Case(LEVELS, "images saved as they were loaded", round_trip, lambda same: same)

    def grid(x: torch.Tensor) -> Any:
        saved: dict[str, Any] = {}
        judge = _judge(save=lambda name, array: saved.update({name: array}))
        judge.save_grid(x, "grid")
        return saved["grid"]

    whole = _levels().reshape(1, 1, 16, 16)
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        yield _case(
            LEVELS,
            f"pictures kept of all levels in {kind}",
            lambda kind=kind: grid((whole.double() / 127.5 - 1).to(kind)).flatten().tolist(),
            # Eight digits do not hold 256 levels in [-1, 1]: near the ends they are a level apart.
            lambda found, kind=kind: (
                max(abs(a - b) for a, b in zip(found, range(256), strict=True))
                <= (kind == torch.bfloat16)
            ),
        )
    bad = {
        "NaN": torch.full((2, 3, 8, 8), torch.nan),
        "infinity": torch.full((2, 3, 8, 8), torch.inf),
        "one NaN": torch.zeros(2, 3, 8, 8).index_fill_(3, torch.tensor([2]), torch.nan),
        "values of bytes": torch.linspace(0, 255, 384).reshape(2, 3, 8, 8),
        "bytes": torch.full((2, 3, 8, 8), 200, dtype=torch.uint8),
        "no pictures": torch.zeros(0, 3, 8, 8),
    }
    for name in bad:

        def save(folder: Path, name: str = name) -> Any:
            from methods.ptq4dm.official import save_images

            save_images(folder / "x.npz", bad[name])
            return np.load(folder / "x.npz")["arr_0"].mean()

        kind = NAN if "NaN" in name or "inf" in name else LEVELS
        yield Case(kind, f"saving pictures: {name}", save)
        yield _case(kind, f"keeping pictures: {name}", lambda name=name: grid(bad[name]))
        for what in ("features", "probabilities"):

            def judged(name: str = name, what: str = what) -> Any:
                return getattr(_judge(), what)(bad[name].repeat(1, 1, 4, 4)[:, :, :8, :8]).argmax(1)

            yield _case(kind, f"{what} of the judge: {name}", judged)
        yield _case(
            kind, f"Fréchet distance of the judge: {name}", lambda n=name: _judge().frechet(bad[n])
        )
    for spoiled in ("features", "logits"):
        yield _case(
            NAN,
            f"a judge whose {spoiled} are NaN",
            lambda spoiled=spoiled: (
                _judge(spoiled).probabilities(torch.zeros(4, 3, 8, 8)).argmax(1)
                if spoiled == "logits"
                else _judge(spoiled).frechet(torch.zeros(4, 3, 8, 8))
            ),
        )


class _Network(torch.nn.Module):
    """In place of the classifier: ten linear features of a picture, and they as logits."""

    def __init__(self, spoiled: str) -> None:
        super().__init__()
        self.spoiled = spoiled
        self.matrix = torch.randn(3 * 32 * 32, 10, generator=torch.Generator().manual_seed(0))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        found = x.flatten(1) @ self.matrix
        return found * torch.nan if self.spoiled == "features" else found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.matrix * (torch.nan if self.spoiled == "logits" else 1)


def _judge(spoiled: str = "", **job: Any) -> Any:
    from repro.zoo.judge import Judge

    judge = Judge(SimpleNamespace(device=torch.device("cpu"), params=None, **job))
    real = torch.randn(9, 10, generator=torch.Generator().manual_seed(1))
    judge.__dict__.update(_network=_Network(spoiled), real_features=real)
    return judge


# Text ---------------------------------------------------------------------------------------


def _draws() -> Iterator[Case]:
    from methods.radd import method as radd

    def logits(kind: str, rows: int = 6) -> torch.Tensor:
        x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
        x[2] = {"NaN": torch.nan, "infinite": torch.inf, "without weight": -torch.inf}[kind]
        return x

    def unmasked(kind: str, two_stage: bool, dtype: torch.dtype) -> Any:
        x = torch.full((2, 3), 5)
        step = radd.unmask_truncated if two_stage else radd.unmask
        psi = 1.0
        generator = torch.Generator().manual_seed(0)
        return step(x, logits(kind).reshape(2, 3, 5), psi, mask=5, generator=generator, dtype=dtype)

    for kind, dtype in itertools.product(
        ("NaN", "infinite", "without weight"), (torch.float32, torch.float64)
    ):
        for two_stage in (False, True):
            yield _case(
                NAN,
                f"a step whose probabilities are {kind}, {dtype}, {1 + two_stage} stages",
                partial(unmasked, kind, two_stage, dtype),
            )
        yield _case(
            NAN,
            f"sampling in an order with probabilities that are {kind}, {dtype}",
            lambda kind=kind, dtype=dtype: radd.any_order(
                lambda x: logits(kind).reshape(2, 3, 5),
                torch.full((2, 3), 5),
                torch.arange(3),
                mask=5,
                generator=torch.Generator().manual_seed(0),
                dtype=dtype,
            ),
        )
    for name, psi in {
        "NaN": [0.5, math.nan],
        "above 1": [1.5, 1.0],
        "negative": [-0.5, 1.0],
    }.items():
        yield _case(
            NAN if name == "NaN" else CLAMP,
            f"tau-leaping with chances to unmask that are {name}",
            lambda psi=psi: radd.tau_leaping(
                lambda x: torch.zeros(*x.shape, 5).log_softmax(-1),
                torch.full((2, 3), 5),
                torch.tensor(psi, dtype=torch.float64),
                mask=5,
                generator=torch.Generator().manual_seed(0),
            ),
        )
    for name, options in {
        "top_k = 0": {"top_k": 0},
        "top_k = -2": {"top_k": -2},
        "top_p = 0": {"top_p": 0.0},
        "top_p = 1.5": {"top_p": 1.5},
        "top_p = NaN": {"top_p": math.nan},
    }.items():
        yield _case(
            CLAMP,
            f"truncation with {name}",
            lambda options=options: radd.truncate(torch.zeros(2, 5), **options),
        )
    yield _case(
        CLAMP,
        "a negative chance to stay, as SEDD has, is no chance",
        lambda: radd.categorical(
            torch.tensor([[0.5, 1.0, -0.5]] * 50),
            generator=torch.Generator().manual_seed(0),
            dtype=torch.float64,
        ),
        lambda drawn: set(drawn.tolist()) == {0, 1},
    )


def _of_text() -> Iterator[Case]:
    from repro.metrics import text

    codes = np.random.default_rng(0).integers(0, 5, (4, 30))
    model = text.NGram(2, 5).fit(codes)
    judges = {
        "NaN": [1.0, math.nan],
        "infinite": [1.0, math.inf],
        "negative": [1.0, -1.0],
        "of no text": [],
        "beyond exp": [1.0, 1000.0],
    }
    for name, nats in judges.items():
        judge = SimpleNamespace(nll=lambda tokens, nats=nats: np.array(nats))
        kind = CLAMP if name == "negative" else NAN
        yield _case(
            kind,
            f"generative perplexity, nats {name}",
            lambda judge=judge: text.generative_perplexity(judge, codes),
        )
        yield _case(
            kind,
            f"perplexity, nats {name}",
            lambda nats=nats: text.perplexity([v * 2 for v in nats], len(nats)),
            (lambda value: value > 1) if name == "beyond exp" else None,
        )
    for name, count in {
        "NaN": math.nan,
        "no": 0,
        "fewer than no": -3,
        "infinite": math.inf,
    }.items():
        yield _case(NAN, f"perplexity of {name} tokens", partial(text.perplexity, 3.0, count))
    bad = {
        "floats": codes.astype(float),
        "NaN": np.full((4, 30), np.nan),
        "text": codes.astype(str),
        "negative": codes - 1,
        "out of the alphabet": codes + 1,
        "none": codes[:, :0],
        "no rows": codes[:0],
        "three axes": codes[None],
    }
    for name, tokens in bad.items():
        kind = NAN if name == "NaN" else SHAPE
        yield _case(kind, f"n-grams fitted to tokens: {name}", partial(_fit, tokens))
        yield _case(kind, f"likelihood of tokens: {name}", partial(model.nll, tokens))
        if name not in ("negative", "out of the alphabet"):
            yield _case(kind, f"entropy of tokens: {name}", partial(text.unigram_entropy, tokens))
    for order, alphabet in ((0, 5), (2, 0), (-1, 5), (1.5, 5), (40, 5)):
        yield _case(
            SHAPE, f"{order}-grams of {alphabet} symbols", partial(text.NGram, order, alphabet)
        )
    yield from _draws()


def _fit(tokens: np.ndarray) -> Any:
    from repro.metrics.text import NGram

    return NGram(2, 5).fit(tokens).nll(np.zeros((1, 5), int))


def _of_costs() -> Iterator[Case]:
    from repro.metrics import cost

    module = torch.nn.Linear(2, 2)
    for name, make in {
        "latency of no repeats": lambda: cost.Latency.of([]),
        "latency of NaN": lambda: cost.Latency.of([1.0, math.nan, 2.0]),
        "latency of infinity": lambda: cost.Latency.of([1.0, math.inf]),
        "no functions timed": lambda: cost.interleaved({}, 3),
        "no repeats timed": lambda: cost.interleaved({"a": int}, 0),
        "a ratio to no time": lambda: cost.Rounds({"a": [1.0], "b": [0.0]}).ratio("a", "b"),
        "operations of -8 bits": lambda: cost.bops(10, -8, 8),
        "operations of 0 bits": lambda: cost.bops(10, 8, 0),
        "operations of -10 products": lambda: cost.bops(-10, 8, 8),
        "size at 0 bits": lambda: cost.model_size_bytes(module, 0),
        "size at -4 bits": lambda: cost.model_size_bytes(module, -4, honest=True),
    }.items():
        yield _case(NAN if "NaN" in name else SHAPE, name, make)


# Quantisers ---------------------------------------------------------------------------------


def _rules() -> dict[str, Callable[..., Any]]:
    from methods.ptq4dm.method import weight_grid
    from repro.quant import floating, ranges, search

    def spanned(x: torch.Tensor, bits: int, **options: Any) -> Any:
        from repro.quant.affine import grid_from_range

        return grid_from_range(x.min(), x.max(), bits)

    def observed(observer: Any) -> Callable[..., Any]:
        def rule(x: torch.Tensor, bits: int) -> Any:
            seen = observer()
            seen.update(x)
            return seen.grid(bits)

        return rule

    return {
        "minmax": ranges.minmax_grid,
        "minmax, symmetric": partial(ranges.minmax_grid, symmetric=True),
        "minmax, from zero": partial(ranges.minmax_grid, always_zero=True),
        "minmax, per channel": partial(ranges.minmax_grid, channel_wise=True),
        "shrink": ranges.shrink_grid,
        "shrink, from zero": partial(ranges.shrink_grid, always_zero=True),
        "shrink, per channel": partial(ranges.shrink_grid, channel_wise=True),
        "percentile": search.percentile_grid,
        "integer search": search.search_integer_grid,
        "integer search, symmetric": partial(search.search_integer_grid, symmetric=True),
        "integer search, from zero": partial(search.search_integer_grid, always_zero=True),
        "range": spanned,
        "running range": observed(ranges.RunningRange),
        "sampled": observed(partial(search.Sampled, ranges.minmax_grid)),
        "|.|^2.4 of PTQ4DM": weight_grid,
        "E2M1": lambda x, bits: floating.float_grid(x, 2, 1),
        "E4M3": lambda x, bits: floating.float_grid(x, 4, 3),
        "E5M2": lambda x, bits: floating.float_grid(x, 5, 2),
        "float search": lambda x, bits: search.search_float_grid(x, 8 if bits == 8 else 4),
    }


def _ramp(kind: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.linspace(-1, 1.5, 48, dtype=torch.float64).reshape(4, 12).to(kind)


VALUES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zeros": torch.zeros_like,
    "a positive constant": lambda x: torch.full_like(x, 0.7),
    "a negative constant": lambda x: torch.full_like(x, -0.7),
    "above zero": lambda x: x + 5,
    "below zero": lambda x: x - 5,
    "far above zero": lambda x: x + 1000,
    "tiny": lambda x: x * 1e-30 if x.dtype != torch.float16 else x * 6e-7,
    "smaller than any step": lambda x: torch.full_like(x, torch.finfo(x.dtype).smallest_normal / 8),
    "huge": lambda x: x * (torch.finfo(x.dtype).max / 1.6),
    "ordinary": lambda x: x,
}

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _holds(x: torch.Tensor, grid: Any, everything: bool) -> bool:
    """x̂ is finite, 0 stays 0, codes are codes; where the range is that of x, errors are half a
    step, but for the rounding of the type."""
    from repro.quant.floating import FloatGrid, step_of

    found, zero = grid(x), grid(torch.zeros_like(x))
    good = bool(found.isfinite().all()) and bool((zero == 0).all())
    if not isinstance(grid, FloatGrid):
        q = grid.codes(x)
        good &= bool(((q >= grid.lo) & (q <= grid.hi) & (q == q.round())).all())
        z = grid.zero_point
        good &= bool(((z >= grid.lo) & (z <= grid.hi)).all())
        good &= bool((grid.delta > 0).all()) and bool(grid.delta.isfinite().all())
    if everything:
        reach = x.double().abs().max() + 1e-300
        limit = step_of(grid, x).double() * 0.5001 + 4 * torch.finfo(x.dtype).eps * reach
        # A symmetric or a widened range may round its ends by half a step more.
        good &= bool(((found.double() - x.double()).abs() <= 2 * limit).all())
    return good


def _of_quantisers() -> Iterator[Case]:
    rules = _rules()
    whole = {"minmax", "minmax, symmetric", "minmax, per channel", "range", "running range"}
    whole |= {"sampled", "E2M1", "E4M3", "E5M2"}
    for (rule, make), (what, value), kind in itertools.product(
        rules.items(), VALUES.items(), TYPES
    ):
        bits = 4 if kind in (torch.float16, torch.float64) else 8

        def run(make=make, value=value, kind=kind, bits=bits, rule=rule) -> bool:
            x = value(_ramp(kind))
            return _holds(x, make(x, bits), rule in whole)

        name = f"{rule}, {bits} bits, {kind}: {what}"
        yield _case(RANGE, name, run, lambda good: good, kind not in (torch.float16, torch.float32))
    bad: dict[str, Callable[[], torch.Tensor]] = {
        "NaN": lambda: _ramp().index_fill(0, torch.tensor([1]), torch.nan),
        "infinity": lambda: _ramp().index_fill(0, torch.tensor([1]), torch.inf),
        "both infinities": lambda: torch.tensor([[-torch.inf, torch.inf]] * 4),
        "nothing": lambda: _ramp()[:0],
        "rows of nothing": lambda: _ramp()[:, :0],
        "integers": lambda: _ramp().long(),
    }
    for (rule, make), (what, value) in itertools.product(rules.items(), bad.items()):
        if rule == "range" and "nothing" in what:
            continue
        kind = NAN if "NaN" in what or "infin" in what else RANGE
        yield _case(kind, f"{rule} of {what}", lambda make=make, value=value: make(value(), 4))
    for rule, bits in itertools.product(
        ("minmax", "shrink", "percentile", "integer search", "range", "minmax, symmetric"),
        (0, -1, 25, 1.5),
    ):
        yield _case(RANGE, f"{rule} at {bits} bits", lambda r=rule, b=bits: rules[r](_ramp(), b))
    for rule in ("minmax, symmetric", "integer search, symmetric"):
        yield _case(RANGE, f"{rule} at 1 bit", lambda rule=rule: rules[rule](_ramp(), 1))
    for rule in ("minmax", "shrink", "percentile", "integer search", "range"):
        yield _case(
            RANGE,
            f"{rule} at 1 bit",
            lambda rule=rule: _holds(_ramp(), rules[rule](_ramp(), 1), False),
            lambda good: good,
        )
    yield from _of_parts_of_quantisers()


def _of_parts_of_quantisers() -> Iterator[Case]:
    from repro.quant import affine, calibration, floating, ranges, rounding, scores, search

    nan, ones = torch.tensor([1.0, math.nan]), torch.ones(2)
    grid = affine.Grid(torch.ones(1, 2), torch.zeros(1, 2), 0, 3)
    parts: dict[str, Make] = {
        "a histogram": lambda: ranges.histogram(nan[None], 4),
        "a histogram with its range": lambda: ranges.histogram(nan[None], 4, ones[:1], ones[:1]),
        "a search for ranges": lambda: ranges.best_candidate(nan[:, None], grid, scores.L24),
        "a search by divergence": lambda: ranges.best_candidate(nan[:, None], grid, scores.KL),
        "the share of zeros": lambda: floating.zero_share(nan, affine.Grid(ones[0], ones[0], 0, 3)),
        "hard roundings": lambda: rounding.hard_rounding(nan)(ones),
        "fixed roundings": lambda: rounding.fixed_rounding(nan)(ones),
        "a range from its ends": lambda: affine.grid_from_range(-nan, nan, 4),
        "a running range": lambda: ranges.RunningRange(math.nan).update(ones),
        "a largest value": lambda: floating.bias_of_maxval(2, 1, math.nan),
        "an exponent bias": lambda: floating.float_values(2, 1, math.nan),
        "a power": lambda: scores.lp(math.nan),
        "percentiles": lambda: search.percentile_grid(_ramp(), 4, percentiles=(math.nan,)),
    }
    for name, make in parts.items():
        yield _case(NAN, f"NaN in {name}", make)
    others: dict[str, Make] = {
        "a range with its ends swapped": lambda: affine.grid_from_range(ones[0], -ones[0], 4),
        "ends of different shapes": lambda: affine.grid_from_range(-ones, ones[0], 4),
        "80 shrunken ranges of 0": lambda: ranges.shrink_grid(_ramp(), 4, steps=0),
        "150 shrunken ranges": lambda: ranges.shrink_grid(_ramp(), 4, steps=150),
        "no candidates": lambda: search.search_integer_grid(_ramp(), 4, candidates=0),
        "no float candidates": lambda: search.search_float_grid(_ramp(), 4, candidates=0),
        "percentiles of none": lambda: search.percentile_grid(_ramp(), 4, percentiles=()),
        "percentiles in percent": lambda: search.percentile_grid(_ramp(), 4, percentiles=(99.9,)),
        "lower percentiles": lambda: search.percentile_grid(_ramp(), 4, percentiles=(0.001,)),
        "a running range that stands": lambda: ranges.RunningRange(0.0).update(ones),
        "a running range that jumps": lambda: ranges.RunningRange(1.5).update(ones),
        "a negative largest value": lambda: floating.bias_of_maxval(2, 1, -1.0),
        "a largest value of 0": lambda: floating.bias_of_maxval(2, 1, 0.0),
        "an infinite exponent bias": lambda: floating.float_values(2, 1, math.inf),
        "E9M2": lambda: floating.float_values(9, 2, 0.0),
        "a power of 0": lambda: scores.lp(0.0),
        "no bins": lambda: ranges.histogram(_ramp(), 0),
        "a histogram of nothing": lambda: ranges.histogram(_ramp()[:, :0], 4),
        "the share of zeros in nothing": lambda: floating.zero_share(
            ones[:0], affine.Grid(ones[0], ones[0], 0, 3)
        ),
        "labels that do not pair up": lambda: calibration.CalibrationSet(ones, torch.zeros(3)),
        "batches of 0": lambda: list(calibration.CalibrationSet(ones, ones).batches(0)),
        "batches of -1": lambda: list(calibration.CalibrationSet(ones, ones).batches(-1)),
        "a trajectory without steps": lambda: calibration.record(lambda x, t: x, lambda f: ones),
    }
    for name, make in others.items():
        yield _case(RANGE, name, make)
    for kind in TYPES[:2]:
        for pair in ((4, 3), (5, 2), (3, 4)):
            yield _case(
                RANGE,
                f"values through an E{pair[0]}M{pair[1]} grid in {kind}",
                lambda kind=kind, pair=pair: floating.FloatGrid(
                    *pair, torch.tensor(448.0, dtype=kind)
                )(torch.tensor([448.0, 1.0, 0.0], dtype=kind)).tolist(),
                lambda found: abs(found[0] - 448) <= 4 and abs(found[1] - 1) < 0.1 and not found[2],
            )


# Where methods choose and count -------------------------------------------------------------


def _of_methods() -> Iterator[Case]:
    from methods.diffusion_mbir import method as mbir
    from methods.diffusion_mbir.volumes import plane_metrics
    from methods.msd import method as msd
    from methods.msd import toy
    from repro.diffusion import absorbing
    from repro.inverse.base import Identity

    x, c = torch.rand(12, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    volume = torch.rand(12, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    wide, tall = torch.full((8, 4), math.nan), torch.randn(4, 2)
    generator = torch.Generator().manual_seed(0)
    split = mbir.Split.zeros(mbir.Differences(), volume)

    def admm(**options: float) -> Any:
        return mbir.admm(
            Identity(),
            volume,
            volume,
            split,
            mbir.Differences(),
            **{"lam": 0.1, "rho": 1.0, **options},
        )

    nan: dict[str, Make] = {
        "points in a histogram": lambda: toy.histogram(x * math.nan, c, 3),
        "one point in a histogram": lambda: toy.histogram(
            x.index_fill(0, torch.tensor([0]), math.inf), c, 3
        ),
        "values that order classes": lambda: msd.sorted_by(x[:, 0] * math.nan, 2),
        "embeddings that are clustered": lambda: msd.balanced_clusters(wide, 2, generator),
        "embeddings that choose a quadrant": lambda: msd.route_prompt(wide, tall, torch.zeros(3)),
        "a volume compared with the truth": lambda: plane_metrics(volume * math.nan, volume),
        "chances of a mask": lambda: absorbing.mask_independently(
            c.reshape(2, 6), torch.tensor([0.5, math.nan]), generator=generator
        ),
        "chances to be unmasked": lambda: absorbing.expected_nfe(torch.tensor([0.5, math.nan]), 3),
        "the strength of a penalty": lambda: admm(rho=math.nan),
        "the strength of a threshold": lambda: admm(lam=math.nan),
    }
    for name, make in nan.items():
        yield _case(NAN, f"NaN in {name}", make)
    other: dict[str, Make] = {
        "a histogram of a class without points": lambda: toy.histogram(x, c, 4),
        "a histogram with a label -1": lambda: toy.histogram(x, c - 1, 3),
        "a histogram with a label too many": lambda: toy.histogram(x, c, 2),
        "a histogram of fewer labels": lambda: toy.histogram(x, c[:6], 3),
        "a mask with a chance of 2": lambda: absorbing.mask_independently(
            c.reshape(2, 6), torch.tensor([0.5, 2.0]), generator=generator
        ),
        "a mask of -1 tokens": lambda: absorbing.mask_exactly(
            c.reshape(2, 6), torch.tensor([1, -1]), generator=generator
        ),
        "a mask of more tokens than there are": lambda: absorbing.mask_exactly(
            c.reshape(2, 6), torch.tensor([1, 9]), generator=generator
        ),
        "a chance of 1.5 to be unmasked": lambda: absorbing.expected_nfe(torch.tensor([1.5]), 3),
        "a penalty of -1": lambda: admm(rho=-1.0),
        "a threshold of -1": lambda: admm(lam=-1.0),
        "no steps": lambda: absorbing.grid(0),
        "steps down to t = 2": lambda: absorbing.grid(4, 2.0),
    }
    for name, make in other.items():
        yield _case(CLAMP, name, make)


def cases() -> Iterator[Case]:
    yield from _features()
    yield from _of_covariances()
    yield from _of_images()
    yield from _of_levels()
    yield from _of_text()
    yield from _of_costs()
    yield from _of_quantisers()
    yield from _of_methods()
