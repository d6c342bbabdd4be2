"""Something for the viewer to show, without a training: three patients of known numbers."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np

from jaxseg.errors import TrainingFailed
from jaxseg.viewer.pictures import Gallery, PatientRow, RegionRow, make_prediction, make_scan
from jaxseg.viewer.serve import make_server

SHAPE = (6, 8, 10)  # slices, rows, columns
SPACING_MM = (3.0, 1.0, 2.0)


def volume(shape=SHAPE) -> np.ndarray:
    """Return intensities that name their voxel: 100 z + 10 y + x, and twice that as channel 2."""
    z, y, x = np.indices(shape)
    return np.stack([100 * z + 10 * y + x, 200 * z + 20 * y + 2 * x], axis=-1).astype(np.uint16)


def box(z, y, x, shape=SHAPE) -> np.ndarray:
    """Return a mask of a box given by slices."""
    mask = np.zeros(shape, bool)
    mask[z, y, x] = True
    return mask


def make_gallery(**changes) -> Gallery:
    """Return two flat scans and one with known spacing; patient 2's prediction cannot be made."""
    truth = box(slice(2, 4), slice(2, 5), slice(3, 7))
    mask = box(slice(2, 5), slice(2, 5), slice(4, 8))
    probability = np.where(mask, 0.8, 0.2).astype(np.float32)
    scans = [make_scan(volume(), truth[..., None], spacing) for spacing in ((), SPACING_MM, ())]

    def predict(n):
        if n == 2:
            raise TrainingFailed("the scan cannot be read")
        return make_prediction(mask[..., None], probability[..., None])

    rows = (
        PatientRow("p10", (RegionRow(0.6, 24, (("Dice", "0.600"), ("IoU", "0.429"))),)),
        PatientRow("p9 <b>", (RegionRow(0.3, 240, (("Dice", "0.300"), ("IoU", "0.176"))),)),
        PatientRow("p8", (RegionRow(None, 2),)),
    )
    gallery = Gallery(
        title="a run, test",
        notes=("Predictions of step 3.",),
        volume_unit="voxels",
        rows=rows,
        thresholds=(0.5,),
        channel=0,
        scan=lambda n: scans[n],
        predict=predict,
        channels=("T1",),  # of two
    )
    return gallery._replace(**changes)


@contextlib.contextmanager
def serving(gallery: Gallery, niivue: Path | None = None) -> Iterator[ThreadingHTTPServer]:
    """Serve a gallery from a thread of this process."""
    with make_server(gallery, 0, niivue) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
