"""Which layout a source has, told by the names of its files."""

import contextlib
import re
import struct
import zlib
from collections import Counter
from pathlib import PurePosixPath
from typing import NamedTuple

from jaxseg.errors import UserError
from jaxseg.layouts import brats, dataset_json, image_folder, lgg, nnunet
from jaxseg.layouts.names import VOLUMES, looks_like, unread
from jaxseg.scans.files import IMAGE_SUFFIXES, Files

_DICOM_AT, _DICOM_MAGIC = 128, b"DICM"
_NIFTI_HEADER_BYTES = 348
_PACKED_BYTES = 4096  # hold a packed header, whatever the level
_NIFTI_TYPES = {2: "uint8", 4: "int16", 8: "int32", 16: "float32", 64: "float64", 512: "uint16"}
_GZIP = 31  # zlib's window bits for gzip data
# How people number slices, the simplest first: the group is the patient, what follows the slice.
_GUESSES = (
    r"(.+)[_-][A-Za-z]*\d+$",
    r"(.+?)[\W_]*(?:slice|sl|img|image|frame|s|z)?[\W_]*\d+$",
)
_LEAST_PATIENTS = 3  # for train, validation and test
_ADVICE = (
    "no volumes with labels that are known by their names; others are trained on by patterns: "
    "--config.dataset.name=nifti with channel_files and mask_file (here: --channels "
    "'t1={patient}/t1.nii.gz,...' --mask '{patient}/seg.nii.gz'); DICOM is to be converted to "
    "NIfTI first, and jaxseg.predict reads it"
)


class Layout(NamedTuple):
    """What a source is taken for."""

    name: str  # of config.dataset.name; '' when its scans cannot be trained on
    why: str
    advice: str = ""  # what to do where there is no name


def detect(files: Files) -> Layout:
    """Return the layout of the files; LGG names win, since they tell patient and date."""
    names = list(files.stamps)
    num_lgg, (images, masks) = sum(map(lgg.is_slice, names)), image_folder.count(names)
    if num_lgg:
        return Layout(
            "lgg_mri",
            f"{num_lgg} of {images + masks} image files are named "
            "TCGA_<institution>_<patient>_<date>_<slice>; image_folder would fit too, but does "
            "not know dates",
        )
    if found := detect_volumes(files):
        return found
    if images and masks:
        return Layout("image_folder", f"{images} images and {masks} masks by folder or file name")
    if volumes := describe_volumes(files):
        scans, _ = brats.count(names)
        lacks = f"sequences of {scans} scans by their names, but no label files; " if scans else ""
        return Layout("", lacks + volumes, _ADVICE)
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    found = f"{images} images and {masks} masks among {len(names)} files ({listed or 'none'})"
    about = [looks_like(names) if images else "", *unread(names)]
    found = "; ".join([found, *(line for line in about if line)])
    return Layout("", found, f"no pairs of image and mask; {image_folder.LAYOUT}")


def detect_volumes(files: Files) -> Layout | None:
    """Return the layout of a volume set that tells of itself; None for others."""
    names = list(files.stamps)
    with contextlib.suppress(UserError):
        root = dataset_json.root_of(names)
        what = f"{root}{dataset_json.NAME} beside {dataset_json.IMAGES}/ and {dataset_json.LABELS}/"
        if nnunet.is_nnunet(names):
            return Layout("nnunet", f"{what}, channels numbered as in CASE_0000.nii.gz")
        return Layout("msd", f"{what}, one file for all channels of a case")
    cases, labels = brats.count(names)
    if not cases or not labels:
        return None
    return Layout("brats", f"by their names sequences of {cases} scans and {labels} label files")


def describe_volumes(files: Files) -> str:
    """Say how many volumes of which format there are, and of what size; '' for none."""
    formats = {name: _volume_format(name, files) for name in files.stamps}
    volumes = [name for name in formats if formats[name]]
    if not volumes:
        return ""
    counts = Counter(formats[name] for name in volumes)
    kinds = ", ".join(f"{count} {kind} files" for kind, count in counts.items())
    folders = len({PurePosixPath(name).parent for name in volumes})
    names = Counter(PurePosixPath(name).name for name in volumes)
    named = ", ".join(f"{n} ({k})" for n, k in names.items()) if len(names) <= 8 else ""
    forms = Counter(filter(None, (_nifti_form(files, n) for n in volumes)))
    form = "; ".join(f"{form} ({count} files)" for form, count in forms.most_common(3))
    parts = [f"{kinds} in {folders} folders", form, named and f"by name {named}"]
    return "; ".join(part for part in parts if part)


def guess_patient_regex(names: list[str]) -> str | None:
    """Return a pattern by which the images' names may tell the patient; None: none seems to.

    It must match every image and put several of them to most patients. A guess, to be confirmed
    by someone who knows the files.
    """
    stems = image_folder.image_stems(names)
    for pattern in _GUESSES:
        matches = [re.search(pattern, stem) for stem in stems]
        sizes = Counter(m[1] for m in matches if m)
        several = sum(size > 1 for size in sizes.values())
        if all(matches) and len(sizes) >= _LEAST_PATIENTS and several > len(sizes) / 2:
            return pattern
    return None


def _volume_format(name: str, files: Files) -> str | None:
    low = name.lower()
    for kind, suffixes in VOLUMES.items():
        if low.endswith(suffixes):
            return kind
    # Scanners write DICOM files without a suffix, or with the number of the slice as one.
    suffix = PurePosixPath(low).suffix[1:]
    if low.endswith(IMAGE_SUFFIXES) or (suffix and not suffix.isdigit()):
        return None
    start = files.start(name, _DICOM_AT + len(_DICOM_MAGIC))
    return "DICOM" if start[_DICOM_AT:] == _DICOM_MAGIC else None


def _nifti_form(files: Files, name: str) -> str:
    """Return size, voxel size and type from the header of a NIfTI-1 file; '' for others."""
    if not name.lower().endswith((".nii", ".nii.gz")):
        return ""
    try:
        head = files.start(name, _PACKED_BYTES)
        if name.lower().endswith(".gz"):
            head = zlib.decompressobj(_GZIP).decompress(head, _NIFTI_HEADER_BYTES)
        order = "<" if head[:4] == struct.pack("<i", _NIFTI_HEADER_BYTES) else ">"
        dims = struct.unpack_from(order + "8h", head, 40)
        zooms = struct.unpack_from(order + "8f", head, 76)
        (kind,) = struct.unpack_from(order + "h", head, 70)
    except (OSError, ValueError, RuntimeError, struct.error, zlib.error):
        return "a header that cannot be read"
    axes = range(1, 1 + min(max(dims[0], 0), 7))
    size = " x ".join(str(dims[i]) for i in axes)
    zoom = " x ".join(f"{zooms[i]:.3g}" for i in axes if i <= 3)
    return f"{size} voxels of {zoom} mm, {_NIFTI_TYPES.get(kind, f'type {kind}')}"
