"""The settings to begin with on a data set, and a config file that holds them."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from jaxseg.config import (
    Augment,
    Config,
    Dataset,
    EarlyStop,
    Evaluation,
    Input,
    Model,
    Optimizer,
    Plateau,
    Split,
    Train,
)
from jaxseg.datasets.index import Patient
from jaxseg.datasets.splits import check_contents, place
from jaxseg.diagnosis.facts import PatientFacts

FEW_PATIENTS = 40  # below, the test part is larger, and folds are worth their time
_CROP_BELOW = 0.85  # share of the frame that the head's box takes
_LEAST_BOTTLENECK = 8  # pixels
_SLICES_ON_CPU = 25_600  # of configs/lgg_cpu.py
_EPOCHS_ON_CPU, _EVALUATIONS_ON_CPU = 20, 10
_SALTS = range(100)

# Those of configs/lgg_cpu.py and configs/lgg.py.
_AUGMENT = Augment(
    rotation_degrees=25.0,
    scale_range=(0.75, 1.3),
    translation_fraction=0.08,
    elastic_probability=0.3,
    gamma_probability=0.3,
    brightness_probability=0.3,
    contrast_probability=0.3,
    bias_field_probability=0.2,
)


def suggest_config(
    dataset: Dataset,
    facts: Sequence[PatientFacts],
    split: Split,
    accelerator: bool,
    num_devices: int,
) -> Config:
    """Return the recipe of `configs/lgg.py` or, on a CPU, `lgg_cpu.py`, fitted to the data.

    Args:
        dataset: how the scans are read.
        facts: of all patients, at least one.
        split: from `suggest_split`.
        accelerator: whether there is a GPU or TPU.
        num_devices: divides the batch sizes.
    """
    boxes = np.stack([f.head_box for f in facts])
    heads, frames = boxes[:, 2:] - boxes[:, :2], np.array([f.size for f in facts])
    crop = bool(np.median(heads.prod(1) / frames.prod(1)) < _CROP_BELOW)
    side = _side((heads if crop else frames).max(1), 256 if accelerator else 128)
    width = 32 if accelerator else 16
    levels = max(
        n for n in range(2, 6) if n == 2 or _fits(side, n) and side >> (n - 1) >= _LEAST_BOTTLENECK
    )
    widths = tuple(width << level for level in range(levels))

    def batch(size: int) -> int:
        return -(-size // num_devices) * num_devices

    if accelerator:
        return Config(
            dataset=dataset,
            split=split,
            input=Input(
                image_size=(side, side), crop_to_head=crop, num_workers=min(8, os.cpu_count() or 1)
            ),
            augment=_AUGMENT,
            model=Model(widths=widths, dropout=0.1, compute_dtype="bfloat16"),
            optimizer=Optimizer(weight_decay=1e-2, warmup_steps=500, ema_decay=0.999),
            plateau=Plateau(patience=8, cooldown=2),
            early_stop=EarlyStop(patience=25),
            train=Train(num_steps=20_000, batch_size=batch(32), eval_every_steps=250),
            evaluation=Evaluation(batch_size=batch(64)),
        )
    num_slices = sum(p.num_slices for p in place([f.patient for f in facts], split)["train"])
    drawn = min(_SLICES_ON_CPU, max(_EPOCHS_ON_CPU * num_slices, _SLICES_ON_CPU // 4))
    every = drawn // batch(16) // _EVALUATIONS_ON_CPU
    return Config(
        dataset=dataset,
        split=split,
        input=Input(image_size=(side, side), crop_to_head=crop),
        augment=_AUGMENT,
        model=Model(widths=widths, dropout=0.1),
        optimizer=Optimizer(learning_rate=2e-3, cosine=True, weight_decay=1e-2, ema_decay=0.995),
        early_stop=EarlyStop(patience=0),
        train=Train(
            num_steps=every * _EVALUATIONS_ON_CPU,
            batch_size=batch(16),
            eval_every_steps=every,
            log_every_steps=20,
        ),
        evaluation=Evaluation(batch_size=batch(32)),
    )


def suggest_split(patients: Sequence[Patient]) -> Split:
    """Return fractions and the lowest salt that gives each part about its share.

    Each part gets at least half the patients with tumour that its fraction promises, and one;
    where no salt does so, all parts are filled where that can be.
    """
    fractions = (0.6, 0.2, 0.2) if len(patients) < FEW_PATIENTS else (0.7, 0.1, 0.2)
    with_tumour = [p for p in patients if any(p.tumour_pixels)]
    filled = []
    for salt in _SALTS:
        split = Split(fractions=fractions, salt=salt)
        sizes = [len(part) for part in place(with_tumour, split).values()]
        least = (max(1, fraction * len(with_tumour) / 2) for fraction in fractions)
        if all(size >= n for size, n in zip(sizes, least, strict=True)):
            return split
        if min(sizes):
            filled.append(split)
    return filled[0] if filled else Split(fractions=fractions)


def suggest_folds(patients: Sequence[Patient]) -> Split | None:
    """Return folds, each of which can be tested on; None where chance allows for none."""
    num_folds = 5 if len(patients) >= 15 else 3
    for salt in _SALTS:
        folds = [Split(num_folds=num_folds, salt=salt, fold=i) for i in range(num_folds)]
        if not any(check_contents(place(patients, fold)) for fold in folds):
            return folds[0]
    return None


def to_python(config: Config) -> str:
    """Return the source of a config file that gives these settings."""
    lines = []
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        if value == section.default:
            continue
        if not dataclasses.is_dataclass(value):
            lines.append(f"        {section.name}={value!r},")
            continue
        lines.append(f"        {section.name}=c.{type(value).__name__}(")
        lines += [
            f"            {f.name}={getattr(value, f.name)!r},"
            for f in dataclasses.fields(value)
            if getattr(value, f.name) != f.default
        ]
        lines.append("        ),")
    return "\n".join([_HEAD, *lines, "    )", ""])


_HEAD = '''"""Suggested by jaxseg.doctor; train with python -m jaxseg.train --config THIS_FILE."""

from jaxseg import config as c


def get_config() -> c.Config:
    """Return the settings that differ from the defaults in jaxseg/config.py."""
    return c.Config('''


def _side(native: np.ndarray, most: int) -> int:
    """Return the side of the training grid: no larger than what the scans hold, 16 at least."""
    return max(16, min(most, -(-int(np.median(native)) // 16) * 16))


def _fits(side: int, levels: int) -> bool:
    return side % (1 << (levels - 1)) == 0
