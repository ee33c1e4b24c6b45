"""A person's images: a folder of picture files, or one npz, as bytes of one size.

Pictures are uint8 (n, H, W, 3); a grey one has three equal channels. Files are decoded when they
are asked for, so that a folder of any length fits into memory. What changes no level is done
without a word (palettes, one-bit files, an alpha of 255); what changes one is said in `notes` (16
bits rounded to 8, a size asked for); what needs a decision is refused with the file's name (mixed
sizes, transparency without a background).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from repro.data.arrays import load_numpy
from repro.data.containers import Split
from repro.data.foreign import check_file, check_pixels, reason
from repro.errors import ReproError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
BACKGROUNDS = {"black": 0, "white": 255}
Background = Literal["black", "white"]

LEAST_SIDE, MOST_SIDE = 4, 4096
_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I")
LEVELS = 257
"""Steps of 16 bits in one of 8: 65 535 / 255."""

Tell = Callable[[int, int], None]
"""Takes how many files of how many are done."""


@dataclass
class Pictures:
    """Images of one size.

    Attributes:
        name: what the person called them.
        size: (H, W) in pixels.
        places: what each image is called in an error.
        notes: what was done to them, a line each.
    """

    name: str
    size: tuple[int, int]
    places: Sequence[str]
    one: Callable[[int], np.ndarray] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.places)

    def block(self, chosen: Sequence[int]) -> np.ndarray:
        """Some of the images, uint8 (n, H, W, 3).

        Raises:
            ReproError: one cannot be read.
        """
        return np.stack([self.one(k) for k in chosen])

    def note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def read(
    path: Path,
    side: int | None = None,
    background: Background | None = None,
    tell: Tell = lambda done, of: None,
) -> Pictures:
    """The images of a folder, its subfolders included, or of an npz.

    Args:
        side: the height and width that every image is resized to (bicubic, anti-aliased).
        background: what transparent pixels are laid on.
        tell: hears how many files were looked at.

    Raises:
        ReproError: there are none, they are of several sizes and no side is given, or the first
            of them cannot be read.
    """
    if side is not None and not LEAST_SIDE <= side <= MOST_SIDE:
        raise ReproError(f"a side of {side} pixels; give {LEAST_SIDE} to {MOST_SIDE}")
    if background is not None and background not in BACKGROUNDS:
        raise ReproError(f"no background `{background}`; give {' or '.join(BACKGROUNDS)}")
    if path.is_dir():
        return _folder(path, side, background, tell)
    head = check_file(path)
    if path.suffix.lower() == ".npz":
        return _npz(path, side)
    if path.suffix.lower() in SUFFIXES:
        raise ReproError(f"{path} is one image; name the folder that holds them")
    kind = "a numpy array" if head.startswith(b"\x93NUMPY") else "no folder and no .npz"
    raise ReproError(f"{path} is {kind}; name a folder of images, or an .npz with one array")


def of_split(name: str, split: Split, levels: int = 256) -> Pictures:
    """The images of a split of a data set.

    Args:
        levels: how many its images have; fewer than 256 are spread over the bytes.
    """
    images = split.images
    spread = np.round(np.arange(levels) * (255 / (levels - 1))).astype(np.uint8)

    def one(k: int) -> np.ndarray:
        return _colour(spread[images[k]] if levels != 256 else images[k])

    size = images.shape[1], images.shape[2]
    return Pictures(name, size, _Numbered(name, len(images)), one)


@dataclass(frozen=True)
class _Numbered(Sequence[str]):
    name: str
    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, k: Any) -> Any:
        return f"{self.name}, image {k}"


def _colour(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) -> (H, W, 3)."""
    image = image[..., None] if image.ndim == 2 else image
    return np.broadcast_to(image, (*image.shape[:2], 3)) if image.shape[-1] == 1 else image


# Folders ------------------------------------------------------------------------------------


def _folder(path: Path, side: int | None, background: Background | None, tell: Tell) -> Pictures:
    every = _files(path)
    files = [p for p in every if p.suffix.lower() in SUFFIXES]
    if not files:
        there = ", ".join(sorted({p.suffix or p.name for p in every})[:5])
        other = f"holds {there}" if every else "is empty"
        raise ReproError(f"{path} {other}; put {', '.join(SUFFIXES)} files there")
    size = (side, side) if side else _common_size(files, tell)
    places = [str(p) for p in files]
    found = Pictures(str(path), size, places, lambda k: _decoded(files[k], side, background, found))
    if len(files) < len(every):
        found.note(f"{len(every) - len(files)} other files in {path} were left alone")
    if any(p.suffix.lower() in (".jpg", ".jpeg") for p in files):
        found.note(f"{path} holds JPEG files: what their compression lost is measured too")
    if side:
        found.note(f"{path}: every image was resized to {side} x {side} pixels (bicubic)")
    found.one(0)
    return found


def _files(path: Path) -> list[Path]:
    """All files below a folder but hidden ones, in the order of their paths.

    Raises:
        ReproError: it cannot be read.
    """
    try:
        return sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
    except OSError as error:
        raise ReproError(f"{path} cannot be read ({error.strerror}); make it readable") from error


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.relative_to(root).parts)


