import os
import stat
import zipfile

import pytest
from archives_made import deb_bytes, tar_bytes, zip_bytes

from repro.data.archives import read_members, safe_name
from repro.errors import ReproError

MEMBERS = {"pkg/a.txt": b"alpha", "pkg/sub/b.bin": bytes(range(200)), "other/c": b"gamma"}
MAKERS = {"x.whl": zip_bytes, "x.tgz": tar_bytes, "x.deb": deb_bytes}


@pytest.mark.parametrize("filename", MAKERS)
def test_members_by_pattern(tmp_path, filename):
    path = tmp_path / filename
    path.write_bytes(MAKERS[filename](MEMBERS))
    assert read_members(path, ["pkg/*"]) == {k: v for k, v in MEMBERS.items() if "pkg" in k}
    assert read_members(path, ["other/c"]) == {"other/c": b"gamma"}
    with pytest.raises(ReproError, match="no member pkg/z"):
        read_members(path, ["pkg/a.txt", "pkg/z"])


@pytest.mark.parametrize("filename", MAKERS)
@pytest.mark.parametrize("bad", ["../evil", "a/../../evil", "/etc/evil", "C:\\evil", "..\\evil"])
def test_an_unsafe_path_anywhere_refuses_the_archive(tmp_path, filename, bad):
    path = tmp_path / filename
    path.write_bytes(MAKERS[filename](dict(MEMBERS, **{bad: b"x"})))
    with pytest.raises(ReproError, match="unsafe path"):
        read_members(path, ["pkg/a.txt"])


def test_safe_name_keeps_ordinary_names():
    assert safe_name("./usr//share/x..y", "a") == "usr/share/x..y"


def test_a_link_is_not_read_as_a_file(tmp_path):
    path = tmp_path / "x.tgz"
    path.write_bytes(tar_bytes(MEMBERS, links=[("pkg/link", "/etc/passwd")]))
    assert read_members(path, ["pkg/a.txt"]) == {"pkg/a.txt": b"alpha"}
    with pytest.raises(ReproError, match="link at pkg/link"):
        read_members(path, ["pkg/*"])
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as bundle:
        item = zipfile.ZipInfo("pkg/link")
        item.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(item, "/etc/passwd")
    with pytest.raises(ReproError, match="link at pkg/link"):
        read_members(wheel, ["pkg/link"])


@pytest.mark.parametrize("filename", MAKERS)
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9])
def test_a_cut_archive_is_reported(tmp_path, filename, keep):
    data = MAKERS[filename](dict(MEMBERS, big=bytes(range(256)) * 300))
    path = tmp_path / filename
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ReproError, match=r"damaged|cut short|no data\.tar|not a Debian"):
        read_members(path, ["big"])


def test_a_flipped_byte_in_a_wheel_is_noticed(tmp_path):
    data = bytearray(zip_bytes({"a": b"x" * 1000}))
    data[200] ^= 1
    path = tmp_path / "x.whl"
    path.write_bytes(data)
    with pytest.raises(ReproError, match="damaged"):
        read_members(path, ["a"])


def test_a_flipped_byte_of_another_member_of_a_tarball_is_noticed(tmp_path):
    """The checksum of gzip stands at its end, behind what is wanted."""
    noise = bytes(range(256)) * 40
    data = bytearray(tar_bytes({"a": noise, "b": os.urandom(40_000)}))
    data[len(data) // 2] ^= 1  # bytes that do not compress are stored as they are
    path = tmp_path / "x.tgz"
    path.write_bytes(data)
    with pytest.raises(ReproError, match="damaged"):
        read_members(path, ["a"])


def test_two_members_of_one_name_that_differ(tmp_path):
    path = tmp_path / "x.whl"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("a", b"one")
        bundle.writestr("a", b"two")
    with pytest.raises(ReproError, match="two different files a"):
        read_members(path, ["a"])


def test_unknown_debian_compression(tmp_path):
    path = tmp_path / "x.deb"
    path.write_bytes(deb_bytes(MEMBERS, suffix="zst"))
    with pytest.raises(ReproError, match="zstandard"):
        read_members(path, ["pkg/a.txt"])


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("repro.data.archives.LIMIT", 1000)
    for filename, make in MAKERS.items():
        path = tmp_path / filename
        path.write_bytes(make({"a": bytes(5000)}))
        with pytest.raises(ReproError, match="more than 1000 bytes"):
            read_members(path, ["a"])
