"""Print what each stage of making a training batch costs, on the data set of a config.

    python -m benchmarks.input_stages --config configs/lgg.py --config.dataset.source=PATH

Milliseconds a slice in this process, median of passes one after the other; what a batch costs on
the device; then loaders of 1 to N threads and processes, where the host changes the samples and
where the device does: samples a second, scaling, time to the first batch, memory.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.protocol import session_memory_bytes
from jaxseg.config import Config, command_line
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import training_batches
from jaxseg.datasets.splits import split_patients
from jaxseg.imaging import (
    augment,
    augment_contrast,
    augment_shape,
    geometry,
    intensity,
    slice_draws,
)
from jaxseg.machine.sharding import make_mesh
from jaxseg.machine.start import start_computing
from jaxseg.transforms.augment import make_feed, on_device

SLICES, PASSES = 64, 9
AHEAD, SECONDS = 8, 1.0  # of a loader: batches thrown away, how long it is measured

Stage = Callable[[int], Any]  # takes the number of a slice


def stages(config: Config, source: Any, indices: np.ndarray) -> dict[str, Stage]:
    """Return the stages by name, each on the results of those before it.

    Args:
        config: uses input and augment.
        source: of the records.
        indices: SLICES record numbers.
    """
    size, crop, change = config.input.image_size, config.input.crop_to_head, config.augment
    rng, spacing = np.random.default_rng(0), change.elastic_smoothness * max(size)
    records = [source[int(i)] for i in indices]
    images = [intensity.normalise(r["image"], r["stats"]) for r in records]
    dark = [intensity.dark_level(r["stats"]) for r in records]
    moved = augment_shape.movement(size, True, 9.0, 1.1, np.ones(2))
    moves = [geometry.compose(geometry.record_matrix(r, size, crop), moved) for r in records]
    nodes = rng.uniform(-1, 1, (2, *augment_shape.node_grid(size, spacing)))

    def drawn(channels: int) -> dict[str, np.ndarray]:
        uniform = rng.random(slice_draws.count(size, channels, change))
        return slice_draws.draw(uniform, size, channels, change)

    def bend(i: int) -> np.ndarray:
        return augment_shape.bent(moves[i], nodes, size, spacing)

    def warp(i: int, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return geometry.warp(images[i], records[i]["mask"], where, size, dark[i])

    bent, warped = [bend(i) for i in range(SLICES)], [warp(i, m)[0] for i, m in enumerate(moves)]
    return {
        "read": lambda i: source[int(indices[i])],
        "normalise": lambda i: intensity.normalise(records[i]["image"], records[i]["stats"]),
        "warp": lambda i: warp(i, moves[i]),
        "elastic map (where drawn)": bend,
        "elastic warp (where drawn)": lambda i: warp(i, bent[i]),
        "numbers drawn": lambda i: drawn(images[i].shape[-1]),
        "intensities as drawn": lambda i: augment_contrast.change_intensity(
            warped[i], drawn(images[i].shape[-1]), dark[i]
        ),
        "all of a slice as drawn": lambda i: augment.augment_slice(
            source[int(indices[i])], rng, size, crop, change
        ),
    }


def milliseconds(stages: Mapping[str, Stage], slices: int = SLICES) -> dict[str, float]:
    """Return the time a slice takes in each stage: the median over passes through all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(PASSES):
        for name, stage in stages.items():
            start = time.perf_counter()
            for i in range(slices):
                stage(i)
            seconds[name].append((time.perf_counter() - start) / slices)
    return {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}


def loaders(cores: int) -> list[tuple[int, int]]:
    """Return (threads, loader processes) to try on so many cores: powers of two of each."""
    powers = [2**n for n in range(cores.bit_length())]
    return [(n, 0) for n in powers] + [(1, n) for n in powers]


def say_loaders(config: Config, prepared: Prepared, patients: Sequence[Any]):
    """Print how fast loaders are, on the host and for the device, and their scaling."""
    where = ("device",) if len(config.input.image_size) == 3 else ("host", "device")
    for augment_on in where:
        one: float | None = None
        for threads, workers in loaders(len(os.sched_getaffinity(0))):
            loader = {"num_threads": threads, "num_workers": workers, "augment_on": augment_on}
            changed = dataclasses.replace(config.input, **loader)
            batches = training_batches(
                prepared,
                patients,
                dataclasses.replace(config, input=changed),
                0,
                raw=augment_on == "device",
            )
            rate, first, batch = measured(batches)
            one = one or rate
            memory, size = session_memory_bytes(), sum(x.nbytes for x in batch.values())
            batches.close()
            print(
                f"changed on the {augment_on:<6} {threads:>3} threads {workers:>3} processes "
                f"{rate:>7.0f} samples/s  x {rate / one:4.2f}  first batch {first:5.2f} s  "
                f"{size / 1e6:6.1f} MB a batch  {memory / 1e9:5.2f} GB in all processes",
                flush=True,
            )


def measured(batches: Iterator[Any]) -> tuple[float, float, Any]:
    """Return samples a second, seconds to the first batch, and a batch."""
    start = time.perf_counter()
    batch = next(batches)
    first, size = time.perf_counter() - start, len(batch["image"])
    for _ in range(AHEAD):  # what was made ahead meanwhile
        batch = next(batches)
    start, count = time.perf_counter(), 0
    while count < 4 or time.perf_counter() - start < SECONDS:
        batch, count = next(batches), count + 1
    return count * size / (time.perf_counter() - start), first, batch


def say_feed(config: Config, prepared: Prepared, patients: Sequence[Any]):
    """Print what a batch costs from the host to the training step, on the device."""
    raw = on_device(config)
    batch = next(training_batches(prepared, patients, config, 0, raw=raw))
    batch |= {"stop": np.zeros(len(batch["image"]), np.int32)}
    feed = make_feed(config, make_mesh(config.mesh))
    jax.block_until_ready(feed(batch))
    put = milliseconds({"": lambda _: jax.block_until_ready(feed(batch))}, 1)[""]
    what = "placed and changed" if raw else "placed"
    kind = jax.devices()[0].device_kind
    print(f"{put / len(batch['image']):8.3f} ms  a sample {what} on the device ({kind})")


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    _, config, name = command_line.parse_config(argv, __doc__)
    start_computing()
    prepared = prepare(config.dataset)
    patients = split_patients(prepared.patients, config.split)["train"]
    indices = np.random.default_rng(0).choice(
        np.concatenate([p.first + np.arange(p.num_slices) for p in patients]), SLICES
    )
    if len(config.input.image_size) == 2:
        say_stages(name, config, prepared, indices)
    say_feed(config, prepared, patients)
    say_loaders(config, prepared, patients)


def say_stages(name: str, config: Config, prepared: Prepared, indices: np.ndarray):
    """Print what each stage of changing slices on the host costs, one thread."""
    source = prepared.source()
    shape, size = source[int(indices[0])]["image"].shape, config.input.image_size
    print(f"{name}: slices of {shape} to {size}, batches of {config.train.batch_size}")
    for stage, time_ms in milliseconds(stages(config, source, indices)).items():
        print(f"{time_ms:8.3f} ms  {stage}", flush=True)


if __name__ == "__main__":
    command_line.run(main)
