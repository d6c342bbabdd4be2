"""Tiny data sets on disk for the tests: LGG trees, image folders, hand-made TIFF files."""

import struct
from pathlib import Path

import cv2
import numpy as np

from jaxseg.datasets.index import Patient

SIZE = (12, 16)


def make_slice(seed: int, channels: int = 3, dtype=np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """Random image [12, 16, channels] over the full range, mask [12, 16, 1] with 6 pixels of 1."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, np.iinfo(dtype).max, (*SIZE, channels), dtype, endpoint=True)
    mask = np.zeros((*SIZE, 1), np.uint8)
    mask[3:5, 4:7] = 1
    return image, mask


def write_image(path: Path, image: np.ndarray):
    """Write [H, W, 1, 3 or 4] in the order red, green, blue, alpha; by suffix of path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[image.shape[-1]]
    assert cv2.imwrite(str(path), image[..., order])


def write_lgg(root: Path, numbers: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Write a kaggle_3m tree for {patient: slice numbers}; return the images by file name."""
    images = {}
    for patient, ns in numbers.items():
        for n in ns:
            name = f"TCGA_{patient}_19970222/TCGA_{patient}_19970222_{n}.tif"
            images[name], mask = make_slice(seed=1000 * sum(patient.encode()) + n)
            write_image(root / name, images[name])
            write_image(root / name.replace(".tif", "_mask.tif"), 255 * mask)
    (root / "data.csv").write_text("Patient\n")
    return images


def write_folders(root: Path, patients: int = 3, slices: int = 3):
    """Write p0/s0.png, p0/s0_mask.png, ...: one folder per patient, masks beside the images."""
    for p in range(patients):
        for s in range(slices):
            image, mask = make_slice(seed=100 * p + s)
            write_image(root / f"p{p}/s{s}.png", image)
            write_image(root / f"p{p}/s{s}_mask.png", 255 * mask)


def tiff(
    pixels: np.ndarray, photometric: int = 2, extra: tuple[int, ...] = (), next_page: int = 0
) -> bytes:
    """Return an uncompressed little-endian TIFF of uint8 [H, W, C], tag by tag."""
    height, width, channels = pixels.shape
    data = np.ascontiguousarray(pixels).tobytes()
    bits_at = 8 + len(data)
    bits = struct.pack(f"<{channels}H", *[8] * channels)
    inline_bits = channels <= 2
    fields = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, channels, int.from_bytes(bits, "little") if inline_bits else bits_at),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 8),
        (277, 3, 1, channels),
        (278, 3, 1, height),
        (279, 4, 1, len(data)),
    ]
    if extra:
        values = int.from_bytes(struct.pack(f"<{len(extra)}H", *extra), "little")
        fields.append((338, 3, len(extra), values))
    directory = b"".join(struct.pack("<HHII", *f) for f in fields)
    start = bits_at + len(bits)
    return (
        b"II*\0"
        + struct.pack("<I", start)
        + data
        + bits
        + struct.pack("<H", len(fields))
        + directory
        + struct.pack("<I", next_page)
    )


def patient(name: str, digests=None, tumour=5) -> Patient:
    digests = (f"digest of {name}",) if digests is None else digests
    files = tuple(f"{name}/{n}.png" for n in range(len(digests)))
    return Patient(name, 0, (tumour,) * len(files), tuple(range(len(files))), digests, files)
