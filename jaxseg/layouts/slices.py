"""Which image and which mask are one slice."""

from collections.abc import Iterable
from typing import NamedTuple


class Slice(NamedTuple):
    """One slice on disk: its number within the patient, its image and its mask."""

    number: int
    image: str
    mask: str


class Entry(NamedTuple):
    """A file and the slice it belongs to; image and mask of a slice share the key."""

    key: tuple
    is_mask: bool
    name: str


def pair(entries: Iterable[Entry], problems: list[str]) -> dict[tuple, tuple[str, str]]:
    """Return (image, mask) by key; what is missing, orphaned or double goes to problems."""
    images, masks = {}, {}
    for entry in entries:
        found = masks if entry.is_mask else images
        kind = "mask" if entry.is_mask else "image"
        first = found.setdefault(entry.key, entry.name)
        if first != entry.name:
            problems.append(f"{entry.name}: a second {kind} of the slice of {first}")
    problems += [f"{name}: image without mask" for k, name in images.items() if k not in masks]
    problems += [f"{name}: mask without image" for k, name in masks.items() if k not in images]
    return {key: (images[key], masks[key]) for key in images if key in masks}
