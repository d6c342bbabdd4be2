"""From prepared slices to batches on the host, with grain.

Training batch k is a pure function of (seed, k): the same for any number of workers, threads
and processes that share it, so that a run resumes by its step number alone.
"""

import contextlib
import itertools
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from jaxseg import config
from jaxseg.augment import augment_slice
from jaxseg.datasets import Patient, Prepared
from jaxseg.errors import TrainingFailed
from jaxseg.geometry import prepare_slice

Batch = dict[str, np.ndarray]

# What kills loader processes, most often.
_DEATHS = {
    signal.SIGKILL: "often memory ran out; lower input.num_workers or train.batch_size, or get "
    "more memory",
    signal.SIGBUS: "often /dev/shm is full; make it larger (docker: --shm-size) or lower "
    "input.num_workers",
}


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
    return _in_background(batches, config.input.num_threads, config.input.num_workers)


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
    return _in_background(batches.batch(batch_size // num_processes), threads, 0)


def _in_background(
    batches: grain.MapDataset, num_threads: int, num_workers: int
) -> Iterator[Batch]:
    # grain's defaults read hundreds of batches ahead.
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(2, num_threads))
    dataset = batches.to_iter_dataset(options)
    if not num_workers:
        return _closing(iter(dataset))
    workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
    return _from_workers(iter(dataset.mp_prefetch(workers, _start_worker)), num_workers)


def _closing(batches: grain.DatasetIterator) -> Iterator[Batch]:
    with contextlib.closing(batches):  # whoever stops early leaves no thread behind
        yield from batches


def _from_workers(batches: grain.DatasetIterator, num_workers: int) -> Iterator[Batch]:
    """Yield the batches of the loader processes; errors name the process they come from."""
    others = multiprocessing.active_children()
    workers = []
    with contextlib.closing(batches):
        for number in itertools.cycle(range(num_workers)):  # who makes the next batch
            name = f"loader process {number + 1} of {num_workers}"
            try:
                batch = next(batches)
            except TrainingFailed as error:
                raise TrainingFailed(f"{error} (seen by {name})") from error
            except Exception as error:
                if exit_code := re.search(r"terminated .* exit code (-?\d+)", str(error)):
                    raise TrainingFailed(_death(name, int(exit_code[1]), workers)) from error
                error.add_note(f"in {name}")
                raise
            yield batch
            if len(workers) < num_workers:
                workers = [w for w in multiprocessing.active_children() if w not in others]


def _death(name: str, exit_code: int, workers: Sequence[multiprocessing.Process]) -> str:
    """Say how a loader process ended: exit_code is the negative signal where one killed it."""
    pids = ", ".join(str(w.pid) for w in workers if w.exitcode == exit_code)
    name += f" (pid {pids})" if pids else ", at its start,"
    if exit_code > 0:
        return f"{name} ended with exit code {exit_code}; its own message is above"
    hint = _DEATHS.get(-exit_code, "a crash of a library")
    return (
        f"{name} was killed by signal {-exit_code} ({signal.strsignal(-exit_code)}): {hint}. The "
        "same command goes on from the last checkpoint; with input.num_workers=0 there are no "
        "loader processes"
    )


def _start_worker(*_):
    """Let Ctrl-C and SIGTERM, which a terminal or a scheduler sends to all, end only the main."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    # A main process that was killed cannot end its loaders, which would wait for it for ever.
    multiprocessing.parent_process().join()
    os._exit(1)
