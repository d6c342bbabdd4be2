"""How long a training step takes on this machine, measured on random images."""

import time
from typing import NamedTuple

import jax
import numpy as np

from jaxseg.config import Config
from jaxseg.imaging.augment import augment_slice
from jaxseg.machine.sharding import make_mesh, to_global
from jaxseg.training.state import abstract_state, new_state
from jaxseg.training.steps import jit_train_step

_MAX_STEPS, _MAX_SLICES = 5, 16
_MAX_SECONDS = 8.0


class StepTime(NamedTuple):
    """Medians of a few measurements."""

    step_seconds: float  # one batch, without its loading
    num_steps: int  # measured
    compile_seconds: float  # once per start; far less when compiled before
    slice_seconds: float  # to load and augment one slice, in one thread
    memory_bytes: int  # of the step: state, batch and activations, on one device
    device: str


def measure_step(config: Config, record: dict[str, np.ndarray]) -> StepTime:
    """Compile the training step and take up to five; at most some ten seconds besides compiling.

    Args:
        config: all settings.
        record: a slice like those of the data set; see `datasets.Prepared.source`.
    """
    mesh, num_channels = make_mesh(config.mesh), record["image"].shape[-1]
    state = new_state(config, num_channels, mesh)
    abstract = abstract_state(config, num_channels, mesh)
    shape, rng = (config.train.batch_size, *config.input.image_size), np.random.default_rng(0)
    batch = to_global(
        {
            "image": rng.standard_normal((*shape, num_channels), np.float32),
            "mask": rng.integers(2, size=(*shape, 1), dtype=np.uint8),
            "stop": np.zeros(shape[0], np.int32),
        },
        mesh,
    )
    start = time.perf_counter()
    step = jit_train_step(config, abstract, mesh).lower(state, batch).compile()
    compiled = time.perf_counter() - start
    sizes = step.memory_analysis()
    memory = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    state, _ = jax.block_until_ready(step(state, batch))  # the first touches new memory
    times, end = [], time.perf_counter() + _MAX_SECONDS
    while len(times) < _MAX_STEPS and (not times or time.perf_counter() < end):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - start)
    return StepTime(
        float(np.median(times)),
        len(times),
        compiled,
        _slice_seconds(config, record),
        int(memory - sizes.alias_size_in_bytes),
        f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
    )


def _slice_seconds(config: Config, record: dict[str, np.ndarray]) -> float:
    rng, size, crop = np.random.default_rng(0), config.input.image_size, config.input.crop_to_head
    times, end = [], time.perf_counter() + _MAX_SECONDS / 4
    while len(times) < _MAX_SLICES and (not times or time.perf_counter() < end):
        start = time.perf_counter()
        augment_slice(record, rng, size, crop, config.augment)
        times.append(time.perf_counter() - start)
    return float(np.mean(times))
