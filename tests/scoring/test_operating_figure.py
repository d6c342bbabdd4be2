"""The figure of the operating point: the points it marks, the errors it names."""

import copy

import pytest

from jaxseg.scoring import operating_figure, scoretext

TUNED = {
    "point": {"threshold": 0.35, "min_lesion": 100.0, "unit": "mm3", "temperature": 1.5},
    "patients": ["a", "b", "c"],
    "untuned_threshold": 0.5,
    "validation_dice": {"untuned": 0.7, "tuned": 0.8},
    "threshold_curve": {"threshold": [0.2, 0.35, 0.5], "dice": [0.6, 0.75, 0.7]},
    "min_lesion_curve": {"min_lesion": [0, 100, 200], "dice": [0.75, 0.8, 0.5]},
    "calibration": {
        name: {
            "temperature": temperature,
            "expected_calibration_error": error,
            "reliability": {"probability": [0.1, 0.9], "tumour": [0.2, share], "voxels": [9, 9]},
        }
        for name, temperature, error, share in (("before", 1, 0.25, 0.6), ("after", 1.5, 0.05, 0.8))
    },
}


@pytest.fixture
def drawn(monkeypatch):
    """Draw and return the three panels."""

    def draw(tuned):
        kept = []
        monkeypatch.setattr(operating_figure, "png", kept.append)
        operating_figure.draw(tuned)
        return kept[0].axes

    return draw


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_chosen_and_simplest_are_marked_where_they_lie(drawn):
    thresholds, lesions, reliability = drawn(TUNED)
    assert labels(thresholds) == ["simplest: 0.700", "chosen: 0.750"]
    assert [line.get_xdata().tolist() for line in thresholds.lines[1:]] == [[0.5], [0.35]]
    assert labels(lesions) == ["simplest: 0.750", "chosen: 0.800"]
    assert [line.get_xdata().tolist() for line in lesions.lines[1:]] == [[0], [1]]
    assert [t.get_text() for t in lesions.get_xticklabels()] == ["none", "100", "200"]
    assert lesions.get_ylim() == pytest.approx((0.69, 0.81))  # 0.5 lies far below
    assert "mm³" in lesions.get_xlabel()
    assert labels(reliability) == ["before: T = 1, ECE 0.250", "after: T = 1.5, ECE 0.050"]
    assert reliability.lines[2].get_ydata().tolist() == [0.2, 0.8]


def test_where_nothing_is_gained_one_point_is_marked_and_a_flat_curve_is_flat(drawn):
    tuned = copy.deepcopy(TUNED)
    tuned["point"] |= {"threshold": 0.5, "min_lesion": 0.0, "unit": "voxels"}
    tuned["threshold_curve"]["dice"] = [0.7, 0.7001, 0.7]
    for name in ("before", "after"):
        tuned["calibration"][name] |= {"expected_calibration_error": None}
        tuned["calibration"][name]["reliability"] = {"probability": [], "tumour": [], "voxels": []}
    thresholds, lesions, reliability = drawn(tuned)
    assert labels(thresholds) == ["chosen: 0.700"] and labels(lesions) == ["chosen: 0.750"]
    low, high = thresholds.get_ylim()
    assert high - low == pytest.approx(0.024)
    assert labels(reliability) == ["before: T = 1", "after: T = 1.5"]


def test_the_same_bytes_for_the_same_data(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        path.write_bytes(operating_figure.draw(TUNED))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_in_words():
    found = scoretext.operating_label({"operating_point": TUNED["point"] | {"tuned": True}})
    assert found == (
        "Operating point: probability >= 0.35, parts under 100 mm^3 dropped, temperature 1.5, "
        "chosen on validation."
    )
    untuned = {"threshold": 0.4, "min_lesion": 0.0, "unit": "voxels", "temperature": 1.0}
    found = scoretext.operating_label({"operating_point": untuned | {"tuned": False}})
    assert found == "Operating point: probability >= 0.4, of the config."
    assert scoretext.operating_label({}) == ""
    assert scoretext.tuning_result(TUNED, 3, 3) == (
        "Operating point chosen on 3 validation patients: their Dice 0.800 (untuned 0.700), "
        "expected calibration error 0.050 (uncalibrated 0.250)."
    )
