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
        weight: [B] or [B, ...] bool or {0, 1}; samples (padding) or voxels of weight 0 count
            nothing.
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

    counted = (weight > 0).reshape(weight.shape + (1,) * (mask.ndim - weight.ndim))

    def per_patient(voxels):
        sums = jnp.sum(voxels & counted, axis=axes, dtype=jnp.int32)
        return jax.ops.segment_sum(sums, patient, num_segments=num_patients)

    return Counts(per_patient(prediction & mask), per_patient(prediction), per_patient(mask))
