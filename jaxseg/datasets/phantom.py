"""Synthetic head MRI with brain tumours: the data set that needs no download.

Each patient is painted as a volume of tissue labels (head, brain, look-alikes, tumour), turned
into three channels by a contrast table, and degraded like a scan: partial volume, motion between
channels, bias field, gain, Rician noise. The mask is the whole FLAIR abnormality, as in LGG.

Patient i is a function of (seed, i) alone, computed in float64 and rounded once, so the bytes are
the same on every machine. NumPy may change its random streams; the golden test would show it.

Lengths: in plane 1 is half the image (64 pixels), x to the right, y to the back; along z, 0 is the
level of the thalami and 1 the vertex. A radius (of head, ventricles, tumour) is 1 at the surface.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are used

from jaxseg.scans.regions import Region, to_masks
from jaxseg.scans.volume import Volume

SIZE = 128  # pixels per side
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

# Bright on FLAIR and no tumour.
LESIONS = (3, 16)  # small white-matter lesions per patient
LESION_RADIUS = (1.0, 2.6)  # pixels
CAP_SIZE = (0.04, 0.1)  # thickness of the caps on the horns of the ventricles; 2.5 to 6 pixels
BRIGHT_GAIN = (0.85, 1.35)  # FLAIR of caps and lesions, relative to TISSUES
FAT_GAIN = (0.7, 1.4)  # all channels of scalp and orbits, relative to TISSUES

# Scanner.
BLUR = 0.55  # pixels, standard deviation of the point spread
MOTION = 0.7  # pixels, largest shift of a T1 channel against FLAIR
TEXTURE = 0.04  # standard deviation within a tissue, relative
BIAS = 0.1  # standard deviation of the log of the receive field
GAIN = (0.7, 1.25)  # of the scanner; each channel varies by another tenth
NOISE = (2.5, 5.0)  # standard deviation in units of TISSUES

TISSUES = {  # signal in pre-contrast T1, FLAIR, post-contrast T1
    "air": (1, 1, 1),
    "bone": (14, 12, 15),
    "marrow": (52, 34, 56),
    "fat": (150, 140, 152),
    "muscle": (55, 48, 62),
    "csf": (22, 12, 23),
    "grey": (62, 84, 66),
    "white": (88, 67, 91),
    "vessel": (40, 18, 165),
    "bright": (74, 130, 77),  # caps and lesions
    "oedema": (60, 132, 63),
    "core": (50, 118, 54),
    "fluid": (32, 40, 33),
    "rim": (60, 122, 150),
}
AIR, BONE, MARROW, FAT, MUSCLE, CSF, GREY, WHITE, VESSEL = range(9)
BRIGHT, OEDEMA, CORE, FLUID, RIM = range(9, 14)
_LABELS = np.zeros(len(TISSUES), np.uint8)
_LABELS[[OEDEMA, CORE, FLUID, RIM]] = 2, 1, 1, 4


class _Point(NamedTuple):
    """Where each voxel lies in the standard head."""

    z: np.ndarray  # [D, SIZE, 1]
    y: np.ndarray  # [D, SIZE, SIZE]
    x: np.ndarray  # [D, SIZE, SIZE]


def patient_id(index: int) -> str:
    """Return the name of patient `index`, by example `phantom_007`."""
    return f"phantom_{index:03d}"


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
    axes = _Point(z[:, None, None], plane[:, None], plane)
    point = _pose(rng, axes)
    head, cavity = _head(point)
    point, tumour, side = _tumour(rng, axes, point)
    coarse = _grain(rng, head.shape, (0.8, 2.6, 2.6))
    fine = _grain(rng, head.shape, (0.5, 1.4, 1.4))
    tissue = _paint_head(rng, point, head, cavity, coarse)
    ventricles = rng.uniform(0.035, 0.075), rng.uniform(0.25, 0.31)  # width, length
    ventricle = _ventricle_radius(point, *ventricles)
    allowed = _paint_brain(rng, point, cavity, ventricle, np.abs(coarse), fine, tissue)
    _paint_look_alikes(rng, point, ventricles, fine, tumour, tissue)
    mask = _paint_tumour(rng, axes, tumour, allowed & (point.x * side > 0.06), tissue)
    image = _acquire(rng, axes, tissue, fine)
    return image, np.where(mask, _LABELS[tissue], 0).astype(np.uint8)


def _waves(rng, axes: _Point, frequency: float, terms: int = 5) -> np.ndarray:
    """Return a smooth random field of unit variance: plane waves of random direction."""
    k = rng.normal(0, frequency, (3, terms))
    z, y, x = (np.exp(1j * a.reshape(-1, 1) * f) for a, f in zip(axes, k, strict=True))
    zy = z[:, None] * y * np.exp(2j * np.pi * rng.random(terms)) * np.sqrt(2 / terms)
    left, right = np.concatenate([zy.real, -zy.imag], -1), np.concatenate([x.real, x.imag], -1)
    return np.einsum("zyk,kx->zyx", left, np.ascontiguousarray(right.T))


def _grain(rng, shape: tuple[int, ...], sigma: tuple[float, ...]) -> np.ndarray:
    """Return noise of unit variance, smoothed to `sigma` (slices, rows, columns)."""
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), sigma, truncate=3)
    return noise / noise.std()


def _radius(point, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """Return the radius in units of an ellipsoid's: 1 on its surface."""
    z, y, x = ((p - c) * (1 / r) for p, c, r in zip(point, centre, radii, strict=True))
    total = y * y
    total += x * x
    return np.sqrt(total + z * z)


