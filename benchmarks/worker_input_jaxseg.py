"""Worker: jaxseg's training batches, made by its own loader; flip and affine movement only."""

import time
from pathlib import Path
from typing import Any

import cv2
from absl import flags

from benchmarks import workload
from benchmarks.protocol import Actions, serve, session_memory_bytes
from jaxseg.config import Augment, Config, Dataset, Input, Split, Train
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import training_batches
from jaxseg.machine.start import start_computing
from jaxseg.runs.workdir import versions

SLICES_PER_PATIENT = 32


def make_config(settings: dict[str, Any], folder: Path) -> Config:
    """Return settings with every change off but flip, rotation, scaling and shift."""
    moves = {"rotation_probability": 1.0, "scale_probability": 1.0, "translation_probability": 1.0}
    off = ("elastic", "gamma", "brightness", "contrast", "noise", "blur", "low_resolution")
    off = {f"{name}_probability": 0.0 for name in (*off, "bias_field")}
    size, loaders = settings["size"], settings["workers"]
    processes = loaders if settings["processes"] else 0
    threads = 0 if processes else loaders
    return Config(
        dataset=Dataset("image_folder", str(folder / "scans"), str(folder / "prepared")),
        split=Split(train=("p0",), validation=("p1",), test=("p2",)),
        input=Input(
            image_size=(size, size),
            tumour_fraction=0.0,
            num_workers=processes,
            num_threads=threads,
        ),
        augment=Augment(rotation_degrees=workload.ROTATION_DEGREES, **moves, **off),
        train=Train(batch_size=settings["batch"]),
    )


def write_scans(folder: Path, count: int, size: int):
    """Write the common slices as PNG files, some to a patient."""
    for i, (image, mask) in enumerate(zip(*workload.make_slices(count, size), strict=True)):
        patient = folder / f"p{i // SLICES_PER_PATIENT}"
        patient.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(patient / f"{i:04d}.png"), image)
        cv2.imwrite(str(patient / f"{i:04d}_mask.png"), 255 * mask)


def make(settings: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Prepare the scans; see `protocol.serve`."""
    start_computing()
    folder = Path(settings["folder"])
    write_scans(folder / "scans", workload.SLICES, settings["size"])
    config = make_config(settings, folder)
    prepared = prepare(config.dataset)

    def read() -> dict[str, Any]:
        return consume(prepared, config, settings["steps"])

    return {"versions": versions()}, {"input": read}


def consume(prepared: Prepared, config: Config, count: int) -> dict[str, Any]:
    """Start a loader, take so many batches after the first, and end it."""
    start = time.perf_counter()
    batches = training_batches(prepared, prepared.patients, config, 0)
    next(batches)
    first = time.perf_counter()
    for _ in range(count):
        batch = next(batches)
    seconds = time.perf_counter() - first
    memory = session_memory_bytes()
    batches.close()
    assert batch["image"].shape[0] == config.train.batch_size
    return {"seconds": seconds, "first_batch_seconds": first - start, "loader_bytes": memory}


if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()  # grain's loader processes ask for parsed flags
    serve(make)
