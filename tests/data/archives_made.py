"""Make small archives and published files for the tests."""

import io
import struct
import tarfile
import zipfile

import numpy as np


def tar_bytes(members, mode="w:gz", links=()):
    """Make a tar archive from names to bytes, and links (name, target)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as bundle:
        for name, data in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            bundle.addfile(item, io.BytesIO(data))
        for name, target in links:
            item = tarfile.TarInfo(name)
            item.type, item.linkname = tarfile.SYMTYPE, target
            bundle.addfile(item)
    return stream.getvalue()


def zip_bytes(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for name, data in members.items():
            bundle.writestr(name, data)
    return stream.getvalue()


def ar_member(name, data):
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    return head + data + b"\n" * (len(data) % 2)


def deb_bytes(members, suffix="xz", mode="w:xz"):
    """Make a Debian package: an ar archive whose middle member has an odd length."""
    dotted = {f"./{n}" if n[0].isalpha() and ":" not in n else n: v for n, v in members.items()}
    data = tar_bytes(dotted, mode)
    parts = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (f"data.tar.{suffix}", data)]
    return b"!<arch>\n" + b"".join(ar_member(*part) for part in parts)


def idx(array):
    """An IDX file of bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def cifar_records(pixels, labels):
    """Records of CIFAR-10's binary version: a label, then the pixels, channel first."""
    flat = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return np.concatenate([labels[:, None].astype(np.uint8), flat], 1).tobytes()


def write_slices(folder, volume, name="{}.npy"):
    """One ``.npy`` file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, values in enumerate(volume):
        np.save(folder / name.format(i), values)
