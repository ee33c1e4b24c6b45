"""``python -m repro``: signals are heard before anything that takes long is imported."""

import sys

from repro import stopping
from repro.suite import ending


def command() -> int:
    from repro.suite import cli

    return cli.command()


if __name__ == "__main__":
    stopping.listen()
    ending.hold_descriptors()
    status = ending.status_of(command)
    stopping.rest()
    sys.exit(status)
