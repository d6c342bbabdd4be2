"""Intensity statistics of a volume, the box around the head, and normalisation.

MR intensities have no unit: two scans of one patient may differ by any gain. Each channel of
a volume is therefore clipped to its 1st and 99th percentile and brought to mean 0 and
standard deviation 1, both taken over the head only, so that the size of the empty frame
does not matter.
"""

import functools

import cv2
import numpy as np

PERCENTILES = (1.0, 99.0)  # of the head's voxels: clipping bounds
HEAD_PERCENTILES = (0.5, 99.5)  # of all voxels: the dark and the bright end
HEAD_FRACTION = 0.1  # of the way from dark to bright, above which a voxel is head
OPENING_PIXELS = 3  # smaller specks are noise
LEAST_PART = 0.1  # parts smaller than this share of the largest are no head
PLAIN = 1e-4  # of the way from dark to bright: what differs less from the background is of it
_LONGEST_TABLE = 1 << 20  # values; integers that are spread wider are sorted
_MOST_HEAD, _LEAST_HEAD = 0.9, 0.01  # of all voxels; beyond, what was found is no head


def volume_statistics(volume: np.ndarray) -> np.ndarray:
    """Return the clipping bounds, mean and standard deviation of each channel over the head.

    A voxel belongs to the head when, in at least half of the channels, it is brighter than a
    tenth of the way from the channel's 0.5th to its 99.5th percentile. That holds for
    skull-stripped scans (background 0), for raw ones (noisy background) and for a channel
    with a grey background among others. Percentiles interpolate linearly between order
    statistics, as `np.percentile` does.

    Args:
        volume: [D, H, W, C] integers or float, finite; all slices of a patient.

    Returns:
        [C, 4] float32: low, high, mean, std. Mean and std are those after clipping to
        low..high; std is 1 where a channel is constant. Over the whole frame when no voxel
        stands out; (0, 0, 0, 1) when there are no voxels at all.
    """
    head = _head(volume)
    voxels = volume[head] if head.any() else volume.reshape(-1, volume.shape[-1])
    return np.array([_statistics(channel) for channel in voxels.T], np.float32)


def darken_background(volume: np.ndarray) -> np.ndarray:
    """Return the volume with its background darker than the head, where it lies amid the tissue.

    As in scans that were brought to mean 0 over the brain alone and left at 0 around it (BraTS
    2015, nnU-Net, MONAI). The background of a channel is what more than half of the voxels along
    the edges of the slices are; it lies amid the tissue when it is more than a tenth of the way
    from the dark end of the other voxels to their bright end, and from bright to dark. It is then
    set so low that the others' dark end is a tenth of the way up, so that they are head. Only
    where the channels of a sound background could not outvote it.

    Args:
        volume: [D, H, W, C] integers or float, finite; all slices of a patient.

    Returns:
        The same array where nothing is to be changed, else a new one.
    """
    channels = volume.shape[-1]
    found = [_amid(volume[..., c]) for c in range(channels if volume.size else 0)]
    if 2 * sum(f is not None for f in found) < channels:
        return volume
    result = volume.copy()
    for c, (background, darker) in ((c, f) for c, f in enumerate(found) if f is not None):
        result[..., c][background] = darker
    return result


