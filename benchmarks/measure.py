"""Run one piece of work on several implementations and collect what they answer."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine, timing, workload
from benchmarks.peers import Implementation
from benchmarks.protocol import Worker, WorkerFailed

WARM_UP = 2  # actions before the timed ones; the first compiles


class Work(NamedTuple):
    """What is measured, on images of `size` with a network of `size / 8` features."""

    task: str
    size: int  # pixels per side
    batch: int
    dtype: str = "float32"
    steps: int = 1  # per timing

    @property
    def features(self) -> int:
        """Of the finest level: 32 at 256 pixels, 16 at 128."""
        return self.size // 8

    @property
    def flops(self) -> float:
        """Operations of the convolutions in one step; 0 for what has no steps."""
        forward, train = workload.flops(self.features, self.size)
        return self.batch * {"train": train, "forward": forward}.get(self.task, 0.0)


Log = Callable[[str], None]


def measure(
    work: Work,
    chosen: Sequence[Implementation],
    pythons: Mapping[str, Path],
    options: Any,
    folder: Path,
    progress: Log,
) -> dict[str, Any]:
    """Return the work, each implementation's numbers, and why others have none.

    Args:
        work: what to do.
        chosen: implementations that can do it.
        pythons: Python of each, by name.
        options: uses rounds and alone.
        folder: scratch folder, one per call.
        progress: is told what is being done.
    """
    result = {"work": work._asdict() | {"flops": work.flops}, "rounds": options.rounds}
    result |= {"alone": options.alone, "notes": [i.note for i in chosen if i.note]}
    result |= {"implementations": {}, "failed": {}}
    groups = [[one] for one in chosen] if options.alone else [list(chosen)]
    run = {"start": _start, "save": _save, "matmul": _matmul}.get(work.task, _steps)
    for group in groups:
        with contextlib.ExitStack() as stack:
            open_worker = _Opener(work, pythons, folder, stack, progress)
            found, failed = run(work, group, open_worker, options.rounds, progress)
        result["implementations"] |= found
        result["failed"] |= failed
    return result


@dataclasses.dataclass
class _Opener:
    """Starts workers that end with the stack."""

    work: Work
    pythons: Mapping[str, Path]
    folder: Path
    stack: contextlib.ExitStack
    progress: Log

    def __call__(self, one: Implementation, **more: Any) -> Worker:
        self.progress(f"starting {one.name}")
        cache = self.folder / "cache" / one.name  # empty at the start: everything compiles
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # others use the device too
        }
        settings = self.work._asdict() | {"features": self.work.features} | one.options | more
        command = [self.pythons[one.name], "-m", one.worker]
        log = self.folder / f"{one.name}.log"
        return self.stack.enter_context(Worker(command, settings, log, environment))


def _open_all(
    group: Sequence[Implementation], open_worker: _Opener, action: str, **more: Any
) -> tuple[dict[str, Worker], dict[str, dict[str, Any]], dict[str, str]]:
    """Start workers one by one and let each do its first actions.

    Returns:
        The workers, what is known of each so far, and why others are missing.
    """
    workers, found, failed = {}, {}, {}
    largest = 0
    for one in group:
        if (free := machine.free_bytes()) < largest:
            failed[one.name] = f"only {free / 1e9:.1f} GB of memory left; --alone needs less"
            continue
        try:
            worker = open_worker(one, **more)
            first = [worker.ask(action) for _ in range(WARM_UP)]
        except WorkerFailed as error:
            failed[one.name] = str(error)
            continue
        largest = max(largest, free - machine.free_bytes())
        workers[one.name] = worker
        found[one.name] = worker.hello | {
            "startup_seconds": worker.startup_seconds,
            "first_seconds": first[0]["seconds"],
            "first_loss": first[0].get("loss"),
        }
    return workers, found, failed


def _steps(work, group, open_worker, rounds, progress):
    """Time steps in turn; at the end ask for the peak memory."""
    workers, found, failed = _open_all(group, open_worker, work.task)
    answers, died = timing.in_turn(workers, work.task, rounds, progress)
    failed |= died
    for name, worker in workers.items():
        if name in died:
            continue
        found[name]["seconds"] = [a["seconds"] / work.steps for a in answers[name]]
        with contextlib.suppress(WorkerFailed):
            found[name] |= {k: v for k, v in worker.ask("memory").items() if k != "seconds"}
    return {name: one for name, one in found.items() if "seconds" in one}, failed


def _save(work, group, open_worker, rounds, progress):
    """Time checkpoints, each to a new file, in turn."""
    ...


def _start(work, group, open_worker, rounds, progress): ...


def _matmul(work, group, open_worker, rounds, progress): ...
