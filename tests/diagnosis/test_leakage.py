"""What a split by slices leaks, worked out by hand."""

import numpy as np
import pytest

from jaxseg.diagnosis import leakage


class Drawn:
    """A generator that puts these slices into test, in every draw."""

    def __init__(self, *test):
        self.test = test

    def random(self, shape):
        numbers = np.ones(shape)
        numbers[:, list(self.test)] = 0
        return numbers


def areas(*widths) -> np.ndarray:
    """Return slices of 2 x 8 pixels whose first so many columns are tumour."""
    return np.arange(8)[None, None, :] < np.array(widths)[:, None, None] * np.ones((1, 2, 1))


def test_the_mask_of_the_nearest_training_slice_is_copied():
    """Slices 1, 2 and 4 in test copy 0, 3 and 3 (of 3 and 5, as near to 4, the lower).

    Their Dice: 2*2/(2+3), 2*3/(4+3), 2*2/(3+2); together 2*(4+6+4)/(2*(2+3+3) + 2*(3+4+2)).
    """
    truth = areas(2, 3, 3, 4, 2, 8)
    found = leakage.copy_nearest(truth, (0, 1, 2, 3, 4, 5), Drawn(1, 2, 4))
    np.testing.assert_array_equal(found.test, [3] * leakage.DRAWS)
    np.testing.assert_allclose(found.slice_dice, 4 / 5 + 6 / 7 + 4 / 6)
    np.testing.assert_allclose(found.dice, 2 * (2 + 3 + 2) / (2 + 4 + 4 + 3 + 3 + 2))
    np.testing.assert_array_equal(found.beside_train, [3] * leakage.DRAWS)


def test_near_is_by_slice_number_and_beside_by_order():
    """Slice 1 (number 9) lies nearer to number 10 than to 0; slice 2 of 1, 2, 3 has no train."""
    found = leakage.copy_nearest(areas(1, 4, 4), (0, 9, 10), Drawn(1))
    np.testing.assert_array_equal(found.dice, [1] * leakage.DRAWS)
    found = leakage.copy_nearest(areas(1, 1, 1, 1, 1), range(5), Drawn(1, 2, 3))
    np.testing.assert_array_equal(found.beside_train, [2] * leakage.DRAWS)


def test_empty_masks_and_a_patient_without_training_slices():
    found = leakage.copy_nearest(areas(0, 0), (0, 1), Drawn(1))
    np.testing.assert_array_equal(found.slice_dice, [1] * leakage.DRAWS)
    found = leakage.copy_nearest(areas(2, 0), (0, 1), Drawn(0, 1))  # nothing to copy
    np.testing.assert_array_equal(found.dice, [0] * leakage.DRAWS)
    np.testing.assert_array_equal(found.slice_dice, [1] * leakage.DRAWS)
    np.testing.assert_array_equal(found.beside_train, [0] * leakage.DRAWS)


def test_summary_counts_patients_on_both_sides_and_averages():
    patients = [
        leakage.copy_nearest(areas(2, 2, 4, 4), range(4), Drawn(1, 3)),  # Dice 1, 1
        leakage.copy_nearest(areas(2, 4), range(2), Drawn(0)),  # Dice 2*2/6
        leakage.copy_nearest(areas(2, 4), range(2), Drawn()),  # none in test
        leakage.copy_nearest(areas(2), range(1), Drawn(0)),  # all in test: Dice 0
    ]
    found = leakage.mean_over_draws(patients)
    assert found == {
        "both_sides": 2,
        "beside_train": pytest.approx(3 / 4),
        "dice": pytest.approx((1 + 2 / 3 + 0) / 3),
        "slice_dice": pytest.approx((2 + 2 / 3 + 0) / 4),
    }
    assert leakage.mean_over_draws(patients[2:3])["dice"] is None
