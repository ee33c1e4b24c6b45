"""The one exception that is meant for the person at the keyboard."""

import difflib
from collections.abc import Iterable


class ReproError(Exception):
    """A problem the user can mend.

    The message is a single line that names the file or value at fault and the remedy. The command
    line prints it without a traceback and exits with a non-zero status.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """`` (did you mean `x`?)`` or nothing."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean `{close[0]}`?)" if close else ""
