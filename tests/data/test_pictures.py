"""A person's images: every way in which a level may be stored, and what is refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from repro.data import pictures
from repro.errors import ReproError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 8, 8), dtype=np.uint8)


def save(folder, name, array, **how):
    folder.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(folder / name, **how)
    return folder / name


def deep_colours(path):
    """A PNG of 16 bits a colour, which Pillow reads and does not write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + b"\x12\x34\x56\x78\x9a\xbc" * 8 for _ in range(8))
    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_a_grey_level_is_the_same_however_it_is_stored(tmp_path):
    grey = Image.fromarray(GREY[0])
    palette = grey.convert("P")
    opaque = np.dstack([GREY[0]] * 3 + [np.full((8, 8), 255, np.uint8)])
    ways = {
        "a": grey, "b": grey.convert("RGB"), "c": palette, "d": Image.fromarray(opaque),
        "e": grey.convert("LA"), "f": Image.fromarray(GREY[0].astype(np.uint16) * 257),
    }  # fmt: skip
    for name, image in ways.items():
        save(tmp_path, f"{name}.png", image)
    save(tmp_path / "below", "g.BMP", grey)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "labels.txt").write_text("x")
    found = pictures.read(tmp_path)
    assert len(found) == 7 and found.size == (8, 8)
    block = found.block(range(7))
    assert block.dtype == np.uint8 and (block == GREY[0][None, ..., None]).all()
    assert any("16 bits were rounded" in note for note in found.notes)
    assert any("1 other files" in note for note in found.notes)


def test_one_bit_is_black_and_white(tmp_path):
    save(tmp_path, "a.png", Image.fromarray(GREY[0] > 127))
    assert np.unique(pictures.read(tmp_path).block([0])).tolist() == [0, 255]


def test_colours_of_16_bits_are_told(tmp_path):
    deep_colours(tmp_path / "a.png")
    found = pictures.read(tmp_path)
    assert found.block([0])[0, 0, 0].tolist() == [0x12, 0x56, 0x9A]
    assert any("upper 8" in note for note in found.notes)


def test_transparency_needs_a_background(tmp_path):
    rgba = np.dstack([np.full((8, 8), 100, np.uint8)] * 3 + [np.full((8, 8), 51, np.uint8)])
    path = save(tmp_path, "a.png", rgba)
    with pytest.raises(ReproError, match=rf"^{path} has transparent pixels; give --background"):
        pictures.read(tmp_path)
    for background, level in (("black", 20), ("white", 224)):
        assert (pictures.read(tmp_path, background=background).block([0]) == level).all()
    keyed = Image.fromarray(GREY[0]).convert("P")
    save(tmp_path, "a.png", keyed, transparency=int(GREY[0, 0, 0]))
    with pytest.raises(ReproError, match="transparent"):
        pictures.read(tmp_path)


def test_mixed_sizes_are_refused_or_resized(tmp_path):
    save(tmp_path, "a.png", GREY[0])
    save(tmp_path, "b.png", np.full((16, 16), 7, np.uint8))
    with pytest.raises(ReproError, match=r"b.png has 16 x 16 pixels, a.png 8 x 8; give --size"):
        pictures.read(tmp_path)
    found = pictures.read(tmp_path, side=8)
    assert (found.block([0])[0, ..., 0] == GREY[0]).all() and (found.block([1]) == 7).all()
    save(tmp_path, "c.png", np.full((8, 12), 7, np.uint8))
    with pytest.raises(ReproError, match="is not square"):
        pictures.read(tmp_path, side=8).block(range(3))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"", "is empty"),
        ("a.png", b"<!DOCTYPE html><html>", "is a web page"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("a.png", b"no image at all", "is no image"),
        ("a.png", None, "is cut short or damaged"),
        ("a.txt", b"x", "holds .txt; put .png"),
    ],
)
def test_what_is_no_image(tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        noise = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
        content = save(tmp_path, "a.png", noise).read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(ReproError, match=message) as caught:
        pictures.read(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_levels_that_were_not_spread(tmp_path):
    save(tmp_path, "a.png", GREY[0].astype(np.uint16))
    with pytest.raises(ReproError, match="as if 8 bits were written without being spread"):
        pictures.read(tmp_path)


def test_other_colours_and_several_frames(tmp_path):
    save(tmp_path, "a.jpg", Image.fromarray(GREY[0]).convert("CMYK"))
    with pytest.raises(ReproError, match="in CMYK colours"):
        pictures.read(tmp_path)
    frames = [Image.fromarray(one) for one in GREY]
    (tmp_path / "a.jpg").unlink()
    save(tmp_path, "a.png", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(ReproError, match="holds 4 frames"):
        pictures.read(tmp_path)


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, GREY)
    found = pictures.read(path)
    assert len(found) == 4 and (found.block([2])[0, ..., 1] == GREY[2]).all()
    for array, message in (
        (GREY / 255.0, "uint8 levels from 0 to 255 are expected"),
        (np.stack([GREY] * 3, 1), "channels first"),
        (GREY[0], "write .N, H, W."),
        (np.zeros((4, 8, 8), np.uint8), "holds the level 0 alone"),
    ):
        np.savez(path, array)
        with pytest.raises(ReproError, match=message):
            pictures.read(path)
    np.savez(path, a=GREY, b=GREY)
    with pytest.raises(ReproError, match="holds a, b; give one array"):
        pictures.read(path)


@pytest.mark.parametrize("side", [0, -1, 5000])
def test_sides(tmp_path, side):
    save(tmp_path, "a.png", GREY[0])
    with pytest.raises(ReproError, match="give 4 to 4096"):
        pictures.read(tmp_path, side=side)


def test_paths_that_are_no_folder(tmp_path):
    one = save(tmp_path, "a.png", GREY[0])
    with pytest.raises(ReproError, match="is one image; name the folder"):
        pictures.read(one)
    with pytest.raises(ReproError, match="is missing"):
        pictures.read(tmp_path / "nope")
    np.save(tmp_path / "a.npy", GREY)
    with pytest.raises(ReproError, match="is a numpy array; name a folder"):
        pictures.read(tmp_path / "a.npy")
