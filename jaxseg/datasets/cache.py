"""The prepared copies in a cache folder: what they hold, how large they are, and their end."""

import datetime
import shutil
from pathlib import Path
from typing import NamedTuple

from jaxseg.datasets.index import read_index
from jaxseg.errors import UserError
from jaxseg.layouts.kinds import KINDS
from jaxseg.machine import locks

INDEX = "index.json"  # in the folder of a copy


class Copy(NamedTuple):
    """A prepared copy."""

    path: Path
    num_bytes: int
    patients: tuple[str, ...]  # ids
    made: datetime.datetime

    @property
    def name(self) -> str:
        """What it is called when it shall be removed."""
        return f"{self.path.parent.name}/{self.path.name}"


def find_copies(folder: Path) -> list[Copy]:
    """Return the copies below a cache folder, the largest first."""
    found = [path.parent for kind in KINDS for path in folder.glob(f"{kind}/*/{INDEX}")]
    return sorted(map(_describe, found), key=lambda copy: (-copy.num_bytes, copy.name))


def _describe(path: Path) -> Copy:
    try:
        patients = tuple(p.id for p in read_index(path / INDEX)["patients"])
    except (OSError, ValueError, KeyError, TypeError):  # of another version
        patients = ()
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    made = datetime.datetime.fromtimestamp((path / INDEX).stat().st_mtime)
    return Copy(path, sum(sizes), patients, made)


def remove(copies: list[Copy], names: list[str]) -> list[Copy]:
    """Remove the copies of these names, `all` for all of them, and return them.

    Raises:
        UserError: no such copy, or it cannot be removed.
    """
    known = {copy.name: copy for copy in copies}
    unknown = sorted(set(names) - {*known, "all"})
    if unknown:
        raise UserError(f"--remove {unknown[0]}: no such copy; --cache lists them")
    chosen = [copy for name, copy in known.items() if name in names or "all" in names]
    for copy in chosen:
        lock = copy.path.parent / f"{copy.path.name}.lock"
        with locks.wait_for(lock, f"prepares {copy.name}"):
            try:
                shutil.rmtree(copy.path)
            except OSError as error:
                raise UserError(f"{copy.path}: cannot be removed ({error.strerror})") from error
        lock.unlink(missing_ok=True)
    return chosen


def format_copies(copies: list[Copy]) -> str:
    """Return a line for each copy, and the sum."""
    lines = [
        f"{c.num_bytes / 1e6:9.1f} MB  {c.made:%Y-%m-%d %H:%M}  {c.name}  {_who(c.patients)}"
        for c in copies
    ]
    return "\n".join([*lines, f"{sum(c.num_bytes for c in copies) / 1e6:9.1f} MB in all"])


def _who(patients: tuple[str, ...]) -> str:
    more = ", ..." if len(patients) > 2 else ""
    return f"{len(patients)} patients ({', '.join(patients[:2])}{more})" if patients else ""
