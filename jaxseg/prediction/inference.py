"""Predict whole patients on the pixel grid of their input files."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import evaluation_batches
from jaxseg.imaging.geometry import prepare_slice, record_matrix, to_native_grid
from jaxseg.imaging.volumes import slice_records
from jaxseg.machine.sharding import make_mesh, replicated, split_batch, to_global
from jaxseg.models.apply import Weights, jit_logits, jit_predict
from jaxseg.scans.volume import Volume


class Predictor(NamedTuple):
    """All that a prediction needs; each process predicts on its own devices."""

    predict: Callable  # from `apply.jit_predict`
    logits: Callable  # from `apply.jit_logits`
    weights: Weights  # on the devices of the mesh
    temperatures: tuple[float, ...]  # of the operating points, one for each region
    config: Config
    mesh: Mesh
    batch_size: int  # slices that this process's devices take at once


class Case(NamedTuple):
    """One patient, predicted: all on the native grid."""

    patient: Patient
    volume: Volume  # as in the input files, with its truth
    probability: np.ndarray  # [D, H, W, K] float32 in 0..1, calibrated

    @property
    def truth(self) -> np.ndarray:
        """[D, H, W, K] bool."""
        return self.volume.mask > 0


def make_predictor(
    config: Config,
    weights: Weights,
    temperatures: Sequence[float] = (1.0,),
    flip: bool = False,
    mesh: Mesh | None = None,
) -> Predictor:
    """Return what predicts with these weights.

    Args:
        config: of the run.
        weights: of the run, on the host.
        temperatures: logits are divided by them; one for each region, or one for all.
        flip: average with the prediction of the mirrored image.
        mesh: devices; None: all of this process.
    """
    mesh = make_mesh(devices=jax.local_devices()) if mesh is None else mesh
    per_device = -(-config.evaluation.batch_size // jax.device_count())
    weights = jax.device_put(weights, replicated(mesh))
    where, batch_size = split_batch(mesh), per_device * mesh.size
    functions = jit_predict(config, where, flip), jit_logits(config, where)
    return Predictor(*functions, weights, tuple(temperatures), config, mesh, batch_size)


def predict_batch(model: Predictor, image: np.ndarray) -> jax.Array:
    """Return probabilities [b, h, w, K] of a batch [b, h, w, C] on the training grid."""
    temperatures = np.array(model.temperatures, np.float32)
    return model.predict(model.weights, to_global(image, model.mesh), temperatures)


def batch_logits(model: Predictor, image: np.ndarray) -> jax.Array:
    """Return logits [b, h, w, K] of a batch [b, h, w, C] on the training grid."""
    return model.logits(model.weights, to_global(image, model.mesh))


def predict_part(model: Predictor, images: Sequence[np.ndarray]) -> jax.Array:
    """Predict at most a batch of images, filled up to the one compiled shape.

    Args:
        model: from `make_predictor`.
        images: [h, w, C] each, on the training grid; at least one.

    Returns:
        Probabilities [b, h, w, K], b = the batch size; the first belong to the images.
    """
    missing = model.batch_size - len(images)
    return predict_batch(model, np.pad(np.stack(images), ((0, missing), (0, 0), (0, 0), (0, 0))))


def predict_volume(model: Predictor, volume: Volume) -> np.ndarray:
    """Predict the slices of one volume, in padded batches of one compiled shape.

    Args:
        model: from `make_predictor`.
        volume: at least one slice, with the channels trained on.

    Returns:
        [D, H, W, K] float32 in 0..1, calibrated, on the native grid.
    """
    size, crop = model.config.input.image_size, model.config.input.crop_to_head
    records = slice_records(volume)
    parts = (
        predict_part(model, [prepare_slice(r, size, crop)["image"] for r in part])
        for part in in_batches(records, model.batch_size)
    )
    predicted = [jax.device_get(part) for part in _one_ahead(parts)]
    return _native(volume, np.concatenate(predicted), model.config)


def in_batches(items: Sequence[Any], batch_size: int) -> Iterator[Sequence[Any]]:
    """Yield the items in parts; after two seconds a terminal shows how far it is."""
    with tqdm(total=len(items), desc="this scan", leave=False, disable=None, delay=2) as progress:
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            yield part
            progress.update(len(part))


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
