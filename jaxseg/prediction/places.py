"""Which folder of the output belongs to which scan, and what is done already.

Done means: the same files, the same model, the same options. Two scans of one name are told
apart by the folders above them; what was predicted of other files is never taken for done.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.errors import UserError
from jaxseg.layouts.find import Scan
from jaxseg.machine.files import read_json
from jaxseg.scans.files import PREDICTION
from jaxseg.scans.scan_files import PAIRED, is_scan_file


class Work(NamedTuple):
    """What there is to do."""

    todo: list[Scan]  # named as their folders in the output
    done: int
    problems: list[str]  # a line for each scan that is refused


def plan(scans: Sequence[Scan], output: Path, how: Mapping[str, Any], overwrite: bool) -> Work:
    """Return which scans are to be predicted, under which names.

    Raises:
        UserError: the same files were predicted there in another way.
    """
    unique = {(scan.path.absolute(), scan.names): scan for scan in scans}  # given twice, done once
    counts = Counter(scan.patient for scan in unique.values())
    work, taken = Work([], 0, []), set()
    for scan in unique.values():
        # Several of one name: each is told apart, so that none has the bare name.
        names = scan.other_names() if counts[scan.patient] > 1 else names_of(scan)
        place = _place(scan, names, taken, output, how, overwrite)
        if isinstance(place, UserError):
            work.problems.append(f"{scan.patient}: {place}")
        elif place is None:
            work = work._replace(done=work.done + 1)
        else:
            taken.add(place)
            work.todo.append(scan._replace(patient=place))
    return work


def names_of(scan: Scan) -> list[str]:
    """Return the names that the folder of a scan may have, in order of preference."""
    return [scan.patient, *scan.other_names()]


def read_record(output: Path, name: str) -> dict[str, Any] | None:
    """Return what is kept beside a prediction; None: there is none of this name."""
    path = output / name / PREDICTION
    return read_json(path) if path.is_file() else None


def describe(scan: Scan, shown: int) -> dict[str, Any]:
    """Return what is kept beside a prediction of which scan it is, and where its pictures are.

    Args:
        scan: whose file names, where each channel has one, are in order of the channels.
        shown: the channel that pictures show.
    """
    about = {"path": str(scan.path.absolute()), "sha256": scan.digest()}
    whole = len(scan.names) == 1 or scan.path.name.lower().endswith(PAIRED)
    if whole or not is_scan_file(scan.path.name):
        return about
    about |= {"root": str(scan.files.path.absolute()), "names": list(scan.names)}
    return about | {"shown": scan.names[min(shown, len(scan.names) - 1)]}


def is_at(record: Mapping[str, Any], scan: Scan) -> bool:
    """Tell whether a record is of the scan at this path, whatever lies there now."""
    path = record.get("scan", {}).get("path") or str(Path(record.get("file", "")).absolute())
    return path == str(scan.path.absolute())


def says_of_what(output: Path, name: str) -> bool:
    """Tell whether a prediction keeps of which files it was made; those of old did not."""
    return "scan" in (read_record(output, name) or {})


def predicted(scan: Scan, output: Path, table: Container[str]) -> str | None:
    """Return the name under which a scan was predicted, of those in the table; None: it was not.

    The path tells, then the content of files that have moved; of an old prediction the name.
    """
    names = [name for name in names_of(scan) if name in table]
    records = {name: read_record(output, name) or {} for name in names}
    kept = {name: record for name, record in records.items() if "scan" in record}
    if not kept:
        return scan.patient if scan.patient in names else None
    there = [name for name, record in kept.items() if is_at(record, scan)]
    if there:
        return there[0]
    made = _digests(scan)
    return next((name for name in kept if kept[name]["scan"]["sha256"] in made), None)


def check_same(scan: Scan, output: Path):
    """Raise UserError when the prediction of a scan's name was made of other files."""
    about = (read_record(output, scan.patient) or {}).get("scan")
    if about and about["sha256"] not in _digests(scan):
        raise UserError(
            f"{output / scan.patient}: predicted of other files than lie there now; predict anew"
        )


def _digests(scan: Scan) -> set[str]:
    """Return what a prediction may have kept: of a slice with and without those beside it."""
    return {scan.digest(), scan._replace(around=None).digest()}


def _place(
    scan: Scan,
    names: Sequence[str],
    taken: set[str],
    output: Path,
    how: Mapping[str, Any],
    overwrite: bool,
) -> str | None | UserError:
    """Return the name of the folder to write, None when it is done, or why it is refused."""
    records = {name: read_record(output, name) for name in names_of(scan)}
    found = {name: record for name, record in records.items() if record}
    if found:
        try:
            digest = scan.digest()
        except UserError as error:
            return error
        for name, record in found.items():
            if record.get("scan", {}).get("sha256") == digest and name not in taken:
                if not overwrite and _is_whole(output / name, record, how):
                    return None
                return name
    for name in names:
        record = records[name]
        if name in taken or (record is None and (output / name).exists()):
            continue  # another scan's, or no prediction at all
        if record is None or (overwrite and is_at(record, scan)):
            return name
        if is_at(record, scan):
            return UserError(
                f"{output / name}: {_why_not(record)}; give another --output, or "
                "--overwrite to replace what is there"
            )
    return UserError(f"{output}: all names for {scan.path} are taken there; give another --output")


def _is_whole(folder: Path, record: Mapping[str, Any], how: Mapping[str, Any]) -> bool:
    """Tell whether all was written; UserError when it was predicted in another way."""
    made = record.get("how", {})
    changed = [name for name in how if made.get(name) != how[name]]
    if changed:
        name = changed[0]
        values = f"{name} = {made.get(name)}, now it is {how[name]}"
        if name == "models":
            values = "other weights of the run: it was trained on, or anew"
        raise UserError(
            f"{folder}: was predicted with {values}; give another --output, or --overwrite"
        )
    return not record.get("failed")


def _why_not(record: Mapping[str, Any]) -> str:
    if "scan" not in record:
        return "predicted by an older jaxseg, which did not keep of which content"
    return "predicted of other files at the same path (or of a slice with others beside it)"
