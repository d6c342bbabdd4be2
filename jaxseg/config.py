"""Every setting with its default, unit and range: frozen dataclasses, checked when made.

A config file (`configs/*.py`) builds a `Config` with the values that differ from the
defaults here. Nothing else in jaxseg holds a default.
"""

import dataclasses
import json
import textwrap
import types
import typing
from typing import Any

from jaxseg.errors import UserError


def _names(config: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(config)]


def _require(condition: bool, setting: str, value: Any, rule: str):
    if not condition:
        raise UserError(f"config.{setting}={value!r}: {rule}")


def _require_fractions(section: str, config: Any, *names: str):
    for name in names:
        value = getattr(config, name)
        _require(0 <= value <= 1, f"{section}.{name}", value, "must lie between 0 and 1")


def _require_at_least(section: str, config: Any, least: float, *names: str):
    for name in names:
        value = getattr(config, name)
        _require(value >= least, f"{section}.{name}", value, f"must be at least {least}")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Which scans, and how to read them."""

    name: str = "brain_phantom"  # brain_phantom, lgg_mri or image_folder
    source: str | None = None  # folder or zip of the scans; the phantom needs none
    cache_dir: str | None = None  # prepared copies; None: jaxseg/ in the user's cache folder
    spacing_mm: tuple[float, ...] = ()  # (slice distance, row, column); (): unknown, pixels
    flair_channel: int = 1  # channel used by the threshold baseline and the figures
    patient_regex: str | None = None  # image_folder: its first group in the stem is the patient
    every_image_is_a_patient: bool = False  # image_folder: state it when it is so
    phantom_patients: int = 48  # brain_phantom: number of patients
    phantom_seed: int = 0  # brain_phantom: another seed, other patients

    def __post_init__(self):
        names = ("brain_phantom", "lgg_mri", "image_folder")
        _require(self.name in names, "dataset.name", self.name, f"choose one of {names}")
        spacing = self.spacing_mm
        _require(
            len(spacing) in (0, 3) and all(s > 0 for s in spacing),
            "dataset.spacing_mm",
            spacing,
            "give three positive numbers (slice distance, row, column) or ()",
        )
        _require_at_least("dataset", self, 0, "flair_channel", "phantom_seed")
        _require_at_least("dataset", self, 3, "phantom_patients")


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
        f = self.fractions
        _require(
            len(f) == 3 and all(x >= 0 for x in f) and abs(sum(f) - 1) < 1e-6,
            "split.fractions",
            f,
            "give three fractions (train, validation, test) that sum to 1",
        )
        _require(
            self.num_folds == 0 or self.num_folds >= 3,
            "split.num_folds",
            self.num_folds,
            "must be 0 (no folds) or at least 3",
        )
        _require(
            0 <= self.fold < max(self.num_folds, 1),
            "split.fold",
            self.fold,
            f"must lie in 0..{max(self.num_folds, 1) - 1}",
        )
        given = [bool(self.train), bool(self.validation), bool(self.test)]
        _require(
            all(given) or not any(given),
            "split.train/validation/test",
            (self.train, self.validation, self.test),
            "give all three lists of patients or none",
        )


@dataclasses.dataclass(frozen=True)
class Input:
    """From the native slice to the training grid."""

    image_size: tuple[int, ...] = (256, 256)  # training grid (rows, columns), pixels
    crop_to_head: bool = False  # cut the head's bounding box out first
    tumour_fraction: float = 0.5  # share drawn from slices with tumour; 0: as they come
    num_workers: int = 0  # loader processes; 0: threads of this process
    num_threads: int = 2  # loader threads (per process)

    def __post_init__(self):
        _require(
            len(self.image_size) == 2 and all(s > 0 for s in self.image_size),
            "input.image_size",
            self.image_size,
            "give two positive numbers (rows, columns)",
        )
        _require_fractions("input", self, "tumour_fraction")
        _require_at_least("input", self, 0, "num_workers", "num_threads")


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
        names = _names(self)
        _require_fractions("augment", self, *(n for n in names if n.endswith("_probability")))
        for name in names:
            value = getattr(self, name)
            if isinstance(value, tuple):
                _require(
                    len(value) == 2 and 0 < value[0] <= value[1],
                    f"augment.{name}",
                    value,
                    "give (low, high) with 0 < low <= high",
                )
        _require(
            0 < self.elastic_smoothness <= 0.5,
            "augment.elastic_smoothness",
            self.elastic_smoothness,
            "must lie above 0 and be at most 0.5",
        )
        _require(
            self.elastic_amplitude <= self.elastic_smoothness / 4,
            "augment.elastic_amplitude",
            self.elastic_amplitude,
            "must be at most elastic_smoothness / 4, or the image could fold over itself",
        )
        _require(
            self.low_resolution_range[1] <= 1,
            "augment.low_resolution_range",
            self.low_resolution_range,
            "factors are at most 1",
        )
        _require_at_least(
            "augment",
            self,
            0,
            "rotation_degrees",
            "translation_fraction",
            "elastic_amplitude",
            "brightness_shift",
            "noise_std",
        )
        _require(
            0 <= self.bias_field_strength < 1,
            "augment.bias_field_strength",
            self.bias_field_strength,
            "must lie in 0..1, below 1",
        )


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
        _require(
            len(self.widths) >= 2 and all(w > 0 for w in self.widths),
            "model.widths",
            self.widths,
            "give at least two positive numbers of features",
        )
        for name, choices in {
            "norm": ("batch", "group", "instance"),
            "upsample": ("transpose", "resize"),
            "compute_dtype": ("float32", "bfloat16"),
        }.items():
            value = getattr(self, name)
            _require(value in choices, f"model.{name}", value, f"choose one of {choices}")
        _require_at_least("model", self, 1, "num_classes")
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must lie in 0..1, below 1")
        _require(
            0 <= self.deep_supervision <= len(self.widths) - 2,
            "model.deep_supervision",
            self.deep_supervision,
            f"must lie in 0..{len(self.widths) - 2} (coarser levels above the bottleneck)",
        )


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
        _require_at_least("loss", self, 0, *_names(self))
        total = self.bce + self.dice + self.focal + self.tversky
        _require(total > 0, "loss", total, "at least one of bce, dice, focal, tversky above 0")
        _require(
            self.dice_smooth > 0, "loss.dice_smooth", self.dice_smooth, "must be above 0 pixels"
        )


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
        _require(
            self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "must be above 0"
        )
        _require_at_least("optimizer", self, 0, "warmup_steps", "weight_decay", "clip_norm")
        _require(0 <= self.ema_decay < 1, "optimizer.ema_decay", self.ema_decay, "must lie in 0..1")


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Lower the learning rate when the monitored value stops improving."""

    factor: float = 0.5  # 1: off
    patience: int = 8  # evaluations without improvement before a reduction
    cooldown: int = 2  # evaluations after a reduction that do not count
    min_delta: float = 1e-4  # smaller gains are none
    min_scale: float = 0.01  # of the scheduled learning rate

    def __post_init__(self):
        _require(0 < self.factor <= 1, "plateau.factor", self.factor, "must lie above 0, up to 1")
        _require_at_least("plateau", self, 1, "patience")
        _require_at_least("plateau", self, 0, "cooldown", "min_delta", "min_scale")


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """End the training when the monitored value stops improving."""

    patience: int = 20  # evaluations without improvement; 0: never stop early
    min_delta: float = 1e-4

    def __post_init__(self):
        _require_at_least("early_stop", self, 0, "patience", "min_delta")


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
        _require_at_least("train", self, 1, *(f for f in _names(self) if f != "monitor"))
        choices = ("dice", "loss")
        _require(self.monitor in choices, "train.monitor", self.monitor, f"choose one of {choices}")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scorecard."""

    batch_size: int = 32  # global
    threshold: float = 0.5  # probability from which a pixel is tumour
    bootstrap_samples: int = 10_000  # resamples of the patients for the 95 % interval

    def __post_init__(self):
        _require_at_least("evaluation", self, 1, "batch_size", "bootstrap_samples")
        _require(0 < self.threshold < 1, "evaluation.threshold", self.threshold, "must lie in 0..1")


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
        _require(self.seed >= 0, "seed", self.seed, "must be at least 0")
        multiple = 2 ** (len(self.model.widths) - 1)
        _require(
            all(size % multiple == 0 for size in self.input.image_size),
            "input.image_size",
            self.input.image_size,
            f"rows and columns must be multiples of {multiple} (2 to the power of the "
            f"{len(self.model.widths) - 1} poolings of model.widths)",
        )
        needs_source = self.dataset.name != "brain_phantom"
        _require(
            not needs_source or self.dataset.source is not None,
            "dataset.source",
            self.dataset.source,
            f"{self.dataset.name} needs the path of your scans: --config.dataset.source=PATH",
        )


def to_json(config: Config) -> str:
    """Return the config as indented JSON; `from_dict(json.loads(...))` gives it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def describe(config: Config) -> str:
    """Return all settings as text, one paragraph per section."""
    paragraphs = []
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        if dataclasses.is_dataclass(value):
            items = (f"{n}={getattr(value, n)!r}" for n in _names(value))
            text = f"{section.name}: " + ", ".join(items)
        else:
            text = f"{section.name}: {value!r}"
        paragraphs.append(textwrap.fill(text, 98, subsequent_indent="    "))
    return "\n".join(paragraphs)


def from_dict(values: dict[str, Any], kind: type = Config, path: str = "config") -> Any:
    """Build a `Config` from nested dicts and check every value.

    Args:
        values: nested dict as from `dataclasses.asdict` or JSON; lists become tuples.
        kind: dataclass to build (used by the recursion).
        path: name of this level in error messages.

    Raises:
        UserError: an unknown key, a value of the wrong type or out of range.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"{path}.{unknown[0]}: no such setting; {path} has {', '.join(hints)}")
    made = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            made[name] = from_dict(value, hint, f"{path}.{name}")
        else:
            made[name] = _coerce(value, hint, f"{path}.{name}")
    return kind(**made)


def _coerce(value: Any, hint: Any, path: str) -> Any:
    """Return value as the annotated type; int is taken for float, list for tuple."""
    if isinstance(hint, types.UnionType):  # only `X | None` is used
        return None if value is None else _coerce(value, typing.get_args(hint)[0], path)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{path}={value!r}: must be a tuple, as in '(1, 2)'")
        return tuple(_coerce(v, typing.get_args(hint)[0], path) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UserError(f"{path}={value!r}: must be of type {hint.__name__}")
    return value
