"""What names of files say: image or mask, slices or volumes; needs no file to be opened."""

import re
from collections import Counter
from pathlib import PurePosixPath

from jaxseg.scans.files import IMAGE_SUFFIXES

LGG_NAME = re.compile(r"(TCGA_[^_/]+_[^_/]+)_(\d+)_(\d+)(_mask)?\.tiff?", re.IGNORECASE)
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
_MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "segmentations", "segmentation", "segs", "seg"),
    *("groundtruth", "ground_truth", "ground-truth", "gt", "annotations", "annotation"),
    *("labelstr", "labelsts", "labelsval"),  # nnU-Net
)
_WORD = "masks?|segs?|segmentations?|labels?|gt|ground[_-]?truth|annotations?|dseg|probseg"
_MASK_END = re.compile(rf"(^|[\W_])({_WORD})$|(?<=\d)(masks?)$", re.IGNORECASE)
_MASK_START = re.compile(r"^(masks?|seg|segmentation|labels?|gt)[\W_]", re.IGNORECASE)
_NUMBERED_MASK = re.compile(r"[\W_]?masks?(?=[\W_]?\d+$)", re.IGNORECASE)
_CAMEL_MASK = re.compile(r"(?<=[a-z0-9])Masks?$")
_OLD_RULE = re.compile(r"_mask$", re.IGNORECASE)  # the one that holds in images/ too
_VOLUME_SUFFIXES = (".nii.gz", ".nii.bz2", ".nii.zst", ".nii", ".img.gz", ".hdr.gz")
# The sequences of a glioma's scan in order of the channels, by all names that BraTS and its like
# have given them, and the file of labels.
SEQUENCES = {
    "t1": r"t1|t1n|t1w|t1[_-]?pre",
    "t1c": r"t1c|t1ce|t1[_-]?(?:gd|gad|ce|post)",
    "t2": r"t2|t2w",
    "flair": r"flair|t2f|t2[_-]?flair|fla",
}
TRUTH = "truth"
NAMELESS = "scan"  # a case that neither file nor folder names
_TRUTH = r"seg|segm|ot|otmulticlass|tumou?r[_-]?(?:seg|segm|segmentation|mask)"
_SEQUENCE = re.compile(
    r"(?:(?P<case>.+?)(?:[_-]brain)?[_-])?(?:"
    + "|".join(f"(?P<{name}>{words})" for name, words in {**SEQUENCES, TRUTH: _TRUTH}.items())
    + ")",
    re.IGNORECASE,
)
# What BRATS 2013 and 2015 put around: VSD.Brain.XX.O.MR_Flair.54512, Flair_subtrMeanDivStd.
_AROUND = re.compile(r"^VSD\.Brain[^.]*\.XX\.O\.(?:MR_)?|\.\d+$|_subtrMeanDivStd$", re.IGNORECASE)
PATIENT = "{patient}"  # in patterns of paths
VOLUMES = {
    "NIfTI": (".nii", ".nii.gz"),
    "DICOM": (".dcm", ".dicom", ".ima"),
    "MetaImage": (".mha", ".mhd"),
    "NRRD": (".nrrd", ".nhdr"),
    "Analyze or NIfTI pair": (".hdr",),
}
_IN_ONE_FILE = (*VOLUMES["NIfTI"], *VOLUMES["MetaImage"], *VOLUMES["NRRD"])
# Of scans and masks, which jaxseg cannot read. What is neither (.txt, .json) is not spoken of.
_UNREAD = (
    *(".img", ".hdr.gz", ".img.gz", ".mgz", ".mgh"),
    *(".mnc", ".par", ".rec", ".v", ".nii.bz2", ".nii.zst", ".head", ".brik", ".nii.zip"),
    *(".gif", ".bmp", ".webp", ".jp2", ".j2k", ".ppm", ".pgm", ".heic", ".svs", ".ndpi", ".svg"),
    *(".npy", ".npz", ".mat", ".h5", ".hdf5", ".zip", ".rar", ".7z", ".tar", ".gz", ".tgz"),
)


def suffix_of(name: str) -> str:
    """Return what marks the kind of a file, in small letters: `.nii.gz`, `.png`; '' for none."""
    low = PurePosixPath(name).name.lower()
    known = (s for s in _VOLUME_SUFFIXES if low.endswith(s))
    return next(known, PurePosixPath(low).suffix)


def stem_of(name: str) -> str:
    """Return the name of a file without folders and without what marks its kind."""
    file = PurePosixPath(name).name
    return file[: len(file) - len(suffix_of(name))]


def in_masks(name: str) -> bool:
    """Tell whether a file lies in a folder of masks, as `masks/` or `labelsTr/`."""
    return any(folder.lower() in _MASK_FOLDERS for folder in PurePosixPath(name).parts[:-1])