def _amid(channel: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Return where the background is and what it is set to; None where it is dark already."""
    channel = np.ascontiguousarray(channel)
    edge = np.concatenate([channel[:, [0, -1]].ravel(), channel[:, :, [0, -1]].ravel()])
    level = np.median(edge)

    def is_plain(length: float) -> bool:
        return 2 * np.count_nonzero(abs(edge - level) <= PLAIN * length) > edge.size

    if not (channel < level).any() or not is_plain(float(channel.max()) - float(channel.min())):
        return None  # without sorting
    dark, bright = _percentiles(*_histogram(channel), HEAD_PERCENTILES)
    background = abs(channel - level) <= PLAIN * (bright - dark)
    if not is_plain(bright - dark):
        return None
    dark, bright = _percentiles(*_histogram(channel[~background]), HEAD_PERCENTILES)
    margin = HEAD_FRACTION * (bright - dark)
    if not dark + margin < level < bright - margin:
        return None
    darker = dark - margin / (1 - HEAD_FRACTION)
    if channel.dtype.kind in "iu":
        darker = max(np.floor(darker), np.iinfo(channel.dtype).min)
    return background, darker


def head_warnings(volume: np.ndarray) -> list[str]:
    """Return a line where no head stands out, so that the statistics may be of anything.

    Args:
        volume: as `volume_statistics` takes it.
    """
    share = _head(volume).mean() if volume.size else 0.0
    if _LEAST_HEAD <= share <= _MOST_HEAD:
        return []
    return [
        "no head stands out from a darker background; intensities are normalised over the whole "
        "frame or a few voxels, which may give wrong masks"
    ]


def head_box(volume: np.ndarray) -> np.ndarray:
    """Return the bounding box of the head over all slices.

    Args:
        volume: [D, H, W, C] integers or float, finite; all slices of a patient.

    Returns:
        [4] int32: y0, x0, y1, x1 in pixels, half-open; the whole frame when there is no head.
        Specks of up to two pixels and parts far smaller than the largest are not counted.
    """
    return _box_in_plane(_opened(_head(volume)))


def head_box_3d(volume: np.ndarray) -> np.ndarray:
    """Return the bounding box of the head, in slices too.

    Args:
        volume: as `head_box` takes it.

    Returns:
        [2, 3] int32: lowest slice, row and column, and those behind the highest, in voxels. Rows
        and columns are those of `head_box`; the slices hold a part of the head of more than two
        pixels within it. All of them when there is no head.
    """
    opened = _opened(_head(volume))
    y0, x0, y1, x1 = _box_in_plane(opened)
    slices = np.flatnonzero(opened[:, y0:y1, x0:x1].any((1, 2)))
    z0, z1 = (slices[0], slices[-1] + 1) if len(slices) else (0, len(volume))
    return np.array([[z0, y0, x0], [z1, y1, x1]], np.int32)


def _opened(head: np.ndarray) -> np.ndarray:
    """Return the head [D, H, W], in place, as uint8 without specks."""
    opened = head.view(np.uint8)
    kernel = np.ones((OPENING_PIXELS, OPENING_PIXELS), np.uint8)
    for plane in opened:
        plane[:] = cv2.morphologyEx(plane, cv2.MORPH_OPEN, kernel)
    return opened


def _box_in_plane(opened: np.ndarray) -> np.ndarray:
    seen = np.zeros(opened.shape[1:], np.uint8)
    for plane in opened:
        seen |= plane
    parts = cv2.connectedComponentsWithStats(seen)[2][1:]  # x, y, width, height, area
    if not len(parts):
        return np.array([0, 0, *seen.shape], np.int32)
    x, y, width, height, _ = parts[parts[:, 4] >= LEAST_PART * parts[:, 4].max()].T
    return np.array([y.min(), x.min(), (y + height).max(), (x + width).max()], np.int32)


def normalise(image: np.ndarray, stats: np.ndarray) -> np.ndarray:
    """Clip to the volume's bounds, subtract its mean and divide by its standard deviation.

    Args:
        image: [..., W, C] integers or float; a slice or a whole volume.
        stats: [C, 4] float32 from `volume_statistics`.

    Returns:
        [..., W, C] float32 in units of standard deviations; a new array.
    """
    if image.dtype != np.uint8:
        return _normalise(image, stats)
    # Looked up: the same numbers in a third of the time. Warping uint8 first and normalising
    # the result would round to whole intensities, and is no faster (OpenCV 5).
    rows = image.reshape(-1, *image.shape[-2:])
    return cv2.LUT(rows, _table(_key(stats))).reshape(image.shape)


def dark_level(stats: np.ndarray) -> np.ndarray:
    """Return [C] float32, the normalised value of intensity 0; not to be changed."""
    return _table(_key(stats))[0, 0]


def outside_level(stats: np.ndarray) -> np.ndarray:
    """Return [C] float32, the normalised value of what lies outside of a scan: its darkest."""
    low, _, mean, std = np.asarray(stats, np.float32).T
    return (low - mean) / std


def darkest(stats: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return [C] float64, what to put outside of a raw scan: normalised it is `outside_level`."""
    low = np.floor(np.asarray(stats, np.float64)[:, 0])
    if np.dtype(dtype).kind in "iu":
        low = np.clip(low, np.iinfo(dtype).min, np.iinfo(dtype).max)
    return low


def _key(stats: np.ndarray) -> bytes:
    return np.asarray(stats, np.float32).tobytes()


@functools.lru_cache(maxsize=1024)  # patients
def _table(stats: bytes) -> np.ndarray:
    """Return [1, 256, C] float32, the normalised value of each level of uint8."""
    channels = np.frombuffer(stats, np.float32).reshape(-1, 4)
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], len(channels), axis=-1)
    return _normalise(levels, channels)


