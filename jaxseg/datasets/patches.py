"""Patches of volumes: where they lie, what is read, the numbers that the device needs.

Training batch k is a pure function of (seed, k), as for slices. The host reads integers and
draws numbers; `transforms.augment` makes the sample of them.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.loaders import Batch, evaluation_loader, stacked, training_loader
from jaxseg.datasets.order import shuffled
from jaxseg.datasets.prepared import Prepared, Records
from jaxseg.imaging import draws, windows
from jaxseg.imaging.intensity import darkest, normalise, outside_level
from jaxseg.imaging.resample import resample, shape_at


class Box(NamedTuple):
    """Voxels of a patient's copy, from low to high, which may lie beyond it: int [3] each."""

    patient: Patient
    low: np.ndarray
    high: np.ndarray


def patch_batches(
    prepared: Prepared,
    patients: Sequence[Patient],
    config: Config,
    start_step: int,
    process: int = 0,
    num_processes: int = 1,
) -> Iterator[Batch]:
    """Yield this process's part of the raw training batches from start_step on, without end.

    Arguments and errors as of `samples.training_batches`.

    Yields:
        What `transforms.augment.augment_one` takes, with a leading axis: `image` as stored,
        `mask` uint8, `stats` float32 [b, C, 4], `outside` [b, C], `matrix` and the other numbers.
    """
    source = prepared.source()
    shape = source_shape(patients, config)

    def load(index: int, rng: np.random.Generator) -> tuple[Box, Batch]:
        patient = patients[index]
        centre = choose_centre(source.foreground(patient), patient, rng, config)
        return draw_patch(patient, centre, shape, rng, config, prepared.num_channels)

    def collect(drawn: Sequence[tuple[Box, Batch]]) -> Batch:
        boxes, numbers = zip(*drawn, strict=True)
        return read_boxes(source, boxes, shape) | stacked(numbers)

    order = shuffled(range(len(patients)), config.seed)
    return training_loader(order, load, config, start_step, process, num_processes, collect)


def training_spacing(patient: Patient, config: Config) -> tuple[float, ...]:
    """Return the spacing of the training grid for a patient; 1 each where it is unknown."""
    return config.input.spacing_mm or patient.spacing_mm or (1.0, 1.0, 1.0)


def native_per_training(patient: Patient, config: Config) -> np.ndarray:
    """Return how many voxels of the scan make one of the training grid, float64 [3]."""
    native = patient.spacing_mm or training_spacing(patient, config)
    return np.array(training_spacing(patient, config)) / native


def source_shape(patients: Sequence[Patient], config: Config) -> tuple[int, ...]:
    """Return the voxels of a scan that any moved patch of these patients fits into.

    No more than the largest of the scans has: what is turned reaches beyond them.
    """
    kinds = {(training_spacing(p, config), tuple(native_per_training(p, config))) for p in patients}
    shape = config.input.image_size
    spans = [
        draws.largest_extent(shape, spacing, config.augment) * per for spacing, per in sorted(kinds)
    ]
    span = np.ceil(np.max(spans, axis=0) - 1e-6) + 2
    return tuple(int(n) for n in np.minimum(span, np.max([p.shape for p in patients], axis=0)))


def choose_centre(
    foreground: Sequence[np.ndarray], patient: Patient, rng: np.random.Generator, config: Config
) -> np.ndarray:
    """Draw the centre of a patch in voxels of the scan, float64 [3]; it begins with a voxel.

    A share `input.tumour_fraction` of the patches has a voxel of a region in the centre: of one
    of the regions that the patient has, each as likely, as far as the scan's edge allows. The
    others lie anywhere. Along an axis on which the scan is shorter than the patch, it lies in
    the middle.

    Args:
        foreground: from `Prepared.source().foreground`.
        patient: whose they are.
        rng: source of chance; as many numbers are drawn whatever happens.
        config: uses input.
    """
    size = np.array(patient.shape)
    patch = np.array(config.input.image_size) * native_per_training(patient, config)
    low, high = patch / 2 - 0.5, size - patch / 2 - 0.5
    low, high = np.where(low < high, (low, high), (size - 1) / 2)
    centre, chance, pick = low + rng.random(3) * (high - low), rng.random(), rng.random(2)
    present = [voxels for voxels in foreground if len(voxels)]
    if chance < config.input.tumour_fraction and present:
        voxels = present[int(pick[0] * len(present))]
        centre = np.clip(voxels[int(pick[1] * len(voxels))], low, high)
    return np.rint(centre - (patch - 1) / 2) + (patch - 1) / 2


