"""Synthetic heads with gliomas as volumes: four sequences, three nested regions, 1.5 mm voxels.

The head is that of `phantom_head`, four fifths of an adult's in size. A glioma is oedema around a
core; the core has an enhancing rim around necrosis, or, in some patients, does not enhance at all;
some patients have smaller lesions besides. Bright, and no tumour: the scalp in all sequences,
vessels after contrast agent, fluid on T2, caps of the ventricles and small lesions of the white
matter on FLAIR and T2, old blood before and after contrast agent.

Patient i is a function of (seed, i) alone, in float64 and rounded once, as in `phantom`.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy  # loads its parts when they are used

from jaxseg.datasets.phantom_head import (
    BRIGHT,
    CORE,
    FAT,
    FLUID,
    OEDEMA,
    RIM,
    WHITE,
    Point,
    head_radii,
    paint_brain,
    paint_caps,
    paint_head,
    posed,
    smooth_noise,
    ventricle_radius,
)
from jaxseg.scans.regions import Region, to_masks
from jaxseg.scans.volume import Volume

SHAPE = (80, 112, 96)  # slices, rows, columns
SPACING_MM = 1.5
UNIT = 56  # voxels, in plane; see `phantom`
Z_RANGE = (-0.62, 1.2)  # lowest and highest slice, 1 is the vertex of the brain

# Gliomas; lengths in voxels. Larger and rounder ones with thicker rims are easier to learn.
RADIUS = (11.0, 18.0)  # of the oedema
CORE_SHARE = (0.52, 0.72)  # of the radius
RIM_WIDTH = (2.6, 4.2)
IRREGULARITY = 0.1  # standard deviation of the outlines, relative to the radius
ENHANCING = 0.85  # share of patients whose cores enhance
SEVERAL = 0.3  # share of patients with one or two lesions more
SMALL_RADIUS = (6.0, 8.5)  # of those

# No tumour.
LESIONS, LESION_RADIUS = (6, 24), (1.0, 2.6)  # of the white matter
BLEEDS, BLEED_RADIUS = (1, 4), (1.5, 3.0)

# Scanner.
BLUR = 0.45  # voxels, standard deviation of the point spread
TEXTURE = 0.03  # standard deviation within a tissue, relative
BIAS = 0.08  # standard deviation of the log of the receive field
GAIN = (2.0, 8.0)  # of each sequence: intensities have no unit
NOISE = (3.0, 5.0)  # standard deviation in units of _SIGNAL

_MOST_THREADS = 8  # 100 MB each
BLOOD = 14
_SIGNAL = np.array(  # in T1, T1 after contrast agent, T2, FLAIR; tissues as in `phantom_head`
    [
        (2, 2, 2, 2),  # air
        (18, 20, 15, 15),  # bone
        (70, 75, 60, 55),  # marrow
        (190, 192, 165, 170),  # fat
        (70, 80, 50, 60),  # muscle
        (28, 30, 210, 25),  # fluid of the brain
        (80, 84, 118, 108),  # grey
        (108, 112, 88, 86),  # white
        (60, 215, 35, 32),  # vessel
        (94, 97, 152, 165),  # bright: caps and lesions
        (80, 83, 160, 168),  # oedema
        (58, 62, 178, 140),  # core that does not enhance
        (44, 48, 188, 82),  # necrosis
        (72, 185, 140, 146),  # rim
        (175, 178, 55, 60),  # old blood
    ],
    np.float64,
)
_LABELS = np.zeros(len(_SIGNAL), np.uint8)
_LABELS[[OEDEMA, CORE, FLUID, RIM]] = 2, 1, 1, 3


def make_volumes(seed: int, number: int, regions: Sequence[Region]) -> Iterator[Volume]:
    """Yield so many patients in order; each core makes one, up to `_MOST_THREADS` at once."""
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        ahead = deque()
        for index in range(number):
            ahead.append(pool.submit(make_volume, seed, index, regions))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def make_volume(seed: int, index: int, regions: Sequence[Region]) -> Volume:
    """Return patient `index` as a volume with the masks of the regions."""
    image, labels = generate_patient(seed, index)
    patient = f"phantom_{index:03d}"
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], range(4)] = SPACING_MM, -SPACING_MM, -SPACING_MM, 1
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) - 1) / 2  # 0 in the middle
    return Volume(
        image,
        (SPACING_MM,) * 3,
        affine,
        patient=patient,
        mask=to_masks(labels, regions),
        slice_numbers=tuple(range(len(image))),
        files=(patient,),
        mask_values=tuple(np.unique(labels[labels > 0]).tolist()),
    )


def generate_patient(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Make one patient; depends on (seed, index) only.

    Args:
        seed: of the data set, at least 0.
        index: of the patient, at least 0.

    Returns:
        image: int16 [80, 112, 96, 4]: T1, T1 after contrast agent, T2, FLAIR; row 0 is the face.
        labels: uint8 [80, 112, 96]: 1 necrosis and core that does not enhance, 2 oedema, 3
            enhancing (as BraTS 2023 has them), 0 else. 1 or 3 and 2 are never empty; some patients
            have no 3.
    """
    rng = np.random.default_rng([seed, index])
    rows, columns = ((np.arange(n) - (n - 1) / 2) / UNIT for n in SHAPE[1:])
    point = Point(np.linspace(*Z_RANGE, SHAPE[0])[:, None, None], rows[:, None], columns)
    even = Point((np.arange(SHAPE[0]) / UNIT)[:, None, None], *point[1:])  # one length, one unit
    point = posed(rng, point)
    head, cavity = head_radii(point)
    coarse, fine = _grain(rng, 2.2), _grain(rng, 1.2)
    tissue = paint_head(rng, point, head, cavity, coarse)
    ventricles = rng.uniform(0.035, 0.075), rng.uniform(0.25, 0.31)  # width, length
    ventricle = ventricle_radius(point, *ventricles)
    allowed = paint_brain(rng, point, cavity, ventricle, np.abs(coarse), fine, tissue)
    tumour = _paint_gliomas(rng, even, allowed, cavity, tissue)
    labels = _LABELS[tissue]
    cap = paint_caps(rng, point, ventricles, fine, tumour, tissue)
    free = (tissue == WHITE) & (cap > 1.3) & (tumour > 1.4)
    _paint_dots(rng, free, LESIONS, LESION_RADIUS, BRIGHT, tissue)
    _paint_dots(rng, free, BLEEDS, BLEED_RADIUS, BLOOD, tissue)
    return _acquire(rng, even, tissue, fine), labels


