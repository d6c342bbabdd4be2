"""Synthetic head MRI with brain tumours: the data set that needs no download.

Each patient is painted as a volume of tissue labels (head, brain, look-alikes, tumour), turned
into three channels by a contrast table, and degraded like a scan: partial volume, motion between
channels, bias field, gain, Rician noise. The mask is the whole FLAIR abnormality, as in LGG.

Patient i is a function of (seed, i) alone, computed in float64 and rounded once, so the bytes are
the same on every machine. NumPy may change its random streams; the golden test would show it.

Lengths: in plane 1 is half the image (64 pixels), x to the right, y to the back; along z, 0 is the
level of the thalami and 1 the vertex. A radius (of head, ventricles, tumour) is 1 at the surface.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import scipy  # loads its parts when they are used

from jaxseg.datasets.phantom_head import (
    BRIGHT,
    CORE,
    FAT,
    FLUID,
    OEDEMA,
    RIM,
    SIZE,
    TISSUES,
    Point,
    head_radii,
    paint_brain,
    paint_head,
    paint_look_alikes,
    posed,
    smooth_noise,
    ventricle_radius,
)
from jaxseg.scans.regions import Region, to_masks
from jaxseg.scans.volume import Volume

SLICES = (20, 40)  # per patient, both included
Z_RANGE = (-0.72, 0.95)  # lowest and highest slice: skull base and vertex

# Tumour. Larger, blunter ends and more contrast are easier to learn.
TUMOUR_RADIUS = (0.18, 0.34)  # in plane; 11.5 to 22 pixels
TUMOUR_HALF_HEIGHT = (0.25, 0.33)  # along z; sets the share of slices with tumour: a third
TUMOUR_IRREGULARITY = 0.13  # standard deviation of the outline, relative to the radius
SMALLEST_SECTION = 80  # pixels; a slice with less has no tumour
OEDEMA_GAIN = (0.85, 1.25)  # FLAIR of oedema and core, relative to TISSUES
RIM_PROBABILITY = 0.6  # share of tumours that enhance
FLUID_PROBABILITY = 0.35  # share of tumours with a fluid centre, dark on FLAIR
MASS_EFFECT = (0.1, 0.3)  # displacement of the surroundings, relative to the distance

BRIGHT_GAIN = (0.85, 1.35)  # FLAIR of caps and lesions, relative to TISSUES
FAT_GAIN = (0.7, 1.4)  # all channels of scalp and orbits, relative to TISSUES

# Scanner.
BLUR = 0.55  # pixels, standard deviation of the point spread
MOTION = 0.7  # pixels, largest shift of a T1 channel against FLAIR
TEXTURE = 0.04  # standard deviation within a tissue, relative
BIAS = 0.1  # standard deviation of the log of the receive field
GAIN = (0.7, 1.25)  # of the scanner; each channel varies by another tenth
NOISE = (2.5, 5.0)  # standard deviation in units of TISSUES

_LABELS = np.zeros(len(TISSUES), np.uint8)
_LABELS[[OEDEMA, CORE, FLUID, RIM]] = 2, 1, 1, 4


def patient_id(index: int) -> str:
    """Return the name of patient `index`, by example `phantom_007`."""
    return f"phantom_{index:03d}"


def make_volumes(seed: int, number: int, regions: Sequence[Region]) -> Iterator[Volume]:
    """Yield so many patients in order."""
    return (make_volume(seed, index, regions) for index in range(number))


def make_volume(seed: int, index: int, regions: Sequence[Region]) -> Volume:
    """Return patient `index` as a volume with the masks of the regions."""
    image, labels = generate_patient(seed, index)
    numbers, patient = tuple(range(len(image))), patient_id(index)
    return Volume(
        image,
        patient=patient,
        mask=to_masks(labels, regions),
        slice_numbers=numbers,
        files=tuple(f"{patient}/{n}" for n in numbers),
        mask_values=tuple(labels.max((1, 2)).tolist()),
    )


def generate_patient(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Make one patient; depends on (seed, index) only.

    Args:
        seed: of the data set, at least 0.
        index: of the patient, at least 0.

    Returns:
        image: uint8 [D, 128, 128, 3], D in 20..40 from skull base to vertex; channels
            pre-contrast T1, FLAIR, post-contrast T1; row 0 is the face.
        labels: uint8 [D, 128, 128]: 1 core, 2 oedema, 4 enhancing rim (as BraTS 2017 to 2021
            has them), 0 else; never empty, but some patients have no rim.
    """
    rng = np.random.default_rng([seed, index])
    plane = (np.arange(SIZE) - (SIZE - 1) / 2) / (SIZE / 2)
    z = np.linspace(*Z_RANGE, rng.integers(SLICES[0], SLICES[1] + 1))
    axes = Point(z[:, None, None], plane[:, None], plane)
    point = posed(rng, axes)
    head, cavity = head_radii(point)
    point, tumour, side = _tumour(rng, axes, point)
    coarse = _grain(rng, head.shape, (0.8, 2.6, 2.6))
    fine = _grain(rng, head.shape, (0.5, 1.4, 1.4))
    tissue = paint_head(rng, point, head, cavity, coarse)
    ventricles = rng.uniform(0.035, 0.075), rng.uniform(0.25, 0.31)  # width, length
    ventricle = ventricle_radius(point, *ventricles)
    allowed = paint_brain(rng, point, cavity, ventricle, np.abs(coarse), fine, tissue)
    paint_look_alikes(rng, point, ventricles, fine, tumour, tissue)
    mask = _paint_tumour(rng, axes, tumour, allowed & (point.x * side > 0.06), tissue)
    image = _acquire(rng, axes, tissue, fine)
    return image, np.where(mask, _LABELS[tissue], 0).astype(np.uint8)


