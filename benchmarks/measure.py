"""Run one piece of work on several implementations and collect what they answer."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine, timing, workload
from benchmarks.peers import Implementation
from benchmarks.protocol import Worker, WorkerFailed

# Actions before the timed ones; the first compiles, the second may still settle.
_WARM_UP = {"train": 2, "volumes": 2, "forward": 2}
_STARTS = 3  # at most; each takes a while


class Work(NamedTuple):
    """What is measured, on images or volumes of `size` a side."""

    task: str
    size: int  # pixels per side
    batch: int
    dtype: str = "float32"
    steps: int = 1  # per timing; of the input, batches
    workers: int = 0  # loader processes or threads of the input; 0: none
    width: int = 0  # features of the finest level; 0: an eighth of the size

    @property
    def features(self) -> int:
        """Of the finest level; of images 32 at 256 pixels, 16 at 128."""
        return self.width or self.size // 8

    @property
    def flops(self) -> float:
        """Operations of the convolutions in one step; 0 for what has no steps."""
        kind = workload.kind_of(self._asdict())
        forward, train = workload.flops(self.features, self.size, kind)
        return self.batch * {"train": train, "volumes": train, "forward": forward}.get(self.task, 0)


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
    result = {
        "work": work._asdict() | {"flops": work.flops, "features": work.features},
        "rounds": options.rounds,
    }
    result |= {"alone": options.alone, "notes": [i.note for i in chosen if i.note]}
    result |= {"implementations": {}, "failed": {}}
    groups = [[one] for one in chosen] if options.alone else [list(chosen)]
    run = _starts if work.task == "start" else _actions
    for group in groups:
        with contextlib.ExitStack() as stack:
            open_worker = _Opener(work, pythons, folder, stack, progress)
            found, failed = run(work, group, open_worker, options.rounds)
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

    def __call__(self, one: Implementation, cache: str = "") -> Worker:
        self.progress(f"starting {one.name}")
        programs = self.folder / "cache" / f"{one.name}{cache}"  # empty at first: all compiles
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(programs / "jax"),
            "TORCHINDUCTOR_CACHE_DIR": str(programs / "inductor"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # others use the device too
            "PYTHONDONTWRITEBYTECODE": "",  # set in containers: every start would compile Python
        }
        settings = self.work._asdict() | {"features": self.work.features} | one.options
        settings["folder"] = str(self.folder / "files" / one.name)
        command = [self.pythons[one.name], "-m", one.worker]
        log = self.folder / f"{one.name}.log"
        return self.stack.enter_context(Worker(command, settings, log, environment))


def _actions(
    work: Work, group: Sequence[Implementation], open_worker: _Opener, rounds: int
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Start all workers, let them work in turn, and at the end ask for their peak memory."""
    workers, found, failed = _open_all(work, group, open_worker)
    answers, died = timing.in_turn(workers, work.task, rounds, open_worker.progress)
    for name in died:
        del found[name], workers[name]
    for name, worker in workers.items():
        found[name]["seconds"] = [a["seconds"] / work.steps for a in answers[name]]
        found[name]["answers"] = answers[name]
        if work.task in ("train", "volumes", "forward"):
            memory = worker.ask("memory")
            found[name] |= {key: memory[key] for key in ("host_bytes", "device_bytes")}
    return found, failed | died


def _open_all(
    work: Work, group: Sequence[Implementation], open_worker: _Opener
) -> tuple[dict[str, Worker], dict[str, dict[str, Any]], dict[str, str]]:
    """Start workers one by one and let each warm up.

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
            worker = open_worker(one)
            first = [worker.ask(work.task) for _ in range(_WARM_UP.get(work.task, 1))]
        except WorkerFailed as error:
            failed[one.name] = str(error)
            continue
        largest = max(largest, free - machine.free_bytes())
        workers[one.name] = worker
        found[one.name] = worker.hello | {"first": first[0]}
    return workers, found, failed


def _starts(
    work: Work, group: Sequence[Implementation], open_worker: _Opener, rounds: int
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Start each implementation with nothing compiled, then again with what that has left."""
    found, failed = {one.name: {"cold": [], "warm": []} for one in group}, {}
    for number in range(min(rounds, _STARTS)):
        for one in group:
            for kind in ("cold", "warm"):
                if one.name in failed:
                    continue
                try:
                    answer, hello = _first_steps(one, open_worker, f"-{number}")
                except WorkerFailed as error:
                    failed[one.name] = str(error)
                else:
                    found[one.name][kind].append(answer)
                    found[one.name] |= hello
    for name in failed:
        del found[name]
    for one in found.values():
        one["seconds"] = [answer["seconds"] for answer in one["cold"]]
    return found, failed


def _first_steps(
    one: Implementation, open_worker: _Opener, cache: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the seconds to the end of the first step, of the imports, and of compiling alone."""
    worker = open_worker(one, cache)
    first, second = (worker.ask("train")["seconds"] for _ in range(2))
    worker.close()
    return {
        "seconds": worker.startup_seconds + first,
        "import_seconds": worker.hello["import_seconds"],
        "compile_seconds": first - second,
    }, worker.hello
