"""Predict whole patients on the pixel grid of their input files."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import evaluation_batches, record_indices
from jaxseg.imaging.geometry import prepare_slice, record_matrix, to_native_grid
from jaxseg.imaging.intensity import head_box, volume_statistics
from jaxseg.machine.sharding import make_mesh, replicated, split_batch, to_global
from jaxseg.models.apply import Weights, jit_predict
from jaxseg.prediction import operating
from jaxseg.runs import checkpoint, workdir


class Model(NamedTuple):
    """All that a prediction needs; each process predicts on its own devices."""

    predict: Callable  # from `apply.jit_predict`
    weights: Weights  # on the devices of the mesh
    temperature: float  # of the operating point
    config: Config  # evaluation.batch_size is this process's part
    mesh: Mesh


class Case(NamedTuple):
    """One patient, predicted: all on the native grid."""

    patient: Patient
    image: np.ndarray  # [D, H, W, C] as in the input files
    stats: np.ndarray  # [C, 4] float32, see intensity.py
    truth: np.ndarray  # [D, H, W, K] bool
    probability: np.ndarray  # [D, H, W, K] float32 in 0..1, calibrated


def make_model(
    config: Config,
    weights: Weights,
    temperature: float = 1.0,
    flip: bool = False,
    mesh: Mesh | None = None,
) -> Model:
    """Return the model with these weights.

    Args:
        config: of the run.
        weights: of the run, on the host.
        temperature: logits are divided by it.
        flip: average with the prediction of the mirrored image.
        mesh: devices; None: all of this process.
    """
    mesh = make_mesh(devices=jax.local_devices()) if mesh is None else mesh
    per_device = -(-config.evaluation.batch_size // jax.device_count())
    section = dataclasses.replace(config.evaluation, batch_size=per_device * mesh.size)
    config = dataclasses.replace(config, evaluation=section)
    weights = jax.device_put(weights, replicated(mesh))
    predict = jit_predict(config, split_batch(mesh), flip)
    return Model(predict, weights, temperature, config, mesh)


def load_model(run: Path, flip: bool = False, mesh: Mesh | None = None) -> Model:
    """Return the best weights of a run with its temperature; arguments as in `make_model`.

    Raises:
        UserError: no run there, or no checkpoint that can be read.
    """
    config = workdir.load_config(run)
    _, weights = checkpoint.load_best(run, config, workdir.num_channels(run))
    return make_model(config, weights, operating.read(run, config).temperature, flip, mesh)


def predict_batch(model: Model, image: np.ndarray) -> jax.Array:
    """Return probabilities [b, h, w, K] of a batch [b, h, w, C] on the training grid."""
    temperature = np.float32(model.temperature)
    return model.predict(model.weights, to_global(image, model.mesh), temperature)


def predict_part(model: Model, images: Sequence[np.ndarray]) -> jax.Array:
    """Predict at most a batch of images, filled up to the one compiled shape.

    Args:
        model: from `make_model`.
        images: [h, w, C] each, on the training grid; at least one.

    Returns:
        Probabilities [b, h, w, K], b = the batch size; the first belong to the images.
    """
    missing = model.config.evaluation.batch_size - len(images)
    return predict_batch(model, np.pad(np.stack(images), ((0, missing), (0, 0), (0, 0), (0, 0))))


def predict_volume(model: Model, records: Sequence[dict[str, Any]]) -> np.ndarray:
    """Predict the slices of one volume, in padded batches of one compiled shape.

    Args:
        model: from `load_model`.
        records: at least one, as `geometry.prepare_slice` takes them; slices of one size.

    Returns:
        [D, H, W, K] float32 in 0..1, calibrated, on the native grid.
    """
    size, crop = model.config.input.image_size, model.config.input.crop_to_head
    batch_size, predicted = model.config.evaluation.batch_size, []
    for start in range(0, len(records), batch_size):
        part = records[start : start + batch_size]
        images = [prepare_slice(r, size, crop)["image"] for r in part]
        predicted.append(predict_part(model, images))  # returns at once
    return _native(records, np.concatenate(jax.device_get(predicted)), model.config)


def make_records(image: np.ndarray) -> list[dict[str, Any]]:
    """Return the records of a new scan, as those of a prepared copy, with empty masks.

    Args:
        image: [D, H, W, C] uint8, uint16 or float, finite: all slices of the patient.
    """
    stats, box = volume_statistics(image), head_box(image)
    mask = np.zeros((*image.shape[1:3], 1), np.uint8)
    return [{"image": x, "mask": mask, "stats": stats, "head_box": box} for x in image]


def read_patient(prepared: Prepared, patient: Patient) -> list[dict]:
    """Return the prepared records of all slices of a patient, in order."""
    source = prepared.source()
    return [source[int(i)] for i in record_indices([patient])]


def predict_patients(
    model: Model, prepared: Prepared, patients: Sequence[Patient]
) -> Iterator[Case]:
    """Yield each patient with its predicted probabilities; holds one patient in memory.

    Slices are loaded by threads, batches go on from one patient to the next, and while a patient
    is worked on the devices predict the next batch.

    Args:
        model: from `make_model`.
        prepared: the data set.
        patients: whom to predict, in this order; none: nothing is yielded.
    """
    if not patients:  # more processes than patients
        return
    waiting: list[np.ndarray] = []  # predicted slices [h, w, K] of patients not yet complete
    remaining = iter(patients)
    patient = next(remaining, None)
    batches = evaluation_batches(prepared, patients, model.config)
    for real, probability in _one_ahead(
        (b["weight"] > 0, predict_batch(model, b["image"])) for b in batches
    ):
        waiting.extend(jax.device_get(probability)[real])
        while patient is not None and len(waiting) >= patient.num_slices:
            records = read_patient(prepared, patient)
            yield Case(
                patient,
                np.stack([r["image"] for r in records]),
                records[0]["stats"],
                np.stack([r["mask"] for r in records]) > 0,
                _native(records, waiting, model.config),
            )
            waiting = waiting[patient.num_slices :]
            patient = next(remaining, None)


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items, each after the next one has been asked for."""
    last = next(items)
    for item in items:
        yield last
        last = item
    yield last


def _native(
    records: Sequence[dict[str, Any]], predicted: Sequence[np.ndarray], config: Config
) -> np.ndarray:
    """Bring the first predicted slices, one per record, to the native grid."""
    size, crop = config.input.image_size, config.input.crop_to_head
    return np.stack(
        [
            to_native_grid(p, record_matrix(r, size, crop), r["image"].shape[:2])
            for p, r in zip(predicted, records, strict=False)
        ]
    )
