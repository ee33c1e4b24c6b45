"""``python -m repro``: signals are heard before anything that takes long is imported."""

import sys

from repro import stopping
from repro.suite import ending


def command() -> int:
    from repro.suite import cli

    return cli.command()


def main() -> None:
    """The command ``repro`` of an installed copy."""
    stopping.listen()
    ending.hold_descriptors()
    status = ending.status_of(command)
    stopping.rest()
    sys.exit(status)


if __name__ == "__main__":
    main()