def _pose(rng, axes: _Point) -> _Point:
    """Tilt, turn, shift, scale and bend the standard head."""
    z, y, x = axes
    turn, tilt = rng.normal(0, 0.05, 2)
    scale_y, scale_x = rng.normal(1, 0.035, 2) * rng.normal(1, 0.02)
    y0, x0 = rng.normal(0, 0.025, 2)
    bend_y, bend_x = (0.013 * _waves(rng, axes, 4.0) for _ in range(2))
    tilted = z + tilt * y
    y, x = (y - y0) + turn * x, (x - x0) - turn * y
    return _Point(tilted, scale_y * y + bend_y, scale_x * x + bend_x)


def _tumour(rng, axes: _Point, point: _Point) -> tuple[_Point, np.ndarray, float]:
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
    radius *= 1 + TUMOUR_IRREGULARITY * _waves(rng, axes, 2 / size, 6)
    pull = rng.uniform(*MASS_EFFECT) * np.exp(-((radius / 1.3) ** 2))
    return point._replace(y=point.y - pull * dy, x=point.x - pull * dx), radius, side


def _ventricle_radius(point: _Point, width: float, length: float, margin=0.0) -> np.ndarray:
    """Lateral ventricles, grown outwards by `margin`: two bent tubes, )( from above."""
    z, y, x = point.z, point.y, np.abs(point.x)
    centre = 0.02 + width + (0.5 + 0.5 * (y > 0)) * y * y + 0.6 * margin
    beyond = np.maximum(np.abs(y - 0.03) - length, 0) / (0.07 + margin)
    height = (z - 0.13 + 0.15 * y) / (0.17 + margin)
    return np.sqrt(((x - centre) / (width + margin)) ** 2 + height**2 + beyond**2)


def _head(point: _Point) -> tuple[np.ndarray, np.ndarray]:
    """Return two radii, 1 on the inner table of the skull: of the vault, and with the base."""
    z, y, x = point.z, point.y, np.abs(point.x)
    vault = _radius(
        (z * np.where(z > 0, 1, 0.4), y, x / (1 + 0.12 * y)), (0, 0, 0), (1, 0.76, 0.61)
    )
    lateral = np.minimum(x / 0.3, 1)
    orbits = -0.2 + 0.2 * (y + 0.4) - 1.2 * (x - 0.26) ** 2
    middle = (0.12 + 0.2 * lateral) * np.clip((y + 0.38 + 0.12 * lateral) / 0.2, 0, 1)
    base = orbits - middle - 0.6 * np.clip(y / 0.2, 0, 1)  # z of the three fossae
    return vault, np.maximum(vault, 1 + 1.4 * (base - z))


