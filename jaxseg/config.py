"""Every setting with its default, unit and range: frozen dataclasses, checked when made.

A config file (`configs/*.py`) builds a `Config` with the values that differ from the
defaults here. Nothing else in jaxseg holds a default. `settings.py` reads and writes them.
"""

import dataclasses
from typing import Any

from jaxseg.errors import Check, UserError


def _names(config: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(config)]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Which scans, and how to read them."""

    name: str = "brain_phantom"  # brain_phantom, lgg_mri or image_folder
    source: str | None = None  # folder or zip of the scans; the phantom needs none
    cache_dir: str | None = None  # prepared copies; None: jaxseg/ in the user's cache folder
    spacing_mm: tuple[float, ...] = ()  # (slice distance, row, column); (): unknown, pixels
    flair_channel: int = 1  # channel shown in the figures; the last where there are fewer
    patient_regex: str | None = None  # image_folder: its first group in the stem is the patient
    every_image_is_a_patient: bool = False  # image_folder: state it when it is so
    phantom_patients: int = 48  # brain_phantom: number of patients
    phantom_seed: int = 0  # brain_phantom: another seed, other patients

    def __post_init__(self):
        check = Check("dataset", self)
        check.choice("name", "brain_phantom", "lgg_mri", "image_folder")
        known = len(self.spacing_mm) == 3 and min(self.spacing_mm) > 0
        rule = "give three positive numbers (slice distance, row, column) or ()"
        check("spacing_mm", self.spacing_mm == () or known, rule)
        check.at_least(0, "flair_channel", "phantom_seed")
        check.at_least(3, "phantom_patients")


@dataclasses.dataclass(frozen=True)
class Split:
    """Which patient is in which split; see `jaxseg/datasets/splits.py`."""

    fractions: tuple[float, ...] = (0.7, 0.15, 0.15)  # train, validation, test by hash of the id
    salt: int = 0  # another salt, another random split
    num_folds: int = 0  # above 0: k folds instead of fractions
    fold: int = 0  # test = this fold, validation = the next one, train = the others
    train: tuple[str, ...] = ()  # explicit lists of patient ids instead of the above
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


@dataclasses.dataclass(frozen=True)
class Input:
    """From the native slice to the training grid."""

    image_size: tuple[int, ...] = (256, 256)  # training grid (rows, columns), pixels
    crop_to_head: bool = False  # cut the head's bounding box out first
    tumour_fraction: float = 0.5  # share drawn from slices with tumour; 0: as they come
    num_workers: int = 0  # loader processes; 0: threads of this process
    num_threads: int = 2  # loader threads (per process)

    def __post_init__(self):
        check = Check("input", self)
        holds = len(self.image_size) == 2 and min(self.image_size) > 0
        check("image_size", holds, "give two positive numbers (rows, columns)")
        check.fractions("tumour_fraction")
        check.at_least(0, "num_workers", "num_threads")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of a training slice: each has a probability and a range.

    Ranges `(low, high)` are drawn uniformly. Lengths are fractions of the training image's
    longer side; intensities are in units of the normalised image (standard deviations).
    """

    flip_probability: float = 0.5  # left-right; the image's columns
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
        check.fractions(*(n for n in _names(self) if n.endswith("_probability")))
        for name in _names(self):
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


@dataclasses.dataclass(frozen=True)
class Model:
    """The U-Net; the defaults are the classic one with 7.76 M parameters."""

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)  # features per level; gives the depth
    num_classes: int = 1  # output channels, one sigmoid each
    norm: str = "batch"  # batch, group or instance
    upsample: str = "transpose"  # transpose (2x2, stride 2) or resize (nearest + 3x3)
    residual: bool = False  # add each block's input to its output
    dropout: float = 0.0  # after each block of the two deepest levels
    deep_supervision: int = 0  # extra outputs on this many coarser levels, in training only
    compute_dtype: str = "float32"  # float32 or bfloat16; parameters are always float32
    remat: bool = False  # recompute blocks in the backward pass: less memory, more time

    def __post_init__(self):
        check = Check("model", self)
        holds = len(self.widths) >= 2 and min(self.widths) > 0
        check("widths", holds, "give at least two positive numbers of features")
        check.choice("norm", "batch", "group", "instance")
        check.choice("upsample", "transpose", "resize")
        check.choice("compute_dtype", "float32", "bfloat16")
        check.at_least(1, "num_classes")
        check("dropout", 0 <= self.dropout < 1, "must lie in 0..1, below 1")
        last = len(self.widths) - 2  # the coarser levels above the bottleneck
        holds = 0 <= self.deep_supervision <= last
        check("deep_supervision", holds, f"must lie in 0..{last}")


