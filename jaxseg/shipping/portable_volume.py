"""Statistics, head and lesions of a volume as JAX functions, and all of a prediction in one.

The same as `intensity.darken_background`, `volume_statistics` and `head_box` and as
`operating.segment` on the host; the number of slices may be symbolic.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxseg.imaging import intensity
from jaxseg.shipping.portable import segment_slices

_PERMILLE = 1000  # percentiles are counted in these, so that positions are exact integers


def segment_volume(
    volume: jax.Array,
    *,
    predict: Callable[[jax.Array], jax.Array],
    image_size: tuple[int, int],
    crop_to_head: bool,
    batch_size: int,
    threshold: float,
    min_lesion_voxels: int,
) -> tuple[jax.Array, jax.Array]:
    """Segment a volume of raw intensities.

    Args:
        volume: [D, H, W, C] float32, finite; all slices of a patient. D may be symbolic.
        predict: [B, h, w, C] float32 on the training grid -> [B, h, w, 1] in 0..1.
        image_size: (h, w) of the training grid.
        crop_to_head: fit the head's box instead of the whole slice.
        batch_size: slices that the network takes at once.
        threshold: probability from which a voxel is tumour.
        min_lesion_voxels: smaller components are dropped; 0 or 1: none.

    Returns:
        probability [D, H, W] float32 in 0..1 and mask [D, H, W] bool.
    """
    volume = darken_background(volume)
    head = head_mask(volume)
    stats = statistics(volume, head)
    whole = jnp.array([0, 0, *volume.shape[1:3]], jnp.int32)
    box = head_box(head) if crop_to_head else whole
    slices = functools.partial(segment_slices, predict=predict, image_size=image_size)
    # Filled up with empty slices to whole batches, one after the other: bounded memory.
    depth = volume.shape[0]
    batches = (depth + batch_size - 1) // batch_size
    padded = jnp.pad(volume, ((0, batches * batch_size - depth), (0, 0), (0, 0), (0, 0)))
    padded = padded.reshape(batches, batch_size, *volume.shape[1:])
    probability = jax.lax.map(lambda part: slices(part, stats, box), padded)
    probability = probability.reshape(batches * batch_size, *volume.shape[1:3])[:depth]
    mask = probability >= threshold
    return probability, drop_small(mask, min_lesion_voxels) if min_lesion_voxels > 1 else mask


def darken_background(volume: jax.Array, least: jax.Array | float = -jnp.inf) -> jax.Array:
    """Return [D, H, W, C] float32, as `intensity.darken_background`.

    Args:
        volume: [D, H, W, C] float32.
        least: that the integers of the scan can be; -inf: it is not of integers.
    """
    channels = [volume[..., c] for c in range(volume.shape[-1])]
    found = [_darkened(channel, least) for channel in channels]
    amid, darkened = zip(*found, strict=True)
    often = 2 * sum(a.astype(jnp.int32) for a in amid) >= len(channels)
    chosen = [jnp.where(often & a, d, x) for a, d, x in zip(amid, darkened, channels, strict=True)]
    return jnp.stack(chosen, axis=-1)


def _darkened(channel: jax.Array, least: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Return whether the background lies amid the tissue, and the channel with it darker."""
    everywhere = jnp.ones(channel.shape, bool)
    y, x = (jax.lax.broadcasted_iota(jnp.int32, channel.shape, axis) for axis in (1, 2))
    edge = (y == 0) | (x == 0) | (y == channel.shape[1] - 1) | (x == channel.shape[2] - 1)
    (level,) = _percentiles(channel, edge, (50.0,))
    dark, bright = _percentiles(channel, everywhere, intensity.HEAD_PERCENTILES)
    background = abs(channel - level) <= intensity.PLAIN * (bright - dark)
    plain = 2 * (background & edge).sum() > edge.sum()
    dark, bright = _percentiles(channel, ~background, intensity.HEAD_PERCENTILES)
    margin = intensity.HEAD_FRACTION * (bright - dark)
    amid = plain & ~background.all() & (dark + margin < level) & (level < bright - margin)
    darker = dark - margin / (1 - intensity.HEAD_FRACTION)
    darker = jnp.where(least > -jnp.inf, jnp.maximum(jnp.floor(darker), least), darker)
    return amid, jnp.where(background, darker, channel)


def head_mask(volume: jax.Array) -> jax.Array:
    """Return [D, H, W] bool, as `intensity` finds the head in [D, H, W, C] float32."""
    channels = volume.shape[-1]
    everywhere = jnp.ones(volume.shape[:3], bool)
    votes = 0
    for c in range(channels):
        dark, bright = _percentiles(volume[..., c], everywhere, intensity.HEAD_PERCENTILES)
        level = dark + intensity.HEAD_FRACTION * (bright - dark)
        votes += (volume[..., c] > level).astype(jnp.int32)
    return 2 * votes >= channels


def statistics(volume: jax.Array, head: jax.Array) -> jax.Array:
    """Return [C, 4] float32, as `intensity.volume_statistics`.

    Args:
        volume: [D, H, W, C] float32.
        head: [D, H, W] bool; empty: the statistics are those of the whole frame.
    """
    head |= ~head.any()
    count = head.sum()
    rows = []
    for c in range(volume.shape[-1]):
        channel = volume[..., c]
        low, high = _percentiles(channel, head, intensity.PERCENTILES)
        clipped = jnp.clip(channel, low, high)
        mean = _sum(jnp.where(head, clipped, 0)) / count
        variance = _sum(jnp.where(head, (clipped - mean) ** 2, 0)) / count
        std = jnp.where(high > low, jnp.sqrt(variance), 1)
        rows.append(jnp.stack([low, high, mean, std]))
    return jnp.stack(rows)


