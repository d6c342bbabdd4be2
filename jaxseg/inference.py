"""Predict whole patients on the pixel grid of their input files."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxseg.config import Config
from jaxseg.data import evaluation_batches, record_indices
from jaxseg.datasets import Patient, Prepared
from jaxseg.geometry import record_matrix, to_native_grid
from jaxseg.sharding import to_global
from jaxseg.state import Weights


class Case(NamedTuple):
    """One patient, predicted: all on the native grid."""

    patient: Patient
    image: np.ndarray  # [D, H, W, C] as in the input files
    stats: np.ndarray  # [C, 4] float32, see intensity.py
    truth: np.ndarray  # [D, H, W, K] bool
    probability: np.ndarray  # [D, H, W, K] float32 in 0..1


def read_patient(prepared: Prepared, patient: Patient) -> list[dict]:
    """Return the prepared records of all slices of a patient, in order."""
    source = prepared.source()
    return [source[int(i)] for i in record_indices([patient])]


def predict_patients(
    predict: Callable,
    weights: Weights,
    prepared: Prepared,
    patients: Sequence[Patient],
    config: Config,
    mesh: Mesh,
) -> Iterator[Case]:
    """Yield each patient with its predicted probabilities; holds one patient in memory.

    Args:
        predict: from `steps.jit_predict`.
        weights: the weights to use.
        prepared: the data set.
        patients: whom to predict, in this order; none: nothing is yielded.
        config: uses input and evaluation.batch_size.
        mesh: devices.
    """
    if not patients:  # more processes than patients
        return
    waiting: list[np.ndarray] = []  # predicted slices [h, w, K] of patients not yet complete
    remaining = iter(patients)
    patient = next(remaining, None)
    for batch in evaluation_batches(prepared, patients, config):
        probability = predict(weights, to_global(batch["image"], mesh))
        waiting.extend(jax.device_get(probability)[batch["weight"] > 0])
        while patient is not None and len(waiting) >= patient.num_slices:
            yield _native_case(prepared, patient, waiting[: patient.num_slices], config)
            waiting = waiting[patient.num_slices :]
            patient = next(remaining, None)


def _native_case(
    prepared: Prepared, patient: Patient, slices: list[np.ndarray], config: Config
) -> Case:
    records = read_patient(prepared, patient)
    size, crop = config.input.image_size, config.input.crop_to_head
    native = [
        to_native_grid(p, record_matrix(r, size, crop), r["image"].shape[:2])
        for p, r in zip(slices, records, strict=True)
    ]
    return Case(
        patient,
        np.stack([r["image"] for r in records]),
        records[0]["stats"],
        np.stack([r["mask"] for r in records]) > 0,
        np.stack(native),
    )