def _grain(rng, sigma: float) -> np.ndarray:
    """Return noise of unit variance, smoothed to sigma voxels."""
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal(SHAPE), sigma, truncate=3)
    return noise / noise.std()


def _paint_gliomas(rng, even: Point, allowed, cavity, tissue: np.ndarray) -> np.ndarray:
    """Paint one to three lesions; return the radius of the nearest, 1 on its surface."""
    enhancing = rng.random() < ENHANCING
    others = rng.integers(1, 3) if rng.random() < SEVERAL else 0
    nearest = np.full(SHAPE, np.inf)
    for size in [RADIUS] + [SMALL_RADIUS] * others:
        size = rng.uniform(*size)
        # Well inside, away from the lesions before.
        places = np.flatnonzero(allowed & (cavity < 1 - 0.7 * size / UNIT) & (nearest > 2.2))
        if not places.size:
            continue
        centre = np.unravel_index(rng.choice(places), SHAPE)
        radius = _radius(rng, even, centre, size)
        core = radius / rng.uniform(*CORE_SHARE) + 0.08 * smooth_noise(rng, even, 10.0)
        width = rng.uniform(*RIM_WIDTH) * (1 + 0.2 * smooth_noise(rng, even, 8.0))
        inner = 1 - width / (size * CORE_SHARE[0])
        inside = _in_one_piece(allowed & (radius < 1))
        tissue[inside] = OEDEMA
        tissue[inside & (core < 1)] = RIM if enhancing else CORE
        tissue[inside & (core < inner)] = FLUID
        nearest = np.minimum(nearest, radius)
    return nearest


def _in_one_piece(mask: np.ndarray) -> np.ndarray:
    """Return the largest part of a mask, which ventricles and fissures may have cut."""
    parts, _ = scipy.ndimage.label(mask)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _radius(rng, even: Point, centre, size: float) -> np.ndarray:
    """Return the radius of an irregular ellipsoid of `size` voxels, 1 on its surface."""
    z, y, x = (p - p.ravel()[c] for p, c in zip(even, centre, strict=True))
    stretch, spin = rng.uniform(0.88, 1.14, 2), rng.uniform(0, np.pi)
    u = (np.cos(spin) * y + np.sin(spin) * x) * stretch[0]
    v = (np.cos(spin) * x - np.sin(spin) * y) / stretch[0]
    radius = np.sqrt(u * u + v * v + (z * stretch[1]) ** 2) * (UNIT / size)
    return radius * (1 + IRREGULARITY * smooth_noise(rng, even, 1.6 * UNIT / size, 6))


def _paint_dots(rng, free: np.ndarray, number, radius, kind: int, tissue: np.ndarray):
    """Paint balls where it is free."""
    grid = np.indices((9, 9, 9)) - 4
    distance = np.sqrt((grid * grid).sum(0))
    for place in rng.choice(np.flatnonzero(free), rng.integers(number[0], number[1] + 1)):
        centre = np.unravel_index(place, SHAPE)
        ball = np.argwhere(distance < rng.uniform(*radius)) - 4 + centre
        ball = tuple(ball[((ball >= 0) & (ball < SHAPE)).all(-1)].T)
        tissue[ball] = np.where(free[ball], kind, tissue[ball])


def _acquire(rng, even: Point, tissue: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """Return the scan of the tissues, int16 [D, H, W, 4]."""
    image = np.empty((*SHAPE, 4), np.int16)
    table = _SIGNAL * rng.normal(1, 0.03, _SIGNAL.shape)
    table[FAT] *= rng.uniform(0.75, 1.3)
    table[BRIGHT, 2:] *= rng.uniform(0.9, 1.2)
    table[OEDEMA, 2:] *= rng.uniform(0.9, 1.15)
    texture, noise = 1 + TEXTURE * grain, rng.uniform(*NOISE)
    receive = smooth_noise(rng, even, 1.5)
    for channel, values in enumerate(table.T):
        signal = scipy.ndimage.gaussian_filter(values[tissue] * texture, BLUR, truncate=4)
        signal *= np.exp(BIAS * (0.7 * receive + 0.7 * smooth_noise(rng, even, 1.5)))
        real, imaginary = noise * rng.standard_normal((2, *SHAPE))
        magnitude = np.sqrt((signal + real) ** 2 + imaginary * imaginary)
        image[..., channel] = np.rint(rng.uniform(*GAIN) * magnitude)
    return image
