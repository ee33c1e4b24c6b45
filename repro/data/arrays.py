"""Plain numpy files: batches of images in ``.npz``, stacks of slices in ``.npy``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repro.data.foreign import (
    check_file,
    check_numpy,
    check_pixels,
    class_labels,
    reason,
    visible_files,
)
from repro.errors import ReproError

IMAGENET_CLASSES = 1000


def load_numpy(path: Path) -> np.ndarray | np.lib.npyio.NpzFile:
    """Open a numpy file without unpickling.

    Raises:
        ReproError: it is none, or it is damaged.
    """
    head = check_file(path)
    try:
        check_numpy(head)
        return np.load(path, allow_pickle=False)
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ReproError(
            f"{path} is not a whole plain numpy file ({reason(error)}); fetch it again"
        ) from error


def npz_images(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read one batch of images from an npz file.

    Either ``arr_0`` uint8 (N, H, W, 3) with optional labels ``arr_1`` from 0 (the layout of the ADM
    sample and reference batches), or the downsampled ImageNet's ``data`` (N, 3·H·W, channel first)
    with ``labels`` from 1. There are 1 000 classes at most.

    Returns:
        images uint8 (N, H, W, 3); labels int64 (N,) from 0, or None.

    Raises:
        ReproError: the file holds neither, is damaged, or needs unpickling; the images are not
            bytes or all of one colour; labels are of another number or no classes.
    """
    bundle = load_numpy(path)
    if isinstance(bundle, np.ndarray):
        raise ReproError(f"{path} holds one bare array; an npz with the key arr_0 is expected")
    with bundle:
        keys = bundle.files
        flat = "data" in keys
        if flat == ("arr_0" in keys):
            raise ReproError(
                f"{path} holds {', '.join(keys) or 'nothing'}; arr_0 is expected (or data), "
                "so fetch the version that is named"
            )
        try:
            pixels = bundle["data" if flat else "arr_0"]
            name = "labels" if flat else "arr_1"
            labels = bundle[name] if name in keys else None
        except Exception as error:  # zipfile, zlib and numpy each have their own
            raise ReproError(
                f"{path} is not a batch of images ({reason(error)}); fetch it again"
            ) from error
    if flat:
        pixels = _channels_last(pixels, path)
    if pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ReproError(
            f"{path} holds {pixels.dtype} {pixels.shape}; uint8 (N, H, W, 3) is expected, "
            "so fetch the version that is named"
        )
    check_pixels(pixels, str(path))
    if labels is not None:
        labels = class_labels(labels, len(pixels), IMAGENET_CLASSES, str(path), first=int(flat))
    return np.ascontiguousarray(pixels), labels


def _channels_last(flat: np.ndarray, path: Path) -> np.ndarray:
    """(N, 3·S·S) → (N, S, S, 3)."""
    side = round((flat.shape[1] / 3) ** 0.5) if flat.ndim == 2 else 0
    if side == 0 or flat.shape[1] != 3 * side * side:
        raise ReproError(
            f"{path} is not a batch of images (data of the shape {flat.shape} is no row of three "
            "square channels an image); fetch it again"
        )
    return flat.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


def npz_batches(folder: Path, side: int | None = None) -> Iterator[np.ndarray]:
    """Yield the image batches of a folder, one npz file after another by name.

    Args:
        side: the height and width that all images must have; None for any common shape.

    Yields:
        uint8 (N, H, W, 3).

    Raises:
        ReproError: a file is not a batch of images, or of another size than the first; a file is
            missing among numbered ones.
    """
    paths = visible_files(folder, ".npz")
    if not paths:
        raise ReproError(f"{folder} holds no .npz file; put the batches there")
    _check_numbers(paths)
    expected = (side, side) if side else None
    for path in paths:
        pixels = npz_images(path)[0]
        expected = expected or pixels.shape[1:3]
        if pixels.shape[1:3] != expected:
            raise ReproError(
                f"{path} holds images of {pixels.shape[1:3]} pixels; {expected} is expected, "
                "so fetch the version that is named"
            )
        yield pixels


