"""Print what each stage of making a training batch costs, on the data set of a config.

    python -m benchmarks.input_stages --config configs/lgg.py --config.dataset.source=PATH

Milliseconds a slice in this process, median of passes one after the other; then the loader as the
config has it, threads or processes: slices a second, time to the first batch, memory.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.protocol import session_memory_bytes
from jaxseg.config import Config, command_line
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import training_batches
from jaxseg.datasets.splits import split_patients
from jaxseg.imaging import augment, augment_contrast, augment_shape, geometry, intensity
from jaxseg.machine.sharding import make_mesh, to_global

SLICES, PASSES, BATCHES = 64, 9, 40

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

    def bend(i: int) -> np.ndarray:
        field = np.stack([augment_shape.smooth_field(n, size, spacing) for n in nodes])
        return geometry.dense_map(moves[i], size, field)

    def warp(i: int, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return geometry.warp(images[i], records[i]["mask"], where, size, dark[i])

    bent, warped = [bend(i) for i in range(SLICES)], [warp(i, m)[0] for i, m in enumerate(moves)]
    return {
        "read": lambda i: source[int(indices[i])],
        "normalise": lambda i: intensity.normalise(records[i]["image"], records[i]["stats"]),
        "warp": lambda i: warp(i, moves[i]),
        "elastic map (where drawn)": bend,
        "elastic warp (where drawn)": lambda i: warp(i, bent[i]),
        "intensities as drawn": lambda i: augment_contrast.random_intensity(
            warped[i], rng, dark[i], change
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


def say_loader(config: Config, prepared: Prepared, patients: Sequence[Any]):
    """Print how fast the loader of the config is, and what bringing a batch to the device costs."""
    batches = training_batches(prepared, patients, config, 0)
    start = time.perf_counter()
    batch = next(batches)
    first = time.perf_counter() - start
    for _ in range(BATCHES // 4):  # what was made ahead meanwhile
        next(batches)
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    rate = BATCHES * len(batch["image"]) / (time.perf_counter() - start)
    memory = session_memory_bytes()
    batches.close()
    mesh = make_mesh(config.mesh)
    put = milliseconds({"": lambda _: jax.block_until_ready(to_global(batch, mesh))}, 1)[""]
    print(f"{put / len(batch['image']):8.3f} ms  to the device ({jax.devices()[0].device_kind})")
    how = f"{config.input.num_workers} processes, {config.input.num_threads} threads"
    print(
        f"loader: {how}: {rate:.0f} slices/s, first batch after {first:.2f} s, "
        f"{memory / 1e9:.2f} GB in all processes"
    )


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    _, config, name = command_line.parse_config(argv, __doc__)
    prepared = prepare(config.dataset)
    patients = split_patients(prepared.patients, config.split)["train"]
    indices = np.random.default_rng(0).choice(
        np.concatenate([p.first + np.arange(p.num_slices) for p in patients]), SLICES
    )
    source = prepared.source()
    shape, size = source[int(indices[0])]["image"].shape, config.input.image_size
    print(f"{name}: slices of {shape} to {size}, batches of {config.train.batch_size}")
    for stage, time_ms in milliseconds(stages(config, source, indices)).items():
        print(f"{time_ms:8.3f} ms  {stage}", flush=True)
    say_loader(config, prepared, patients)


if __name__ == "__main__":
    command_line.run(main)
