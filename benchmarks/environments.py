"""The peers' virtual environments, made on first use and kept."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_MISSING = """
import importlib.metadata as metadata, re, sys
names = {re.sub("[-_.]+", "-", d.name).lower() for d in metadata.distributions()}
print(*[r for r in sys.argv[1:] if r not in names])
"""


class NotInstalled(Exception):  # noqa: N818 (reads as what happened)
    """An environment could not be made; the message is pip's last line."""


def default_folder() -> Path:
    """Return where environments are kept: jaxseg/benchmarks in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "jaxseg" / "benchmarks"


def ensure(folder: Path, requirements: Sequence[str]) -> Path:
    """Return the Python of a virtual environment that has the requirements; make what is missing.

    Args:
        folder: of the environment; its parent may not exist yet.
        requirements: names of distributions, without versions.

    Raises:
        NotInstalled: venv or pip failed.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder}", flush=True)
        _run([sys.executable, "-m", "venv", folder])
    found = _run([python, "-c", _MISSING, *requirements])
    if missing := found.split():
        print(f"installing {' '.join(missing)} into {folder}", flush=True)
        _run([python, "-m", "pip", "install", "--quiet", *missing])
    return python


def _run(command: Sequence[str | Path]) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        lines = [x for x in done.stderr.strip().splitlines() if x.startswith("ERROR")]
        last = lines or done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NotInstalled(f"{Path(str(command[0])).name} {command[2]}: {last[-1]}")
    return done.stdout
