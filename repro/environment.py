"""The environment variables of the suite, read here and nowhere else.

    REPRO_WORK       the folder of what is made (default ``work``)
    REPRO_DATA       the folder of the data (default ``$XDG_CACHE_HOME/repro-data``, else
                     ``~/.cache/repro-data``)
    REPRO_OFFLINE    1 forbids every network access
    REPRO_DEBUG      1 shows the traceback of an error

An empty variable counts as unset and ``~`` is the home folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from repro.errors import ReproError, nearest

KNOWN = ("REPRO_WORK", "REPRO_DATA", "REPRO_OFFLINE", "REPRO_DEBUG")
YES, NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def work() -> Path:
    """The folder of what is made.

    Raises:
        ReproError: it starts with a home folder that is not known.
    """
    return _folder("REPRO_WORK") or Path("work")


def data() -> Path:
    """The folder of the data.

    Raises:
        ReproError: nothing names it and there is no home folder.
    """
    named = _folder("REPRO_DATA")
    if named is not None:
        return named
    return (_folder("XDG_CACHE_HOME") or _expanded("~", "HOME") / ".cache") / "repro-data"


def offline() -> bool:
    """Whether every network access is forbidden.

    Raises:
        ReproError: the variable says neither yes nor no.
    """
    return _switch("REPRO_OFFLINE")


def debug() -> bool:
    """Whether errors show their traceback.

    Raises:
        ReproError: the variable says neither yes nor no.
    """
    return _switch("REPRO_DEBUG")


def check() -> list[str]:
    """A line for each variable that looks like one of the suite and is none.

    Raises:
        ReproError: a variable of the suite has a value that means nothing.
    """
    offline()
    debug()
    work()
    names = sorted(name for name in os.environ if name.startswith("REPRO_") and name not in KNOWN)
    return [f"{name} is no variable of the suite{nearest(name, KNOWN)}" for name in names]


def _folder(variable: str) -> Path | None:
    named = os.environ.get(variable, "")
    if not named.strip():
        return None
    return _expanded(named, variable)


def _expanded(named: str, variable: str) -> Path:
    try:
        return Path(named).expanduser()
    except RuntimeError:  # no HOME, and the user is not in the password database
        raise ReproError(
            f"the home folder of `{named}` is not known; "
            + (
                "set HOME, or REPRO_DATA to a folder for the data"
                if variable == "HOME"
                else f"give {variable} as a whole path"
            )
        ) from None


def _switch(variable: str) -> bool:
    said = os.environ.get(variable, "").strip().lower()
    if said not in YES + NO:
        raise ReproError(f"{variable} is `{said}`; set it to 1 (yes) or 0 (no)")
    return said in YES
