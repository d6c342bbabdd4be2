"""The LGG scans made small enough to travel, and made files again at the other end.

    python -m benchmarks.gpu_scans pack kaggle_3m .lgg/scans.zip
    python -m benchmarks.gpu_scans unpack .lgg/scans.zip kaggle_3m

The three channels lie side by side in a grey WebP of quality 92 (a quarter of the TIFF files' size;
0.8 of 255 grey levels off in the mean, 10 at most), masks in PNG of one bit, exact. What is
unpacked is for measurements of time and for scores that are called so; needs OpenCV alone.
"""

import concurrent.futures
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np

QUALITY = 92


def encode(path: Path) -> bytes:
    """Return the small form of an image or a mask file."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if path.stem.endswith("_mask"):
        mask = (pixels if pixels.ndim == 2 else pixels[..., 0]) > 0
        options = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 9]
        return cv2.imencode(".png", 255 * mask.astype(np.uint8), options)[1].tobytes()
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"{path}: expected 3 channels of 8 bit")
    grey = np.hstack([pixels[..., i] for i in range(3)])
    options = [cv2.IMWRITE_WEBP_QUALITY, QUALITY]
    return cv2.imencode(".webp", cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), options)[1].tobytes()


def decode(data: bytes) -> np.ndarray:
    """Return the image [H, W, 3] (blue first, as OpenCV has it) or the mask [H, W]."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if data[:4] != b"RIFF":
        return pixels
    return np.dstack(np.split(pixels, 3, axis=1))


def pack(source: Path, target: Path):
    """Write every scan of a folder of patients to one file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    paths = sorted(source.glob("*/*.tif"))
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive,
    ):
        for path, data in zip(paths, pool.map(encode, paths), strict=True):
            archive.writestr(str(path.relative_to(source)), data)


def unpack(source: Path, target: Path):
    """Write the scans back as TIFF files, not compressed."""

    def write(name: str, data: bytes):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        options = [cv2.IMWRITE_TIFF_COMPRESSION, 1]
        if not cv2.imwrite(str(path), decode(data), options):
            raise OSError(f"{path} could not be written")

    with zipfile.ZipFile(source) as archive, concurrent.futures.ThreadPoolExecutor() as pool:
        written = [pool.submit(write, name, archive.read(name)) for name in archive.namelist()]
        for one in written:
            one.result()
    print(f"{len(written)} files in {target}")


if __name__ == "__main__":
    {"pack": pack, "unpack": unpack}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
