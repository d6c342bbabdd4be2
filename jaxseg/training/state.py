"""The train state: arrays only."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxseg.config import Config
from jaxseg.machine.compiler import small_options
from jaxseg.machine.sharding import shardings, split_state
from jaxseg.models.apply import Weights
from jaxseg.models.initial import initialise
from jaxseg.models.unet import UNet
from jaxseg.training.control import EarlyStopState, PlateauState, init_early_stop, init_plateau
from jaxseg.training.optimizer import make_optimizer


class TrainState(NamedTuple):
    """All that training goes on from; `step` is also the number of batches consumed."""

    step: jax.Array  # int32, updates tried
    weights: Weights
    average: Weights | None  # exponential moving average of the weights; None: off
    opt_state: Any
    plateau: PlateauState
    early_stop: EarlyStopState
    nonfinite_in_row: jax.Array  # int32, skipped updates since the last good one
    nonfinite_total: jax.Array  # int32
    key: jax.Array  # PRNG key; each step folds its number in


def best_weights(state: TrainState) -> Weights:
    """Return the weights to evaluate: the average where it is kept."""
    return state.weights if state.average is None else state.average


def new_state(config: Config, num_channels: int, mesh: Mesh) -> TrainState:
    """Return the state of step 0, made where it belongs: the same numbers on every mesh.

    Args:
        config: uses model, optimizer, input.image_size, mesh.fsdp_min_size and seed.
        num_channels: of the images.
        mesh: devices.
    """
    make = _initialiser(config, num_channels)
    where = shardings(abstract_state(config, num_channels, mesh))
    options = small_options()
    return jax.jit(make, out_shardings=where, compiler_options=options)(np.uint32(config.seed))


@functools.lru_cache(maxsize=4)  # a start asks four times
def abstract_state(config: Config, num_channels: int, mesh: Mesh) -> TrainState:
    """Return the shape, dtype and sharding of every array of the state; computes nothing."""
    shapes = jax.eval_shape(_initialiser(config, num_channels), np.uint32(config.seed))
    where = split_state(shapes, mesh, config.mesh.fsdp_min_size)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, where
    )


@functools.lru_cache(maxsize=4)  # jax traces one function once, for shapes and numbers
def _initialiser(config: Config, num_channels: int) -> Callable[[jax.Array], TrainState]:
    """Return the function from the seed, uint32, to the state of step 0."""
    model = UNet(config.model)
    tx = make_optimizer(config.optimizer, config.train.num_steps)
    image_shape = (*config.input.image_size, num_channels)

    def initial_state(seed: jax.Array) -> TrainState:
        init_key, key = jax.random.split(jax.random.key(seed))
        variables = initialise(model, init_key, jnp.zeros((1, *image_shape), jnp.float32))
        weights = Weights(variables["params"], variables.get("batch_stats", {}))
        return TrainState(
            step=jnp.int32(0),
            weights=weights,
            average=jax.tree.map(jnp.copy, weights) if config.optimizer.ema_decay else None,
            opt_state=tx.init(weights.params),
            plateau=init_plateau(),
            early_stop=init_early_stop(),
            nonfinite_in_row=jnp.int32(0),
            nonfinite_total=jnp.int32(0),
            key=key,
        )

    return initial_state