def _check_numbers(paths: list[Path]) -> None:
    """Refuse a gap among files ``<number>`` or ``…_batch_<number>``, ImageNet's names."""
    numbers: dict[str, list[int]] = {}
    for path in paths:
        if found := re.fullmatch(r"(|.*_batch_)(\d+)", path.stem):
            numbers.setdefault(found[1], []).append(int(found[2]))
    for stem, there in numbers.items():
        if missing := _gap(there):
            raise ReproError(f"{paths[0].parent / f'{stem}{missing}.npz'} is missing; put it there")


def _gap(numbers: list[int]) -> int | None:
    """The first number that is missing between 0 or 1 and the greatest of ``numbers``."""
    there = set(numbers)
    return next((n for n in range(1, max(there)) if n not in there), None)


def slice_stack(folder: Path, side: int | None = None) -> np.ndarray:
    """Stack ``<number>.npy`` slices in the order of their numbers.

    Args:
        side: the height and width that every slice must have; None for any common shape.

    Returns:
        float32 (Z, H, W).

    Raises:
        ReproError: a file name has no number; a number is missing between 0 or 1 and the last; a
            slice is not 2-D, finite and of equal shape and kind; a slice is a copy of the one
            before it; all voxels are equal.
    """
    slices: list[np.ndarray] = []
    kinds: list[np.dtype] = []
    for path in _numbered_slices(Path(folder)):
        values = _real_slice(path)
        expected = (side, side) if side else (slices[0].shape if slices else values.shape)
        if values.shape != expected or values.size == 0:
            raise ReproError(
                f"{path} has the shape {values.shape}; {expected} is expected, so export it again"
            )
        kinds.append(values.dtype.newbyteorder("="))
        if kinds[-1] != kinds[0]:
            raise ReproError(
                f"{path} holds {kinds[-1]}, the slices before it {kinds[0]}; export all alike"
            )
        with np.errstate(over="ignore"):
            slices.append(values.astype(np.float32))
        _check_slice(path, *slices[-2:])
    volume = np.stack(slices)
    if volume.min() == volume.max():
        raise ReproError(f"{folder} holds the value {volume.flat[0]:g} alone; export it again")
    return volume


def _numbered_slices(folder: Path) -> list[Path]:
    """The slices of a folder in the order of their numbers, which have no gap."""
    numbered: dict[int, Path] = {}
    for path in visible_files(folder, ".npy"):
        number = re.search(r"(\d+)$", path.stem)
        if number is None or int(number[1]) in numbered:
            raise ReproError(f"{path} has no slice number of its own; name slices 0.npy, 1.npy, …")
        numbered[int(number[1])] = path
    if not numbered:
        raise ReproError(f"{folder} holds no .npy slices; put one file a slice there")
    first = min(numbered)
    missing = 0 if first > 1 else _gap(list(numbered))
    if missing is not None:
        raise ReproError(
            f"{folder} has no slice {missing}, but slices {first} to {max(numbered)}; put the "
            "missing ones there, or number the slices from 0 without a gap"
        )
    return [path for _, path in sorted(numbered.items())]


def _real_slice(path: Path) -> np.ndarray:
    values = load_numpy(path)
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
        raise ReproError(f"{path} is not a real 2-D slice; export one array a file")
    return values


def _check_slice(path: Path, *slices: np.ndarray) -> None:
    """Look at the last one or two slices as they are stacked."""
    last = slices[-1]
    if not np.isfinite(last).all():
        raise ReproError(f"{path} holds values that are not finite in float32; export it again")
    if len(slices) == 2 and np.array_equal(*slices) and last.min() < last.max():
        raise ReproError(f"{path} is a copy of the slice before it; export it again")
