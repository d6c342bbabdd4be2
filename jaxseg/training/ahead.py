"""The training step, compiled while something else is made."""

import contextlib
import threading
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from jaxseg.config import Config
from jaxseg.machine.sharding import split_batch, split_images
from jaxseg.training.state import TrainState
from jaxseg.training.steps import Batch, jit_train_step


def abstract_batch(config: Config, num_channels: int, mesh: Mesh) -> Batch:
    """Return the shape, dtype and sharding of what the training step takes."""
    size, struct, images = config.train.batch_size, jax.ShapeDtypeStruct, split_images(mesh)
    shape = (size, *config.input.image_size)
    return {
        "image": struct((*shape, num_channels), np.float32, sharding=images),
        "mask": struct((*shape, config.model.num_classes), np.uint8, sharding=images),
        "stop": struct((size,), np.int32, sharding=split_batch(mesh)),
    }


def compiled_ahead(config: Config, state: TrainState, num_channels: int, mesh: Mesh) -> Callable:
    """Return `jit_train_step`, being compiled in a thread of its own; its calls wait for that.

    The first weights are drawn, or a checkpoint is read, meanwhile. jax finds the program again.

    Args:
        config, state, mesh: of `jit_train_step`.
        num_channels: of the images.
    """
    step = jit_train_step(config, state, mesh)

    def compile_it():
        with contextlib.suppress(Exception):  # the call has it too
            step.lower(state, abstract_batch(config, num_channels, mesh)).compile()

    thread = threading.Thread(target=compile_it, name="compile")
    thread.start()

    def call(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        thread.join()
        return step(state, batch)

    return call
