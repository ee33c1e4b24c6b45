"""A person's images against a reference: distances of features, their intervals and their floor.

The features are those of the suite's own classifier where the reference is a data set that it was
trained on, so that the numbers stand beside those of the papers' tables (`repro.zoo.judge`); else
MobileNetV2's; Inception's where the user has the weights. The floor is what real images score in
the place of the person's, as many of them.

Features are kept in the work folder by the content of the images, block by block: a command that
was stopped goes on where it was.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from repro import display, store
from repro.data import cache, catalogue, pictures
from repro.data.containers import Images
from repro.data.pictures import Background, Pictures
from repro.errors import ReproError, nearest
from repro.metrics import fid
from repro.metrics.kid import KernelDistance
from repro.metrics.resampling import GROUPS, groups_of, jackknife
from repro.places import work_root
from repro.suite.export import models

log = logging.getLogger("repro.measure")
T = TypeVar("T")

Metric = Literal["fid", "kid", "precision-recall"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Features = Literal["auto", "classifier", "mobilenet", "inception"]
FEATURES: tuple[Features, ...] = get_args(Features)
SPLITS = ("test", "train")

CLASSIFIERS = {"fashion-mnist": (28, 32), "digits": (8, 8)}
"""Data sets with a classifier of the suite: side of their images, and the side it is fed."""
LEVELS = {"digits": 17}
"""Levels of data sets whose images have fewer than 256."""

BLOCK = 512
"""Images whose features are computed and kept together."""
LEAST, ADVISED = 2 * GROUPS, 512
MOST_OF_KID = 10_000
"""Of each set; the kernel distance compares all pairs."""


@dataclass(frozen=True)
class Network:
    """What turns images into features.

    Attributes:
        name: as the tables have it.
        digest: SHA-256 of its weights.
        prepared: bytes (n, H, W, 3), and what they are called, -> bytes that it is fed.
        extract: the latter -> features (n, D).
    """

    name: str
    digest: str
    prepared: Callable[[np.ndarray, Sequence[str]], np.ndarray]
    extract: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reference:
    """What images are compared with.

    Attributes:
        real: the images themselves.
        others: further real images of the same kind, for the floor; None to halve `real`.
        dataset: its name, where it is one of the suite's.
    """

    name: str
    real: Pictures
    others: Pictures | None = None
    dataset: str | None = None


@dataclass
class Seen:
    """A set of images after the network: features (n, D), and a hash of each image."""

    features: np.ndarray
    hashes: list[bytes]

    def __len__(self) -> int:
        return len(self.hashes)

    def of(self, chosen: np.ndarray) -> Seen:
        return Seen(self.features[chosen], [self.hashes[k] for k in chosen])


@dataclass
class Asked:
    """What a person asks for; see `measure`."""

    images: Path
    against: str
    metrics: Sequence[str] = METRICS
    features: str = "auto"
    split: str = "test"
    side: int | None = None
    background: Background | None = None
    device: str = "cpu"
    notes: list[str] = field(default_factory=list)


def measure(asked: Asked) -> models.Measured:
    """Compare images with a reference.

    Raises:
        ReproError: an argument that there is not, images that cannot be read or compared, or
            weights that are missing.
    """
    refuse_unknown(asked)
    given = pictures.read(asked.images, asked.side, asked.background, _teller("files"))
    if len(given) < LEAST:
        raise ReproError(
            f"{given.name} holds {len(given)} images; {LEAST} are needed, and {ADVISED} advised"
        )
    reference = reference_of(asked)
    if len(reference.real) < 2 * LEAST:
        raise ReproError(
            f"the reference {reference.name} holds {len(reference.real)} images; {2 * LEAST} are "
            "needed"
        )
    network = network_of(asked, reference)
    notes = [*asked.notes, *_on_sizes(given, reference, network)]
    own = _shuffled(look(given, network, "images"), 0)
    real = _shuffled(look(reference.real, network, "reference"), 1)
    floor, against = _floor(reference, real, len(own), network, notes)
    rows = [row for name in asked.metrics for row in _rows(name, own, real, floor, against)]
    return models.Measured(
        format="repro-measure",
        version=1,
        images=given.name,
        n=len(own),
        images_sha256=_sha256(own),
        against=reference.name,
        n_reference=len(real),
        features=network.name,
        features_sha256=network.digest,
        n_floor=len(floor),
        metrics=[_named(row, network) for row in rows],
        copies_of_reference=_copies(own, real),
        copies_within=len(own) - len({*own.hashes}),
        notes=[*given.notes, *reference.real.notes, *notes, *_on_numbers(own, real)],
    )


def refuse_unknown(asked: Asked) -> None:
    """Raises ReproError: a metric, features, a split or a device that there is not."""
    for what, name, known in (
        *(("metric", name, METRICS) for name in asked.metrics),
        ("--features", asked.features, FEATURES),
        ("--split", asked.split, SPLITS),
    ):
        if name not in known:
            raise ReproError(f"{what} `{name}`{nearest(name, known)}; take {', '.join(known)}")
    if not asked.metrics or len({*asked.metrics}) < len(asked.metrics):
        raise ReproError(f"name each metric once: {', '.join(METRICS)}")


def _teller(what: str) -> pictures.Tell:
    meters: dict[int, display.Meter] = {}

    def tell(done: int, of: int) -> None:
        meter = meters.setdefault(of, display.Meter(f"looking at {what}", of, log))
        meter.update(done)
        if done == of:
            meter.close()

    return tell


# The reference --------------------------------------------------------------------------------


def reference_of(asked: Asked) -> Reference:
    """A data set of the suite by its name, or a folder or npz.

    Raises:
        ReproError: it is neither, or holds no images.
    """
    name = asked.against
    if name not in catalogue.names():
        path = Path(name)
        if not path.exists():
            known = catalogue.names()
            raise ReproError(
                f"`{name}` is no data set{nearest(name, known)} and no folder or .npz here; "
                f"`repro data` lists the data sets"
            )
        if asked.split != "test":
            raise ReproError(f"--split goes with a data set; {name} has none")
        if path.resolve() == asked.images.resolve():
            raise ReproError(f"{name} is compared with itself; name another reference")
        found = pictures.read(path, asked.side, asked.background, _teller("reference files"))
        return Reference(found.name, found)
    loaded = catalogue.load(name)
    if not isinstance(loaded, Images):
        raise ReproError(f"{name} holds no images; `repro data` says what each data set is")
    splits = {"test": loaded.test, "train": loaded.train}
    made = {
        split: pictures.of_split(f"{name}, {split}", images, LEVELS.get(name, 256))
        for split, images in splits.items()
    }
    real = made.pop(asked.split)
    (others,) = made.values()
    return Reference(f"{name}, {asked.split}", real, others, name)


def _floor(
    reference: Reference, real: Seen, n: int, network: Network, notes: list[str]
) -> tuple[Seen, Seen]:
    """Real images in the place of the person's, and the reference that they are held against."""
    if reference.others is None:
        half = min(n, len(real) // 2)
        chosen = np.arange(len(real))
        notes.append(
            f"floor: {half} images of {reference.name} against its other {len(real) - half}"
            + ("" if half == n else f", for there are no {n} to spare")
        )
        return real.of(chosen[:half]), real.of(chosen[half:])
    others = reference.others
    count = min(n, len(others))
    chosen = np.sort(np.random.default_rng(2).permutation(len(others))[:count])
    notes.append(
        f"floor: {count} images of {others.name}"
        + ("" if count == n else f", which has no {n}: the floor is of fewer images")
    )
    return look(others, network, "floor", chosen.tolist()), real


# Networks -------------------------------------------------------------------------------------


def network_of(asked: Asked, reference: Reference) -> Network:
    """The network whose features are compared.

    Raises:
        ReproError: the data set has no classifier, weights are missing, or there is no such device.
    """
    kind = asked.features
    if kind == "auto":
        kind = "classifier" if reference.dataset in CLASSIFIERS else "mobilenet"
        inception = cache.root() / "downloads" / fid.INCEPTION_FILE
        if inception.is_file():
            asked.notes.append("Inception's weights are here: --features inception gives the FID")
    if kind == "classifier":
        if reference.dataset not in CLASSIFIERS:
            raise ReproError(
                f"the suite has no classifier of {reference.dataset or reference.name}, only of "
                f"{' and '.join(CLASSIFIERS)}; take --features mobilenet"
            )
        return _classifier(str(reference.dataset), asked.device)
    return _mobilenet(asked.device) if kind == "mobilenet" else _inception(asked.device)


def _classifier(dataset: str, device: str) -> Network:
    import torch

    from repro.numbers import from_bytes
    from repro.suite import zoo
    from repro.zoo.judge import enlarged

    name = f"{dataset}-classifier"
    state, provenance = zoo.shipped(name)
    network: Any = zoo.build(name)
    network.load_state_dict(state)
    network = network.eval().requires_grad_(False).to(device)

    def extract(grey: np.ndarray) -> np.ndarray:
        x = from_bytes(torch.from_numpy(grey)[:, None]).to(device)
        with torch.inference_mode():
            return network.features(enlarged(x)).cpu().numpy()

    def prepared(block: np.ndarray, places: Sequence[str]) -> np.ndarray:
        return _as_fed(block, places, dataset)

    return Network(name, str(provenance["sha256"]), prepared, extract)


def _as_fed(block: np.ndarray, places: Sequence[str], dataset: str) -> np.ndarray:
    """Grey bytes (n, side, side), padded with background from the side of the data set.

    Raises:
        ReproError: an image has colours or another size, or digits were not spread over the bytes.
    """
    own, fed = CLASSIFIERS[dataset]
    coloured = (block != block[..., :1]).any(axis=(1, 2, 3))
    if coloured.any():
        raise ReproError(
            f"{places[int(coloured.argmax())]} is in colour and {dataset} is grey; convert the "
            "images to grey, or take --features mobilenet"
        )
    grey, side = block[..., 0], block.shape[1]
    if side != block.shape[2] or side not in (own, fed):
        raise ReproError(
            f"{places[0]} has {side} x {block.shape[2]} pixels, {dataset} {own} x {own}; give "
            f"--size {own}, or take --features mobilenet"
        )
    if dataset in LEVELS and grey.max(initial=0) < LEVELS[dataset]:
        raise ReproError(
            f"{places[0]} and those after it have no level above {grey.max()}; spread the "
            f"{LEVELS[dataset]} levels of {dataset} over 0 to 255"
        )
    edge = (fed - side) // 2
    return np.pad(grey, ((0, 0), (edge, edge), (edge, edge)))


def _as_they_are(block: np.ndarray, places: Sequence[str]) -> np.ndarray:
    return block


def _mobilenet(device: str) -> Network:
    import torch

    from repro.job import Job
    from repro.numbers import from_bytes
    from repro.zoo import pretrained

    name = "mobilenetv2-imagenet"
    features = pretrained.colour_features(Job.for_test(device=device))

    def extract(block: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(block)).permute(0, 3, 1, 2)
        return features(from_bytes(x)).cpu().numpy()

    return Network(name, catalogue.fingerprint(name), _as_they_are, extract)


def _inception(device: str) -> Network:
    extract = fid.inception_features(device=device)
    digest = store.sha256(cache.root() / "downloads" / fid.INCEPTION_FILE)
    return Network("inception", digest, _as_they_are, lambda x: extract(np.ascontiguousarray(x)))


# Features -------------------------------------------------------------------------------------


def look(
    images: Pictures, network: Network, what: str, chosen: Sequence[int] | None = None
) -> Seen:
    """Features of images, by default of all, in their order; what was computed before is read.

    Raises:
        ReproError: an image cannot be read, or is not what the network is fed.
    """
    rows = range(len(images)) if chosen is None else chosen
    found, hashes = [], []
    meter = display.Meter(f"features of {what}", len(rows), log)
    try:
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            places = [images.places[k] for k in part]
            block = network.prepared(images.block(part), places)
            hashes += [hashlib.blake2b(one.tobytes(), digest_size=16).digest() for one in block]
            found.append(_kept(network, block, hashes[-len(block) :]))
            meter.update(start + len(part))
    finally:
        meter.close()
    return Seen(np.concatenate(found).astype(np.float64), hashes)


def _kept(network: Network, block: np.ndarray, hashes: Iterable[bytes]) -> np.ndarray:
    """The features of a block, from the work folder or computed and put there."""
    key = hashlib.sha256(f"{network.digest} {block.shape[1:]}".encode() + b"".join(hashes))
    path = work_root() / "features" / network.name / f"{key.hexdigest()}.npz"
    if path.is_file():
        try:
            features = store.read_arrays(path)["features"]
            if features.shape[0] == len(block) and np.isfinite(features).all():
                return features
        except (ReproError, KeyError):
            log.warning("%s is damaged; it is computed again", path)
    features = network.extract(block)
    store.write_arrays(path, {"features": features})
    return features


def _shuffled(seen: Seen, seed: int) -> Seen:
    """Files come in the order of their names, often class by class; groups must not."""
    return seen.of(np.random.default_rng(seed).permutation(len(seen)))


def _sha256(seen: Seen) -> str:
    return hashlib.sha256(b"".join(sorted(seen.hashes))).hexdigest()


def _copies(own: Seen, real: Seen) -> int:
    return sum(one in {*real.hashes} for one in {*own.hashes})


# Metrics --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A metric with its interval and its floor."""

    id: models.MetricId
    value: float
    low: float
    high: float
    floor: float
    n: int
    n_reference: int
    lower_is_better: bool


def _rows(name: str, own: Seen, real: Seen, floor: Seen, against: Seen) -> list[Row]:
    """Rows of a metric; `against` is the reference of the floor."""
    if name == "fid":
        of = _frechet(real.features)
        x = own.features
        value, low, high = jackknife(_leaving_out(len(x), lambda rows: of(x[rows])))
        base = (of if against is real else _frechet(against.features))(floor.features)
        return [Row("fid", value, max(0.0, low), high, base, len(own), len(real), True)]
    if name == "kid":
        x, y = own.features[:MOST_OF_KID], real.features[:MOST_OF_KID]
        value, low, high = jackknife(KernelDistance(x, y, groups_of(len(x))).without)
        f, g = floor.features[:MOST_OF_KID], against.features[:MOST_OF_KID]
        base = KernelDistance(f, g, [np.arange(len(f))]).without()
        return [Row("kid", value, low, high, base, len(x), len(y), True)]
    return _precision_recall(own, real, floor, against)


def _leaving_out(n: int, of: Callable[[np.ndarray], T]) -> Callable[[int | None], T]:
    """A function of the rows that stay as one of the group that goes."""
    groups = groups_of(n)
    return lambda g: of(np.setdiff1d(np.arange(n), [] if g is None else groups[g]))


def _frechet(real: np.ndarray) -> Callable[[np.ndarray], float]:
    """Fréchet distance to real features (M, D), whose Gaussian is fitted once."""
    if len(real) < real.shape[1]:
        return lambda x: fid.frechet_from_features(x, real)
    fitted = fid.gaussian_statistics(real)
    return lambda x: fid.frechet_distance(*fid.gaussian_statistics(x), *fitted)


def _precision_recall(own: Seen, real: Seen, floor: Seen, against: Seen) -> list[Row]:
    """Of as many images of both sides, at most as many as the judge of the papers takes."""
    from repro.zoo.judge import NEIGHBOURS

    n = min(NEIGHBOURS, len(own), len(real))
    x, y = own.features[:n], real.features[:n]
    both = functools.cache(_leaving_out(n, lambda rows: fid.precision_recall(y, x[rows])))
    m = min(n, len(floor), len(against))
    base = fid.precision_recall(against.features[:m], floor.features[:m])
    rows = []
    names: tuple[models.MetricId, ...] = ("precision", "recall")
    for part, name in enumerate(names):
        value, low, high = jackknife(_part(both, part))
        low, high = max(0.0, low), min(1.0, high)
        rows.append(Row(name, value, low, high, base[part], n, n, False))
    return rows


def _part(
    both: Callable[[int | None], tuple[float, float]], part: int
) -> Callable[[int | None], float]:
    return lambda g: both(g)[part]


def _named(row: Row, network: Network) -> models.MetricOfImages:
    own = {
        "fid": "FID (clean)" if network.name == "inception" else "Fréchet distance",
        "kid": "KID" if network.name == "inception" else "kernel distance",
    }
    return models.MetricOfImages(
        id=row.id,
        title=own.get(row.id, row.id),
        value=row.value,
        low=row.low,
        high=row.high,
        floor=row.floor,
        above_floor=row.value - row.floor,
        lower_is_better=row.lower_is_better,
        n=row.n,
        n_reference=row.n_reference,
    )


# Notes ----------------------------------------------------------------------------------------


def _on_sizes(given: Pictures, reference: Reference, network: Network) -> list[str]:
    notes = []
    if network.name != "inception":
        notes.append(f"a distance of the features of {network.name} is no FID")
    if network.name in ("inception", "mobilenetv2-imagenet") and given.size != reference.real.size:
        h, w = given.size
        notes.append(
            f"the images have {h} x {w} pixels, the reference {reference.real.size[0]} x "
            f"{reference.real.size[1]}: the network resizes both, and sees the difference"
        )
    return notes


def _on_numbers(own: Seen, real: Seen) -> list[str]:
    notes = []
    if len(own) < ADVISED:
        notes.append(
            f"{len(own)} images are few: distances of fewer than {ADVISED} are mostly bias"
        )
    if copies := _copies(own, real):
        notes.append(f"{copies} of the images are images of the reference, pixel by pixel")
    if twice := len(own) - len({*own.hashes}):
        notes.append(f"{twice} of the images stand more than once")
    return notes
