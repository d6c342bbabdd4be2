"""A network applied to images: what every prediction goes through.

The network is one program that gives logits, of one shape, and the only one that takes long to
compile: validation, tuning and prediction share it, each with a small program of its own after it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jaxseg.config import Config, Model
from jaxseg.machine.compiler import network_options
from jaxseg.models.unet import UNet


class Weights(NamedTuple):
    """What a prediction needs."""

    params: Any  # float32 tree
    batch_stats: Any  # float32 tree, empty without batch norm


def predict_logits(weights: Weights, image: jax.Array, *, model: UNet) -> jax.Array:
    """Return logits float32 [B, *S, K] of images float32 [B, *S, C]."""
    variables = {"params": weights.params, "batch_stats": weights.batch_stats}
    return model.apply(variables, image, train=False)[0]


def probabilities(logits: jax.Array, temperature: jax.Array) -> jax.Array:
    """Return probabilities float32 [B, *S, K] in 0..1 of logits [B, *S, K].

    Args:
        logits: of the network.
        temperature: float32 above 0, a scalar or [K]; logits are divided by it.
    """
    temperature = jnp.reshape(temperature, (1,) * (logits.ndim - 1) + (-1,))
    return jax.nn.sigmoid(logits / temperature)


def mirrored(image: jax.Array) -> jax.Array:
    """Return [B, *S, C] mirrored along the last axis of S: for a head, left and right."""
    return jnp.flip(image, axis=-2)


def mean_of_both(logits: jax.Array, other: jax.Array, temperature: jax.Array) -> jax.Array:
    """Return the mean probabilities, as above; `other` are the logits of the mirrored image."""
    both = probabilities(logits, temperature), mirrored(probabilities(other, temperature))
    return (both[0] + both[1]) / 2


def predict_probabilities(
    weights: Weights, image: jax.Array, temperature: jax.Array, *, model: UNet, flip: bool = False
) -> jax.Array:
    """Return probabilities float32 [B, *S, K] in 0..1 of images float32 [B, *S, C]: to be exported.

    Args:
        weights: of the network.
        image: normalised.
        temperature: as `probabilities` takes it.
        model: the network.
        flip: average with the prediction of the mirrored image, mirrored back.
    """
    logits = functools.partial(predict_logits, weights, model=model)
    if flip:
        return mean_of_both(logits(image), logits(mirrored(image)), temperature)
    return probabilities(logits(image), temperature)


@functools.lru_cache(maxsize=16)
def jit_logits(config: Model, sharding: NamedSharding) -> Callable:
    """Return the compiled `predict_logits` (weights, image) -> logits, so sharded.

    It is the same for the same network, so that nothing is compiled twice in a process.
    """
    bound = functools.partial(predict_logits, model=UNet(config))
    return jax.jit(bound, out_shardings=sharding, compiler_options=network_options())


@functools.lru_cache(maxsize=16)
def _jit_last(flip: bool, sharding: NamedSharding) -> Callable:
    return jax.jit(mean_of_both if flip else probabilities, out_shardings=sharding)


def jit_predict(
    config: Config, sharding: NamedSharding, flip: bool = False, whole: NamedSharding | None = None
) -> Callable:
    """Return what predicts: (weights, image, temperature) -> probabilities.

    As `predict_probabilities`, of programs of which the network is that of `jit_logits`.

    Args:
        config: of the run.
        sharding: of the logits.
        flip: as `predict_probabilities` takes it.
        whole: sharding of the probabilities; None: that of the logits.
    """
    logits, last = jit_logits(config.model, sharding), _jit_last(flip, whole or sharding)
    if not flip:
        return lambda weights, image, temperature: last(logits(weights, image), temperature)
    mirror = jax.jit(mirrored)

    def predict_both(weights: Weights, image: jax.Array, temperature: jax.Array) -> jax.Array:
        return last(logits(weights, image), logits(weights, mirror(image)), temperature)

    return predict_both
