"""Worker: the same batches by albumentations and PyTorch's DataLoader, scans held in memory."""

import importlib.metadata
import time
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import workload
from benchmarks.protocol import Actions, serve, session_memory_bytes


class Slices(Dataset):
    """Normalised, flipped and moved slices."""

    def __init__(self, size: int):
        self.images, self.masks = workload.make_slices(workload.SLICES, size)
        head = self.images[self.images.sum(-1) > 0]
        self.change = albumentations.Compose(
            [
                albumentations.HorizontalFlip(p=0.5),
                albumentations.Affine(
                    scale=(0.85, 1.15),
                    rotate=(-workload.ROTATION_DEGREES, workload.ROTATION_DEGREES),
                    translate_percent=(-0.05, 0.05),
                    p=1.0,
                ),
                albumentations.Normalize(head.mean(0), head.std(0), max_pixel_value=1.0),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        changed = self.change(image=self.images[index], mask=self.masks[index])
        return changed["image"], changed["mask"]


def one_thread(_: int):
    """Keep OpenCV in a loader process from starting threads that fight the other processes."""
    cv2.setNumThreads(1)


def make(settings: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Make the loader; see `protocol.serve`."""
    slices = Slices(settings["size"])
    # Without end, as a training takes them.
    endless = torch.utils.data.RandomSampler(slices, replacement=True, num_samples=10**9)
    loader = DataLoader(
        slices,
        settings["batch"],
        sampler=endless,
        num_workers=settings["workers"],
        worker_init_fn=one_thread,
    )

    def read() -> dict[str, Any]:
        start = time.perf_counter()
        batches = iter(loader)
        next(batches)
        first = time.perf_counter()
        for _ in range(settings["steps"]):
            image, _ = next(batches)
        seconds = time.perf_counter() - first
        memory = session_memory_bytes()
        del batches  # ends its processes
        assert image.shape == (settings["batch"], settings["size"], settings["size"], 3)
        return {"seconds": seconds, "first_batch_seconds": first - start, "loader_bytes": memory}

    versions = {n: importlib.metadata.version(n) for n in ("torch", "albumentations")}
    return {"versions": versions}, {"input": read}


if __name__ == "__main__":
    serve(make)