def _common_size(files: Sequence[Path], tell: Tell) -> tuple[int, int]:
    """(H, W) that all files have by their headers."""
    first: tuple[int, int] | None = None
    for done, path in enumerate(files, 1):
        with _opened(path) as image:
            width, height = image.size
        if first is None:
            first = height, width
        elif (height, width) != first:
            raise ReproError(
                f"{path} has {height} x {width} pixels, {files[0].name} {first[0]} x {first[1]}; "
                "give --size to resize all of them, or take the odd ones out"
            )
        tell(done, len(files))
    assert first is not None
    return first


def _opened(path: Path) -> Image:
    """An image whose header could be read; it is decoded later.

    Raises:
        ReproError: it is none, or another file lies in its place.
    """
    from PIL import Image as images

    check_file(path)
    try:
        return images.open(path)
    except Exception as error:  # each decoder has its own
        why = "is no image" if isinstance(error, images.UnidentifiedImageError) else reason(error)
        raise ReproError(f"{path}: {why}; export it again, or take it out") from error


def _decoded(
    path: Path, side: int | None, background: Background | None, told: Pictures
) -> np.ndarray:
    """One image, uint8 (H, W, 3)."""
    from PIL import Image as images

    with _opened(path) as image:
        try:
            frames = getattr(image, "n_frames", 1)
            # Pillow gives colours of 16 bits as 8; only the raw mode of the file tells.
            deep = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
            image.load()
        except Exception as error:  # each decoder has its own
            raise ReproError(
                f"{path} is cut short or damaged ({reason(error)}); export it again, or take it out"
            ) from error
        if frames > 1:
            raise ReproError(f"{path} holds {frames} frames; export one image a file")
        if deep and image.mode not in _SIXTEEN:
            told.note(f"{told.name}: of colours of 16 bits the upper 8 were taken")
        pixels = _without_alpha(_eight_bits(image, path, told), path, background)
    if side and pixels.shape[:2] != (side, side):
        if pixels.shape[0] != pixels.shape[1]:
            raise ReproError(
                f"{path} has {pixels.shape[0]} x {pixels.shape[1]} pixels and is not square; crop "
                "it first, for --size does not"
            )
        resized = images.fromarray(pixels).resize((side, side), images.Resampling.BICUBIC)
        return np.asarray(resized)
    return pixels


def _eight_bits(image: Image, path: Path, told: Pictures) -> Image:
    """An image in RGB or RGBA.

    Raises:
        ReproError: 16 bits hold levels of 8, or the colours are of no screen.
    """
    from PIL import Image as images

    if image.mode in _SIXTEEN:
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() >= 1 << 16:
            raise ReproError(f"{path} has levels beyond 16 bits; export it with 8")
        if 0 < levels.max() <= 255:
            raise ReproError(
                f"{path} has 16 bits and no level above {levels.max()}, as if 8 bits were written "
                "without being spread; export it with 8"
            )
        told.note(f"{told.name}: levels of 16 bits were rounded to 8")
        return images.fromarray(np.round(levels / LEVELS).astype(np.uint8)).convert("RGB")
    if image.mode in ("1", "L", "RGB", "P") and "transparency" not in image.info:
        return image.convert("RGB")
    if image.mode in (*_ALPHA, "1", "L", "RGB", "P"):
        return image.convert("RGBA")
    raise ReproError(f"{path} is in {image.mode} colours; export it as grey or RGB")


def _without_alpha(image: Image, path: Path, background: Background | None) -> np.ndarray:
    pixels = np.asarray(image)
    if image.mode == "RGB":
        return pixels
    alpha = pixels[..., 3]
    if (alpha == 255).all():
        return np.ascontiguousarray(pixels[..., :3])
    if background is None:
        raise ReproError(
            f"{path} has transparent pixels; give --background black or white to lay it on one"
        )
    share = alpha[..., None] / 255
    laid = pixels[..., :3] * share + BACKGROUNDS[background] * (1 - share)
    return np.round(laid).astype(np.uint8)


# npz ----------------------------------------------------------------------------------------


def _npz(path: Path, side: int | None) -> Pictures:
    """One array uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3): the only one, or ``arr_0``."""
    bundle = load_numpy(path)
    if isinstance(bundle, np.ndarray):
        raise ReproError(f"{path} holds one bare array; write it with numpy.savez")
    with bundle:
        keys = bundle.files
        if "arr_0" not in keys and len(keys) != 1:
            raise ReproError(f"{path} holds {', '.join(keys) or 'nothing'}; give one array, arr_0")
        try:
            images = bundle["arr_0" if "arr_0" in keys else keys[0]]
        except Exception as error:  # zipfile, zlib and numpy each have their own
            raise ReproError(f"{path} is damaged ({reason(error)}); write it again") from error
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[-1] not in (1, 3):
        raise ReproError(
            f"{path} holds {images.shape}, channels first; write (N, H, W, C), as by "
            "`images.transpose(0, 2, 3, 1)`"
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
        raise ReproError(f"{path} holds {images.shape}; write (N, H, W) or (N, H, W, 3)")
    check_pixels(images, str(path))
    if side and images.shape[1:3] != (side, side):
        raise ReproError(
            f"{path} holds images of {images.shape[1]} x {images.shape[2]} pixels, and --size "
            "resizes files of a folder alone; resize them first"
        )
    size = images.shape[1], images.shape[2]
    places = _Numbered(str(path), len(images))
    return Pictures(str(path), size, places, lambda k: _colour(images[k]))
