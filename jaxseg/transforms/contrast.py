"""Intensities on the device: normalisation, and changes by numbers that the host drew.

The changes are those of `imaging.augment_contrast`, for one image [*S, C] of any rank.
"""

import jax
import jax.numpy as jnp

from jaxseg.imaging.augment_contrast import normal_quantiles


def normalise(image: jax.Array, stats: jax.Array) -> jax.Array:
    """Return float32 [*S, C] in standard deviations, as `intensity.normalise`; stats [C, 4]."""
    low, high, mean, std = stats.T
    image = jnp.clip(image.astype(jnp.float32), rows(low, image), rows(high, image))
    return (image - rows(mean, image)) / rows(std, image)


def scale_and_shift(image: jax.Array, factors: jax.Array, shifts: jax.Array) -> jax.Array:
    """Change contrast about 0, the mean of the head, then brightness; [C] each."""
    return image * rows(factors, image) + rows(shifts, image)


def gamma(image: jax.Array, exponents: jax.Array) -> jax.Array:
    """Bend each channel between its darkest and brightest voxel, which stay; exponents [C]."""
    space = tuple(range(image.ndim - 1))
    low = image.min(space, keepdims=True)
    span = jnp.maximum(image.max(space, keepdims=True) - low, 1e-6)
    unit = jnp.maximum((image - low) / span, 1e-12)
    return jnp.where(
        rows(exponents, image) == 1, image, unit ** rows(exponents, image) * span + low
    )


def bias_field(
    image: jax.Array, field: jax.Array, strength: jax.Array, dark: jax.Array
) -> jax.Array:
    """Multiply by a smooth gain, as a coil does.

    Args:
        image: [*S, C].
        field: [*S], the shape of the gain; its size does not matter.
        strength: largest relative gain, 0..1.
        dark: [C], the value that no gain changes.
    """
    gain = 1 + field * (strength / jnp.maximum(jnp.abs(field).max(), 1e-6))
    dark = rows(dark, image)
    return (image - dark) * gain[..., None] + dark


def noise(image: jax.Array, seed: jax.Array, std: jax.Array) -> jax.Array:
    """Add independent Gaussian noise; seed uint32 of the sample.

    Drawn from 65,536 equally likely values, as on the host.
    """
    levels = jax.random.bits(jax.random.key(seed), image.shape, jnp.uint16)
    return image + std * jnp.take(normal_quantiles(), levels.astype(jnp.int32))


def rows(values: jax.Array, image: jax.Array) -> jax.Array:
    """Return values [C] float32 with as many axes as the image [*S, C]."""
    return values.reshape((1,) * (image.ndim - 1) + (-1,)).astype(jnp.float32)
