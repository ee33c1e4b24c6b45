"""Files that are written into a folder that a person named: nothing of theirs is replaced.

A list beside the files says which were made here, each with its hash. A file that is not on it, or
that was edited since, is the person's.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from repro import documents, store
from repro.errors import ReproError
from repro.places import short

LONGEST = 200
"""Most bytes of a name; while it is written it gets an ending."""


class Folder:
    """A folder of a person's and the files of ours in it.

    Args:
        path: the folder; made when the files are written.
        title: what the files belong to; their list is `<title>.files.json`.
        remedy: what to do where it cannot be written.
    """

    def __init__(self, path: Path, title: str, remedy: str) -> None:
        self.path, self.remedy = path, remedy
        self.list = path / f"{title}.files.json"

    def claim(self, names: Iterable[str], inputs: Iterable[Path] = ()) -> None:
        """Say before the work whether the files can be written.

        Raises:
            ReproError: the folder cannot be made or written, one of the files is an input, or is
                there and was not made here.
        """
        self._probe()
        made = self._made()
        for name in (*names, self.list.name):
            path = self.path / name
            for given in inputs:
                if path.exists() and given.exists() and path.samefile(given):
                    raise ReproError(f"{short(path)} is read and would be replaced; {self.remedy}")
            if name != self.list.name and os.path.lexists(path) and not _is_ours(path, made):
                raise ReproError(
                    f"{short(path)} is there and was not made by this command, or edited since; "
                    f"move it, or {self.remedy}"
                )

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write the files; those of an earlier time that are none of them go.

        Raises:
            ReproError: as `claim`.
        """
        self.claim(contents)
        made = self._made()
        old = [name for name in made if name not in contents and _is_ours(self.path / name, made)]
        digests = {name: [sha256(content).hexdigest()] for name, content in contents.items()}
        # before the files, so that those of a killed write are known for ours as well
        kept = {name: made[name] for name in made if (self.path / name).exists()}
        both = {name: sorted({*kept.get(name, []), *new}) for name, new in digests.items()}
        store.write_json(self.list, {"files": {**kept, **both}})
        for name, content in contents.items():
            with store.atomic(self.path / name) as temporary:
                temporary.write_bytes(content)
        for name in old:
            (self.path / name).unlink()
        store.write_json(self.list, {"files": digests})

    def _made(self) -> dict[str, Collection[str]]:
        """Hashes by name of what was written here."""
        if not self.list.exists():
            return {}
        files = documents.read_json(self.list, dict).get("files")
        good = isinstance(files, dict) and all(
            isinstance(digests, list) and Path(name).name == name for name, digests in files.items()
        )
        if not good:
            raise ReproError(f"{short(self.list)} is no list of files; move it, or {self.remedy}")
        return files

    def _probe(self) -> None:
        """Raises ReproError unless a file can be written to the folder, or where it would be."""
        try:
            if len(os.fsencode(self.list.name)) > LONGEST:
                raise ReproError(f"the name {documents.one_line(self.list.name, 60)} is too long")
            if "\0" in str(self.path):
                raise ValueError("a NUL in its name")
            there = self.path.absolute()
            while not os.path.lexists(there):
                there = there.parent
            with tempfile.TemporaryFile(dir=there):
                return
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            folder = documents.one_line(self.path, 200)
            raise ReproError(f"{folder}: cannot be written ({why}); {self.remedy}") from error


def _is_ours(path: Path, made: Mapping[str, Collection[str]]) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    return store.sha256(path) in made.get(path.name, ())
