"""The head of the phantom: tissues, skull, brain, ventricles, and what looks like a tumour.

Lengths are those of `phantom`.
"""

from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are used

SIZE = 128  # pixels per side
# Bright on FLAIR and no tumour.
LESIONS = (3, 16)  # small white-matter lesions per patient
LESION_RADIUS = (1.0, 2.6)  # pixels
CAP_SIZE = (0.04, 0.1)  # thickness of the caps on the horns of the ventricles; 2.5 to 6 pixels
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


class Point(NamedTuple):
    """Where each voxel lies in the standard head."""

    z: np.ndarray  # [D, SIZE, 1]
    y: np.ndarray  # [D, SIZE, SIZE]
    x: np.ndarray  # [D, SIZE, SIZE]


def smooth_noise(rng, axes: Point, frequency: float, terms: int = 5) -> np.ndarray:
    """Return a smooth random field of unit variance: plane waves of random direction."""
    k = rng.normal(0, frequency, (3, terms))
    z, y, x = (np.exp(1j * a.reshape(-1, 1) * f) for a, f in zip(axes, k, strict=True))
    zy = z[:, None] * y * np.exp(2j * np.pi * rng.random(terms)) * np.sqrt(2 / terms)
    left, right = np.concatenate([zy.real, -zy.imag], -1), np.concatenate([x.real, x.imag], -1)
    return np.einsum("zyk,kx->zyx", left, np.ascontiguousarray(right.T))