def is_mask(name: str) -> bool:
    """Tell whether a file is named as a mask or lies in a folder of masks; capitals do not count.

    `s0_mask.png`, `s0-SEG.nii.gz`, `mask_3.png`, `Masks/s0.png`, `labelsTr/x.nii.gz`. In a folder
    `images/` only `_mask` at the end tells.
    """
    if in_masks(name):
        return True
    stem = stem_of(name)
    if any(folder.lower() in IMAGE_FOLDERS for folder in PurePosixPath(name).parts[:-1]):
        return bool(_OLD_RULE.search(stem))
    rules = (_MASK_END, _MASK_START, _NUMBERED_MASK, _CAMEL_MASK)
    return any(rule.search(stem) for rule in rules)


def image_stem(name: str) -> str:
    """Return the stem that the image of a mask has."""
    stem = stem_of(name)
    for rule in (_MASK_END, _CAMEL_MASK, _NUMBERED_MASK):
        if (rest := rule.sub("", stem)) and rest != stem:
            return rest
    return stem


def inner_folders(name: str) -> tuple[str, ...]:
    """Return the folders of a file but for those that only say image or mask."""
    passed = (*IMAGE_FOLDERS, *_MASK_FOLDERS)
    return tuple(f for f in PurePosixPath(name).parts[:-1] if f.lower() not in passed)


def sequence_of(name: str) -> tuple[str, str]:
    """Return case and sequence (of SEQUENCES, or TRUTH) of a volume; ('', '') for others.

    The case is what stands before the sequence, else the folder: `A/t1.nii.gz` is of A.
    """
    if suffix_of(name) not in _IN_ONE_FILE:
        return "", ""
    match = _SEQUENCE.fullmatch(_AROUND.sub("", stem_of(name)))
    if match is None:
        return "", ""
    folders = [f for f in PurePosixPath(name).parts[:-1] if not f.startswith("VSD.")]
    sequence = next(key for key in (*SEQUENCES, TRUTH) if match[key])
    return match["case"] or "/".join(folders) or NAMELESS, sequence


def pattern_regex(pattern: str) -> re.Pattern:
    """Return what matches the paths of a pattern; `{patient}` is a part of a name, group patient,
    the same wherever it stands."""
    first, *others = (re.escape(part) for part in pattern.split(PATIENT))
    return re.compile(f"{first}(?P<patient>[^/]+?)" + "(?P=patient)".join(others))


def listed(names: list[str], most: int = 3) -> str:
    """Return the first names and, where there are more, dots."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def unread(names: list[str]) -> list[str]:
    """Return a line for each kind of scan or mask among the files that jaxseg does not read."""
    kinds, headers = {}, {n.lower() for n in names if n.lower().endswith((".hdr", ".nhdr", ".mhd"))}
    for name in names:
        stem = name.lower().removesuffix(".gz").removesuffix(".img").removesuffix(".raw")
        if stem != name.lower() and headers & {stem + ".hdr", stem + ".nhdr", stem + ".mhd"}:
            continue  # the voxels of a pair, read by its header
        if (suffix := suffix_of(name)) in _UNREAD:
            kinds.setdefault(suffix, []).append(name)
    return [f"{_files(len(n), suffix)} ({listed(n)})" for suffix, n in sorted(kinds.items())]


def looks_like(names: list[str]) -> str:
    """Say in a line what a folder looks like and which command reads it; '' for nothing known."""
    lgg = sum(bool(LGG_NAME.fullmatch(PurePosixPath(n).name)) for n in names)
    if lgg:
        return (
            f"{_files(lgg, '.tif')} named as in the LGG set: --config.dataset.name=lgg_mri "
            "trains on them, jaxseg.predict reads them"
        )
    images = [n for n in names if suffix_of(n) in IMAGE_SUFFIXES]
    masks = sum(is_mask(n) for n in images)
    if masks and masks < len(images):
        return (
            f"images ({len(images) - masks}) and masks ({masks}): "
            "--config.dataset.name=image_folder trains on them, jaxseg.predict reads them"
        )
    if images and not masks:
        return f"images ({len(images)}) without masks: jaxseg.predict reads them"
    kinds = Counter(kind for n in names for kind, known in VOLUMES.items() if suffix_of(n) in known)
    if not kinds:
        return "; ".join(f"{line}, which jaxseg does not read" for line in unread(names))
    found = ", ".join(_files(count, kind) for kind, count in kinds.items())
    return f"{found}: jaxseg.predict reads them; {_trained_on(names)}"


def _trained_on(names: list[str]) -> str:
    """Say which data set of volumes the files look like, or how they are trained on."""
    sequences = {sequence_of(name)[1] for name in names} - {""}
    if any(PurePosixPath(n).name == "dataset.json" for n in names):
        return (
            "this looks like nnU-Net or the Decathlon: --config.dataset.name=nnunet or msd trains "
            "on them"
        )
    if TRUTH in sequences and len(sequences) > 2:
        return "this looks like BraTS: --config.dataset.name=brats trains on them"
    return "--config.dataset.name=nifti trains on volumes with labels, by patterns of their names"


def _files(count: int, kind: str) -> str:
    return f"1 {kind} file" if count == 1 else f"{count} {kind} files"
