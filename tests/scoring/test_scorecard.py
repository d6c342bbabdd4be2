"""The scorecard on volumes small enough to count by hand."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxseg.errors import UserError
from jaxseg.machine.files import write_json
from jaxseg.scoring import intervals, scorecard, scoretext
from jaxseg.scoring.baselines import ThresholdBaseline
from jaxseg.scoring.patient_score import predict_nothing, score_patient
from jaxseg.scoring.scorecard import summarise


def _row(*voxels, length=10):
    """Return one slice [1, length] with these columns set."""
    row = np.zeros((1, length), bool)
    row[0, list(voxels)] = True
    return row


def _score(patient, prediction, truth):
    return score_patient(patient, np.stack(prediction), np.stack(truth))


def _by_hand():
    """Return two patients: "a" with tp 3, predicted 5, true 4; "b" with tp 1, predicted 1, true 1.

    Patient a has slices: hit in part, empty with a false alarm, empty, missed.
    """
    a = _score(
        "a",
        [_row(1, 2, 3, 4), _row(7), _row(), _row()],
        [_row(2, 3, 4), _row(), _row(), _row(0)],
    )
    b = _score("b", [_row(5), _row()], [_row(5), _row()])
    return [a, b]


def _with_dice(values):
    """Return one patient for each Dice 2k / (10 + k): k of 10 voxels found."""
    truth = [_row(*range(10))]
    return [_score(f"p{i}", [_row(*range(k))], truth) for i, k in enumerate(values)]


def test_one_patient_by_hand():
    a, b = _by_hand()
    assert (a.overlap_voxels, a.predicted_voxels, a.truth_voxels) == (3, 5, 4)
    assert a.dice == pytest.approx(6 / 9)
    assert a.iou == pytest.approx(3 / 6)
    assert a.sensitivity == pytest.approx(3 / 4)
    assert a.precision == pytest.approx(3 / 5)
    assert a.volume_error == pytest.approx(1 / 4)
    assert (a.num_slices, a.empty_slices, a.false_positive_slices) == (4, 2, 1)
    assert a.tumour_slice_dice == pytest.approx((6 / 7, 0))
    assert (b.dice, b.iou, b.sensitivity, b.precision, b.hd95, b.volume_error) == (1, 1, 1, 1, 0, 0)


def test_hd95_uses_the_spacing():
    prediction, truth = np.zeros((2, 3, 4, 9), bool)
    prediction[0, 0, 0] = truth[2, 0, 0] = True
    assert score_patient("a", prediction, truth).hd95 == 2.0
    assert score_patient("a", prediction, truth, (5.0, 1.0, 1.0)).hd95 == 10.0


def test_empty_cases_are_decided_and_counted():
    both = _score("both", [_row()], [_row()])
    missed = _score("missed", [_row()], [_row(1)])
    false_alarm = _score("false alarm", [_row(1)], [_row()])
    assert (both.dice, both.iou, both.sensitivity, both.precision, both.hd95) == (1, 1, 1, 1, 0)
    for score in (missed, false_alarm):
        assert score[1:5] == (0, 0, 0, 0)
        assert score.hd95 == pytest.approx(np.sqrt(1 + 1 + 100))
    assert both.volume_error is None and false_alarm.volume_error is None
    assert missed.volume_error == -1
    summary = summarise([both, missed, false_alarm], 100)
    patients = summary["patients"]
    assert (patients["n"], patients["n_both_empty"], patients["n_one_empty"]) == (3, 1, 2)
    assert patients["dice"]["mean"] == pytest.approx(1 / 3)
    assert patients["n_volume_error"] == 1 and patients["volume_error"]["mean"] == -1
    warnings = " ".join(summary["warnings"])
    assert "1 of 3 patients: truth and prediction both empty" in warnings
    assert "2 of 3 patients: tumour missed" in warnings


def test_summary_by_hand():
    summary = summarise(_by_hand(), 1000)
    # Over patients: (2/3 + 1) / 2; pooled: tp 4 of predicted 6 and true 5.
    assert summary["patients"]["dice"]["mean"] == pytest.approx(5 / 6)
    assert summary["patients"]["dice"]["median"] == pytest.approx(5 / 6)
    assert summary["patients"]["volume_error"]["mean"] == pytest.approx(1 / 8)
    assert summary["pooled"] == pytest.approx(
        {"dice": 8 / 11, "iou": 4 / 7, "sensitivity": 4 / 5, "precision": 4 / 6}
    )
    # Slices with tumour: 6/7, 0, 1; empty: false alarm 0, then 1, 1.
    slices = summary["slices"]
    assert slices["tumour_only_dice"] == pytest.approx((6 / 7 + 0 + 1) / 3)
    assert slices["all_dice"] == pytest.approx((6 / 7 + 0 + 1 + 0 + 1 + 1) / 6)
    assert slices["false_positive_rate"] == pytest.approx(1 / 3)
    counts = [slices[k] for k in ("n", "n_tumour", "n_empty", "n_false_positive")]
    assert counts == [6, 3, 3, 1]


def test_signed_volume_errors_cancel_and_absolute_ones_do_not():
    truth = [_row(0, 1, 2, 3)]
    scores = [_score("low", [_row(0, 1)], truth), _score("high", [_row(0, 1, 2, 3, 4, 5)], truth)]
    patients = summarise(scores, 100)["patients"]
    assert patients["volume_error"]["mean"] == 0
    assert patients["absolute_volume_error"]["mean"] == 0.5


@settings(deadline=None, max_examples=40)
@given(st.lists(hnp.arrays(bool, (3, 2, 3)), min_size=1, max_size=4))
def test_predicting_nothing_scores_the_share_of_empty_slices(truths):
    scores = [score_patient(str(i), ~t, t) for i, t in enumerate(truths)]
    nothing = summarise(scores, 10)["baselines"]["predict_nothing"]
    empty = np.mean([not one.any() for truth in truths for one in truth])
    assert nothing["slices"]["all_dice"] == pytest.approx(empty)
    assert nothing["slices"]["false_positive_rate"] in (0, None)
    # The shortcut without volumes equals scoring an empty prediction.
    for score, truth in zip(scores, truths, strict=True):
        assert predict_nothing(score) == score_patient(score.patient, truth & False, truth)


def test_inflation_is_visible():
    truth = [_row(), _row(), _row(), _row(1)]
    nothing = summarise([_score("a", [_row()] * 4, truth)], 10)
    assert nothing["slices"]["all_dice"] == 0.75
    assert nothing["patients"]["dice"]["mean"] == 0


def test_order_of_the_patients_changes_nothing():
    scores = _with_dice([3, 9, 0, 7, 5])
    threshold = ThresholdBaseline(1, 0.5, 0.4)
    beside = _with_dice([1, 2, 3, 4, 5])
    expected = summarise(scores, 500, best_threshold=(threshold, beside))
    shuffled = summarise(scores[::-1], 500, best_threshold=(threshold, beside[2:] + beside[:2]))
    assert expected == shuffled


def test_interval_contains_the_mean_and_shrinks_with_patients():
    few, many = _with_dice([2, 5, 6, 8, 9, 10]), _with_dice([2, 5, 6, 8, 9, 10] * 16)
    few, many = (summarise(s, 2000)["patients"]["dice"] for s in (few, many))
    assert few["mean"] == pytest.approx(many["mean"])
    for dice in (few, many):
        assert dice["ci95"][0] < dice["mean"] < dice["ci95"][1]
    ratio = np.diff(few["ci95"]) / np.diff(many["ci95"])
    assert ratio == pytest.approx(4, rel=0.15)  # sixteen times the patients


def test_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).normal(0.8, 0.1, 400)
    low, high = intervals.mean_interval(values, 4000, 0)
    half_width = 1.96 * values.std() / 20
    np.testing.assert_allclose([low, high], values.mean() + [-half_width, half_width], atol=1e-3)


def test_interval_is_seeded():
    values = [0.1, 0.4, 0.9, 0.8]
    assert intervals.mean_interval(values, 200, 3) == intervals.mean_interval(values, 200, 3)
    assert intervals.mean_interval(values, 200, 3) != intervals.mean_interval(values, 200, 4)


def test_interval_in_chunks_has_all_samples():
    values = np.arange(2000) / 2000  # 2000 x 1500 draws: four chunks
    low, high = intervals.mean_interval(values, 1500, 0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(2000), rel=0.1)


def test_one_patient_has_no_interval_and_a_warning():
    summary = summarise(_with_dice([5]), 100)
    assert summary["patients"]["dice"]["ci95"] == [None, None]
    assert "one patient only" in summary["warnings"][0]
    assert "(no interval)" in scoretext.headline(summary)


def test_few_patients_are_warned_about_and_fifty_are_not():
    assert "49 patients are few" in summarise(_with_dice([5] * 49), 10)["warnings"][0]
    assert summarise(_with_dice([5] * 50), 10)["warnings"] == []


def test_bad_calls_raise():
    with pytest.raises(UserError, match="no patients to score"):
        summarise([], 10)
    a, b = _by_hand()
    with pytest.raises(ValueError, match="scored twice"):
        summarise([a, a], 10)
    with pytest.raises(ValueError, match="same patients"):
        summarise([a, b], 10, best_threshold=(ThresholdBaseline(0, 0.0, 0.0), [a]))


def test_json_is_strict_even_where_nothing_is_defined(tmp_path):
    empty = _score("only", [_row()], [_row()])  # no tumour: no volume error, no tumour slices
    summary = summarise([empty], 10)
    write_json(tmp_path / "scores.json", summary)

    def refuse(constant):
        raise AssertionError(f"{constant} in the file")

    text = (tmp_path / "scores.json").read_text()
    assert json.loads(text, parse_constant=refuse) == summary
    assert summary["slices"]["tumour_only_dice"] is None
    assert summary["patients"]["volume_error"]["mean"] is None
    with pytest.raises(ValueError):
        write_json(tmp_path / "bad.json", {"dice": float("nan")})
    scoretext.format_scorecard(summary)  # prints what is undefined as '-'


def test_csv_has_a_row_per_patient(tmp_path):
    scores = _by_hand()[::-1] + [_score("c, with comma", [_row()], [_row()])]
    (tmp_path / "patients.csv").write_text(scorecard.patients_csv(scores))
    with (tmp_path / "patients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["patient"] for r in rows] == ["a", "b", "c, with comma"]
    assert float(rows[0]["dice"]) == pytest.approx(6 / 9, abs=1e-6)
    assert float(rows[0]["tumour_slice_dice"]) == pytest.approx(3 / 7, abs=1e-6)
    assert rows[2]["volume_error"] == rows[2]["tumour_slice_dice"] == ""


def test_printed_scorecard_leads_with_the_headline_and_fits():
    beside = (ThresholdBaseline(1, 0.5, 0.4), _by_hand())
    text = scoretext.format_scorecard(summarise(_by_hand(), 1000, best_threshold=beside))
    lines = text.splitlines()
    assert lines[0].startswith(
        "Dice per patient 0.833 (95 % interval 0.667 to 1.000), median 0.833"
    )
    assert lines[0].endswith("n = 2")
    assert max(map(len, lines)) <= 80 and text.isascii()
    (all_slices,) = (line for line in lines if line.startswith("Dice, all slices"))
    words = " ".join(all_slices.split())
    assert words == "Dice, all slices 0.643 inflated: empty = 1 | 0.500 0.643"
    assert lines.index(all_slices) > lines.index(
        next(line for line in lines if line.startswith("DO NOT QUOTE ALONE"))
    )
    assert "Best threshold: channel 2 >= 0.5" in text
    named = summarise(_by_hand(), 10, best_threshold=beside)
    named["baselines"]["best_threshold"]["channel_name"] = "FLAIR"
    assert scoretext.threshold_label(named).startswith("Best threshold: channel 2 (FLAIR) >= 0.5")


def test_unit_of_hd95_is_named():
    scores = _by_hand()
    assert "HD95, pixels" in scoretext.format_scorecard(summarise(scores, 10))
    in_mm = summarise(scores, 10, in_mm=True)
    assert "HD95, mm" in scoretext.format_scorecard(in_mm)
    assert in_mm["definitions"]["hd95_unit"] == "mm"