def _normalise(image: np.ndarray, stats: np.ndarray) -> np.ndarray:
    # Bounds as whole rows: NumPy is several times faster than with [C].
    rows = np.tile(np.asarray(stats, np.float32).T[:, None], (1, image.shape[-2], 1))
    low, high, mean, std = rows  # [W, C] each
    result = image.astype(np.float32)
    np.clip(result, low, high, out=result)
    result -= mean
    result /= std
    return result


def _head(volume: np.ndarray) -> np.ndarray:
    """Return [D, H, W] bool: brighter than the background in at least half of the channels."""
    channels = volume.shape[-1]
    votes = np.zeros(volume.shape[:3], np.uint8)
    for c in range(channels if volume.size else 0):
        channel = np.ascontiguousarray(volume[..., c])
        dark, bright = _percentiles(*_histogram(channel), HEAD_PERCENTILES)
        votes += channel > dark + HEAD_FRACTION * (bright - dark)
    return votes >= channels / 2


def _statistics(voxels: np.ndarray) -> tuple[float, float, float, float]:
    """Return low, high, mean and std of the voxels [N] of one channel."""
    if not voxels.size:
        return 0.0, 0.0, 0.0, 1.0
    values, counts = _histogram(voxels)
    low, high = _percentiles(values, counts, PERCENTILES)
    clipped = np.clip(values, low, high)
    mean = np.average(clipped, weights=counts)
    std = np.sqrt(np.average((clipped - mean) ** 2, weights=counts))
    return low, high, mean, std if high > low else 1.0


def _histogram(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ascending float64 values and their counts; integers are counted, not sorted."""
    if voxels.dtype.kind in "iu":
        low, high = min(int(voxels.min()), 0), int(voxels.max())
        if high - low >= _LONGEST_TABLE:
            values, counts = np.unique(voxels, return_counts=True)
            return values.astype(np.float64), counts
        counts = np.bincount((voxels.astype(np.int64) - low if low else voxels).ravel())
        return np.arange(len(counts), dtype=np.float64) + low, counts
    return np.sort(voxels, axis=None).astype(np.float64), np.ones(voxels.size, np.int64)


def _percentiles(values: np.ndarray, counts: np.ndarray, percentiles) -> np.ndarray:
    """Return percentiles of a histogram, linear between order statistics."""
    last_index = np.cumsum(counts) - 1  # of each value among the sorted voxels
    position = np.asarray(percentiles) / 100 * last_index[-1]
    below = values[np.searchsorted(last_index, np.floor(position))]
    above = values[np.searchsorted(last_index, np.ceil(position))]
    return below + (position - np.floor(position)) * (above - below)
