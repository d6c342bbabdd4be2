"""Which patients an evaluation shows."""

from types import SimpleNamespace

from jaxseg.evaluation.drawing import pick_patients


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