def _grain(rng, shape: tuple[int, ...], sigma: tuple[float, ...]) -> np.ndarray:
    """Return noise of unit variance, smoothed to `sigma` (slices, rows, columns)."""
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), sigma, truncate=3)
    return noise / noise.std()


def _tumour(rng, axes: Point, point: Point) -> tuple[Point, np.ndarray, float]:
    """Return the points displaced by a tumour, the tumour's radius and its side (-1 or 1)."""
    side = rng.choice([-1.0, 1.0])
    size, height = rng.uniform(*TUMOUR_RADIUS), rng.uniform(*TUMOUR_HALF_HEIGHT)
    angle = rng.uniform(0, 2 * np.pi)
    dz = (point.z - rng.uniform(-0.05, 0.45)) / height
    dy = point.y - 0.02 - 0.38 * np.sin(angle)
    dx = point.x - side * (0.32 + 0.08 * np.cos(angle))
    stretch, spin = rng.uniform(0.85, 1.18), rng.uniform(0, np.pi)
    u = (np.cos(spin) * dx + np.sin(spin) * dy) / (size * stretch)
    v = (np.cos(spin) * dy - np.sin(spin) * dx) / (size / stretch)
    radius = np.sqrt(u * u + v * v + (dz * dz) ** 2)  # blunt ends: no dot-like sections
    radius *= 1 + TUMOUR_IRREGULARITY * smooth_noise(rng, axes, 2 / size, 6)
    pull = rng.uniform(*MASS_EFFECT) * np.exp(-((radius / 1.3) ** 2))
    return point._replace(y=point.y - pull * dy, x=point.x - pull * dx), radius, side


def _paint_tumour(rng, axes: Point, radius, allowed: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Paint oedema, core, fluid centre and rim; return the mask, bool [D, SIZE, SIZE]."""
    smooth = scipy.ndimage.binary_opening((radius < 1) & allowed, np.ones((1, 5, 5)))  # no slivers
    pieces, _ = scipy.ndimage.label(smooth)
    mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    mask &= mask.sum((1, 2), keepdims=True) >= SMALLEST_SECTION
    core = radius / rng.uniform(0.45, 0.75) + 0.12 * smooth_noise(rng, axes, 14.0)
    thickness = rng.uniform(0.05, 0.09) * (1 + 0.5 * smooth_noise(rng, axes, 8.0))
    fluid = rng.uniform(0.5, 0.75)
    tissue[mask] = OEDEMA
    tissue[mask & (core < 1)] = CORE
    if rng.random() < FLUID_PROBABILITY:
        tissue[mask & (core < fluid)] = FLUID
    if rng.random() < RIM_PROBABILITY:
        tissue[mask & (np.abs(core - 0.92) < thickness)] = RIM
    return mask


def _acquire(rng, axes: Point, tissue: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """Return the scan of the tissues, uint8 [D, SIZE, SIZE, 3]."""
    image = np.empty((*tissue.shape, 3), np.uint8)
    texture = 1 + TEXTURE * grain
    noise, gain = rng.uniform(*NOISE), rng.uniform(*GAIN)
    receive = smooth_noise(rng, axes, 1.5)
    table = np.array(list(TISSUES.values())) * rng.normal(1, 0.04, (len(TISSUES), 3))
    table[FAT] *= rng.uniform(*FAT_GAIN)
    table[BRIGHT, 1] *= rng.uniform(*BRIGHT_GAIN)
    table[[OEDEMA, CORE], 1] *= rng.uniform(*OEDEMA_GAIN)
    for channel, values in enumerate(table.T):
        signal = values[tissue] * texture
        motion = MOTION * (channel != 1)  # FLAIR stays where the mask is
        for axis in (1, 2):
            offset = np.arange(-3, 4) - rng.uniform(-motion, motion)
            spread = np.exp(-((offset / BLUR) ** 2) / 2)
            signal = scipy.ndimage.correlate1d(signal, spread / spread.sum(), axis)
        signal *= np.exp(BIAS * (0.7 * receive + 0.7 * smooth_noise(rng, axes, 1.5)))
        real, imaginary = noise * rng.standard_normal((2, *tissue.shape))
        magnitude = np.sqrt((signal + real) ** 2 + imaginary * imaginary)
        image[..., channel] = np.clip(np.rint(gain * rng.normal(1, 0.1) * magnitude), 0, 255)
    return image