@dataclasses.dataclass(frozen=True)
class Loss:
    """Weights of the terms; a term with weight 0 is not computed."""

    bce: float = 1.0
    dice: float = 1.0
    focal: float = 0.0
    tversky: float = 0.0
    dice_over_batch: bool = True  # Dice and Tversky sums over the global batch, not per sample
    dice_smooth: float = 1.0  # pixels added to numerator and denominator
    focal_gamma: float = 2.0
    tversky_alpha: float = 0.3  # weight of false positives
    tversky_beta: float = 0.7  # weight of false negatives

    def __post_init__(self):
        check = Check("loss", self)
        check.at_least(0, *(n for n in _names(self) if n != "dice_over_batch"))
        total = self.bce + self.dice + self.focal + self.tversky
        check("bce", total > 0, "at least one of bce, dice, focal, tversky must be above 0")
        check("dice_smooth", self.dice_smooth > 0, "must be above 0 pixels")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with warm-up, clipping and an average of the weights."""

    learning_rate: float = 1e-3  # after warm-up
    warmup_steps: int = 100  # linear from 0
    cosine: bool = False  # decay to 0 at the last step
    weight_decay: float = 1e-4  # on kernels only
    clip_norm: float = 1.0  # global norm of the gradient; 0: no clipping
    ema_decay: float = 0.0  # average of the weights, evaluated and saved; 0: off

    def __post_init__(self):
        check = Check("optimizer", self)
        check("learning_rate", self.learning_rate > 0, "must be above 0")
        check.at_least(0, "warmup_steps", "weight_decay", "clip_norm")
        check("ema_decay", 0 <= self.ema_decay < 1, "must lie in 0..1, below 1")


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Lower the learning rate when the monitored value stops improving."""

    factor: float = 0.5  # 1: off
    patience: int = 8  # evaluations without improvement before a reduction
    cooldown: int = 2  # evaluations after a reduction that do not count
    min_delta: float = 1e-4  # smaller gains are none
    min_scale: float = 0.01  # of the scheduled learning rate

    def __post_init__(self):
        check = Check("plateau", self)
        check("factor", 0 < self.factor <= 1, "must lie above 0, up to 1")
        check.at_least(1, "patience")
        check.at_least(0, "cooldown", "min_delta")
        check.fractions("min_scale")


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """End the training when the monitored value stops improving."""

    patience: int = 20  # evaluations without improvement; 0: never stop early
    min_delta: float = 1e-4

    def __post_init__(self):
        Check("early_stop", self).at_least(0, "patience", "min_delta")


@dataclasses.dataclass(frozen=True)
class Train:
    """The loop."""

    num_steps: int = 20_000  # updates in all
    batch_size: int = 16  # global: over all devices and hosts
    eval_every_steps: int = 500  # evaluate, observe, save
    log_every_steps: int = 50
    monitor: str = "dice"  # validation value: dice (mean over patients) or loss
    max_nonfinite_in_row: int = 10  # skipped updates in a row before the run gives up

    def __post_init__(self):
        check = Check("train", self)
        check.at_least(1, *(n for n in _names(self) if n != "monitor"))
        check.choice("monitor", "dice", "loss")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scorecard."""

    batch_size: int = 32  # global
    threshold: float = 0.5  # probability from which a pixel is tumour
    bootstrap_samples: int = 10_000  # resamples of the patients for the 95 % interval

    def __post_init__(self):
        check = Check("evaluation", self)
        check.at_least(1, "batch_size", "bootstrap_samples")
        check("threshold", 0 < self.threshold < 1, "must lie in 0..1, without the ends")


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: int = 0
    dataset: Dataset = Dataset()
    split: Split = Split()
    input: Input = Input()
    augment: Augment = Augment()
    model: Model = Model()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    plateau: Plateau = Plateau()
    early_stop: EarlyStop = EarlyStop()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:
            raise UserError(f"config.seed={self.seed}: must lie in 0..2^31-1")
        Check("model", self.model)("num_classes", self.model.num_classes == 1, "the masks have 1")
        poolings = len(self.model.widths) - 1
        multiple = 2**poolings
        fits = all(size % multiple == 0 for size in self.input.image_size)
        rule = f"must be multiples of {multiple}, since model.widths pools {poolings} times"
        Check("input", self.input)("image_size", fits, rule)
