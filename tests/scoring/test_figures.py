"""The figures show what they are given: pixels are compared, and what is marked is checked."""

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jaxseg.scoring import contours, figures
from jaxseg.scoring.patient_score import score_patient
from jaxseg.scoring.scorecard import summarise


def _pixels(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def _num_coloured(path, colour):
    """Return the number of pixels of exactly this colour."""
    return int((_pixels(path) == np.round(255 * np.array(to_rgb(colour)))).all(-1).sum())


def _records(best_step=400, reduced_at=300):
    steps = range(50, 601, 50)
    training = [
        {
            "step": s,
            "train_loss": 100 / s,
            "train_dice": s / 700,
            "learning_rate": 1e-3 * min(1, s / 100) * (0.5 if s > reduced_at else 1),
        }
        for s in steps
    ]
    validation = [
        {"step": s, "validation_loss": 120 / s, "validation_dice": 0.8 - abs(s - best_step) / 1000}
        for s in range(100, 601, 100)
    ]
    return training + validation


def _brain(tumour_rows=(30, 45)):
    """Return image [D, H, W], a head with a bright tumour, and its truth."""
    z, y, x = np.mgrid[-4:5, -40:40, -40:40]
    head = (z / 6) ** 2 + (y / 36) ** 2 + (x / 30) ** 2 < 1
    truth = np.zeros(head.shape, bool)
    truth[2:7, tumour_rows[0] : tumour_rows[1], 35:50] = True
    noise = np.random.default_rng(0).normal(0, 4, head.shape)
    return np.clip(100 * head + 80 * truth + noise, 0, 255).astype(np.uint8), truth


def _scores(num_patients=4):
    truth = np.ones((2, 3, 10), bool)
    masks = [np.arange(10) < 1 + i % 10 for i in range(num_patients)]
    return [score_patient(f"p{i}", truth & m, truth) for i, m in enumerate(masks)]


def _draw_contours(path, prediction_shift, image=None):
    brain, truth = _brain()
    prediction = np.roll(truth, prediction_shift, axis=1)
    score = score_patient("TCGA_1", prediction, truth)
    shown = brain if image is None else image
    path.write_bytes(contours.patient_contours("TCGA_1", shown, truth, prediction, score))


def test_learning_curves_are_drawn_the_same_for_the_same_data_only(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, best in zip(paths, (400, 400, 500), strict=True):
        path.write_bytes(figures.learning_curves(_records(best_step=best)))
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    assert _pixels(paths[0]).shape == (770, 1100, 3)
    assert _num_coloured(paths[0], figures.BLUE) > 200
    assert _num_coloured(paths[0], figures.GREEN) > 200  # the line at the best evaluation


def test_losses_of_batches_and_of_slices_have_an_axis_each(tmp_path):
    records = [r | {"validation_loss": 1000.0} if "validation_loss" in r else r for r in _records()]
    (tmp_path / "a.png").write_bytes(figures.learning_curves(records))
    upper = _pixels(tmp_path / "a.png")[:300, 120:-120]  # between the labels of the axes
    blue = np.flatnonzero((upper == np.round(255 * np.array(to_rgb(figures.BLUE)))).all(-1).any(1))
    assert np.ptp(blue) > 150, "the training loss is squashed"


def test_best_evaluation_follows_the_monitored_value():
    records = _records(best_step=400)
    assert figures._best_evaluation(records, "dice") == (
        400,
        "best: validation dice 0.800, step 400",
    )
    assert figures._best_evaluation(records, "loss")[0] == 600
    assert figures._best_evaluation([{"step": 1, "train_loss": 1.0}], "dice") is None


def test_reductions_of_the_learning_rate_are_found_and_smooth_decay_is_none():
    steps, rates = figures._series(_records(reduced_at=300), "learning_rate")
    assert figures._reductions(steps, rates).tolist() == [350]
    steps = np.arange(0, 1001, 50)
    warmup_cosine = np.minimum(steps / 200, 1) * 0.5 * (1 + np.cos(np.pi * steps / 1000))
    assert figures._reductions(steps, warmup_cosine).tolist() == []
    plateau = warmup_cosine * np.where(steps > 600, 0.5, 1)
    assert figures._reductions(steps[:16], plateau[:16]).tolist() == [650]


def test_a_repeated_step_counts_once_and_what_is_not_finite_is_left_out():
    records = [
        {"step": 20, "train_loss": 5.0},
        {"step": 10, "train_loss": 7.0},
        {"step": 20, "train_loss": 4.0},
        {"step": 30, "train_loss": float("nan")},
        {"step": 40, "train_loss": None},
    ]
    steps, values = figures._series(records, "train_loss")
    assert (steps.tolist(), values.tolist()) == ([10, 20], [7.0, 4.0])


def test_curves_of_a_run_without_evaluations_or_records(tmp_path):
    (tmp_path / "none.png").write_bytes(figures.learning_curves([]))
    one = figures.learning_curves([{"step": 5, "train_loss": 1.0}])
    assert _num_coloured(tmp_path / "none.png", figures.GREEN) == 0
    assert (tmp_path / "none.png").read_bytes() != one


def test_dice_per_patient(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, count in zip(paths, (4, 4, 5), strict=True):
        scores = [s._replace(patient=f"$x_{{{s.patient}$") for s in _scores(count)]
        path.write_bytes(figures.dice_per_patient(scores, summarise(scores, 100)))
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    assert _pixels(paths[0]).shape[1] == 1100
    for colour in (figures.BLUE, figures.ORANGE, figures.GREEN):  # dots, mean, median
        assert _num_coloured(paths[0], colour) > 100


def test_mean_and_median_are_marked_where_they_are(tmp_path):
    def columns(mean, median):
        dice = {"mean": mean, "median": median, "ci95": [None, None]}
        image = figures.dice_per_patient(_scores(), {"patients": {"dice": dice}})
        (tmp_path / "a.png").write_bytes(image)
        pixels = _pixels(tmp_path / "a.png")
        colours = [np.round(255 * np.array(to_rgb(c))) for c in (figures.ORANGE, figures.GREEN)]
        return [(pixels == c).all(-1).sum(0).argmax() for c in colours]

    (mean, median), (lower_mean, same_median) = columns(0.75, 0.5), columns(0.25, 0.5)
    assert median == same_median
    assert mean - median == pytest.approx(median - lower_mean, abs=3)
    assert mean - median > 50


@pytest.mark.parametrize("num_patients", [1, 60])
def test_dice_of_one_and_of_many_patients(tmp_path, num_patients):
    scores = _scores(num_patients)
    (tmp_path / "dice.png").write_bytes(figures.dice_per_patient(scores, summarise(scores, 100)))
    shape = _pixels(tmp_path / "dice.png").shape
    assert shape == ({1: 440, 60: 660}[num_patients], 1100, 3)


def test_contours_follow_the_masks(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, shift in zip(paths, (4, 4, 8), strict=True):
        _draw_contours(path, shift)
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    assert _pixels(paths[0]).shape == (693, 1100, 3)
    for colour in (contours.TRUTH, contours.PREDICTION):
        assert _num_coloured(paths[0], colour) > 1500


def test_a_missed_tumour_has_a_truth_and_no_prediction(tmp_path):
    image, truth = _brain()
    nothing = truth & False
    score = score_patient("p", nothing, truth)
    drawn = contours.patient_contours("p", image, truth, nothing, score)
    (tmp_path / "a.png").write_bytes(drawn)
    assert _num_coloured(tmp_path / "a.png", contours.TRUTH) > 1500
    assert _num_coloured(tmp_path / "a.png", contours.PREDICTION) < 400  # the legend's line only


def test_contours_of_an_empty_patient_a_constant_image_and_an_odd_name(tmp_path):
    empty = np.zeros((1, 16, 16), bool)
    score = score_patient("$x_{1$", empty, empty)
    image = np.zeros(empty.shape, np.float32)
    drawn = contours.patient_contours("$x_{1$", image, empty, empty, score)
    (tmp_path / "a.png").write_bytes(drawn)
    assert _num_coloured(tmp_path / "a.png", contours.TRUTH) < 400


def test_slices_shown_are_spread_over_the_tumour():
    mask = np.zeros((20, 4, 4), bool)
    mask[5:13] = True  # eight slices of the same area: the middle of each quarter
    assert contours._slices_to_show(mask).tolist() == [5, 7, 9, 11]
    mask = np.zeros((20, 4, 4), bool)
    mask[3, 0, 0] = True
    assert contours._slices_to_show(mask).tolist() == [3]


def test_enlarged_part_is_a_square_around_the_tumour_within_the_image():
    mask = np.zeros((2, 50, 60), bool)
    mask[1, 40:45, 10:30] = True
    assert contours._box(mask, margin=3) == (37, 48, 7, 33)
    assert contours._square((37, 48, 7, 33), (50, 60)) == (24, 50, 7, 33)


def test_the_window_is_that_of_the_head_and_leaves_the_tumour_grey():
    image, truth = _brain()
    wide = np.pad(image, ((0, 0), (100, 100), (100, 100)))  # air
    for shown in (image, wide, 0.01 * wide - 3):
        low, high = contours.window(shown)
        tumour = shown[:, 100:-100, 100:-100][truth] if shown.shape != image.shape else shown[truth]
        assert low < high and (tumour >= high).mean() < 0.1
    assert contours.window(wide) == pytest.approx(contours.window(image), abs=2)
    assert contours.window(np.zeros((2, 4, 4)))[1] > 0


def test_every_focus_of_some_size_is_enlarged(tmp_path):
    image, truth = _brain()
    two, specks = truth.copy(), truth.copy()
    two[3:5, 20:29, 60:69] = True  # 162 voxels beside 1125
    specks[6, 60, 60] = True
    assert [f.sum() for f in contours._foci(specks)] == [truth.sum()]
    drawn = [tmp_path / f"{name}.png" for name in ("one", "two", "specks")]
    for path, mask in zip(drawn, (truth, two, specks), strict=True):
        path.write_bytes(contours.prediction_contours("p", image, mask))
    heights = [_pixels(path).shape[0] for path in drawn]
    assert heights == [693, 693 + 319, 693]


def test_names_in_signs_that_the_font_lacks_are_drawn_without_a_word(recwarn):
    brain, truth = _brain()
    scores = [s._replace(patient=f"患者{s.patient}") for s in _scores()]
    figure = figures.dice_per_patient(scores, summarise(scores, 100))
    assert contours.prediction_contours("患者 1", brain, truth) and figure
    assert not recwarn.list
