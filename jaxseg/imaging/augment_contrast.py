"""The intensities of a slice."""

import functools
import statistics
from collections.abc import Mapping

import cv2
import numpy as np

from jaxseg.imaging import geometry
from jaxseg.imaging.augment_shape import smooth_field


def change_intensity(
    image: np.ndarray, numbers: Mapping[str, np.ndarray], dark: np.ndarray
) -> np.ndarray:
    """Apply all changes but noise; what changes nothing is left out.

    Args:
        image: [h, w, C] float32, normalised.
        numbers: from `draws.intensity`.
        dark: [C] float32, the normalised value of intensity 0.

    Returns:
        [h, w, C] float32.
    """
    n, strength = numbers, float(numbers["gain_strength"])
    steps = (
        (n["factors"] != 1, lambda x: contrast(x, n["factors"])),
        (n["shifts"] != 0, lambda x: brightness(x, n["shifts"])),
        (n["exponents"] != 1, lambda x: gamma(x, n["exponents"])),
        (strength > 0, lambda x: bias_field(x, n["gain_nodes"], strength, dark)),
        (n["sigma_voxels"] > 0, lambda x: blur(x, float(n["sigma_voxels"]))),
        (n["resolution"] < 1, lambda x: low_resolution(x, float(n["resolution"]))),
    )
    for happens, change in steps:
        if np.any(happens):
            image = change(image)
    return image


def contrast(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Scale each channel about 0, the mean of the patient's head; factors [C]."""
    return image * _rows(factors, image)


def brightness(image: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Add a shift to each channel; shifts [C] in standard deviations."""
    return image + _rows(shifts, image)


def gamma(image: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Bend each channel between its darkest and brightest pixel, which stay.

    Args:
        image: [h, w, C] float32.
        exponents: [C], above 0; above 1 darkens the middle.

    Returns:
        [h, w, C] float32; a constant channel is left alone.
    """
    channels = []
    for channel, exponent in zip(cv2.split(image), exponents, strict=True):
        low, high, _, _ = cv2.minMaxLoc(channel)
        low, span = np.float32(low), np.float32(max(high - low, 1e-6))
        unit = np.maximum((channel - low) / span, np.float32(1e-12))  # the power of 0 is slow
        channels.append(cv2.pow(unit, exponent) * span + low)
    return np.stack(channels, axis=-1)


def bias_field(
    image: np.ndarray, nodes: np.ndarray, strength: float, dark: np.ndarray
) -> np.ndarray:
    """Multiply the intensities by a smooth gain, the same for all channels, as a coil does.

    Args:
        image: [h, w, C] float32, normalised.
        nodes: [4, 4], the shape of the gain; its size does not matter.
        strength: largest relative gain, 0..1; 0.3 reaches 0.7 or 1.3.
        dark: [C], the normalised value of intensity 0, which no gain changes.

    Returns:
        [h, w, C] float32.
    """
    size = image.shape[:2]
    field = smooth_field(nodes, size, max(size))
    gain = 1 + field * np.float32(strength / max(np.abs(field).max(), 1e-6))
    dark_rows = _rows(dark, image)
    return (image - dark_rows) * gain[..., None] + dark_rows


def blur(image: np.ndarray, sigma_pixels: float) -> np.ndarray:
    """Smooth with a Gaussian."""
    return geometry.by_channels(lambda part: cv2.GaussianBlur(part, (0, 0), sigma_pixels), image)


def low_resolution(image: np.ndarray, factor: float) -> np.ndarray:
    """Average down to `factor` (0..1) of the rows and columns and interpolate up again."""
    height, width = image.shape[:2]
    small = (max(round(width * factor), 1), max(round(height * factor), 1))

    def down_and_up(part):
        part = cv2.resize(part, small, interpolation=cv2.INTER_AREA)
        return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)

    return geometry.by_channels(down_and_up, image)


def noise(image: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    """Add independent Gaussian noise to every pixel and channel.

    Drawn from 65,536 equally likely values up to 4.3 standard deviations, in a quarter of the
    time of exact normal numbers.
    """
    levels = np.frombuffer(rng.bytes(2 * image.size), np.uint16)
    return image + np.float32(std) * np.take(normal_quantiles(), levels).reshape(image.shape)


@functools.cache
def normal_quantiles() -> np.ndarray:
    """Return the middles of 65,536 equally likely parts of a normal distribution, float32."""
    inverse = statistics.NormalDist().inv_cdf
    return np.array([inverse((i + 0.5) / 2**16) for i in range(2**16)], np.float32)


def _rows(values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return [w, C] float32: with whole rows NumPy works several times faster than with [C]."""
    return np.tile(np.asarray(values, np.float32), (image.shape[1], 1))
