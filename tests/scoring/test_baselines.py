"""The best threshold equals a search over all thresholds."""

import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.scoring.baselines import (
    LOWEST,
    NUM_BINS,
    STEPS_PER_UNIT,
    apply,
    choose,
    dice_per_threshold,
    look_up,
)
from jaxseg.scoring.patient_score import score_patient

THRESHOLDS = LOWEST + np.arange(NUM_BINS) / STEPS_PER_UNIT


def best_threshold(patients):
    return choose(dice_per_threshold(*pair) for pair in patients)


def _patients(num_patients=3, seed=0):
    """Return patients with a tumour that channel 1 shows and channel 0 hardly does."""
    rng = np.random.default_rng(seed)
    for index in range(num_patients):
        truth = np.zeros((4, 12, 12), bool)
        truth[1:3, 3 : 6 + index, 4:9] = True
        volume = rng.normal(size=(4, 12, 12, 2)).astype(np.float32)
        volume[..., 0] += 0.3 * truth
        volume[..., 1] += 2.0 * truth
        yield volume, truth


def _mean_dice(channel, threshold):
    predictions = [(volume[..., channel] >= threshold, truth) for volume, truth in _patients()]
    return np.mean([score_patient("p", p, t).dice for p, t in predictions])


def test_equals_brute_force_over_all_thresholds():
    found = best_threshold(_patients())
    dice = np.array([[_mean_dice(c, t) for t in THRESHOLDS] for c in range(2)])
    channel, index = np.unravel_index(dice.argmax(), dice.shape)
    assert (found.channel, found.threshold) == (channel, THRESHOLDS[index])
    assert channel == 1
    assert found.train_dice == pytest.approx(dice.max(), abs=1e-12)


def test_apply_scores_what_the_search_promised():
    found = best_threshold(_patients())
    dice = [score_patient("p", apply(found, v), t).dice for v, t in _patients()]
    assert np.mean(dice) == pytest.approx(found.train_dice, abs=1e-12)
    assert [look_up(found, dice_per_threshold(*p)) for p in _patients()] == pytest.approx(dice)


def test_a_value_on_the_threshold_is_tumour_and_one_just_below_is_not():
    threshold = np.float32(1.0625)
    truth = np.zeros((1, 1, 3), bool)
    truth[0, 0, 2] = True
    below = np.nextafter(threshold, np.float32(0))
    volume = np.array([-1.0, below, threshold], np.float32).reshape(1, 1, 3, 1)
    found = best_threshold([(volume, truth)])
    assert found == (0, 1.0625, 1.0)
    np.testing.assert_array_equal(apply(found, volume), truth)


def test_values_beyond_the_thresholds_are_counted_at_the_ends():
    truth = np.array([False, True, True]).reshape(1, 1, 3)
    volume = np.array([-1e30, 1e30, 50.0], np.float32).reshape(1, 1, 3, 1)
    found = best_threshold([(volume, truth)])
    assert found == (0, float(LOWEST), 1.0)  # a tie of all thresholds goes to the lowest
    np.testing.assert_array_equal(apply(found, volume), truth)


def test_the_mean_is_over_patients_not_over_voxels():
    # A large patient is best cut at 1, three small ones at 3.
    large = np.repeat(np.float32([0, 1]), 500).reshape(1, 1, 1000, 1)
    small = np.float32([0, 2, 2, 2, 3]).reshape(1, 1, 5, 1)
    patients = [(large, large[..., 0] > 0)] + 3 * [(small, small[..., 0] > 2)]
    found = best_threshold(patients)
    assert 2 < found.threshold <= 3
    assert found.train_dice == pytest.approx(3 / 4)


def test_no_patients_is_an_error():
    with pytest.raises(UserError, match="no training patients"):
        best_threshold([])
