"""Plateau learning-rate reduction and early stopping as pure functions over arrays.

Both watch one value per evaluation, larger is better, and live in the train state, so that
a resumed run goes on with the same counters. A NaN counts as no improvement. The rules
are those of Keras' ReduceLROnPlateau and EarlyStopping, but for two: a cooldown passes in
full (Keras counts its last evaluation again), and patience 0 never stops.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.config import EarlyStop, Plateau


class PlateauState(NamedTuple):
    """Scalars: the learning rate's factor, the best value, and two counters of evaluations."""

    scale: jax.Array  # float32 in min_scale..1, multiplies the scheduled learning rate
    best: jax.Array  # float32
    bad: jax.Array  # int32, evaluations without improvement
    cooldown: jax.Array  # int32, evaluations left that do not count


class EarlyStopState(NamedTuple):
    """Scalars: the best value and the evaluations since."""

    best: jax.Array  # float32
    bad: jax.Array  # int32


def init_plateau() -> PlateauState:
    """Return the state before the first evaluation."""
    zero = jnp.int32(0)
    return PlateauState(jnp.float32(1), jnp.float32(-jnp.inf), zero, zero)


def init_early_stop() -> EarlyStopState:
    """Return the state before the first evaluation."""
    return EarlyStopState(jnp.float32(-jnp.inf), jnp.int32(0))


def observe_plateau(state: PlateauState, value: jax.Array, config: Plateau) -> PlateauState:
    """Take one evaluation's value (float32 scalar, larger is better) into account.

    After `patience` evaluations in a row that did not gain more than `min_delta`, the scale
    is multiplied by `factor`, at least `min_scale`, and `cooldown` evaluations pass
    uncounted.
    """
    better = value > state.best + config.min_delta
    cooling = state.cooldown > 0
    bad = jnp.where(better | cooling, 0, state.bad + 1)
    reduce = bad >= config.patience
    scale = jnp.where(
        reduce, jnp.maximum(state.scale * config.factor, config.min_scale), state.scale
    )
    cooldown = jnp.where(reduce, config.cooldown, jnp.maximum(state.cooldown - 1, 0))
    return PlateauState(
        scale.astype(jnp.float32),
        jnp.where(better, value, state.best).astype(jnp.float32),
        jnp.where(reduce, 0, bad).astype(jnp.int32),
        cooldown.astype(jnp.int32),
    )


def observe_early_stop(
    state: EarlyStopState, value: jax.Array, config: EarlyStop
) -> EarlyStopState:
    """Take one evaluation's value (float32 scalar, larger is better) into account."""
    better = value > state.best + config.min_delta
    return EarlyStopState(
        jnp.where(better, value, state.best).astype(jnp.float32),
        jnp.where(better, 0, state.bad + 1).astype(jnp.int32),
    )


def should_stop(state: EarlyStopState, config: EarlyStop) -> bool:
    """Return whether `patience` evaluations in a row brought nothing; patience 0 never stops."""
    return config.patience > 0 and int(state.bad) >= config.patience