def draw_patch(
    patient: Patient,
    centre: np.ndarray,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    config: Config,
    num_channels: int,
) -> tuple[Box, Batch]:
    """Draw the changes of a patch; return what of the scan they need, and their numbers.

    Args:
        patient: whose scan.
        centre: in its voxels.
        shape: of what is read.
        rng: source of chance.
        config: uses input and augment.
        num_channels: of the scan.
    """
    spacing = training_spacing(patient, config)
    size = np.array(config.input.image_size)
    linear = draws.draw_movement(rng, spacing, config.augment)
    linear = native_per_training(patient, config)[:, None] * linear
    nodes = draws.draw_elastic(rng, size, config.augment)
    changes = draws.draw_intensity(rng, spacing, num_channels, config.augment)
    reach = np.abs(linear) @ ((size - 1) / 2 + np.abs(nodes).max((1, 2, 3)))
    low = np.floor(centre - reach).astype(int)
    low = np.where(np.array(shape) >= patient.shape, 0, low)  # all of the scan fits
    matrix = np.hstack([linear, (centre - linear @ ((size - 1) / 2) - low)[:, None]])
    high = np.minimum(low + shape, np.ceil(centre + reach).astype(int) + 2)
    return Box(patient, low, high), {"matrix": matrix.astype(np.float32), "nodes": nodes} | changes


def read_boxes(source: Records, boxes: Sequence[Box], shape: tuple[int, ...]) -> Batch:
    """Return `image` [b, *shape, C], `mask` [b, *shape, K], `stats`, `outside`: each from its low.

    What is not read is as dark as the scan's darkest, normalised `outside`, without tumour. The
    dtype is that of all scans, so that one program takes all batches. Voxels are copied once.
    """
    facts = []
    for i, (patient, low, high) in enumerate(boxes):
        here, where = windows.meet(low, high - low, patient.shape)
        box = source.box(patient, [s.start for s in here], [s.stop for s in here])
        if not i:
            image = np.empty((len(boxes), *shape, box["image"].shape[-1]), source.dtype)
            mask = np.empty((len(boxes), *shape, box["mask"].shape[-1]), np.uint8)
        windows.fill(image[i], box["image"], where, darkest(box["stats"], image.dtype))
        windows.fill(mask[i], box["mask"], where, 0)
        facts.append({"stats": box["stats"], "outside": outside_level(box["stats"])})
    return {"image": image, "mask": mask} | stacked(facts)


def read_padded(source: Records, box: Box, shape: tuple[int, ...]) -> Batch:
    """Return what `read_boxes` returns, of one."""
    return {name: value[0] for name, value in read_boxes(source, [box], shape).items()}


def evaluation_patches(
    prepared: Prepared,
    patients: Sequence[Patient],
    config: Config,
    process: int = 0,
    num_processes: int = 1,
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """Yield this process's part of batches that hold every voxel of the training grid once.

    Patches lie side by side; the last along an axis reaches back into the one before it.
    Arguments and errors as of `samples.evaluation_batches`.

    Yields:
        image float32 [b, *S, C], mask uint8 [b, *S, K], patient int32 [b] (position in
        `patients`), weight float32 [b, *S]: 1 where a voxel is counted here, else 0.
    """
    source, size = prepared.source(), config.input.image_size
    batch_size = batch_size or config.evaluation.batch_size
    jobs = [
        (i, place, own)
        for i, patient in enumerate(patients)
        for place, own in windows.owned(grid_shape(patient, config), size)
    ]
    jobs += [(0, jobs[0][1], None)] * (-len(jobs) % batch_size)  # counts nothing

    @functools.lru_cache(maxsize=2)  # patients follow each other
    def resampled(index: int) -> tuple[np.ndarray, ...]:
        return on_training_grid(source, patients[index], config)

    def load(job: tuple) -> Batch:
        index, place, own = job
        patient, low = patients[index], np.array(place)
        if grid_shape(patient, config) == tuple(patient.shape):
            pixels = read_padded(source, Box(patient, low, low + size), size)
            image, mask = normalise(pixels["image"], pixels["stats"]), pixels["mask"]
        else:
            image, mask, outside = resampled(index)
            image = windows.cut(image, place, size, outside)
            mask = windows.cut(mask, place, size, np.zeros(mask.shape[-1]))
        weight = np.zeros(size, np.float32)
        if own is not None:
            weight[own] = 1
        return {"image": image, "mask": mask, "patient": np.int32(index), "weight": weight}

    return evaluation_loader(jobs, load, config, batch_size, process, num_processes)


def grid_shape(patient: Patient, config: Config) -> tuple[int, ...]:
    """Return the size of a patient's training grid in voxels."""
    if not config.input.spacing_mm or not patient.spacing_mm:
        return tuple(patient.shape)
    return shape_at(patient.shape, patient.spacing_mm, config.input.spacing_mm)


def on_training_grid(source: Records, patient: Patient, config: Config) -> tuple[np.ndarray, ...]:
    """Return a scan on the training grid.

    Returns:
        image [*S, C] float32, normalised; mask [*S, K] uint8, each resampled by itself and there
        where at least half is inside; [C] float32, what lies outside of the image.
    """
    shape, box = grid_shape(patient, config), source.box(patient, (0, 0, 0), patient.shape)
    image = resample(normalise(box["image"], box["stats"]), shape)
    mask = (resample(box["mask"], shape) >= 0.5).astype(np.uint8)
    return image, mask, outside_level(box["stats"])
