"""Make the environment: a virtual environment with exactly the locked versions.

Standard library only, Python >= 3.11. Usage: ``python3 tools/make_env.py [.venv]``. The finished
environment is marked by ``<venv>/.ready``, which names what it was made of and where. An
installation may be killed at any instant and is simply repeated; an environment that was moved or
whose Python is gone is mended.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
READY, BEGUN = ".ready", ".begun"
OF_VENV = {
    "bin",
    "include",
    "lib",
    "lib64",
    "pyvenv.cfg",
    ".gitignore",
    "Include",
    "Lib",
    "Scripts",
}
"""What a virtual environment consists of when its creation was cut off."""

LAUNCHED = {"repro": "repro", "snakemake": "snakemake"}
"""Commands by name, and the module that each runs: their own scripts break in some paths."""


def main(folder: Path) -> None:
    """Make or mend the environment; exits with one line where that cannot be."""
    if sys.version_info < (3, 11):  # noqa: UP036 (runs before the environment exists)
        sys.exit(
            f"Python {sys.version.split()[0]} is too old: needs 3.11 or newer; try "
            "`make PYTHON=python3.12 env`"
        )
    for place in (ROOT, folder):
        if os.pathsep in str(place):
            sys.exit(f"{place} holds `{os.pathsep}`, which parts the folders of PATH; move it")
    lock = ROOT / "requirements.lock"
    made_of = hashlib.sha256(lock.read_bytes()).hexdigest()
    ready = folder / READY
    said = text_of(ready).splitlines()
    version = version_of(python_in(folder))
    if version and said == [made_of, version, str(folder)]:
        return
    if not (version and said[:2] == [made_of, version]):
        print(f"making the environment in {folder} (about 6 GB, some minutes)", flush=True)
        begin(folder)
        install(python_in(folder), lock)
    write_launchers(folder)
    ready.write_text("\n".join([made_of, version_of(python_in(folder)), str(folder)]))
    (folder / BEGUN).unlink(missing_ok=True)


def python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def text_of(path: Path) -> str:
    """The text of a file, empty where there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def answer(*command: object) -> str:
    """What a command prints, empty where it fails."""
    try:
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def version_of(python: Path) -> str:
    return answer(python, "-c", "import sys; print(*sys.version_info[:3])")


def begin(folder: Path) -> None:
    """A virtual environment with a pip that runs; what a killed creation left is cleared."""
    begun = folder / BEGUN
    try:
        folder.mkdir(parents=True, exist_ok=True)
        here = {path.name for path in folder.iterdir()}
        if not ({BEGUN, READY, "pyvenv.cfg"} & here or here <= OF_VENV):
            sys.exit(f"{folder} holds other files; name an empty folder: `make VENV=<folder> env`")
        begun.touch()
        (folder / READY).unlink(missing_ok=True)
        if not answer(python_in(folder), "-m", "pip", "--version"):
            for path in folder.iterdir():
                if path != begun:
                    shutil.rmtree(
                        path
                    ) if path.is_dir() and not path.is_symlink() else path.unlink()
            venv.create(folder, with_pip=True)
    except OSError as error:
        sys.exit(f"{folder}: {error.strerror or error}; mend that and repeat `make env`")
    except subprocess.CalledProcessError:  # pip did not get in
        sys.exit(f"{folder}: venv could not put pip in; install python3-venv, repeat `make env`")


def install(python: Path, lock: Path) -> None:
    """Install what is locked."""
    # pip takes a package for whole by its metadata; the list of its files is written last.
    for metadata in python.parent.parent.glob("lib/python*/site-packages/*.dist-info"):
        if not (metadata / "RECORD").is_file():
            shutil.rmtree(metadata)
    options = ["--disable-pip-version-check", "--progress-bar", "off", "--quiet"]
    command = [python, "-m", "pip", "install", *options, "--require-hashes", "-r", lock]
    if subprocess.run(list(map(str, command))).returncode:
        sys.exit(f"pip failed (see above); mend the cause and repeat `make env` in {ROOT}")


def write_launchers(folder: Path) -> None:
    """Commands that run from any folder, whatever letters the paths have."""
    root, python = shlex.quote(str(ROOT)), shlex.quote(str(python_in(folder)))
    for name, module in LAUNCHED.items():
        path = python_in(folder).parent / name
        path.write_text(
            "#!/bin/sh\n"
            f'PYTHONPATH={root}"${{PYTHONPATH:+:$PYTHONPATH}}" exec {python} -m {module} "$@"\n',
            encoding="utf-8",
            errors="surrogateescape",
        )
        path.chmod(0o755)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").absolute())
    except KeyboardInterrupt:
        print("stopped; repeat `make env` to go on", file=sys.stderr)
        sys.exit(130)
