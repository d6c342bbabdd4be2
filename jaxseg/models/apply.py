"""A network applied to images: what every prediction goes through."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jaxseg.config import Config
from jaxseg.models.unet import UNet


class Weights(NamedTuple):
    """What a prediction needs."""

    params: Any  # float32 tree
    batch_stats: Any  # float32 tree, empty without batch norm


def predict_logits(weights: Weights, image: jax.Array, *, model: UNet) -> jax.Array:
    """Return logits float32 [B, *S, K] of images float32 [B, *S, C]."""
    variables = {"params": weights.params, "batch_stats": weights.batch_stats}
    return model.apply(variables, image, train=False)[0]


def predict_probabilities(
    weights: Weights, image: jax.Array, temperature: jax.Array, *, model: UNet, flip: bool = False
) -> jax.Array:
    """Return probabilities float32 [B, *S, K] in 0..1 of images float32 [B, *S, C].

    Args:
        weights: of the network.
        image: normalised.
        temperature: float32 above 0, a scalar or [K]; logits are divided by it.
        model: bound by `jit_predict`.
        flip: average with the prediction of the image mirrored along its last axis, mirrored
            back: for a head, left and right.
    """
    temperature = jnp.reshape(temperature, (1,) * (image.ndim - 1) + (-1,))
    probability = jax.nn.sigmoid(predict_logits(weights, image, model=model) / temperature)
    if not flip:
        return probability
    mirrored = jnp.flip(image, axis=-2)
    other = jax.nn.sigmoid(predict_logits(weights, mirrored, model=model) / temperature)
    return (probability + jnp.flip(other, axis=-2)) / 2


def jit_predict(config: Config, sharding: NamedSharding, flip: bool = False) -> Callable:
    """Return the compiled `predict_probabilities`.

    It takes (weights, image, temperature) and returns the probabilities, so sharded.
    """
    bound = functools.partial(predict_probabilities, model=UNet(config.model), flip=flip)
    return jax.jit(bound, out_shardings=sharding)


def jit_logits(config: Config, sharding: NamedSharding) -> Callable:
    """Return the compiled `predict_logits` (weights, image) -> logits, so sharded."""
    bound = functools.partial(predict_logits, model=UNet(config.model))
    return jax.jit(bound, out_shardings=sharding)
