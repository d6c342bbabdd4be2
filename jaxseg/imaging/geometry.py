"""The map between the native pixel grid of a slice and the grid the network sees.

Coordinates are (x, y) = (column, row) with pixel centres at integers, so pixel i covers
i - 0.5 to i + 0.5. A [2, 3] matrix takes training-grid coordinates to native ones: image and
mask are sampled through it, and the prediction goes back through its inverse.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from jaxseg.imaging import intensity

# The loader runs many slices at once: threads inside OpenCV would only fight its own.
cv2.setNumThreads(1)

# A pixel whose centre lies just on the edge of the training grid is inside, whatever the rounding.
EDGE = 1e-4  # training pixels
_ROUNDING = 1e-6  # pixels, of a step
_MOST_CHANNELS = 4  # OpenCV's border colour and area shrinking take no more at once


def fit_matrix(
    native_size: tuple[int, int], image_size: tuple[int, int], box: np.ndarray | None = None
) -> np.ndarray:
    """Return the matrix that fits a slice (or a box of it) into the training grid.

    One scale for both axes keeps the aspect; the shorter side is padded on both ends alike.

    Args:
        native_size: (H, W) of the slice, pixels.
        image_size: (h, w) of the training grid, pixels.
        box: y0, x0, y1, x1, half-open, in native pixels; None: the whole slice.

    Returns:
        [2, 3] float64, training-grid (x, y, 1) to native (x, y). For 256 to 128 the training
        pixel 0 lies at 0.5: linear sampling then averages 2x2 pixels.
    """
    y0, x0, y1, x1 = (0, 0, *native_size) if box is None else (int(b) for b in box)
    h, w = image_size
    scale = max((y1 - y0) / h, (x1 - x0) / w)  # native pixels per training pixel
    shift_x = (x0 + x1 - 1) / 2 - scale * (w - 1) / 2
    shift_y = (y0 + y1 - 1) / 2 - scale * (h - 1) / 2
    return np.array([[scale, 0, shift_x], [0, scale, shift_y]])


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the [..., 2, 3] matrix that applies inner first, then outer."""
    linear = outer[..., :2]
    return np.concatenate(
        [linear @ inner[..., :2], linear @ inner[..., 2:] + outer[..., 2:]], axis=-1
    )


def dense_map(
    matrix: np.ndarray, image_size: tuple[int, int], displacement: np.ndarray
) -> np.ndarray:
    """Return the map that displaces each training pixel, then applies the matrix.

    Args:
        matrix: [2, 3] float64, training grid to native.
        image_size: (h, w) of the training grid.
        displacement: [2, h, w] (x, y) in training pixels.

    Returns:
        [h, w, 2] float32, native (x, y) of each training pixel.
    """
    linear, offset = matrix[:, :2].astype(np.float32), matrix[:, 2].astype(np.float32)
    x = np.arange(image_size[1], dtype=np.float32) + displacement[0]
    y = np.arange(image_size[0], dtype=np.float32)[:, None] + displacement[1]
    return cv2.merge([linear[i, 0] * x + linear[i, 1] * y + offset[i] for i in range(2)])


