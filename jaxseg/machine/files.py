"""Files that are written whole or not at all, and JSON."""

import json
import os
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; UserError when it is missing or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error


def replace_text(path: Path, text: str):
    """Write a file whole or not at all; UserError when it cannot be written."""
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, content: bytes):
    """Write as `replace_text` does."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def write_json(path: Path, value: Any):
    """Write strict JSON, whole or not at all."""
    replace_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def make_folder(output: Path):
    """Make the folder to write to; UserError when that cannot be."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from error


def cache_folder() -> Path:
    """Return where what can be made again is kept: jaxseg/ in the user's cache folder.

    Raises:
        UserError: there is none, as for a container's user without a name.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise UserError(
            "no cache folder: neither HOME nor XDG_CACHE_HOME is set; set one of them, or "
            "config.dataset.cache_dir for the prepared scans"
        ) from error
    return cache.absolute() / "jaxseg"
