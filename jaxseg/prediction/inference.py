"""Predict whole patients on the voxels of their input files."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import evaluation_batches
from jaxseg.imaging.geometry import prepare_slice, record_matrix, to_native_grid
from jaxseg.imaging.volumes import slice_records
from jaxseg.prediction.predictor import Predictor, in_batches, predict_batch, predict_part
from jaxseg.prediction.windows import predict_patches
from jaxseg.scans.volume import Volume


class Case(NamedTuple):
    """One patient, predicted: all on the native grid."""

    patient: Patient
    volume: Volume  # as in the input files, with its truth
    probability: np.ndarray  # [D, H, W, K] float32 in 0..1, calibrated

    @property
    def truth(self) -> np.ndarray:
        """[D, H, W, K] bool."""
        return self.volume.mask > 0


def predict_volume(model: Predictor, volume: Volume) -> np.ndarray:
    """Predict one volume as in training: fitted into the training grid, or in patches.

    Args:
        model: from `make_predictor`.
        volume: at least one slice, with the channels trained on.

    Returns:
        [D, H, W, K] float32 in 0..1, calibrated, on the native grid.
    """
    size, crop = model.config.input.image_size, model.config.input.crop_to_head
    if len(size) == 3:
        return predict_patches(model, volume)
    records = slice_records(volume)
    parts = (
        predict_part(model, [prepare_slice(r, size, crop)["image"] for r in part])
        for part in in_batches(records, model.batch_size)
    )
    predicted = [jax.device_get(part) for part in _one_ahead(parts)]
    return _native(volume, np.concatenate(predicted), model.config)


def predict_patients(
    model: Predictor, prepared: Prepared, patients: Sequence[Patient]
) -> Iterator[Case]:
    """Yield each patient with its predicted probabilities; holds one patient in memory.

    Slices are loaded by threads, batches go on from one patient to the next, and while a patient
    is worked on the devices predict the next batch.

    Args:
        model: from `make_predictor`.
        prepared: the data set.
        patients: whom to predict, in this order; none: nothing is yielded.
    """
    if not patients:  # more processes than patients
        return
    if len(model.config.input.image_size) == 3:
        for patient in patients:
            volume = prepared.volume(patient)
            yield Case(patient, volume, predict_patches(model, volume))
        return
    waiting: list[np.ndarray] = []  # predicted slices [h, w, K] of patients not yet complete
    remaining = iter(patients)
    patient = next(remaining, None)
    batches = evaluation_batches(prepared, patients, model.config, batch_size=model.batch_size)
    for real, probability in _one_ahead(
        (b["weight"] > 0, predict_batch(model, b["image"])) for b in batches
    ):
        waiting.extend(jax.device_get(probability)[real])
        while patient is not None and len(waiting) >= patient.num_slices:
            volume = prepared.volume(patient)
            yield Case(patient, volume, _native(volume, waiting, model.config))
            waiting = waiting[patient.num_slices :]
            patient = next(remaining, None)


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items, each after the next one has been asked for."""
    last = next(items)
    for item in items:
        yield last
        last = item
    yield last


def _native(volume: Volume, predicted: Sequence[np.ndarray], config: Config) -> np.ndarray:
    """Bring the first predicted slices, one per slice of the volume, to the native grid."""
    records = slice_records(volume)
    matrix = record_matrix(records[0], config.input.image_size, config.input.crop_to_head)
    native = volume.image.shape[1:3]
    return np.stack([to_native_grid(p, matrix, native) for p in predicted[: len(records)]])