def _paint_head(rng, point: _Point, head, cavity, grain: np.ndarray) -> np.ndarray:
    """Return tissue labels with scalp, skull, face, orbits and sinuses, and CSF in the cavity."""
    tissue = np.full(head.shape, AIR, np.uint8)
    skull, scalp = 1.07 + rng.uniform(0.01, 0.05), rng.uniform(0.06, 0.12)
    mirrored = point._replace(x=np.abs(point.x))
    tissue[head < skull + scalp] = FAT
    tissue[head < skull + 0.02] = MUSCLE  # of the face; higher up it is painted over
    tissue[(head < skull) & (grain < -0.5)] = BONE
    tissue[(head < skull) & (grain > 1.1)] = FAT
    tissue[_radius(mirrored, (-0.42, -0.62, 0.26), (0.17, 0.21, 0.19)) < 1] = FAT
    tissue[_radius(mirrored, (-0.42, -0.68, 0.27), (0.13, 0.12, 0.12)) < 1] = CSF  # eyes
    tissue[_radius(point, (-0.6, -0.5, 0), (0.25, 0.24, 0.11)) < 1 + 0.2 * grain] = AIR
    tissue[cavity < skull] = BONE
    tissue[(cavity > 1.03) & (cavity < skull - 0.03) & (grain > -0.7)] = MARROW
    tissue[cavity < 1] = CSF
    return tissue


def _paint_brain(rng, point: _Point, cavity, ventricle, folds, grain, tissue) -> np.ndarray:
    """Paint the brain; return where a tumour may be: above the tentorium, no ventricles."""
    mirrored = point._replace(x=np.abs(point.x))
    depth = 0.975 - rng.uniform(0, 0.025) - cavity
    brain = depth > 0
    callosum = _radius(point, (0.05, 0.02, 0), (0.36, 0.36, 0.5)) < 1
    sylvian = np.abs(point.y + 0.13 - 0.25 * (mirrored.x - 0.45)) + np.abs(point.z - 0.02)
    clefts = np.where(callosum, 9, 30 * mirrored.x)  # between the hemispheres
    clefts = np.where(mirrored.x > 0.36, np.minimum(clefts, 16 * sylvian), clefts)
    sulcus = (folds < 0.45 * (1 - depth / rng.uniform(0.12, 0.22))) | (clefts < 0.35)
    cortex = (depth < 0.05) | (folds < 1.1 - 3.3 * depth) | (clefts < 1.6)
    deep = (
        (_radius(mirrored, (-0.01, 0.1, 0.13), (0.19, 0.15, 0.09)) < 1)  # thalamus
        | (_radius(mirrored, (0.0, -0.06, 0.29), (0.2, 0.17, 0.06)) < 1)  # lentiform nucleus
        | (_radius(mirrored, (0.1, -0.2, 0.16), (0.24, 0.1, 0.045)) < 1)  # head of the caudate
    )
    tissue[brain] = np.where(sulcus, CSF, np.where(cortex | deep, GREY, WHITE))[brain]
    vessel = sulcus & brain & (grain > 1.7)
    sinus = (mirrored.x < 0.035) & (np.abs(cavity - 1) < 0.033) & (np.abs(point.y) + point.z > 0.45)
    tissue[vessel | (sinus & (point.z > -0.3))] = VESSEL
    hindbrain = _paint_hindbrain(mirrored, cavity < 1, tissue)
    fluid = (ventricle < 1) | (_radius(point, (-0.03, 0.06, 0), (0.14, 0.16, 0.022)) < 1)
    tissue[fluid & brain] = CSF
    plexus = _radius(mirrored, (0.06, 0.3, 0.17), (0.09, 0.05, 0.025)) < 1
    tissue[plexus & (ventricle < 1)] = VESSEL
    return brain & ~fluid & ~hindbrain


