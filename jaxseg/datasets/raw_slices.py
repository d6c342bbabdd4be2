"""Slices as stored, with the numbers of the change that `transforms.augment` makes of them.

They are the numbers of `samples.training_batches`, where the host changes the slices.
"""

import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.loaders import Batch, training_loader
from jaxseg.datasets.prepared import Prepared
from jaxseg.imaging import slice_draws
from jaxseg.imaging.augment_shape import moved_matrix
from jaxseg.imaging.geometry import block_sides, record_matrix
from jaxseg.imaging.intensity import dark_level


def raw_slice_batches(
    prepared: Prepared,
    patients: Sequence[Patient],
    order: grain.MapDataset,
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
    channels = prepared.num_channels
    count = slice_draws.count(size, channels, config.augment) + 1  # and the seed of the noise

    def load(sample, rng: np.random.Generator) -> Batch:
        (record,) = source.run(patients[sample.patient], sample.first, sample.depth)
        return {
            "image": padded(record["image"], shape),
            "mask": padded(record["mask"], shape),
            "stats": record["stats"],
            "outside": dark_level(record["stats"]),
            "fit": record_matrix(record, size, config.input.crop_to_head),
            "native_size": np.array(record["image"].shape[:2]),
            "uniform": rng.random(count),
        }

    smallest = config.augment.scale_range[0] if config.augment.scale_probability else 1.0
    largest_step = np.max(np.array(shape) / size) / min(smallest, 1.0)
    finish = functools.partial(with_numbers, config=config, shrinking=bool(largest_step > 2))
    return training_loader(order, load, config, start_step, process, num_processes, finish)


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


def padded(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return [*shape, C], 0 beyond the image [H, W, C]; the image itself where it fits."""
    height, width = image.shape[:2]
    if (height, width) == shape:
        return image
    larger = np.zeros((*shape, image.shape[-1]), image.dtype)
    larger[:height, :width] = image
    return larger
