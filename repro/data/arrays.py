"""Plain numpy files: batches of images in ``.npz``, stacks of slices in ``.npy``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repro.errors import ReproError


def load_numpy(path: Path) -> np.ndarray | np.lib.npyio.NpzFile:
    """Open a numpy file without unpickling.

    Raises:
        ReproError: it is none, or it is damaged.
    """
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ReproError(f"{path} is not a plain numpy file ({error}); fetch it again") from error


def npz_images(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read one batch of images from an npz file.

    Either ``arr_0`` uint8 (N, H, W, 3) with optional labels ``arr_1`` (the layout of the ADM
    sample and reference batches), or the downsampled ImageNet's ``data`` (N, 3·H·W, channel first)
    with ``labels`` from 1.

    Returns:
        images uint8 (N, H, W, 3); labels int64 (N,) from 0, or None.

    Raises:
        ReproError: the file holds neither, or needs unpickling.
    """
    bundle = load_numpy(path)
    if isinstance(bundle, np.ndarray):
        raise ReproError(f"{path} holds one bare array; an npz with the key arr_0 is expected")
    with bundle:
        try:
            if "arr_0" in bundle.files:
                pixels = bundle["arr_0"]
                labels = bundle["arr_1"] if "arr_1" in bundle.files else None
            elif "data" in bundle.files:
                flat = bundle["data"]
                side = round((flat.shape[1] / 3) ** 0.5)
                pixels = flat.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)
                labels = np.asarray(bundle["labels"]) - 1 if "labels" in bundle.files else None
            else:
                raise ReproError(f"{path} holds {', '.join(bundle.files)}; arr_0 is expected")
        except (ValueError, IndexError) as error:
            raise ReproError(f"{path} is not a batch of images ({error})") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ReproError(
            f"{path} holds {pixels.dtype} {pixels.shape}; uint8 (N, H, W, 3) is expected"
        )
    if labels is not None:
        labels = np.asarray(labels, np.int64)
    return np.ascontiguousarray(pixels), labels


def npz_batches(folder: Path) -> Iterator[np.ndarray]:
    """Yield the image batches of a folder, one npz file after another by name.

    Yields:
        uint8 (N, H, W, 3).

    Raises:
        ReproError: a file is not a batch of images.
    """
    for path in sorted(folder.glob("*.npz")):
        yield npz_images(path)[0]


def slice_stack(folder: Path, side: int | None = None) -> np.ndarray:
    """Stack ``<number>.npy`` slices in the order of their numbers.

    Args:
        side: the height and width that every slice must have; None for any common shape.

    Returns:
        float32 (Z, H, W).

    Raises:
        ReproError: a file name has no number, or a slice is not 2-D, finite and of equal shape.
    """
    folder = Path(folder)
    numbered: dict[int, Path] = {}
    for path in folder.glob("*.npy"):
        number = re.search(r"(\d+)$", path.stem)
        if number is None or int(number[1]) in numbered:
            raise ReproError(f"{path} has no slice number of its own; name slices 0.npy, 1.npy, …")
        numbered[int(number[1])] = path
    if not numbered:
        raise ReproError(f"{folder} holds no .npy slices; put one file a slice there")
    slices: list[np.ndarray] = []
    for _, path in sorted(numbered.items()):
        values = load_numpy(path)
        if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
            raise ReproError(f"{path} is not a real 2-D slice; export one array a file")
        expected = (side, side) if side else (slices[0].shape if slices else values.shape)
        if values.shape != expected:
            raise ReproError(f"{path} has the shape {values.shape}; {expected} is expected")
        if not np.isfinite(values).all():
            raise ReproError(f"{path} holds values that are not finite; export it again")
        slices.append(values.astype(np.float32))
    return np.stack(slices)
