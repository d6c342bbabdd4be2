"""From prepared slices to batches on the host.

Training batch k is a pure function of (seed, k): the same for any number of workers, threads
and processes that share it, so that a run resumes by its step number alone.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.loaders import Batch, evaluation_loader, training_loader
from jaxseg.datasets.order import Order, mixed, shuffled
from jaxseg.datasets.patches import evaluation_patches, patch_batches
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.raw_slices import raw_slice_batches
from jaxseg.imaging.augment import augment_slice
from jaxseg.imaging.geometry import prepare_slice


class Sample(NamedTuple):
    """What is read at once: neighbouring slices of one patient; a slice has depth 1."""

    patient: int  # position in the list of patients
    first: int  # slice of the patient, from 0
    depth: int = 1


def all_samples(patients: Sequence[Patient]) -> list[Sample]:
    """Return every slice of the patients, in order."""
    return [Sample(i, n) for i, p in enumerate(patients) for n in range(p.num_slices)]


def tumour_samples(patients: Sequence[Patient]) -> list[Sample]:
    """Return the slices with tumour."""
    return [s for s in all_samples(patients) if patients[s.patient].tumour_pixels[s.first]]


def sample_order(patients: Sequence[Patient], tumour_fraction: float, seed: int) -> Order:
    """Return the endless order of training samples: shuffled anew each epoch.

    A share `tumour_fraction` is drawn from the slices with tumour, the rest from all.
    """
    everything, tumour = all_samples(patients), tumour_samples(patients)
    if tumour_fraction == 0 or not tumour:
        return shuffled(everything, seed)
    only_tumour = shuffled(tumour, seed + 1)
    if tumour_fraction == 1:
        return only_tumour
    return mixed(only_tumour, shuffled(everything, seed), tumour_fraction)


def training_batches(
    prepared: Prepared,
    patients: Sequence[Patient],
    config: Config,
    start_step: int,
    process: int = 0,
    num_processes: int = 1,
    raw: bool = False,
) -> Iterator[Batch]:
    """Yield this process's part of the batches from start_step on, without end.

    Args:
        prepared: the data set.
        patients: those of the training split.
        config: uses input, augment, seed and train.batch_size (global).
        start_step: number of batches already consumed.
        process, num_processes: which part of every batch.
        raw: slices as stored, for the device to change; volumes always are.

    Yields:
        image float32 [b, h, w, C] and mask uint8 [b, h, w, K], b = batch_size / processes; raw
        ones as `raw_slices.raw_slice_batches` says, of volumes as `patches.patch_batches`.

    Raises:
        TrainingFailed: while iterating; a record cannot be read, or a loader process died.
    """
    size, crop = config.input.image_size, config.input.crop_to_head
    if len(size) == 3:
        return patch_batches(prepared, patients, config, start_step, process, num_processes)
    order = sample_order(patients, config.input.tumour_fraction, config.seed)
    if raw:
        part = process, num_processes
        return raw_slice_batches(prepared, patients, order, config, start_step, *part)
    source = prepared.source()

    def load(sample: Sample, rng: np.random.Generator) -> Batch:
        (record,) = source.run(patients[sample.patient], sample.first, sample.depth)
        return augment_slice(record, rng, size, crop, config.augment)

    return training_loader(order, load, config, start_step, process, num_processes)


def evaluation_batches(
    prepared: Prepared,
    patients: Sequence[Patient],
    config: Config,
    process: int = 0,
    num_processes: int = 1,
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """Yield this process's part of batches that hold every slice exactly once, in order.

    Args:
        prepared: the data set.
        patients: whose slices.
        config: uses input and evaluation.batch_size.
        process, num_processes: which part of every batch.
        batch_size: global; None: the config's.

    Yields:
        image float32 [b, h, w, C], mask uint8 [b, h, w, K], patient int32 [b] (position in
        `patients`), weight float32 [b]: 1, and 0 for padding, b = batch_size / processes; of
        volumes see `patches.evaluation_patches`.

    Raises:
        TrainingFailed: the prepared copy is gone, or while iterating: a record cannot be read.
    """
    size, crop = config.input.image_size, config.input.crop_to_head
    if len(size) == 3:
        part = process, num_processes
        return evaluation_patches(prepared, patients, config, *part, batch_size)
    source = prepared.source()
    batch_size = batch_size or config.evaluation.batch_size
    samples = all_samples(patients)
    padding = -len(samples) % batch_size  # every process gets the same number of batches
    weighted = [(s, 1.0) for s in samples] + [(samples[0], 0.0)] * padding

    def load(item: tuple[Sample, float]) -> Batch:
        sample, weight = item
        (record,) = source.run(patients[sample.patient], sample.first, sample.depth)
        owner = {"patient": np.int32(sample.patient), "weight": np.float32(weight)}
        return prepare_slice(record, size, crop) | owner

    return evaluation_loader(weighted, load, config, batch_size, process, num_processes)
