"""Calibration: hand-computed errors, temperatures that are known."""

import numpy as np
import pytest
from scipy.special import expit, logit

from jaxseg.scoring import calibration
from jaxseg.scoring.calibration import logit_histogram


def overconfident(factor, n=400_000):
    """Return logits `factor` times as large as those their truth was drawn with, and the truth."""
    rng = np.random.default_rng(0)
    honest = rng.normal(-3, 3, n)
    return factor * honest, rng.random(n) < expit(honest)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_the_temperature_is_the_factor_that_the_logits_were_scaled_with(factor):
    logits, truth = overconfident(factor)
    assert calibration.fit_temperature(logit_histogram(logits, truth)) == pytest.approx(
        factor, rel=0.01
    )


def test_the_likelihood_is_that_of_the_voxels_themselves():
    logits, truth = overconfident(2.0, 1000)
    for temperature in (1.0, 2.0):
        probability = expit(logits / temperature)
        expected = -np.log(np.where(truth, probability, 1 - probability)).mean()
        found = calibration.negative_log_likelihood(logit_histogram(logits, truth), temperature)
        assert found == pytest.approx(expected, rel=0.005)


def test_parts_add_up_and_infinite_logits_count():
    logits = np.array([-np.inf, -40, -1, 0, 0.3, 31.999, 32, 1e9, np.inf])
    truth = np.arange(9) % 2 > 0
    whole = logit_histogram(logits, truth)
    assert whole.sum(axis=1).tolist() == [5, 4]
    assert whole[:, 0].tolist() == [1, 1] and whole[:, -1].tolist() == [2, 2]
    parts = logit_histogram(logits[:4], truth[:4]) + logit_histogram(logits[4:], truth[4:])
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize("tumour", [False, True])
def test_one_class_alone_asks_for_no_temperature(tumour):
    histogram = logit_histogram(np.linspace(-3, 3, 9), np.full(9, tumour))
    assert calibration.fit_temperature(histogram) == 1.0


def test_separated_voxels_give_the_lowest_temperature_allowed():
    histogram = logit_histogram(np.array([-3.0, -2, 2, 3]), np.array([False, False, True, True]))
    assert calibration.fit_temperature(histogram) == pytest.approx(0.1, rel=1e-3)


def test_hand_computed_calibration_error():
    """Ten voxels of 0.9, five of them tumour; ten of 0.3, three; a thousand of 0.001, two."""
    logits = np.repeat(logit([0.9, 0.3, 0.001]), [10, 10, 1000])
    truth = np.zeros(1020, bool)
    truth[:5] = truth[10:13] = truth[20:22] = True
    histogram = logit_histogram(logits, truth)
    bins = calibration.reliability(calibration.in_doubt(histogram), 1.0)
    np.testing.assert_allclose(bins.probability, [0.3, 0.9], atol=0.002)
    np.testing.assert_allclose(bins.tumour, [0.3, 0.5])
    assert bins.voxels.tolist() == [10, 10]
    # (10 * 0.0 + 10 * 0.4) / 20; over all it would be (10 * 0.4 + 1000 * 0.001) / 1020.
    assert calibration.expected_calibration_error(bins) == pytest.approx(0.2, abs=0.002)
    everything = calibration.reliability(histogram, 1.0)
    assert calibration.expected_calibration_error(everything) == pytest.approx(0.005, abs=0.001)


def test_voxels_in_doubt_are_the_likeliest_twice_as_many_as_are_tumour():
    logits = np.array([5.0, 4, 3, 2, 2, 1, 0, -1, -2, -3])
    for tumour, expected in ([0], 2), ([8, 9], 5), ([0, 1, 2], 6), ([], 0):  # equals stay together
        truth = np.isin(np.arange(10), tumour)
        found = calibration.in_doubt(logit_histogram(logits, truth))
        np.testing.assert_array_equal(found, logit_histogram(logits[:expected], truth[:expected]))


def test_the_background_does_not_set_the_temperature():
    """Overconfident where it matters; a sea of background at -5 that could well be at -10."""
    logits, truth = overconfident(2.0)
    near = logits > -4
    histogram = logit_histogram(logits[near], truth[near])
    histogram += 1000 * logit_histogram(np.full(len(logits), -5.0), np.zeros(len(logits), bool))
    assert calibration.fit_temperature(histogram) < 1
    assert calibration.fit_temperature(calibration.in_doubt(histogram)) == pytest.approx(2, rel=0.1)


def test_without_a_voxel_in_doubt_there_is_no_error():
    histogram = calibration.in_doubt(logit_histogram(np.full(5, -9.0), np.zeros(5, bool)))
    assert calibration.fit_temperature(histogram) == 1.0
    bins = calibration.reliability(histogram, 1.0)
    assert calibration.expected_calibration_error(bins) is None
