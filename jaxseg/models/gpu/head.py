"""The last convolution, of one pixel and to a few regions, as sums over channels.

As a matrix product it reads the largest images of the network from memory, twice, and they are
written for it alone. XLA takes a sum together with the norm and ReLU before it instead.
"""

import jax
import jax.numpy as jnp

_FEW = 4  # outputs


def fits(weights: jax.Array) -> bool:
    """Return whether there are few outputs: of [C, O]."""
    return weights.shape[-1] <= _FEW


def product(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Return x @ weights, [..., C] and [C, O]: [..., O]; sums in float32."""
    x32 = x.astype(jnp.float32)
    columns = weights.T.astype(jnp.float32).reshape(-1, *(1,) * (x.ndim - 1), x.shape[-1])
    sums = [jnp.sum(x32 * column, -1) for column in columns]
    return jnp.stack(sums, -1).astype(x.dtype)
