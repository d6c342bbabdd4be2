"""The settings to begin with on a data set, and a config file that holds them."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from jaxseg.config import (
    Config,
    Dataset,
    Input,
    Split,
)
from jaxseg.config.recipes import load_recipe
from jaxseg.datasets.index import Patient
from jaxseg.datasets.splits import place, salt_of_folds
from jaxseg.diagnosis.facts import PatientFacts

FEW_PATIENTS = 40  # below, the test part is larger, and folds are worth their time
_CROP_BELOW = 0.85  # share of the frame that the head's box takes
_LEAST_BOTTLENECK = 8  # pixels
_SLICES_ON_CPU = 25_600  # of configs/lgg_cpu.py
_EPOCHS_ON_CPU, _EVALUATIONS_ON_CPU = 20, 10
_SALTS = range(100)


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

    recipe = load_recipe("lgg" if accelerator else "lgg_cpu")
    train, evaluation = recipe.train, recipe.evaluation
    train = dataclasses.replace(train, batch_size=batch(train.batch_size))
    workers = min(8, os.cpu_count() or 1) if accelerator else 0
    if not accelerator:  # a training of some epochs, rather than of so many steps
        num_slices = sum(p.num_slices for p in place([f.patient for f in facts], split)["train"])
        drawn = min(_SLICES_ON_CPU, max(_EPOCHS_ON_CPU * num_slices, _SLICES_ON_CPU // 4))
        every = drawn // train.batch_size // _EVALUATIONS_ON_CPU
        steps = every * _EVALUATIONS_ON_CPU
        train = dataclasses.replace(train, num_steps=steps, eval_every_steps=every)
    return dataclasses.replace(
        recipe,
        dataset=dataset,
        split=split,
        input=Input(image_size=(side, side), crop_to_head=crop, num_workers=workers),
        model=dataclasses.replace(recipe.model, widths=widths),
        train=train,
        evaluation=dataclasses.replace(evaluation, batch_size=batch(evaluation.batch_size)),
    )


def suggest_split(patients: Sequence[Patient]) -> Split:
    """Return fractions and the lowest salt that gives each part about its share.

    Each part gets at least half the patients with tumour that its fraction promises, and one;
    where no salt does so, all parts are filled where that can be. Scans of one person count once.
    """
    few = num_persons(patients) < FEW_PATIENTS
    fractions = (0.6, 0.2, 0.2) if few else (0.7, 0.1, 0.2)
    with_tumour = [p for p in patients if any(p.tumour_pixels)]
    filled = []
    for salt in _SALTS:
        split = Split(fractions=fractions, salt=salt)
        sizes = [num_persons(part) for part in place(with_tumour, split).values()]
        least = (max(1, fraction * num_persons(with_tumour) / 2) for fraction in fractions)
        if all(size >= n for size, n in zip(sizes, least, strict=True)):
            return split
        if min(sizes):
            filled.append(split)
    return filled[0] if filled else Split(fractions=fractions)


def in_words(folds: Split | None) -> str | None:
    """Return the settings of a cross-validation as the command line takes them."""
    if folds is None:
        return None
    return (
        f"tests on every patient: --config.split.num_folds={folds.num_folds} "
        f"--config.split.salt={folds.salt} and --config.split.fold=0 to {folds.num_folds - 1}"
    )


def suggest_folds(patients: Sequence[Patient]) -> Split | None:
    """Return folds, each of which can be tested on; None where chance allows for none."""
    num_folds = 5 if num_persons(patients) >= 15 else 3
    salt = salt_of_folds(patients, num_folds)
    return None if salt is None else Split(num_folds=num_folds, salt=salt)


def num_persons(patients: Sequence[Patient]) -> int:
    """Return how many people these are; some may have several scans."""
    return len({p.person for p in patients})


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
    """Return the settings that differ from the defaults in jaxseg/config/."""
    return c.Config('''


def _side(native: np.ndarray, most: int) -> int:
    """Return the side of the training grid: no larger than what the scans hold, 16 at least."""
    return max(16, min(most, -(-int(np.median(native)) // 16) * 16))


def _fits(side: int, levels: int) -> bool:
    return side % (1 << (levels - 1)) == 0
