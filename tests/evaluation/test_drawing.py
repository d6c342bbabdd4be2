"""Which patients an evaluation shows."""

import struct
from types import SimpleNamespace

import numpy as np

from jaxseg.evaluation.drawing import draw_patient, pick_patients
from jaxseg.scoring.patient_score import score_patient


def _scores(dice):
    """Return [patients][regions] of what is looked at, by region."""
    return [
        [
            SimpleNamespace(patient=f"p{i}", region=name, dice=values[i])
            for name, values in dice.items()
        ]
        for i in range(len(next(iter(dice.values()))))
    ]


def test_worst_patients_by_region_are_shown_once():
    scores = _scores({"WT": (1.0, 0.8, 0.7, 0.5), "TC": (1.0, 0.8, 0.7, 0.5), "ET": (1, 1, 0, 1)})
    assert pick_patients(scores) == {
        "patient_worst": "p3",
        "patient_median": "p1",
        "patient_best": "p0",
        "patient_worst_ET": "p2",
    }


def _png_size(png):
    return struct.unpack(">II", png[16:24])


def test_regions_of_a_volume_are_drawn_in_three_planes():
    mask = np.zeros((6, 12, 12, 2), bool)
    mask[2:5, 3:9, 3:9, 0] = mask[3:5, 4:8, 4:8, 1] = True
    image = np.random.default_rng(0).random((6, 12, 12)).astype(np.float32)
    names, sizes = ("WT", "TC"), {}
    for spacing in ((2.0, 1.0, 1.0), ()):
        scores = [
            score_patient("p", mask[..., k], mask[..., k], spacing, name)
            for k, name in enumerate(names)
        ]
        sizes[spacing] = _png_size(draw_patient(scores, image, mask, mask, names, spacing))
    assert sizes[2.0, 1.0, 1.0] == (1100, 1155)
    assert sizes[()][1] != 1155  # slices of the first region
