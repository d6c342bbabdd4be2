"""Slices as stored, with the numbers of the change that `transforms.augment` makes of them.

They are the numbers of `samples.training_batches`, where the host changes the slices.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.loaders import Batch, stacked, training_loader
from jaxseg.datasets.order import Order
from jaxseg.datasets.prepared import Prepared, Records
from jaxseg.imaging import slice_draws, windows
from jaxseg.imaging.augment_shape import moved_matrix
from jaxseg.imaging.geometry import block_sides, record_matrix
from jaxseg.imaging.intensity import dark_level


def raw_slice_batches(
    prepared: Prepared,
    patients: Sequence[Patient],
    order: Order,
    config: Config,
    start_step: int,
    process: int = 0,
    num_processes: int = 1,
) -> Iterator[Batch]:
    """Yield this process's part of the raw training batches from start_step on, without end.

    Arguments and errors as of `samples.training_batches`; order: of its samples.

    Yields:
        What `transforms.augment.augment_one` takes, with a leading axis: `image` as stored, dark
        beyond the slice where patients differ in size, `mask` uint8, `stats` float32 [b, C, 4],
        `outside` [b, C], `matrix` [b, 2, 3] and the other numbers; `block` [b, 2] where slices
        may be shrunk by more than 2.
    """
    source, size = prepared.source(), config.input.image_size
    shape = tuple(np.max([p.shape[1:] for p in patients], axis=0).tolist())
    count = slice_draws.count(size, prepared.num_channels, config.augment) + 1  # the noise's seed

    def load(sample, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
        return sample, rng.random(count)

    def collect(drawn: Sequence[tuple[Any, np.ndarray]]) -> Batch:
        wanted = [(patients[s.patient], s.first, s.depth) for s, _ in drawn]
        batch = read_slices(source, wanted, shape, config)
        batch["uniform"] = np.stack([uniform for _, uniform in drawn])
        return with_numbers(batch, config, shrinking)

    smallest = config.augment.scale_range[0] if config.augment.scale_probability else 1.0
    largest_step = np.max(np.array(shape) / size) / min(smallest, 1.0)
    shrinking = bool(largest_step > 2)
    return training_loader(order, load, config, start_step, process, num_processes, collect)


def read_slices(
    source: Records, wanted: Sequence[tuple], shape: tuple[int, int], config: Config
) -> Batch:
    """Read slices as they are stored, each from its file right to its place in the batch.

    Few steps are Python's, which one thread takes at a time; copies and checksums run side by side.

    Args:
        source: from `Prepared.source`.
        wanted: patient, first slice and depth, 1, of each.
        shape: (H, W) of the largest.
        config: uses input.

    Returns:
        `image`, `mask`, `stats`, `outside` as `raw_slice_batches` says; fit float64 [b, 2, 3] and
        native_size [b, 2].
    """
    facts = []
    for i, one in enumerate(wanted):
        (record,) = source.run(*one)
        if not i:  # of the type that holds all records: patients may differ in it
            whole = len(wanted), *shape
            image = np.empty((*whole, record["image"].shape[-1]), source.dtype)
            mask = np.empty((*whole, record["mask"].shape[-1]), np.uint8)
        native_size = record["image"].shape[:2]
        where = tuple(slice(0, n) for n in native_size)
        windows.fill(image[i], record["image"], where, 0)
        windows.fill(mask[i], record["mask"], where, 0)
        fit = record_matrix(record, config.input.image_size, config.input.crop_to_head)
        stats = record["stats"]
        outside = dark_level(stats)
        facts.append({"stats": stats, "outside": outside, "fit": fit, "native_size": native_size})
    return {"image": image, "mask": mask} | stacked(facts)


def with_numbers(batch: Batch, config: Config, shrinking: bool) -> Batch:
    """Make the numbers of the change, of all samples of a batch at once.

    Args:
        batch: what is loaded; fit [b, 2, 3], native_size [b, 2] and uniform [b, n] are used up.
        config: uses input.image_size and augment.
        shrinking: whether slices may be shrunk by more than 2.
    """
    size, channels = config.input.image_size, batch["image"].shape[-1]
    fit, native, uniform = (batch.pop(name) for name in ("fit", "native_size", "uniform"))
    numbers = slice_draws.draw(uniform[:, :-1], size, channels, config.augment)
    matrix = moved_matrix(fit, numbers, size)
    if shrinking:
        numbers["block"] = block_sides(matrix, native)
    numbers["matrix"] = matrix[:, ::-1][..., [1, 0, 2]]  # (x, y) to (row, column)
    numbers["nodes"] = numbers["nodes"][:, ::-1]
    for name in ("flipped", "degrees", "scale", "shift"):
        del numbers[name]
    numbers = {name: value.astype(np.float32) for name, value in numbers.items()}
    seeds = (uniform[:, -1] * 2**32).astype(np.uint32)
    return batch | numbers | {"noise_seed": seeds}
