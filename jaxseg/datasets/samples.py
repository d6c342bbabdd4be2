"""From prepared slices to batches on the host, with grain.

Training batch k is a pure function of (seed, k): the same for any number of workers, threads
and processes that share it, so that a run resumes by its step number alone.
"""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from jaxseg import config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.loaders import in_background
from jaxseg.datasets.prepared import Prepared
from jaxseg.imaging.augment import augment_slice
from jaxseg.imaging.geometry import prepare_slice

Batch = dict[str, np.ndarray]


def record_indices(patients: Sequence[Patient]) -> np.ndarray:
    """Return the record numbers of all slices of the patients, int64 [N]."""
    return np.concatenate([p.first + np.arange(p.num_slices) for p in patients])


def tumour_indices(patients: Sequence[Patient]) -> np.ndarray:
    """Return the record numbers of the slices with tumour, int64 [N]."""
    has_tumour = np.concatenate([np.asarray(p.tumour_pixels) > 0 for p in patients])
    return record_indices(patients)[has_tumour]


def slice_order(patients: Sequence[Patient], tumour_fraction: float, seed: int) -> grain.MapDataset:
    """Return the endless order of training slices: shuffled anew each epoch.

    A share `tumour_fraction` is drawn from the slices with tumour, the rest from all.
    """

    def shuffled(indices: np.ndarray, seed: int) -> grain.MapDataset:
        return grain.MapDataset.source(indices).seed(seed).shuffle().repeat()

    everything = shuffled(record_indices(patients), seed)
    tumour = tumour_indices(patients)
    if tumour_fraction == 0 or len(tumour) == 0:
        return everything
    only_tumour = shuffled(tumour, seed + 1)
    if tumour_fraction == 1:
        return only_tumour
    weights = [tumour_fraction, 1 - tumour_fraction]
    return grain.MapDataset.mix([only_tumour, everything], weights)


def training_batches(
    prepared: Prepared,
    patients: Sequence[Patient],
    config: config.Config,
    start_step: int,
    process: int = 0,
    num_processes: int = 1,
) -> Iterator[Batch]:
    """Yield this process's part of the batches from start_step on, without end.

    Args:
        prepared: the data set.
        patients: those of the training split.
        config: uses input, augment, seed and train.batch_size (global).
        start_step: number of batches already consumed.
        process, num_processes: which part of every batch.

    Yields:
        image float32 [b, h, w, C] and mask uint8 [b, h, w, 1], b = batch_size / processes.

    Raises:
        TrainingFailed: while iterating; a record cannot be read, or a loader process died.
    """
    source = prepared.source()
    size, crop = config.input.image_size, config.input.crop_to_head

    def load(index: int, rng: np.random.Generator) -> Batch:
        return augment_slice(source[int(index)], rng, size, crop, config.augment)

    local_batch = config.train.batch_size // num_processes
    order = slice_order(patients, config.input.tumour_fraction, config.seed)
    # Parts are taken after the random map, so neither order nor augmentation depends on them:
    # the process's rows of the global batch, in their order.
    batches = order.seed(config.seed + 2).random_map(load).batch(local_batch)
    batches = batches[process::num_processes][start_step:]
    return in_background(batches, config.input.num_threads, config.input.num_workers)


def evaluation_batches(
    prepared: Prepared,
    patients: Sequence[Patient],
    config: config.Config,
    process: int = 0,
    num_processes: int = 1,
) -> Iterator[Batch]:
    """Yield this process's part of batches that hold every slice exactly once, in order.

    Yields:
        image float32 [b, h, w, C], mask uint8 [b, h, w, 1], patient int32 [b] (position in
        `patients`), weight float32 [b]: 1, and 0 for padding, b = batch_size / processes.

    Raises:
        TrainingFailed: the prepared copy is gone, or while iterating: a record cannot be read.
    """
    source = prepared.source()
    size, crop = config.input.image_size, config.input.crop_to_head
    batch_size = config.evaluation.batch_size
    indices = record_indices(patients)
    owner = np.repeat(np.arange(len(patients), dtype=np.int32), [p.num_slices for p in patients])
    padding = -len(indices) % batch_size  # every process gets the same number of batches
    positions = np.concatenate([np.arange(len(indices)), np.full(padding, -1)])

    def load(position: int) -> Batch:
        real = position >= 0
        example = prepare_slice(source[int(indices[max(position, 0)])], size, crop)
        patient, weight = owner[max(position, 0)], np.float32(real)
        return {**example, "patient": patient, "weight": weight}

    batches = grain.MapDataset.source(positions)[process::num_processes].map(load)
    # Threads only: starting processes would take longer than an evaluation.
    threads = max(config.input.num_threads, min(config.input.num_workers, 8))
    return in_background(batches.batch(batch_size // num_processes), threads, 0)
