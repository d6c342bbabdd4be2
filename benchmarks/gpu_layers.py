"""The memory-bound layers of the network, written in several ways, one by one: which is fastest?

    python -m benchmarks.gpu_layers [--small]

Plain jax, but for what is called jaxseg's. For each: milliseconds, and how many passes over the
images the time is worth at the rate of a plain copy ("passes"), beside the fewest that can be
("least"). Batch norm reads and writes images [B, H, W, C] in bfloat16 and computes in float32, with
its gradient.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_results import emit
from jaxseg.models.gpu import fold
from jaxseg.models.gpu import norm as norm_of_jaxseg
from jaxseg.models.gpu import pool as pool_of_jaxseg

EPSILON = 1e-5
AXES = (0, 1, 2)


def mean_two_pass(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance, read twice."""
    mean = jnp.mean(x, AXES)
    return mean, jnp.mean(jnp.square(x - mean), AXES)


def mean_one_pass(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance, read once; the digits of a large mean are lost."""
    mean = jnp.mean(x, AXES)
    return mean, jnp.mean(jnp.square(x), AXES) - jnp.square(mean)


def mean_shifted(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and variance, read once, about a number near the mean."""
    near = x - shift
    mean = jnp.mean(near, AXES)
    return mean + shift, jnp.mean(jnp.square(near), AXES) - jnp.square(mean)


def norm(moments: Callable, x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Return ReLU of the normalised images."""
    x32 = x.astype(jnp.float32)
    mean, variance = moments(x32, shift)
    y = (x32 - mean) * (scale * jax.lax.rsqrt(variance + EPSILON))
    return jnp.maximum(y, 0).astype(x.dtype)


@jax.custom_vjp
def norm_by_hand(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Return `norm` with `mean_shifted`; its gradient is written out: two sums, then one pass."""
    return norm(mean_shifted, x, scale, shift)


def _forward(x, scale, shift):
    mean, variance = mean_shifted(x.astype(jnp.float32), shift)
    rate = jax.lax.rsqrt(variance + EPSILON)
    y = (x.astype(jnp.float32) - mean) * (scale * rate)
    return jnp.maximum(y, 0).astype(x.dtype), (x, scale, mean, rate)


def _backward(saved, dy):
    x, scale, mean, rate = saved
    unit = (x.astype(jnp.float32) - mean) * rate
    dy = jnp.where(unit * scale > 0, dy.astype(jnp.float32), 0)
    d_bias, d_scale = jnp.sum(dy, AXES), jnp.sum(dy * unit, AXES)
    count = np.float32(x.size // x.shape[-1])
    dx = (scale * rate) * (dy - d_bias / count - unit * (d_scale / count))
    return dx.astype(x.dtype), d_scale, jnp.zeros_like(mean)


norm_by_hand.defvjp(_forward, _backward)


def pool_by_views(x: jax.Array) -> jax.Array:
    """Return the maximum of windows of 2 from four strided views."""
    views = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return functools.reduce(jnp.maximum, views)


def pool_by_reshape(x: jax.Array) -> jax.Array:
    """Return the maximum of windows of 2 over reshaped axes."""
    b, h, w, c = x.shape
    return jnp.max(x.reshape(b, h // 2, 2, w // 2, 2, c), (2, 4))


def with_gradient(function: Callable) -> Callable:
    """Return a function (dy, x, ...) -> result and its gradient for x, for a given dy."""

    def both(dy: jax.Array, x: jax.Array, *others: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, back = jax.vjp(lambda x: function(x, *others), x)
        return y, back(dy)[0]

    return both


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve 3x3."""
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order)


def folded(x: jax.Array, kernel: jax.Array, together: int) -> jax.Array:
    """Convolve 3x3, with so many neighbours of a row taken together."""
    return convolve(*fold.fold(x, kernel, together)).reshape(*x.shape[:-1], kernel.shape[-1])


def gradient(function: Callable, number: int) -> Callable:
    """Return a function (dy, ...) -> gradient for one of the others; the result is not made."""

    def back(dy: jax.Array, *arguments: jax.Array) -> jax.Array:
        return jax.vjp(function, *arguments)[1](dy)[number]

    return back


def cases(batch: int, size: int, channels: int) -> list[tuple[str, float, Callable, tuple]]:
    """Return name, fewest passes over the images, function and arguments of each.

    All arrays are arguments: what a program closes over becomes a part of it.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    draw = functools.partial(jax.random.normal, dtype=jnp.bfloat16)
    x, dy = (draw(k, (batch, size, size, channels)) for k in keys[:2])
    half = draw(keys[2], (batch, size // 2, size // 2, channels))
    vectors = (jnp.full(channels, 1.1), jnp.full(channels, 0.1))
    made: list[tuple[str, float, Callable, tuple]] = [("copy", 2, lambda x: x + 1, (x,))]

    def statistics(moments: Callable) -> Callable:
        return lambda x, shift: moments(x.astype(jnp.float32), shift)

    for moments in (mean_two_pass, mean_one_pass, mean_shifted):
        name = moments.__name__.removeprefix("mean_")
        forward = functools.partial(norm, moments)
        made += [
            (f"statistics, {name}", 1, statistics(moments), (x, vectors[1])),
            (f"norm and ReLU, {name}", 3, forward, (x, *vectors)),
            (f"norm and ReLU with gradient, {name}", 8, with_gradient(forward), (dy, x, *vectors)),
        ]
    by_hand = ("norm and ReLU with gradient, by hand", 8, with_gradient(norm_by_hand))
    made += [(*by_hand, (dy, x, *vectors))]
    own = functools.partial(norm_of_jaxseg.norm, epsilon=EPSILON, slope=0.0, by_sample=False)
    way = with_gradient(lambda *arrays: own(*arrays)[0])
    made.append(("norm and ReLU with gradient, jaxseg's", 8, way, (dy, x, *vectors)))
    pool = functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    ways = (("views", pool_by_views), ("reshape", pool_by_reshape), ("reduce_window", pool))
    ways += (("jaxseg's", lambda x: pool_of_jaxseg.max_pool(x, (2, 2))),)
    for name, way in ways:
        made.append((f"pool with gradient, {name}", 2.75, with_gradient(way), (half, x)))
    for inputs in (3, channels, 2 * channels):
        image = draw(keys[0], (batch, size, size, inputs))
        kernel = draw(keys[3], (3, 3, inputs, channels))
        least = 1 + inputs / channels
        for together in (1, 2, 4):
            way = functools.partial(folded, together=together) if together > 1 else convolve
            name = (
                f"{inputs} channels, {together} together" if together > 1 else f"{inputs} channels"
            )
            made += [
                (f"convolution, {name}", least, way, (image, kernel)),
                (f"its kernel gradient, {name}", least, gradient(way, 1), (dy, image, kernel)),
            ]
            if inputs >= channels:
                back = gradient(way, 0)
                made.append((f"its image gradient, {name}", least, back, (dy, image, kernel)))
    return made


def time_of(function: Callable, arguments: Sequence[jax.Array], steps: int) -> tuple[float, float]:
    """Return seconds of one run, and of compiling."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    compiled = time.perf_counter() - start
    times = []
    for number in range(4):
        start = time.perf_counter()
        for _ in range(steps if number else 2):
            y = program(*arguments)
        jax.block_until_ready(y)
        times.append((time.perf_counter() - start) / steps)
    return min(times[1:]), compiled


def main(argv: Sequence[str]):
    """Run it."""
    shape = (2, 32, 8) if "--small" in argv else (32, 256, 32)
    part, copy = "layers", 0.0
    image_bytes = 2 * shape[0] * shape[1] ** 2 * shape[2]
    for name, least, function, arguments in cases(*shape):
        try:
            seconds, compiled = time_of(function, arguments, 2 if "--small" in argv else 20)
        except Exception as error:  # the others are still worth their time
            emit(part, layer=name, error=f"{type(error).__name__}: {error}"[:300])
            continue
        copy = copy or seconds / 2  # the first: one pass
        emit(
            part,
            layer=name,
            ms=round(1e3 * seconds, 4),
            passes=round(seconds / copy, 2),
            least=least,
            gigabytes_per_second=round(least * image_bytes / seconds / 1e9),
            compile_seconds=round(compiled, 2),
        )


if __name__ == "__main__":
    main(sys.argv[1:])
