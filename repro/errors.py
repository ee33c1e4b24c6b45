"""The one exception that is meant for the person at the keyboard."""


class ReproError(Exception):
    """A problem the user can mend.

    The message is a single line that names the file or value at fault and the remedy. The command
    line prints it without a traceback and exits with a non-zero status.
    """
