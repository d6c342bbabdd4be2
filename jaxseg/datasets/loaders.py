"""Batches made in the background, by threads or loader processes."""

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
from absl import flags

from jaxseg.errors import TrainingFailed

EPOCHS = 1 << 32  # without end; grain's own infinite length overflows in batches of one

# What kills loader processes, most often.
_DEATHS = {
    signal.SIGKILL: "often memory ran out; lower input.num_workers or train.batch_size, or get "
    "more memory",
    signal.SIGBUS: "often /dev/shm is full; make it larger (docker: --shm-size) or lower "
    "input.num_workers",
}


def in_background(
    batches: grain.MapDataset, num_threads: int, num_workers: int
) -> Iterator[dict[str, np.ndarray]]:
    """Iterate over the batches, made by threads of this process or by loader processes."""
    # grain's defaults read hundreds of batches ahead.
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(2, num_threads))
    dataset = batches.to_iter_dataset(options)
    if not num_workers:
        return _closing(iter(dataset))
    _mark_flags_as_parsed()
    workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
    return _from_workers(iter(dataset.mp_prefetch(workers, _start_worker)), num_workers)


def _closing(batches: grain.DatasetIterator) -> Iterator[dict[str, np.ndarray]]:
    with contextlib.closing(batches):  # whoever stops early leaves no thread behind
        yield from batches


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
