"""Make the environment: a virtual environment with exactly the locked versions.

Standard library only, Python >= 3.11. Usage: ``python3 tools/make_env.py [.venv]``. The finished
environment is marked by ``<venv>/.ready``; an interrupted installation is simply repeated.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(folder: Path) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 (runs before the environment exists)
        sys.exit(
            f"Python {sys.version.split()[0]} is too old: needs 3.11 or newer; try "
            "`make PYTHON=python3.12 env`"
        )
    lock = ROOT / "requirements.lock"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    ready = folder / ".ready"
    if ready.is_file() and ready.read_text() == digest:
        ready.touch()
        return
    print(f"making the environment in {folder} (about 6 GB, some minutes)", flush=True)
    if not (folder / "pyvenv.cfg").is_file():
        venv.create(folder, with_pip=True)
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / ("python.exe" if os.name == "nt" else "python")
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--quiet",
        "--require-hashes",
        "-r",
        str(lock),
    ]
    result = subprocess.run(command)
    if result.returncode:
        sys.exit(f"pip failed (see above); mend the cause and repeat `make env` in {ROOT}")
    launcher = bin_folder / "repro"
    launcher.write_text(
        "#!/bin/sh\n"
        f'PYTHONPATH="{ROOT}${{PYTHONPATH:+:$PYTHONPATH}}" exec "{python}" '
        '-m repro "$@"\n'
    )
    launcher.chmod(0o755)
    ready.write_text(digest)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").absolute())
