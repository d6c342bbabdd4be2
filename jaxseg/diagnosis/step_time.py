"""What a training step takes on this machine: memory as XLA reckons it, time as measured."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxseg.config import Config
from jaxseg.datasets.patches import Batch
from jaxseg.diagnosis.lines import say
from jaxseg.machine.sharding import make_mesh, to_global
from jaxseg.training.ahead import abstract_batch
from jaxseg.training.state import abstract_state, new_state
from jaxseg.training.steps import jit_train_step
from jaxseg.transforms.augment import jit_augment, place_raw

_MAX_STEPS, _MAX_SAMPLES = 5, 16
_MAX_SECONDS = 8.0


class CompiledStep(NamedTuple):
    """The training step, compiled for shapes: no memory is used until it is called."""

    call: Callable  # (state, batch) -> (state, metrics)
    seconds: float  # to compile
    num_bytes: int  # on one device: state, batch and activations
    kept_bytes: int  # of these, what is there between two steps: state and batch


class StepTime(NamedTuple):
    """Medians of a few measurements."""

    step_seconds: float  # one batch, without its loading; patches are augmented in it
    num_steps: int  # measured
    compile_seconds: float  # once per start; far less when compiled before
    sample_seconds: float  # to load and augment a slice, or to read a patch, in one thread
    memory_bytes: int  # state, batch and activations, on one device; patches: augmenting too
    device: str


@functools.lru_cache(maxsize=1)  # fitted to the memory first, measured later
def compile_step(config: Config, num_channels: int) -> CompiledStep:
    """Compile the training step.

    Args:
        config: all settings.
        num_channels: of the images.
    """
    mesh = make_mesh(config.mesh)
    size, batch_size = config.input.image_size, config.train.batch_size
    say(f"compiling a training step of {batch_size} x {' x '.join(map(str, size))}")
    abstract = abstract_state(config, num_channels, mesh)
    batch = abstract_batch(config, num_channels, mesh)
    start = time.perf_counter()
    step = jit_train_step(config, abstract, mesh).lower(abstract, batch).compile()
    kept = step.memory_analysis().argument_size_in_bytes
    return CompiledStep(step, time.perf_counter() - start, _bytes(step), kept)


def measure_step(config: Config, load: Callable[[], Batch], num_channels: int) -> StepTime:
    """Compile the training step and take up to five; at most some ten seconds besides compiling.

    Args:
        config: all settings.
        load: returns a sample as the loader of training does; see `noise`.
        num_channels: of the images.
    """
    mesh, step = make_mesh(config.mesh), compile_step(config, num_channels)
    samples, sample_seconds = _load(load)
    chosen = [samples[i % len(samples)] for i in range(config.train.batch_size)]
    batch = {name: np.stack([s[name] for s in chosen]) for name in chosen[0]}
    batch |= {"stop": np.zeros(len(chosen), np.int32)}
    feed, feed_bytes, compiled = _feed(config, mesh, batch)
    say("measuring the training step")
    state = new_state(config, num_channels, mesh)
    state, _ = jax.block_until_ready(step.call(state, feed()))  # the first touches new memory
    times, end = [], time.perf_counter() + _MAX_SECONDS
    while len(times) < _MAX_STEPS and (not times or time.perf_counter() < end):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step.call(state, feed()))
        times.append(time.perf_counter() - start)
    say("")
    return StepTime(
        float(np.median(times)),
        len(times),
        step.seconds + compiled,
        sample_seconds,
        step.num_bytes + feed_bytes,
        f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
    )


def _load(load: Callable[[], Batch]) -> tuple[list[Batch], float]:
    """Return some samples and how long one takes."""
    samples, start = [], time.perf_counter()
    end = start + _MAX_SECONDS / 4
    while len(samples) < _MAX_SAMPLES and (not samples or time.perf_counter() < end):
        samples.append(load())
    return samples, (time.perf_counter() - start) / len(samples)


def _feed(config: Config, mesh: Mesh, batch: Batch) -> tuple[Callable[[], Batch], int, float]:
    """Return what makes the step's batch as in training, its bytes and the seconds to compile it.

    Slices come augmented from the host and are on the device already.
    """
    if len(config.input.image_size) == 2:
        placed = to_global(batch, mesh)
        return lambda: placed, 0, 0.0
    say("compiling the augmentation of patches")
    raw, start = place_raw(batch, mesh), time.perf_counter()
    augment = jit_augment(config, mesh).lower(raw).compile()
    return lambda: augment(raw), _bytes(augment), time.perf_counter() - start


def _bytes(compiled: jax.stages.Compiled) -> int:
    """Return the memory that a program needs on one device, by XLA's own analysis."""
    sizes = compiled.memory_analysis()
    memory = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    return int(memory - sizes.alias_size_in_bytes)
