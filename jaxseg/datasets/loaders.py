"""Batches made in the background, by threads or loader processes."""

import contextlib
import itertools
import multiprocessing
import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import grain
import numpy as np
from absl import flags

from jaxseg.config import Config
from jaxseg.datasets.order import Order, generators
from jaxseg.errors import TrainingFailed

Batch = dict[str, np.ndarray]

STEPS = 1 << 32  # without end; grain's own infinite length overflows

# What kills loader processes, most often.
_DEATHS = {
    signal.SIGKILL: "often memory ran out; lower input.num_workers or train.batch_size, or get "
    "more memory",
    signal.SIGBUS: "often /dev/shm is full; make it larger (docker: --shm-size) or lower "
    "input.num_workers",
}


def stacked(samples: Sequence[Batch]) -> Batch:
    """Return samples of the same shapes as a batch."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def training_loader(
    order: Order,
    load: Callable[[Any, np.random.Generator], Any],
    config: Config,
    start_step: int,
    process: int,
    num_processes: int,
    collect: Callable[[Sequence[Any]], Batch] = stacked,
) -> Iterator[Batch]:
    """Iterate over this process's part of the batches from start_step on.

    A batch is one sample of grain's, whose own work for each would hold Python's lock.

    Args:
        order: of the samples.
        load: a sample of the order and a generator of its own to what a batch is made of.
        config: uses seed, input and train.batch_size (global).
        start_step, process, num_processes: as `samples.training_batches` takes them.
        collect: what was loaded for all samples of a batch to the batch.
    """
    batch_size = config.train.batch_size
    rows = batch_size // num_processes

    def make(step: int) -> Batch:
        # Neither order nor augmentation depend on the number of processes: a process makes its
        # rows of the global batch, in their order.
        first = step * batch_size + process * rows
        positions = range(first, first + rows)
        numbers = zip(positions, generators(config.seed + 2, positions), strict=True)
        return collect([load(order(i), rng) for i, rng in numbers])

    batches = grain.MapDataset.range(start_step, STEPS).map(make)
    return in_background(batches, config.input.num_threads, config.input.num_workers)


def evaluation_loader(
    jobs: Sequence[Any],
    load: Callable[[Any], Batch],
    config: Config,
    batch_size: int,
    process: int,
    num_processes: int,
) -> Iterator[Batch]:
    """Iterate over this process's part of batches that hold every job once, in order.

    Args:
        jobs: as many as fill whole batches.
        load: a job to what a batch holds.
        config: uses input.
        batch_size: global.
        process, num_processes: which part of every batch.
    """
    batches = grain.MapDataset.source(jobs)[process::num_processes].map(load)
    # Threads only: starting processes would take longer than an evaluation.
    threads = max(config.input.num_threads, min(config.input.num_workers, 8))
    return in_background(batches.batch(batch_size // num_processes), threads, 0)


def in_background(
    batches: grain.MapDataset, num_threads: int, num_workers: int
) -> Iterator[dict[str, np.ndarray]]:
    """Iterate over the batches, made by threads of this process or by loader processes."""
    # grain's defaults read hundreds of batches ahead.
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(2, num_threads))
    if num_workers:
        return _handed_over(batches, options, num_workers)
    return _closing(iter(batches.to_iter_dataset(options)))


def _closing(batches: grain.DatasetIterator) -> Iterator[dict[str, np.ndarray]]:
    with contextlib.closing(batches):  # whoever stops early leaves no thread behind
        yield from batches


class _Filed:
    """Batches that a loader process reads from a file: a source of grain's.

    Python hands a new process its work through a pipe, and waits for ever for one that dies
    before it has read more than a pipe holds, 64 kB: this is little to read.
    """

    def __init__(self, batches: grain.MapDataset, path: Path):
        self.batches, self.path = batches, path
        try:
            path.write_bytes(cloudpickle.dumps(batches))
        except OSError as error:
            raise TrainingFailed(
                f"{path}: cannot be written ({error.strerror}), and loader processes read their "
                "work there; make room, or let TMPDIR name another folder"
            ) from error

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        return self.batches[number]

    def __reduce__(self) -> tuple:
        return _read_batches, (self.path,)


def _read_batches(path: Path) -> grain.MapDataset:
    return cloudpickle.loads(path.read_bytes())


def _handed_over(
    batches: grain.MapDataset, options: grain.ReadOptions, num_workers: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of loader processes, which read from a folder of their own what to do."""
    _mark_flags_as_parsed()
    workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
    with tempfile.TemporaryDirectory(prefix="jaxseg_") as folder:
        source = grain.MapDataset.source(_Filed(batches, Path(folder) / "batches"))
        dataset = source.to_iter_dataset(options).mp_prefetch(workers, _start_worker)
        yield from _from_workers(iter(dataset), num_workers)


def _from_workers(
    batches: grain.DatasetIterator, num_workers: int
) -> Iterator[dict[str, np.ndarray]]:
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


def _mark_flags_as_parsed():
    """Let grain read its absl flags, which only a program of absl's own would parse."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_worker(*_):
    """Let Ctrl-C and SIGTERM, which a terminal or a scheduler sends to all, end only the main."""
    _mark_flags_as_parsed()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    # A main process that was killed cannot end its loaders, which would wait for it for ever.
    multiprocessing.parent_process().join()
    os._exit(1)
