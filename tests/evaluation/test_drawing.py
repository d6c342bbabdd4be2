"""Which patients an evaluation shows."""

import struct
from types import SimpleNamespace

import numpy as np

from jaxseg.evaluation.drawing import _draw_patient, pick_patients
from jaxseg.prediction.inference import Case
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.scans.volume import Volume
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
    mask = np.zeros((6, 12, 12, 2), np.uint8)
    mask[2:5, 3:9, 3:9, 0] = mask[3:5, 4:8, 4:8, 1] = 1
    image = np.random.default_rng(0).random((6, 12, 12, 1)).astype(np.float32)
    dataset = SimpleNamespace(shown_channel=lambda _: 0)
    trained = SimpleNamespace(
        config=SimpleNamespace(dataset=dataset),
        points=(OperatingPoint(),) * 2,
        regions=("WT", "TC"),
    )
    sizes = {}
    for spacing in ((2.0, 1.0, 1.0), ()):
        case = Case(
            SimpleNamespace(id="p"), Volume(image, spacing, mask=mask), mask.astype(np.float32)
        )
        scores = [
            score_patient("p", case.truth[..., k], case.truth[..., k], spacing, name)
            for k, name in enumerate(trained.regions)
        ]
        sizes[spacing] = _png_size(_draw_patient(case, scores, trained))
    assert sizes[2.0, 1.0, 1.0] == (1100, 1155)
    assert sizes[()][1] != 1155  # slices of the first region
