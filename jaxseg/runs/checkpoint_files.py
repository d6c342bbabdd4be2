"""The folder of checkpoints without orbax: damaged ones, unfinished ones, reasons in a line."""

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path


def without_metrics(folder: Path) -> list[int]:
    """Return the checkpoints whose metrics are no JSON: orbax would refuse the whole folder."""
    broken = []
    for metrics in folder.glob("[0-9]*/metrics/metrics"):
        try:
            json.loads(metrics.read_text())
        except ValueError:
            broken.append(metrics.parents[1].name)
    return [int(name) for name in broken if name.isdigit()]


def set_aside(folder: Path, steps: Iterable[int]):
    """Rename damaged checkpoints, so that their steps can be saved again; delete nothing."""
    for step in steps:
        aside = folder / f"damaged_{step}"
        number = 1
        while aside.exists():
            number += 1
            aside = folder / f"damaged_{step}_{number}"
        (folder / str(step)).rename(aside)
        print(f"warning: checkpoint {step} cannot be read, now {aside}", file=sys.stderr)


def remove_unfinished(folder: Path):
    """Remove what failed saves have left, which would go on filling the disk."""
    for path in folder.glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(path, ignore_errors=True)


def warn_unreadable(step: int, error: Exception):
    """Print that a checkpoint cannot be read."""
    print(f"warning: checkpoint {step} cannot be read: {_first_line(error)}", file=sys.stderr)


def warn_unsaved(step: int, reason: str):
    """Print that a checkpoint could not be saved."""
    text = f"warning: checkpoint {step} could not be saved: {reason}"
    with contextlib.suppress(OSError):  # the log may lie on the same full disk
        print(f"{text}; the older ones are kept, the next save tries again", file=sys.stderr)


def why_not_written(error: Exception) -> str:
    """Return why a file could not be written; raise the error when it is of another kind."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # tensorstore gives a status in capitals and, at the end of long paths, the reason.
    known = re.search(r"No space left on device|Disk quota exceeded|File too large", str(error))
    if not (known or isinstance(error, OSError) or re.match("[A-Z_]+: ", str(error))):
        raise error
    return known[0] if known else _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]