def ellipsoid_radius(point, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """Return the radius in units of an ellipsoid's: 1 on its surface."""
    z, y, x = ((p - c) * (1 / r) for p, c, r in zip(point, centre, radii, strict=True))
    total = y * y
    total += x * x
    return np.sqrt(total + z * z)


def posed(rng, axes: Point) -> Point:
    """Tilt, turn, shift, scale and bend the standard head."""
    z, y, x = axes
    turn, tilt = rng.normal(0, 0.05, 2)
    scale_y, scale_x = rng.normal(1, 0.035, 2) * rng.normal(1, 0.02)
    y0, x0 = rng.normal(0, 0.025, 2)
    bend_y, bend_x = (0.013 * smooth_noise(rng, axes, 4.0) for _ in range(2))
    tilted = z + tilt * y
    y, x = (y - y0) + turn * x, (x - x0) - turn * y
    return Point(tilted, scale_y * y + bend_y, scale_x * x + bend_x)


def ventricle_radius(point: Point, width: float, length: float, margin=0.0) -> np.ndarray:
    """Lateral ventricles, grown outwards by `margin`: two bent tubes, )( from above."""
    z, y, x = point.z, point.y, np.abs(point.x)
    centre = 0.02 + width + (0.5 + 0.5 * (y > 0)) * y * y + 0.6 * margin
    beyond = np.maximum(np.abs(y - 0.03) - length, 0) / (0.07 + margin)
    height = (z - 0.13 + 0.15 * y) / (0.17 + margin)
    return np.sqrt(((x - centre) / (width + margin)) ** 2 + height**2 + beyond**2)


def head_radii(point: Point) -> tuple[np.ndarray, np.ndarray]:
    """Return two radii, 1 on the inner table of the skull: of the vault, and with the base."""
    z, y, x = point.z, point.y, np.abs(point.x)
    vault = ellipsoid_radius(
        (z * np.where(z > 0, 1, 0.4), y, x / (1 + 0.12 * y)), (0, 0, 0), (1, 0.76, 0.61)
    )
    lateral = np.minimum(x / 0.3, 1)
    orbits = -0.2 + 0.2 * (y + 0.4) - 1.2 * (x - 0.26) ** 2
    middle = (0.12 + 0.2 * lateral) * np.clip((y + 0.38 + 0.12 * lateral) / 0.2, 0, 1)
    base = orbits - middle - 0.6 * np.clip(y / 0.2, 0, 1)  # z of the three fossae
    return vault, np.maximum(vault, 1 + 1.4 * (base - z))


def paint_head(rng, point: Point, head, cavity, grain: np.ndarray) -> np.ndarray:
    """Return tissue labels with scalp, skull, face, orbits and sinuses, and CSF in the cavity."""
    tissue = np.full(head.shape, AIR, np.uint8)
    skull, scalp = 1.07 + rng.uniform(0.01, 0.05), rng.uniform(0.06, 0.12)
    mirrored = point._replace(x=np.abs(point.x))
    tissue[head < skull + scalp] = FAT
    tissue[head < skull + 0.02] = MUSCLE  # of the face; higher up it is painted over
    tissue[(head < skull) & (grain < -0.5)] = BONE
    tissue[(head < skull) & (grain > 1.1)] = FAT
    tissue[ellipsoid_radius(mirrored, (-0.42, -0.62, 0.26), (0.17, 0.21, 0.19)) < 1] = FAT
    tissue[ellipsoid_radius(mirrored, (-0.42, -0.68, 0.27), (0.13, 0.12, 0.12)) < 1] = CSF  # eyes
    tissue[ellipsoid_radius(point, (-0.6, -0.5, 0), (0.25, 0.24, 0.11)) < 1 + 0.2 * grain] = AIR
    tissue[cavity < skull] = BONE
    tissue[(cavity > 1.03) & (cavity < skull - 0.03) & (grain > -0.7)] = MARROW
    tissue[cavity < 1] = CSF
    return tissue


def paint_brain(rng, point: Point, cavity, ventricle, folds, grain, tissue) -> np.ndarray:
    """Paint the brain; return where a tumour may be: above the tentorium, no ventricles."""
    mirrored = point._replace(x=np.abs(point.x))
    depth = 0.975 - rng.uniform(0, 0.025) - cavity
    brain = depth > 0
    callosum = ellipsoid_radius(point, (0.05, 0.02, 0), (0.36, 0.36, 0.5)) < 1
    sylvian = np.abs(point.y + 0.13 - 0.25 * (mirrored.x - 0.45)) + np.abs(point.z - 0.02)
    clefts = np.where(callosum, 9, 30 * mirrored.x)  # between the hemispheres
    clefts = np.where(mirrored.x > 0.36, np.minimum(clefts, 16 * sylvian), clefts)
    sulcus = (folds < 0.45 * (1 - depth / rng.uniform(0.12, 0.22))) | (clefts < 0.35)
    cortex = (depth < 0.05) | (folds < 1.1 - 3.3 * depth) | (clefts < 1.6)
    deep = (
        (ellipsoid_radius(mirrored, (-0.01, 0.1, 0.13), (0.19, 0.15, 0.09)) < 1)  # thalamus
        | (
            ellipsoid_radius(mirrored, (0.0, -0.06, 0.29), (0.2, 0.17, 0.06)) < 1
        )  # lentiform nucleus
        | (
            ellipsoid_radius(mirrored, (0.1, -0.2, 0.16), (0.24, 0.1, 0.045)) < 1
        )  # head of the caudate
    )
    tissue[brain] = np.where(sulcus, CSF, np.where(cortex | deep, GREY, WHITE))[brain]
    vessel = sulcus & brain & (grain > 1.7)
    sinus = (mirrored.x < 0.035) & (np.abs(cavity - 1) < 0.033) & (np.abs(point.y) + point.z > 0.45)
    tissue[vessel | (sinus & (point.z > -0.3))] = VESSEL
    hindbrain = _paint_hindbrain(mirrored, cavity < 1, tissue)
    fluid = (ventricle < 1) | (ellipsoid_radius(point, (-0.03, 0.06, 0), (0.14, 0.16, 0.022)) < 1)
    tissue[fluid & brain] = CSF
    plexus = ellipsoid_radius(mirrored, (0.06, 0.3, 0.17), (0.09, 0.05, 0.025)) < 1
    tissue[plexus & (ventricle < 1)] = VESSEL
    return brain & ~fluid & ~hindbrain


def _paint_hindbrain(mirrored: Point, inside: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Paint cerebellum, brain stem and their cisterns; return where they are."""
    lobe = ellipsoid_radius(mirrored, (-0.62, 0.42, 0.17), (0.38, 0.27, 0.32))
    stem = ellipsoid_radius(mirrored, (-0.6, 0.1, 0), (9, 0.14, 0.15)) + 9 * (mirrored.z > -0.25)
    cistern = ellipsoid_radius(mirrored, (-0.3, -0.06, 0), (0.12, 0.1, 0.13))
    folia = np.cos(26 * np.pi * lobe) + 2.5 * (lobe - 0.75)
    around = inside & (np.minimum(lobe, np.minimum(stem, cistern)) < 1.06)
    tissue[around] = CSF
    tissue[inside & (lobe < 1)] = GREY
    tissue[inside & ((stem < 1) | (lobe < 1) & (folia < -0.3))] = WHITE
    tissue[inside & (ellipsoid_radius(mirrored, (-0.5, 0.26, 0), (0.16, 0.06, 0.07)) < 1)] = CSF
    return around


def paint_look_alikes(rng, point: Point, ventricles, grain, tumour, tissue) -> None:
    """Paint caps on the horns of the ventricles and small lesions, in white matter."""
    white = tissue == WHITE
    cap = paint_caps(rng, point, ventricles, grain, tumour, tissue)
    places = np.flatnonzero(white & (cap > 1.3) & (tumour > 1.5) & (point.z > -0.2))
    chosen = rng.choice(places, rng.integers(LESIONS[0], LESIONS[1] + 1))
    # A point blurred by sigma stays above the peak of a unit point within the wanted radius.
    sigma, dots = 1.6, np.zeros(tissue.shape)
    dots.flat[chosen] = np.exp(rng.uniform(*LESION_RADIUS, chosen.size) ** 2 / (2 * sigma**2))
    blurred = scipy.ndimage.gaussian_filter(dots, (0, sigma, sigma), truncate=3)
    tissue[white & (blurred > 1 / (2 * np.pi * sigma**2))] = BRIGHT


def paint_caps(rng, point: Point, ventricles, grain, tumour, tissue) -> np.ndarray:
    """Paint caps on the horns of the ventricles, in white matter; return their radius."""
    white = tissue == WHITE
    horn = np.clip((np.abs(point.y - 0.03) - 0.12) / 0.18, 0.12, 1)
    margin = rng.uniform(*CAP_SIZE) * horn * (1 + 0.25 * grain)
    cap = ventricle_radius(point, *ventricles, margin)
    tissue[white & (cap < 1) & (tumour > 1.2)] = BRIGHT  # a gap: what touches is tumour
    return cap
