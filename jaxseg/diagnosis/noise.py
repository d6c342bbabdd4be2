"""Samples of noise in the form of a data set's: to measure with, when no copy is prepared yet."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.patches import Batch, draw_patch, read_padded, source_shape
from jaxseg.diagnosis.facts import PatientFacts
from jaxseg.diagnosis.volume_facts import VolumeFacts
from jaxseg.imaging.augment import augment_slice


def slices(config: Config, facts: Sequence[PatientFacts]) -> Callable[[], Batch]:
    """Return what makes an augmented training slice of one of a middling patient's size.

    Args:
        config: uses input and augment.
        facts: of all patients.
    """
    like, rng = facts[len(facts) // 2], np.random.default_rng(0)
    record, given = random_record(like), config.input
    return functools.partial(
        augment_slice, record, rng, given.image_size, given.crop_to_head, config.augment
    )


def random_record(facts: PatientFacts) -> dict[str, np.ndarray]:
    """Return noise in the form of a patient's slices; see `datasets.Prepared.source`."""
    rng, shape = np.random.default_rng(0), (*facts.size, facts.num_channels)
    return {
        "image": rng.integers(np.iinfo(facts.dtype).max, size=shape, dtype=facts.dtype),
        "mask": rng.integers(2, size=(*facts.size, 1), dtype=np.uint8),
        "stats": facts.stats,
        "head_box": facts.head_box,
    }


def patches(config: Config, facts: Sequence[VolumeFacts]) -> Callable[[], Batch]:
    """Return what reads a raw training patch from the middle of a middling patient.

    Args:
        config: uses input and augment.
        facts: of all patients.
    """
    like, rng = facts[len(facts) // 2], np.random.default_rng(0)
    patient, source = copy_of(like), _noise(like)
    shape = source_shape([copy_of(f) for f in facts], config)
    centre = (np.array(patient.shape) - 1) / 2

    def read() -> Batch:
        box, numbers = draw_patch(patient, centre, shape, rng, config, len(like.stored))
        return read_padded(source, box, shape) | numbers

    return read


def copy_of(facts: VolumeFacts) -> Patient:
    """Return a patient as it will be in the prepared copy: cropped to the head."""
    return dataclasses.replace(facts.patient, shape=facts.head_shape)


class _Noise(NamedTuple):
    """A patient of a prepared copy, see `datasets.Prepared.source`."""

    image: np.ndarray
    mask: np.ndarray
    stats: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        return self.image.dtype

    def box(self, _: Patient, low: Sequence[int], high: Sequence[int]) -> Batch:
        where = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        return {"image": self.image[where], "mask": self.mask[where], "stats": self.stats}


def _noise(facts: VolumeFacts) -> _Noise:
    rng, shape = np.random.default_rng(0), facts.head_shape
    low, high = facts.stored.T.astype(np.float32)
    image = low + (high - low) * rng.random((*shape, len(low)), np.float32)
    mask = rng.integers(2, size=(*shape, len(facts.region_ml)), dtype=np.uint8)
    return _Noise(image.astype(facts.dtype), mask, facts.stats)
