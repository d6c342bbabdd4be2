"""Tiny volume sets on disk for the tests.

Heads of 8 x 9 x 10 voxels of noise with labels inside, for what reads and checks; of 14 x 16 x 12
with a tumour that is seen, for what trains and predicts.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fake_volumes import write_nifti, write_scan

SHAPE = (8, 9, 10)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS, as BraTS has it


def head(seed: int) -> np.ndarray:
    """Return int16 [8, 9, 10]: noise of 50 to 1000 within air of 0."""
    image = np.zeros(SHAPE, np.int16)
    inside = (slice(1, -1),) * 3
    image[inside] = np.random.default_rng(seed).integers(50, 1000, image[inside].shape)
    return image


def labels(values: Sequence[int] = (1, 2, 4)) -> np.ndarray:
    """Return uint8 [8, 9, 10] with two voxels of each value, side by side within the head."""
    label = np.zeros(SHAPE, np.uint8)
    for n, value in enumerate(values):
        label[2 + n, 3, 4:6] = value
    return label


def write_case(
    folder: Path,
    stem: str,
    suffixes: Sequence[str],
    mask: str,
    values: Sequence[int] = (1, 2, 4),
    kind: str = ".nii.gz",
    seed: int = 0,
):
    """Write `stem + suffix + kind` for each sequence, and the labels as `stem + mask + kind`."""
    for n, suffix in enumerate(suffixes):
        write_scan(folder / f"{stem}{suffix}{kind}", head(100 * seed + n), AFFINE)
    write_scan(folder / f"{stem}{mask}{kind}", labels(values), AFFINE)


GLIOMA_SHAPE = (14, 16, 12)
# Three sequences, as slices have three channels.
GLIOMA_SEQUENCES = ("-t1c", "-t2w", "-t2f")
GLIOMA_CASES = tuple(f"BraTS-GLI-{n:05d}-000" for n in range(1, 7)) + ("BraTS-GLI-00006-001",)


def glioma(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int16 [14, 16, 12, 3] and labels uint8 [14, 16, 12] of 2023.

    A dim head in air of 0; a ball of oedema (2), bright in t2w and t2f, around an enhancing core
    (3), bright in t1c, around a dark voxel or two (1). Every fourth seed does not enhance.
    """
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*map(np.arange, GLIOMA_SHAPE), indexing="ij"), -1)
    half = np.array(GLIOMA_SHAPE) / 2
    inside = (((index + 0.5 - half) / (half - 1)) ** 2).sum(-1) < 1
    distance = np.linalg.norm(index - half - rng.uniform(-2, 2, 3), axis=-1)
    label = 2 * (inside & (distance < 3.5)).astype(np.uint8)
    label[distance < 2.2] = 3 if seed % 4 else 1
    label[distance < 1.2] = 1
    means = np.array([[300, 300, 300], [250, 700, 400], [300, 900, 900], [1000, 500, 500]])
    image = rng.normal(means[label], 30) * inside[..., None]
    return image.astype(np.int16), label


def write_gliomas(root: Path, affine: np.ndarray = AFFINE, air: Sequence = ((0, 0),) * 3):
    """Write BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1c.nii.gz and so on.

    The last one is a person's second time point. `air` is so much more of it at both ends of each
    axis.
    """
    for seed, case in enumerate(GLIOMA_CASES):
        image, label = glioma(seed)
        image, label = np.pad(image, (*air, (0, 0))), np.pad(label, air)
        for n, suffix in enumerate(GLIOMA_SEQUENCES):
            write_nifti(root / case / f"{case}{suffix}.nii.gz", image[..., n], affine)
        write_nifti(root / case / f"{case}-seg.nii.gz", label, affine)


OLD, NEW = ("_t1", "_t1ce", "_t2", "_flair"), ("-t1n", "-t1c", "-t2w", "-t2f")


def write_brats(root: Path, count: int = 3, values: Sequence[int] = (1, 2, 4)):
    """Write BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz and so on."""
    for n in range(count):
        case = f"BraTS20_Training_{n + 1:03d}"
        write_case(root / case, case, OLD, "_seg", values, seed=n)


def write_nnunet(root: Path, content: dict, values: Sequence[int], count: int = 2):
    """Write imagesTr/case_0_0000.nii.gz, labelsTr/case_0.nii.gz and dataset.json."""
    for n in range(count):
        for c in range(2):
            name = f"imagesTr/case_{n}_{c:04d}.nii.gz"
            write_nifti(root / name, head(10 * n + c), AFFINE)
        write_nifti(root / f"labelsTr/case_{n}.nii.gz", labels(values), AFFINE)
    (root / "dataset.json").write_text(json.dumps(content))


def write_msd(root: Path, names: Sequence[str], count: int = 2):
    """Write imagesTr/BRATS_000.nii.gz of four channels, its labels 1 to 3, and dataset.json."""
    for n in range(count):
        image = np.stack([head(10 * n + c) for c in range(4)], axis=-1)
        write_nifti(root / f"imagesTr/BRATS_{n:03d}.nii.gz", image, AFFINE)
        write_nifti(root / f"labelsTr/BRATS_{n:03d}.nii.gz", labels((1, 2, 3)), AFFINE)
    content = {
        "name": "BRATS",
        "tensorImageSize": "4D",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "T1gd", "3": "T2w"},
        "labels": {str(i): name for i, name in enumerate(("background", *names))},
        "training": [],
    }
    (root / "dataset.json").write_text(json.dumps(content))
