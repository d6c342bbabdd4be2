"""The settings to begin with on a volume set: spacing, patch, network, batch, steps."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.config import Config, Dataset, Model, Split, fit_patch
from jaxseg.config.recipes import load_recipe
from jaxseg.datasets.patches import grid_shape
from jaxseg.datasets.splits import place
from jaxseg.diagnosis import noise
from jaxseg.diagnosis.step_time import compile_step
from jaxseg.diagnosis.volume_facts import VolumeFacts
from jaxseg.imaging import windows

_ALIKE = 1.1  # spacings that differ by less are one
_THICK = 3.0  # spacing of an axis, of the finest, from which its finer scans decide
_LEAST_AXIS = 8  # voxels below which a patch is not shrunk
_VOXELS, _VOXELS_ON_CPU = 128**3, 48**3  # of a patch, at most
_BATCH = 2
_PATCHES_ON_CPU = (800, 8_000)  # drawn in all, and each scan so many times:
_EPOCHS_ON_CPU, _EVALUATIONS_ON_CPU = 28, 8  # as in configs/volumes.py
_COMPILATIONS = 3
_BELOW = 0.95  # of the size that should fit, since not all memory grows with it


def suggest_config(
    dataset: Dataset,
    facts: Sequence[VolumeFacts],
    split: Split,
    accelerator: bool,
    num_devices: int,
) -> Config:
    """Return the recipe of `configs/brats.py` or, on a CPU, `volumes.py`, fitted to the data.

    Spacing, patch and levels as nnU-Net's planner has them (Isensee et al., 2021): the patch has
    the proportions of the median scan, thick axes wait to be halved.

    Args:
        dataset: how the scans are read.
        facts: of all scans, at least one.
        split: from `suggest.suggest_split`.
        accelerator: whether there is a GPU or TPU.
        num_devices: divides the batch sizes.
    """
    recipe = load_recipe("brats" if accelerator else "volumes")
    batch = -(-_BATCH // num_devices) * num_devices
    train, given = dataclasses.replace(recipe.train, batch_size=batch), recipe.input
    workers = min(given.num_workers, os.cpu_count() or 1)
    if not accelerator:  # a training of some epochs, rather than of so many steps
        scans = len(place([f.patient for f in facts], split)["train"])
        drawn = int(np.clip(_EPOCHS_ON_CPU * scans, *_PATCHES_ON_CPU))
        every = max(1, drawn // batch // _EVALUATIONS_ON_CPU)
        train = dataclasses.replace(
            train, num_steps=every * _EVALUATIONS_ON_CPU, eval_every_steps=every
        )
    spacing = target_spacing([f.spacing_mm for f in facts])
    config = dataclasses.replace(
        recipe,
        dataset=dataset,
        split=split,
        input=dataclasses.replace(given, spacing_mm=spacing, num_workers=workers),
        model=dataclasses.replace(recipe.model, num_classes=len(facts[0].region_ml)),
        train=train,
        evaluation=dataclasses.replace(recipe.evaluation, batch_size=batch),
    )
    return with_patch(config, facts, _VOXELS if accelerator else _VOXELS_ON_CPU)


def target_spacing(spacings_mm: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Return the spacing of the training grid in mm; () where the scans have about the same.

    The median along each axis; along one that is thicker than three times the finest the 10th
    percentile, no finer than the other axes are, so that few scans are interpolated much.

    Args:
        spacings_mm: of all scans, (slice distance, row, column); of some () where it is unknown.
    """
    if not all(spacings_mm):
        return ()
    spacings = np.array(spacings_mm)
    if (spacings.max(0) < _ALIKE * spacings.min(0)).all():
        return ()
    target = np.median(spacings, axis=0)
    thickest = int(np.argmax(target))
    if target[thickest] > _THICK * target.min():
        others = np.delete(target, thickest)
        target[thickest] = max(np.percentile(spacings[:, thickest], 10), others.max())
    return tuple(float(f"{mm:.3g}") for mm in target)


def median_grid(
    facts: Sequence[VolumeFacts], config: Config
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return size, as a patch sees it, and spacing of the median scan on the training grid."""
    shapes = [grid_shape(noise.copy_of(f), config) for f in facts]
    known = [f.spacing_mm for f in facts if f.spacing_mm] or [(1.0, 1.0, 1.0)]
    spacing = config.input.spacing_mm or tuple(np.median(known, axis=0).tolist())
    return tuple(np.median(shapes, axis=0).astype(int).tolist()), spacing


def with_patch(config: Config, facts: Sequence[VolumeFacts], most_voxels: float) -> Config:
    """Return the config with a patch of at most so many voxels, windows and kernels for it.

    It begins with the median scan; the axis that is largest relative to that is shrunk first, by
    as much as the windows divide, down to some voxels.
    """
    shape, spacing = median_grid(facts, config)
    model = config.model
    wanted = list(shape)
    while True:
        size, fitted = fit_patch(model, wanted, spacing)
        steps = fitted.multiple(len(size))
        able = [a for a in range(len(size)) if size[a] - steps[a] >= _LEAST_AXIS]
        if math.prod(size) <= most_voxels or not able:
            return _replaced(config, size, fitted)
        axis = max(able, key=lambda a: size[a] / shape[a])
        wanted[axis] = min(wanted[axis] - 1, size[axis] - steps[axis])


def _replaced(config: Config, size: tuple[int, ...], model: Model) -> Config:
    given = dataclasses.replace(config.input, image_size=size)
    return dataclasses.replace(config, input=given, model=model)


def fit_memory(
    config: Config, facts: Sequence[VolumeFacts], budget_bytes: int
) -> tuple[Config, list[dict[str, Any]]]:
    """Shrink the patch until the compiled step fits, by XLA's own analysis of its memory.

    No batch is allocated. What a smaller patch will take is reckoned from the one before, so that
    few are compiled: three at most, of which the last may still be too large.

    Args:
        config: from `suggest_config`.
        facts: of all scans.
        budget_bytes: of one device.

    Returns:
        The config, and `image_size` and `bytes` of each step that was compiled, its own last.
    """
    tried, num_channels = [], len(facts[0].stored)
    while True:
        step, size = compile_step(config, num_channels), config.input.image_size
        tried.append({"image_size": size, "bytes": step.num_bytes})
        growing = step.num_bytes - step.kept_bytes
        if step.num_bytes <= budget_bytes or len(tried) == _COMPILATIONS or growing <= 0:
            return config, tried
        share = _BELOW * max(0, budget_bytes - step.kept_bytes) / growing
        smaller = with_patch(config, facts, share * math.prod(size))
        if smaller.input.image_size == size:
            return config, tried
        config = smaller


def num_patches(config: Config, facts: Sequence[VolumeFacts]) -> int:
    """Return how many patches hold every voxel of these scans once, as validation takes them."""
    grids = (grid_shape(noise.copy_of(f), config) for f in facts)
    size = config.input.image_size
    return sum(len(list(windows.owned(grid, size))) for grid in grids)
