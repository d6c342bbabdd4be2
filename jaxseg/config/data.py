"""Settings of the data: which scans, which patient in which split, how slices become samples."""

import dataclasses
import re

from jaxseg.config.check import Check, names

_PHANTOMS = ("brain_phantom", "brain_phantom_regions", "brain_phantom_volumes")
_SLICES = ("lgg_mri", "image_folder")
_VOLUMES = ("brats", "msd", "nnunet", "nifti")
_LABELS = ("brats2015", "brats2021", "brats2023", "brats2024", "msd_task01", "any", "plain")
_REGION = re.compile(r"[^=,:/]+(=\d+(,\d+)*(:\d+)?)?")
_FILES = re.compile(r"[^=,/]+=[^{}]*(\{patient\}[^{}]*)+")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Which scans, and how to read them."""

    name: str = "brain_phantom"  # of slices or volumes, see above
    source: str | None = None  # folder or zip of the scans; the phantom needs none
    cache_dir: str | None = None  # prepared copies; None: jaxseg/ in the user's cache folder
    spacing_mm: tuple[float, ...] = ()  # (slice distance, row, column); (): unknown, pixels
    flair_channel: int = 1  # shown in the figures, from 0; the last where there are fewer
    # image_folder: as in ('t1', 'flair'), (): numbered; brats: the sequences, (): all there are.
    channel_names: tuple[str, ...] = ()
    # Volumes: what the labels mean. brats2015, brats2021 (1, 2, 4), brats2023 (1, 2, 3), brats2024
    # (4 is the cavity), msd_task01, plain (a region for each label), any (all but 0); '': as the
    # files tell.
    labels: str = ""
    regions: tuple[str, ...] = ()  # volumes: instead, as in ('whole=1,2,4', 'enhancing=4')
    channel_files: tuple[str, ...] = ()  # nifti: as in ('t1={patient}/t1.nii.gz', ...)
    mask_file: str | None = None  # nifti: as in '{patient}/seg.nii.gz'
    # Its first group is the patient: image_folder: in the stem; volumes: in the case's name.
    patient_regex: str | None = None
    every_image_is_a_patient: bool = False  # image_folder: state it when it is so
    phantom_patients: int = 48  # brain_phantom: number of patients
    phantom_seed: int = 0  # brain_phantom: another seed, other patients

    def __post_init__(self):
        check = Check("dataset", self)
        check.choice("name", *_PHANTOMS, *_SLICES, *_VOLUMES)
        known = len(self.spacing_mm) == 3 and min(self.spacing_mm) > 0
        rule = "give three positive numbers (slice distance, row, column) or ()"
        check("spacing_mm", self.spacing_mm == () or known, rule)
        named = self.channel_names
        own = self.name in ("image_folder", *_VOLUMES) or not named
        check("channel_names", own, f"the channels of {self.name} have names already")
        rule = "give each channel a name of its own"
        check("channel_names", all(named) and len({n.lower() for n in named}) == len(named), rule)
        self._check_volumes(check)
        check.at_least(0, "flair_channel", "phantom_seed")
        check.at_least(3, "phantom_patients")

    def _check_volumes(self, check: Check):
        check.choice("labels", "", *_LABELS)
        for name in ("labels", "regions"):
            fits = self.name in _VOLUMES or not getattr(self, name)
            check(name, fits, f"only of volumes: {', '.join(_VOLUMES)}")
        check("labels", not (self.labels and self.regions), "give labels or regions, not both")
        well = all(map(_REGION.fullmatch, self.regions))
        labels = [
            int(n) for text in self.regions for n in re.findall(r"\d+", text.partition("=")[2])
        ]
        rule = "give each as NAME=LABEL,LABEL,... as in \"('whole=1,2,4', 'enhancing=4')\""
        check("regions", well, rule)
        check("regions", all(0 < int(n) < 256 for n in labels), "labels must lie in 1..255")
        names = [text.partition("=")[0].strip().lower() for text in self.regions]
        check("regions", len({*names}) == len(names), "give each region a name of its own")
        for name in ("channel_files", "mask_file"):
            fits = self.name == "nifti" or not getattr(self, name)
            check(name, fits, "only of nifti, a tree of files by patterns")
        well = all(map(_FILES.fullmatch, self.channel_files))
        rule = "give each as NAME=PATTERN with {patient}, as in \"('t1={patient}/t1.nii.gz',)\""
        check("channel_files", well, rule)
        named = tuple(text.partition("=")[0].strip() for text in self.channel_files)
        check("channel_files", len({*named}) == len(named), "give each channel once")
        fits = not named or self.channel_names in ((), named)
        check("channel_names", fits, f"channel_files names them already: {named}")
        fits = self.mask_file is None or "{patient}" in self.mask_file
        check("mask_file", fits, "needs {patient}, as in '{patient}/{patient}_seg.nii.gz'")

    def shown_channel(self, num_channels: int) -> int:
        """Return the channel to show, of so many."""
        return min(self.flair_channel, num_channels - 1)


@dataclasses.dataclass(frozen=True)
class Split:
    """Which patient is in which split; see `jaxseg/datasets/splits.py`."""

    fractions: tuple[float, ...] = (0.7, 0.15, 0.15)  # train, validation, test by hash of the id
    salt: int = 0  # another salt, another random split
    num_folds: int = 0  # above 0: k folds instead of fractions
    fold: int = 0  # test = this fold, validation = the next one, train = the others
    train: tuple[str, ...] = ()  # explicit lists of ids of patients or persons instead
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def __post_init__(self):
        check = Check("split", self)
        f = self.fractions
        rule = "give three fractions (train, validation, test) that sum to 1"
        check("fractions", len(f) == 3 and min(f) >= 0 and abs(sum(f) - 1) < 1e-6, rule)
        check("num_folds", self.num_folds not in (1, 2), "must be 0 (no folds) or at least 3")
        check.at_least(0, "num_folds")
        last = max(self.num_folds, 1) - 1
        check("fold", 0 <= self.fold <= last, f"must lie in 0..{last}")
        for name in ("train", "validation", "test"):
            one = any("," in patient for patient in getattr(self, name))
            check(name, not one, "give ids in quotes, as in \"('a', 'b')\"")
        given = {bool(self.train), bool(self.validation), bool(self.test)}
        check("train", len(given) == 1, "give all of train, validation and test or none of them")
        either = not (self.num_folds and self.train)
        check("num_folds", either, "leave it out where lists of patients make the split")


@dataclasses.dataclass(frozen=True)
class Input:
    """From the native slice, or a patch of a volume, to the training grid."""

    image_size: tuple[int, ...] = (256, 256)  # (rows, columns); patches: (slices, rows, columns)
    spacing_mm: tuple[float, ...] = ()  # patches: of the training grid; (): each scan's own voxels
    crop_to_head: bool = False  # slices: cut the head's bounding box out first
    tumour_fraction: float = 0.5  # share drawn from slices with tumour, or with it in the centre
    # Who changes the training samples at random: host, device, or auto: the host on a CPU, else
    # the device. Patches of volumes: the device.
    augment_on: str = "auto"
    num_workers: int = 0  # loader processes; 0: threads of this process
    num_threads: int = 2  # loader threads (per process)

    def __post_init__(self):
        check = Check("input", self)
        size, spacing = self.image_size, self.spacing_mm
        holds = len(size) in (2, 3) and min(size) > 0
        rule = "give two or three positive numbers, (rows, columns) or (slices, rows, columns)"
        check("image_size", holds, rule)
        known = len(spacing) == len(size) == 3 and min(spacing) > 0
        rule = "give three positive numbers (slice distance, row, column) or (), for patches only"
        check("spacing_mm", spacing == () or known, rule)
        check.fractions("tumour_fraction")
        check.choice("augment_on", "auto", "host", "device")
        fits = len(size) == 2 or self.augment_on != "host"
        check("augment_on", fits, "patches of volumes are changed on the device; leave it auto")
        check.at_least(0, "num_workers", "num_threads")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of a training slice: each has a probability and a range.

    Ranges `(low, high)` are drawn uniformly. Lengths are fractions of the training image's
    longer side; intensities are in units of the normalised image (standard deviations).
    """

    flip_probability: float = 0.5  # left-right; the image's columns
    flip_all_axes: bool = False  # patches: mirror slices and rows as well, each by itself
    in_plane: bool = False  # patches: turn and blur within slices alone, as where they are thick
    rotation_probability: float = 0.5
    rotation_degrees: float = 15.0  # drawn from +-this
    scale_probability: float = 0.5
    scale_range: tuple[float, ...] = (0.85, 1.15)  # above 1 magnifies
    translation_probability: float = 0.5
    translation_fraction: float = 0.05  # drawn from +-this
    elastic_probability: float = 0.2
    elastic_amplitude: float = 0.03  # bound of the displacement; typical: a quarter of it
    elastic_smoothness: float = 0.125  # distance between the nodes of the displacement grid
    cubic: bool = False  # image interpolation: cubic instead of linear
    gamma_probability: float = 0.2
    gamma_range: tuple[float, ...] = (0.7, 1.5)  # exponent, per channel
    brightness_probability: float = 0.2
    brightness_shift: float = 0.2  # added, drawn from +-this, per channel
    contrast_probability: float = 0.2
    contrast_range: tuple[float, ...] = (0.75, 1.25)  # factor about the mean, per channel
    noise_probability: float = 0.15
    noise_std: float = 0.1  # drawn from 0..this
    blur_probability: float = 0.1
    blur_sigma_pixels: tuple[float, ...] = (0.5, 1.0)
    low_resolution_probability: float = 0.1
    low_resolution_range: tuple[float, ...] = (0.5, 1.0)  # factor on rows and columns
    bias_field_probability: float = 0.1
    bias_field_strength: float = 0.3  # largest relative gain, drawn from 0..this

    def __post_init__(self):
        check = Check("augment", self)
        check.fractions(*(n for n in names(self) if n.endswith("_probability")))
        for name in names(self):
            value = getattr(self, name)
            if isinstance(value, tuple):
                holds = len(value) == 2 and 0 < value[0] <= value[1]
                check(name, holds, "give (low, high) with 0 < low <= high")
        check.at_least(0, "rotation_degrees", "translation_fraction", "elastic_amplitude")
        check.at_least(0, "brightness_shift", "noise_std")
        smoothness, strength = self.elastic_smoothness, self.bias_field_strength
        check("elastic_smoothness", 0 < smoothness <= 0.5, "must lie above 0 and be at most 0.5")
        rule = "must be at most elastic_smoothness / 4, or the image could fold over itself"
        check("elastic_amplitude", self.elastic_amplitude <= smoothness / 4, rule)
        check("low_resolution_range", self.low_resolution_range[1] <= 1, "factors are at most 1")
        check("bias_field_strength", 0 <= strength < 1, "must lie in 0..1, below 1")


STRONG_AUGMENT = Augment(  # for a few dozen patients
    rotation_degrees=25.0,
    scale_range=(0.75, 1.3),
    translation_fraction=0.08,
    elastic_probability=0.3,
    gamma_probability=0.3,
    brightness_probability=0.3,
    contrast_probability=0.3,
    bias_field_probability=0.2,
)
