"""Make small archives for the tests."""

import io
import tarfile
import zipfile


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