def _paint_hindbrain(mirrored: _Point, inside: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Paint cerebellum, brain stem and their cisterns; return where they are."""
    lobe = _radius(mirrored, (-0.62, 0.42, 0.17), (0.38, 0.27, 0.32))
    stem = _radius(mirrored, (-0.6, 0.1, 0), (9, 0.14, 0.15)) + 9 * (mirrored.z > -0.25)
    cistern = _radius(mirrored, (-0.3, -0.06, 0), (0.12, 0.1, 0.13))
    folia = np.cos(26 * np.pi * lobe) + 2.5 * (lobe - 0.75)
    around = inside & (np.minimum(lobe, np.minimum(stem, cistern)) < 1.06)
    tissue[around] = CSF
    tissue[inside & (lobe < 1)] = GREY
    tissue[inside & ((stem < 1) | (lobe < 1) & (folia < -0.3))] = WHITE
    tissue[inside & (_radius(mirrored, (-0.5, 0.26, 0), (0.16, 0.06, 0.07)) < 1)] = CSF
    return around


def _paint_look_alikes(rng, point: _Point, ventricles, grain, tumour, tissue) -> None:
    """Paint caps on the horns of the ventricles and small lesions, in white matter."""
    white = tissue == WHITE
    horn = np.clip((np.abs(point.y - 0.03) - 0.12) / 0.18, 0.12, 1)
    margin = rng.uniform(*CAP_SIZE) * horn * (1 + 0.25 * grain)
    cap = _ventricle_radius(point, *ventricles, margin)
    tissue[white & (cap < 1) & (tumour > 1.2)] = BRIGHT  # a gap: what touches is tumour
    places = np.flatnonzero(white & (cap > 1.3) & (tumour > 1.5) & (point.z > -0.2))
    chosen = rng.choice(places, rng.integers(LESIONS[0], LESIONS[1] + 1))
    # A point blurred by sigma stays above the peak of a unit point within the wanted radius.
    sigma, dots = 1.6, np.zeros(tissue.shape)
    dots.flat[chosen] = np.exp(rng.uniform(*LESION_RADIUS, chosen.size) ** 2 / (2 * sigma**2))
    blurred = scipy.ndimage.gaussian_filter(dots, (0, sigma, sigma), truncate=3)
    tissue[white & (blurred > 1 / (2 * np.pi * sigma**2))] = BRIGHT


def _paint_tumour(rng, axes: _Point, radius, allowed: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Paint oedema, core, fluid centre and rim; return the mask, bool [D, SIZE, SIZE]."""
    smooth = scipy.ndimage.binary_opening((radius < 1) & allowed, np.ones((1, 5, 5)))  # no slivers
    pieces, _ = scipy.ndimage.label(smooth)
    mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    mask &= mask.sum((1, 2), keepdims=True) >= SMALLEST_SECTION
    core = radius / rng.uniform(0.45, 0.75) + 0.12 * _waves(rng, axes, 14.0)
    thickness = rng.uniform(0.05, 0.09) * (1 + 0.5 * _waves(rng, axes, 8.0))
    fluid = rng.uniform(0.5, 0.75)
    tissue[mask] = OEDEMA
    tissue[mask & (core < 1)] = CORE
    if rng.random() < FLUID_PROBABILITY:
        tissue[mask & (core < fluid)] = FLUID
    if rng.random() < RIM_PROBABILITY:
        tissue[mask & (np.abs(core - 0.92) < thickness)] = RIM
    return mask


def _acquire(rng, axes: _Point, tissue: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """Return the scan of the tissues, uint8 [D, SIZE, SIZE, 3]."""
    image = np.empty((*tissue.shape, 3), np.uint8)
    texture = 1 + TEXTURE * grain
    noise, gain = rng.uniform(*NOISE), rng.uniform(*GAIN)
    receive = _waves(rng, axes, 1.5)
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
        signal *= np.exp(BIAS * (0.7 * receive + 0.7 * _waves(rng, axes, 1.5)))
        real, imaginary = noise * rng.standard_normal((2, *tissue.shape))
        magnitude = np.sqrt((signal + real) ** 2 + imaginary * imaginary)
        image[..., channel] = np.clip(np.rint(gain * rng.normal(1, 0.1) * magnitude), 0, 255)
    return image