def head_box(head: jax.Array) -> jax.Array:
    """Return [4] int32, as `intensity.head_box`, of the head [D, H, W] bool."""
    return _box_in_plane(_opened(head))


def head_box_3d(head: jax.Array) -> jax.Array:
    """Return [2, 3] int32, as `intensity.head_box_3d`, of the head [D, H, W] bool."""
    opened = _opened(head)
    y0, x0, y1, x1 = _box_in_plane(opened)
    y, x = (jax.lax.broadcasted_iota(jnp.int32, head.shape, axis) for axis in (1, 2))
    within = opened & (y0 <= y) & (y < y1) & (x0 <= x) & (x < x1)
    slices = within.any(axis=(1, 2))
    z0, z1 = _extent(slices | ~slices.any())
    return jnp.array([[z0, y0, x0], [z1, y1, x1]], jnp.int32)


def _box_in_plane(opened: jax.Array) -> jax.Array:
    seen = opened.any(axis=0)
    component = components(seen)
    area = jnp.zeros(seen.size + 1, jnp.int32).at[component].add(seen.astype(jnp.int32))
    # In integers, so that no rounding decides.
    least = round(1 / intensity.LEAST_PART)
    kept = seen & (least * area >= area.max())[component]
    (y0, y1), (x0, x1) = _extent(kept.any(axis=1)), _extent(kept.any(axis=0))
    whole = jnp.array([0, 0, *seen.shape], jnp.int32)
    return jnp.where(kept.any(), jnp.stack([y0, x0, y1, x1]), whole)


def drop_small(mask: jax.Array, min_voxels: int) -> jax.Array:
    """Return the mask [D, H, W] without components of fewer voxels."""
    return mask & (component_sizes(mask) >= min_voxels)


def component_sizes(mask: jax.Array) -> jax.Array:
    """Return how many elements each one's component has, 0 outside; int32 like the mask."""
    component = components(mask)
    number = jnp.zeros(mask.size + 1, jnp.int32).at[component].add(mask.astype(jnp.int32))
    return number[component]


def components(mask: jax.Array) -> jax.Array:
    """Return a number above 0 for each component of a mask, 0 elsewhere; int32 like the mask.

    Elements that share a face, an edge or a corner belong together. The number is the largest
    index of the component, from 1.
    """
    index = jnp.arange(1, mask.size + 1, dtype=jnp.int32).reshape(mask.shape)
    start = jnp.where(mask, index, 0)

    def grow(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        label, _ = carry
        near = jnp.where(mask, _window(label, jax.lax.max, 0), 0)
        # A label is an element: taking over its label doubles the reach of every round.
        labels = jnp.concatenate([jnp.zeros(1, jnp.int32), near.reshape(-1)])
        further = labels[near]
        return further, (further != label).any()

    return jax.lax.while_loop(lambda carry: carry[1], grow, (start, mask.any()))[0]


def _opened(head: jax.Array) -> jax.Array:
    """Open each slice of [D, H, W] bool by a square; outside the frame nothing is decided."""
    size, number = intensity.OPENING_PIXELS, head.astype(jnp.int32)
    shape = (1, size, size)
    eroded = _window(number, jax.lax.min, 1, shape)
    return _window(eroded, jax.lax.max, 0, shape) > 0


def _window(
    x: jax.Array, reduce: Callable, outside: int, shape: tuple[int, ...] | None = None
) -> jax.Array:
    """Reduce int32 over a window, 3 wide where no shape is given, around each element."""
    shape = shape or (3,) * x.ndim
    return jax.lax.reduce_window(x, jnp.int32(outside), reduce, shape, (1,) * x.ndim, "SAME")


def _extent(line: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the first true index of [N] bool and one past the last."""
    return jnp.argmax(line), line.size - jnp.argmax(line[::-1])


def _percentiles(
    values: jax.Array, members: jax.Array, percentiles: tuple[float, ...]
) -> list[jax.Array]:
    """Return percentiles of the members, at least one, linear between order statistics."""
    last = members.sum() - 1
    # last * permille would leave int32.
    whole, rest = last // _PERMILLE, last % _PERMILLE
    found = []
    for percentile in percentiles:
        permille = round(percentile / 100 * _PERMILLE)
        below = permille * whole + permille * rest // _PERMILLE
        fraction = (permille * rest % _PERMILLE).astype(jnp.float32) / _PERMILLE
        ranks = jnp.stack([below, jnp.minimum(below + 1, last)])
        lower, upper = _order_statistics(values, members, ranks)
        found.append(lower + fraction * (upper - lower))
    return found


def _order_statistics(values: jax.Array, members: jax.Array, ranks: jax.Array) -> jax.Array:
    """Return the members of these ranks [R], from 0, in ascending order.

    By bisection of the bits, which needs no sorting: 32 times the values up to a bound are counted.
    """
    most = jnp.int32(2**31 - 1)
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    keys = jnp.where(bits < 0, bits ^ most, bits)  # integers in the order of the floats
    keys = jnp.where(members, keys, most)[None]

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)
        enough = (keys <= middle.reshape(-1, 1, 1, 1)).sum(axis=(1, 2, 3)) > ranks
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    start = jnp.full(ranks.shape, -most - 1), jnp.full(ranks.shape, most)
    key = jax.lax.fori_loop(0, 32, halve, start)[1]
    return jax.lax.bitcast_convert_type(jnp.where(key < 0, key ^ most, key), jnp.float32)


def _sum(x: jax.Array) -> jax.Array:
    """Sum float32 [D, H, W]; rows first, so that millions of voxels lose no digits."""
    return jax.lax.optimization_barrier(x.sum(axis=2)).sum()
