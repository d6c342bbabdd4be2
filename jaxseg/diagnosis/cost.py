"""What a training would cost on this machine: one step is measured, the rest is reckoned."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxseg.config import Config
from jaxseg.datasets.patches import Batch
from jaxseg.diagnosis.findings import Finding
from jaxseg.diagnosis.step_time import StepTime, measure_step

_FORWARD_SHARE = 1 / 3  # of a training step: forward, and twice that backward
_PROGRAM_BYTES = 700 << 20  # Python with jax and the loader, besides the step
_MOST_OF_FREE = 0.8  # the rest: patches on their way, fragments


class Work(NamedTuple):
    """How many samples a training goes through."""

    unit: str  # slice or patch
    plural: str
    epoch: int
    validation: int  # each time


def estimate(
    config: Config, load: Callable[[], Batch], num_channels: int, work: Work
) -> tuple[dict[str, Any], list[Finding]]:
    """Return time and memory in numbers and words, and a warning where memory will not do.

    Args:
        config: the suggested one.
        load: returns a sample, see `noise`.
        num_channels: of the images.
        work: what there is to do.
    """
    times = measure_step(config, load, num_channels)
    epoch = epoch_seconds(config, times, work.epoch)
    validation = work.validation / config.train.batch_size
    evaluations = config.train.num_steps // config.train.eval_every_steps
    drawn = config.train.num_steps * config.train.batch_size
    total = epoch_seconds(config, times, drawn)
    total += evaluations * validation * times.step_seconds * _FORWARD_SHARE
    free, needed = free_bytes(), times.memory_bytes + _PROGRAM_BYTES * _on_cpu()
    cost = times._asdict() | {"epoch_seconds": epoch, "total_seconds": total, "free_bytes": free}
    cost["time"] = (
        f"{_duration(epoch)} per epoch of {work.epoch:,} {work.plural}, about "
        f"{_duration(total)} for all {config.train.num_steps:,} steps"
    )
    cost["memory"] = f"about {needed / 2**30:.1f} GiB, of {free / 2**30:.1f} GiB free"
    done = "augment a slice" if work.unit == "slice" else "read a patch"
    cost["how"] = (
        f"on {times.device}: {times.num_steps} steps on random images, median "
        f"{times.step_seconds:.3g} s, and {1000 * times.sample_seconds:.2g} ms to {done}; "
        f"a validation {work.unit} counted as a third of a training {work.unit}; without compiling "
        "and scoring; other programs that run now make it look slower"
    )
    if needed < free:
        return cost, []
    text = f"memory: {cost['memory']}; lower train.batch_size or set train.accumulate"
    return cost, [Finding("warning", text)]


def epoch_seconds(config: Config, times: StepTime, num_samples: int) -> float:
    """Return the time to train on so many slices or patches, loading included.

    On a CPU loading takes the time of the same cores; elsewhere it runs beside the step.
    """
    steps = num_samples / config.train.batch_size
    loading = times.sample_seconds * config.train.batch_size
    if _on_cpu():
        return steps * (times.step_seconds + loading / min(2, os.cpu_count() or 1))
    return steps * max(times.step_seconds, loading / max(1, config.input.num_workers))


def step_budget() -> int:
    """Return how many bytes a training step may take: most of what is free, see `free_bytes`."""
    return int(_MOST_OF_FREE * free_bytes()) - _PROGRAM_BYTES * _on_cpu()


def free_bytes() -> int:
    """Return the free memory of the device, or of this machine where that is the device."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
