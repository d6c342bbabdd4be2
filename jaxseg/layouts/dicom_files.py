"""Which DICOM files are scans, told by the few bytes that every file begins with."""

from collections import Counter
from collections.abc import Sequence

from jaxseg.layouts.names import listed
from jaxseg.scans.dicom import SUFFIXES
from jaxseg.scans.files import Files

_MAGIC_AT, _MAGIC = 128, b"DICM"
_START_BYTES = 1024  # hold the file meta information up to the class, which comes second or third
_CLASS = b"\x02\x00\x02\x00UI"  # MediaStorageSOPClassUID, always little endian and explicit
INDEX = "index of a disk (DICOMDIR)"
_NO_SCANS = {  # beginning of the class: what it is
    "1.2.840.10008.1.3.10": INDEX,
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "surface segmentation",
    "1.2.840.10008.5.1.4.1.1.66.1": "registration",
    "1.2.840.10008.5.1.4.1.1.66.3": "registration",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.67": "real world value map",
    "1.2.840.10008.5.1.4.1.1.88": "structured report",
    "1.2.840.10008.5.1.4.1.1.11": "presentation state",
    "1.2.840.10008.5.1.4.1.1.481": "radiotherapy object",  # structures, plan, dose
    "1.2.840.10008.5.1.4.1.1.104": "document",
    "1.2.840.10008.5.1.4.1.1.9": "waveform",
    "1.2.840.10008.5.1.4.1.1.4.2": "spectroscopy",
}


def is_dicom_member(files: Files, name: str) -> bool:
    """Return whether a file of a zip is DICOM, as `scans.dicom.is_dicom` tells of one on disk."""
    start = files.start(name, _MAGIC_AT + len(_MAGIC))
    return name.lower().endswith(SUFFIXES) or start[_MAGIC_AT:] == _MAGIC


def no_scan(files: Files, name: str) -> str:
    """Return what a DICOM file is that is no scan, '' for scans and for what is not known."""
    if name.split("/")[-1].upper() == "DICOMDIR":
        return INDEX
    start = files.start(name, _START_BYTES)
    at = start.find(_CLASS)
    if at < 0:
        return ""
    length = int.from_bytes(start[at + 6 : at + 8], "little")
    uid = start[at + 8 : at + 8 + length].decode("ascii", "replace").strip("\0 ")
    known = (kind for known, kind in _NO_SCANS.items() if f"{uid}.".startswith(f"{known}."))
    return next(known, "")


def about_no_scans(kinds: dict[str, str]) -> list[str]:
    """Return a line on the DICOM files {name: kind} that are no scans; none on an index."""
    named = {name: kind for name, kind in kinds.items() if kind != INDEX}
    return [f"DICOM files that are no scans: {_counted(named)}"] if named else []


def _counted(kinds: dict[str, str]) -> str:
    counts = Counter(kinds.values())
    return ", ".join(f"{n} {kind} ({listed(_of(kinds, kind))})" for kind, n in counts.items())


def _of(kinds: dict[str, str], kind: str) -> Sequence[str]:
    return [name for name in kinds if kinds[name] == kind]
