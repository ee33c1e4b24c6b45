"""Hold every function to a cyclomatic complexity: ``python tools/complexity.py FOLDER ...``."""

import sys
from pathlib import Path

from radon.complexity import cc_visit

LIMIT = 15


def main(folders: list[str]) -> None:
    """Print what is over the limit, one line each; then the exit status is 1."""
    over = [
        f"{path}:{block.lineno}: `{block.fullname}` has complexity {block.complexity} > {LIMIT}"
        for folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        for block in cc_visit(path.read_text(encoding="utf-8"))
        if block.complexity > LIMIT
    ]
    for line in over:
        print(line)
    sys.exit(bool(over))


if __name__ == "__main__":
    main(sys.argv[1:])
