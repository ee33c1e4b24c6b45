"""The lock without torch and what it brings for CUDA: for images and machines without a GPU.

    python tools/packaging/cpu_lock.py requirements.lock          # all else, with its hashes
    python tools/packaging/cpu_lock.py requirements.lock --torch  # torch==… torchvision==…

The versions are those of the lock; the CPU build of torch has hashes of its own, which the lock
does not have. Standard library only.
"""

import re
import sys
from pathlib import Path

TORCH = ("torch", "torchvision")
OF_CUDA = re.compile(r"nvidia-|cuda-|triton$")


def entries(lock: str) -> dict[str, str]:
    """The lines of each package by its name, in the order of the lock."""
    found: dict[str, str] = {}
    parts = re.split(r"^(?=[A-Za-z0-9][\w.-]*==)", lock, flags=re.MULTILINE)
    for part in parts:
        match = re.match(r"([A-Za-z0-9][\w.-]*)==", part)
        if match:
            found[match[1]] = found.get(match[1], "") + part
    return found


def without_cuda(lock: str) -> str:
    """The lock of everything but torch and what is of CUDA."""
    kept = entries(lock).items()
    return "".join(text for name, text in kept if name not in TORCH and not OF_CUDA.match(name))


def torch_of(lock: str) -> str:
    """torch and torchvision in the versions of the lock, as pip takes them.

    Raises:
        SystemExit: the lock has none.
    """
    found = entries(lock)
    missing = [name for name in TORCH if name not in found]
    if missing:
        sys.exit(f"error: the lock has no {', '.join(missing)}; is it requirements.lock?")
    return " ".join(found[name].split()[0] for name in TORCH)


def main() -> None:
    arguments = [a for a in sys.argv[1:] if a != "--torch"]
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        sys.exit(__doc__)
    try:
        lock = Path(arguments[0]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {arguments[0]}: {error}")
    print(torch_of(lock) if "--torch" in sys.argv else without_cuda(lock))


if __name__ == "__main__":
    main()
