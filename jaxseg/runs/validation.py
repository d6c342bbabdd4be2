"""The validation value of the training loop: mean Dice over patients on the training grid.

It steers the learning rate, early stop and the choice of the best weights. Scores to report
come from `evaluate.py`, on the native grid.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.patches import Box, read_padded
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import evaluation_batches
from jaxseg.imaging.geometry import prepare_slice
from jaxseg.imaging.intensity import normalise
from jaxseg.machine.sharding import replicated, split_images, to_global
from jaxseg.models.apply import Weights, jit_predict
from jaxseg.scoring import metrics
from jaxseg.training.steps import empty_sums, jit_validation_step

NUM_PICTURES = 4


class Validation:
    """The compiled functions and the patients of the validation split."""

    def __init__(self, config: Config, prepared: Prepared, patients: Sequence[Patient], mesh: Mesh):
        self.config, self.prepared, self.patients, self.mesh = config, prepared, patients, mesh
        self._step = jit_validation_step(config, mesh)
        whole = replicated(mesh) if jax.process_count() > 1 else None  # that each can read it
        self._predict = jit_predict(config, split_images(mesh), whole=whole)

    def scores(self, weights: Weights) -> dict[str, float]:
        """Return `validation_dice`, a mean over patients and regions, and `validation_loss`."""
        empty = empty_sums(len(self.patients), self.config.model.num_classes)
        sums = jax.device_put(empty, replicated(self.mesh))  # as later sums lie: one compilation
        process = jax.process_index(), jax.process_count()
        for batch in evaluation_batches(self.prepared, self.patients, self.config, *process):
            sums = self._step(weights, to_global(batch, self.mesh), sums)
        sums = jax.device_get(sums)
        counts = metrics.Counts(*(c.astype(np.int64) for c in sums.counts))
        return {
            "validation_dice": float(np.mean(metrics.dice(counts))),
            "validation_loss": float(sums.loss / max(sums.slices, 1)),
        }

    def pictures(self, weights: Weights) -> list[np.ndarray]:
        """Return the most affected slice of the first patients, [h, w, 3] uint8 each.

        Truth of the first region outlined in green, prediction in orange, over the FLAIR channel.
        Of volumes it is the middle slice of a patch. All processes must call it, and all get the
        pictures.
        """
        shown = self.patients[:NUM_PICTURES]
        examples = [example(self.prepared, patient, self.config) for patient in shown]
        probability = self._probability(weights, np.stack([e["image"] for e in examples]))
        channel = self.config.dataset.shown_channel(examples[0]["image"].shape[-1])
        predicted = probability[..., 0] >= self.config.evaluation.threshold
        return [
            overlay(*map(_middle, (e["image"][..., channel], e["mask"][..., 0] > 0, p)))
            for e, p in zip(examples, predicted, strict=False)
        ]

    def _probability(self, weights: Weights, images: np.ndarray) -> np.ndarray:
        """Return [n, *S, K] of [n, *S, C], both on every process, in batches as in `scores`."""
        size, found = self.config.evaluation.batch_size, []
        uncalibrated = np.ones(self.config.model.num_classes, np.float32)
        for start in range(0, len(images), size):
            batch = np.zeros((size, *images.shape[1:]), images.dtype)
            part = images[start : start + size]
            batch[: len(part)] = part
            placed = jax.make_array_from_callback(
                batch.shape, split_images(self.mesh), batch.__getitem__
            )
            probability = self._predict(weights, placed, uncalibrated)
            found.append(jax.device_get(probability)[: len(part)])
        return np.concatenate(found)


def example(prepared: Prepared, patient: Patient, config: Config) -> dict[str, np.ndarray]:
    """Return `image` and `mask` of the slice with most tumour, or of a patch about it."""
    source, size = prepared.source(), config.input.image_size
    slice_index = int(np.argmax(patient.tumour_pixels))
    if len(size) == 2:
        (record,) = source.run(patient, slice_index, 1)
        return prepare_slice(record, size, config.input.crop_to_head)
    inside = [v for v in source.foreground(patient)[0] if v[0] == slice_index]
    centre = np.mean(inside, axis=0) if inside else np.array(patient.shape) / 2
    low = np.rint(centre).astype(int) - np.array(size) // 2
    patch = read_padded(source, Box(patient, low, low + size), size)
    return {"image": normalise(patch["image"], patch["stats"]), "mask": patch["mask"]}


def _middle(array: np.ndarray) -> np.ndarray:
    """Return the middle slice of [d, h, w]; [h, w] as it is."""
    return array[len(array) // 2] if array.ndim == 3 else array


def overlay(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Draw outlines of truth (green) and prediction (orange) over a grey image.

    Args:
        image: [h, w] float32, normalised.
        truth, prediction: [h, w] bool.

    Returns:
        [h, w, 3] uint8.
    """
    grey = np.clip((image + 2) / 6, 0, 1) * 255  # -2 to 4 standard deviations
    picture = np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)
    for mask, colour in ((truth, (0, 200, 100)), (prediction, (255, 140, 0))):
        inner = mask.copy()
        inner[1:] &= mask[:-1]
        inner[:-1] &= mask[1:]
        inner[:, 1:] &= mask[:, :-1]
        inner[:, :-1] &= mask[:, 1:]
        picture[mask & ~inner] = colour
    return picture
