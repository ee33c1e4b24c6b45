"""``python -m repro.data list`` and ``python -m repro.data get NAME...``."""

from __future__ import annotations

import argparse
import logging
import sys

from repro.data import catalogue
from repro.errors import ReproError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m repro.data", description="Data sets by name.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show all data sets and whether they are cached")
    get = commands.add_parser("get", help="fetch, verify and cache data sets")
    get.add_argument("names", nargs="+", metavar="NAME")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.command == "list":
        for name in catalogue.names():
            dataset = catalogue.info(name)
            state = "cached" if catalogue.is_cached(name) else f"{dataset.megabytes:g} MB"
            print(f"{name:22} {state:>9}  {dataset.title}")
        return 0
    try:
        for name in options.names:
            facts = catalogue.prepare(name)
            print(f"{name}: {facts['source']}, {facts['seconds']} s, {facts['content_sha256']}")
    except ReproError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
