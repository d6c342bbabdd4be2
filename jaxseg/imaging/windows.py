"""Windows that cover a grid: where they begin, what is cut out, what belongs to which."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

Place = tuple[int, ...]  # where a window begins; may lie outside
Slices = tuple[slice, ...]


def overlapping(native: int, window: int) -> list[int]:
    """Return where windows begin so that they overlap by half; a short axis lies in its middle."""
    if native <= window:
        return [(native - window) // 2]
    count = -(-2 * (native - window) // window) + 1
    return [int(x) for x in np.rint(np.linspace(0, native - window, count))]


def partition(native: int, window: int) -> list[tuple[int, int, int]]:
    """Return windows that share an axis out: where each begins, and low and high of its own part.

    Every voxel belongs to one window; the last one begins early enough to end with the axis.
    """
    if native <= window:
        return [((native - window) // 2, 0, native)]
    starts = [*range(0, native - window, window), native - window]
    lows = [0, *(start + window for start in starts[:-1])]
    return [(s, low, s + window) for s, low in zip(starts, lows, strict=True)]


def owned(shape: Sequence[int], size: Sequence[int]) -> Iterator[tuple[Place, Slices]]:
    """Yield the windows of `partition` over all axes: the place, and its own part in the window."""
    axes = [partition(native, window) for native, window in zip(shape, size, strict=True)]
    for parts in itertools.product(*axes):
        yield tuple(s for s, _, _ in parts), tuple(slice(a - s, b - s) for s, a, b in parts)


def meet(place: Place, size: Sequence[int], shape: Sequence[int]) -> tuple[Slices, Slices]:
    """Return where a window and the grid meet: in the grid, and in the window."""
    low = [max(p, 0) for p in place]
    high = [min(p + t, n) for p, t, n in zip(place, size, shape, strict=True)]
    here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    there = tuple(slice(a - p, b - p) for a, b, p in zip(low, high, place, strict=True))
    return here, there


def around(inner: Slices, size: Sequence[int]) -> Iterator[Slices]:
    """Yield boxes that hold each voxel of a window [*size] outside of an inner box once."""
    for axis, (part, length) in enumerate(zip(inner, size, strict=True)):
        for low, high in ((0, part.start), (part.stop, length)):
            if low < high:
                yield *inner[:axis], slice(low, high)


def cut(array: np.ndarray, place: Place, size: Sequence[int], outside: np.ndarray) -> np.ndarray:
    """Return the window [*size, C] of an array [*S, C]; outside of it the values `outside` [C]."""
    here, there = meet(place, size, array.shape[:-1])
    return framed(array[here], there, size, outside)


def framed(
    inner: np.ndarray, where: Slices, size: Sequence[int], outside: np.ndarray
) -> np.ndarray:
    """Return a window [*size, C] with `inner` [*S, C] in a box of it; else `outside`, [C]."""
    window = np.empty((*size, inner.shape[-1]), inner.dtype)
    fill(window, inner, where, outside)
    return window


def fill(window: np.ndarray, inner: np.ndarray, where: Slices, outside: np.ndarray | int):
    """Make all of a window [*S, C]: `inner` in the box `where`, else `outside`, [C] or a number."""
    window[where] = inner
    for box in around(where, window.shape[:-1]):  # alone: every voxel takes as long as to read them
        window[box] = outside