def warp(
    image: np.ndarray,
    mask: np.ndarray,
    where: np.ndarray,
    image_size: tuple[int, int],
    border: np.ndarray,
    cubic: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Sample image and mask at the same places.

    An image that shrinks by more than 2 is first averaged over blocks, so nothing aliases.

    Args:
        image: [H, W, C] float32, any number of channels.
        mask: [H, W, K] uint8.
        where: [2, 3] matrix from training grid to native, or [h, w, 2] float32 native (x, y).
        image_size: (h, w) of the result.
        border: [C] float32, the value of each channel outside the slice.
        cubic: interpolate the image cubically instead of linearly.

    Returns:
        image [h, w, C] float32 and mask [h, w, K] uint8; the mask by nearest neighbour, 0
        outside the slice.
    """
    smaller, there = _shrink(image, where)
    interpolation = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    image = _sample(smaller, there, image_size, interpolation, border)
    if not mask.any():  # most slices have no tumour, and this is a tenth of their time
        return image, np.zeros((*image_size, mask.shape[-1]), np.uint8)
    return image, _sample(mask, where, image_size, cv2.INTER_NEAREST, np.zeros(mask.shape[-1]))


def to_native_grid(
    probability: np.ndarray, matrix: np.ndarray, native_size: tuple[int, int]
) -> np.ndarray:
    """Bring a prediction back to the pixels of the input file; the inverse of `warp`.

    Args:
        probability: [h, w, K] float32 on the training grid.
        matrix: [2, 3] from `fit_matrix`.
        native_size: (H, W) of the slice, pixels.

    Returns:
        [H, W, K] float32, linear between training pixels; 0 outside the training grid.
    """
    h, w, classes = probability.shape
    inverse = cv2.invertAffineTransform(matrix)
    smaller, there = _shrink(probability, inverse)
    edge = cv2.BORDER_REPLICATE  # no fading towards 0 in the outermost half pixel
    native = _sample(smaller, there, native_size, cv2.INTER_LINEAR, np.zeros(classes), edge)
    for axis, size, low in ((0, h, inverse[1, 2]), (1, w, inverse[0, 2])):
        centres = inverse[0, 0] * np.arange(native_size[axis]) + low  # on the training grid
        outside = (centres < -0.5 - EDGE) | (centres > size - 0.5 + EDGE)
        native[(slice(None),) * axis + (outside,)] = 0
    return native


def prepare_slice(
    record: dict, image_size: tuple[int, int], crop_to_head: bool
) -> dict[str, np.ndarray]:
    """Normalise a slice and fit it into the training grid, without any chance.

    Args:
        record: "image" [H, W, C] uint8, uint16 or float; "mask" [H, W, 1] uint8 {0, 1};
            "stats" [C, 4] and "head_box" [4] of its volume (see `intensity`).
        image_size: (h, w) of the training grid.
        crop_to_head: fit the head's box instead of the whole slice.

    Returns:
        "image" [h, w, C] float32 and "mask" [h, w, 1] uint8 {0, 1}.
    """
    matrix = record_matrix(record, image_size, crop_to_head)
    return warp_record(record, matrix, image_size)


def record_matrix(record: dict, image_size: tuple[int, int], crop_to_head: bool) -> np.ndarray:
    """Return the `fit_matrix` of a record (see `prepare_slice`)."""
    box = record["head_box"] if crop_to_head else None
    return fit_matrix(record["image"].shape[:2], image_size, box)


def warp_record(
    record: dict, where: np.ndarray, image_size: tuple[int, int], cubic: bool = False
) -> dict[str, np.ndarray]:
    """Normalise a record and `warp` it; outside the slice the image has intensity 0."""
    image = intensity.normalise(record["image"], record["stats"])
    border = intensity.dark_level(record["stats"])
    image, mask = warp(image, record["mask"], where, image_size, border, cubic)
    return {"image": image, "mask": mask}


def by_channels(
    function: Callable[..., np.ndarray], image: np.ndarray, *values: np.ndarray
) -> np.ndarray:
    """Apply an OpenCV function to four channels at a time and keep the channel axis.

    Args:
        function: takes [H, W, <= 4] and the same channels of each of the values.
        image: [H, W, C].
        values: [C] each.

    Returns:
        [h, w, C], whatever size the function gives.
    """
    done = []
    for c in range(0, image.shape[-1], _MOST_CHANNELS):
        group = slice(c, c + _MOST_CHANNELS)
        part = function(np.ascontiguousarray(image[..., group]), *(v[group] for v in values))
        done.append(part.reshape(*part.shape[:2], -1))  # OpenCV drops a single channel's axis
    return done[0] if len(done) == 1 else np.concatenate(done, axis=-1)


def _sample(image, where, size, interpolation, border, mode=cv2.BORDER_CONSTANT) -> np.ndarray:
    """Sample [H, W, C] at `where` ([2, 3] or [h, w, 2]) with one border value per channel."""

    def sample(part, values):
        # OpenCV samples four floats per pixel in less than half the time of three.
        three = part.ndim == 3 and part.shape[-1] == 3 and part.dtype == np.float32
        if three:
            part = cv2.cvtColor(part, cv2.COLOR_RGB2RGBA)
        colour = tuple(float(v) for v in values)
        if where.ndim == 3:
            sampled = cv2.remap(part, where, None, interpolation, None, mode, colour)
        else:
            flags = interpolation | cv2.WARP_INVERSE_MAP
            sampled = cv2.warpAffine(part, where, size[::-1], None, flags, mode, colour)
        return cv2.cvtColor(sampled, cv2.COLOR_RGBA2RGB) if three else sampled

    return by_channels(sample, image, border)


def block_sides(where: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the sides of the blocks that `warp` averages before it samples; 1: none.

    Args:
        where: [..., 2, 3] matrices.
        size: (H, W) of the image, [..., 2].

    Returns:
        [..., 2] float64, rows and columns, in pixels.
    """
    steps = np.sqrt(np.abs(np.linalg.det(where[..., :2])))
    return size / np.ceil(size / _block(steps)[..., None])


def _block(step: np.ndarray) -> np.ndarray:
    """Return how many pixels, along each axis, are averaged for a step of so many; 1: none."""
    return np.where(step > 2 + _ROUNDING, np.floor(step + _ROUNDING), 1)


def _shrink(image: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average blocks of n x n pixels when `where` steps more than 2 pixels at a time."""
    block = int(_block(_step(where)))
    if block == 1:
        return image, where
    height, width = image.shape[:2]
    size = (-(-width // block), -(-height // block))  # rounded up
    smaller = by_channels(lambda part: cv2.resize(part, size, interpolation=cv2.INTER_AREA), image)
    scale = np.array([width / size[0], height / size[1]])
    if where.ndim == 3:
        return smaller, ((where + 0.5) / scale - 0.5).astype(np.float32)
    matrix = np.hstack([np.diag(1 / scale), (0.5 / scale - 0.5)[:, None]])
    return smaller, compose(matrix, where)


def _step(where: np.ndarray) -> float:
    """Return how many source pixels lie, on average, between neighbours of the result."""
    if where.ndim == 2:
        (a, b, _), (c, d, _) = where.tolist()
        return math.sqrt(abs(a * d - b * c))
    along_x = np.diff(where[::8], axis=1)  # smooth: some rows say it
    return float(np.mean(np.hypot(along_x[..., 0], along_x[..., 1])))
