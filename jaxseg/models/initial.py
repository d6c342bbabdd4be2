"""The first weights: drawn together, with the numbers that flax draws one by one.

Each kernel's numbers come from a key of its own. As a program XLA sees a generator and an inverse
error function for each of some twenty kernels, and compiles all of them; here kernels of like size
are the rows of one draw. What jax draws of a key does not depend on how many are drawn (its
generator encrypts their positions: Salmon et al., 2011; `jax_threefry_partitionable`, its default).
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

_FACTOR_BITS = 4  # sizes within a factor of 16 are drawn together, as the largest of them
# Of one thread: another may trace the training step meanwhile.
_together = contextvars.ContextVar("together", default=False)


@flax.struct.dataclass
class Undrawn(nn.meta.AxisMetadata):
    """A kernel that is still to be drawn; flax takes it for zeros of that shape."""

    key: jax.Array
    shape: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def unbox(self) -> jax.Array:
        """Return what the forward pass of the initialisation computes with, for nobody to see."""
        return jnp.zeros(self.shape, jnp.float32)

    def replace_boxed(self, value: jax.Array) -> jax.Array:
        """Return a value in place of the box."""
        return value

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Undrawn":
        """Refuse: a stack of modules is initialised by one key each."""
        raise NotImplementedError("kernels of nn.vmap and nn.scan")

    remove_axis = add_axis


def kernel_init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array | Undrawn:
    """Return a kernel [*window, C, O] float32 for a module of flax: LeCun normal.

    Normal, cut off at two standard deviations, of variance 1 / (window C).
    """
    if _together.get():
        return Undrawn(key, tuple(shape))
    return nn.initializers.lecun_normal()(key, shape, dtype)


def initialise(model: nn.Module, key: jax.Array, image: jax.Array) -> dict[str, Any]:
    """Return `model.init(key, image, train=False)`, the same bits, in fewer loops.

    Args:
        model: whose kernels are made by `kernel_init`.
        key: to draw from.
        image: [B, *S, C], of which the shape matters.
    """
    with _drawn_later():
        variables = model.init(key, image, train=False)
    leaves, structure = jax.tree.flatten(variables, is_leaf=_is_undrawn)
    groups: dict[int, list[int]] = {}
    for i, leaf in enumerate(leaves):
        if _is_undrawn(leaf):
            of_size = math.prod(leaf.shape).bit_length() // _FACTOR_BITS
            groups.setdefault(of_size, []).append(i)
    for places in groups.values():
        for i, kernel in zip(places, _draw([leaves[i] for i in places]), strict=True):
            leaves[i] = kernel
    return jax.tree.unflatten(structure, leaves)


@contextlib.contextmanager
def _drawn_later() -> Iterator[None]:
    token = _together.set(True)
    try:
        yield
    finally:
        _together.reset(token)


def _is_undrawn(leaf: Any) -> bool:
    return isinstance(leaf, Undrawn)


def _draw(kernels: Sequence[Undrawn]) -> list[jax.Array]:
    """Return the kernels, drawn as rows of one array that is as long as the largest."""
    sizes = [math.prod(kernel.shape) for kernel in kernels]
    # As flax has them; the second is the deviation of a standard normal cut off at two.
    variances = jnp.array([1 / math.prod(kernel.shape[:-1]) for kernel in kernels], jnp.float32)
    deviations = jnp.sqrt(variances) / jnp.float32(0.87962566103423978)

    def row(drawn: tuple[jax.Array, jax.Array]) -> jax.Array:
        key, deviation = drawn
        return jax.random.truncated_normal(key, -2, 2, (max(sizes),), jnp.float32) * deviation

    # One row after the other: all at once they take more memory than a step of training.
    rows = jax.lax.map(row, (jnp.stack([kernel.key for kernel in kernels]), deviations))
    parts = zip(kernels, sizes, strict=True)
    return [rows[i, :size].reshape(kernel.shape) for i, (kernel, size) in enumerate(parts)]
