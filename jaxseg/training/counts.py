"""Counts of voxels per patient, on the device."""

import jax
import jax.numpy as jnp

from jaxseg.scoring.metrics import Counts


def count(
    prediction: jax.Array, mask: jax.Array, weight: jax.Array, patient: jax.Array, num_patients: int
) -> Counts:
    """Count voxels per patient and class.

    Args:
        prediction: [B, ..., K] bool.
        mask: [B, ..., K] bool, the truth.
        weight: [B] bool or {0, 1}; samples with weight 0 (padding) count nothing.
        patient: [B] int32 in 0..num_patients-1, the patient of each sample.
        num_patients: rows of the result.

    Returns:
        Counts of int32 `[num_patients, K]`; 0 for patients without samples.

    Raises:
        ValueError: prediction and mask differ in shape.
    """
    if prediction.shape != mask.shape:
        raise ValueError(f"prediction {prediction.shape} and mask {mask.shape} differ in shape")
    axes = tuple(range(1, prediction.ndim - 1))

    def per_patient(voxels):
        sums = jnp.sum(voxels, axis=axes, dtype=jnp.int32) * (weight > 0).astype(jnp.int32)[:, None]
        return jax.ops.segment_sum(sums, patient, num_segments=num_patients)

    return Counts(per_patient(prediction & mask), per_patient(prediction), per_patient(mask))
