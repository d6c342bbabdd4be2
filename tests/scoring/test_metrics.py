"""Overlap scores: hand-worked numbers, the empty cases, and properties of the counts."""

import functools

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from jaxseg.scoring import metrics
from jaxseg.scoring.metrics import Counts
from jaxseg.training.counts import count

SCORES = (metrics.dice, metrics.iou, metrics.sensitivity, metrics.precision)
PATIENTS = 3
IMAGES, VOLUMES = (5, 3, 2, 2), (5, 2, 2, 2, 1)
shapes = pytest.mark.parametrize("shape", [IMAGES, VOLUMES], ids=["images", "volumes"])
quick = settings(deadline=None, max_examples=40)


@functools.partial(jax.jit, static_argnums=4)
def jitted_count(*arguments):
    return count(*arguments)


def count_by_loops(prediction, mask, weight, patient):
    shape = (PATIENTS, prediction.shape[-1])
    counts = Counts(*(np.zeros(shape, np.int64) for _ in range(3)))
    for i in np.ndindex(prediction.shape):
        if weight[i[0]] > 0:
            at = patient[i[0]], i[-1]
            counts.tp[at] += prediction[i] and mask[i]
            counts.pred[at] += prediction[i]
            counts.true[at] += mask[i]
    return counts


@st.composite
def batches(draw, shape):
    """Prediction, mask, weight and patient of a batch of 5."""
    bools = hnp.arrays(bool, shape, fill=st.nothing())
    weight = hnp.arrays(np.float32, 5, elements=st.sampled_from([0.0, 1.0]), fill=st.nothing())
    patient = hnp.arrays(np.int32, 5, elements=st.integers(0, PATIENTS - 1), fill=st.nothing())
    return draw(bools), draw(bools), draw(weight), draw(patient)


@st.composite
def possible_counts(draw):
    tp, fp, fn = (draw(st.integers(0, 1000) | st.just(0)) for _ in range(3))
    return Counts(*(np.int64(n) for n in (tp, tp + fp, tp + fn)))


def assert_counts_equal(left, right):
    for name, a, b in zip(Counts._fields, left, right, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize(
    "counts, scores",  # dice, iou, sensitivity, precision
    [
        (Counts(3, 4, 8), (6 / 12, 3 / 9, 3 / 8, 3 / 4)),
        (Counts(5, 5, 5), (1, 1, 1, 1)),
        (Counts(0, 4, 8), (0, 0, 0, 0)),
        (Counts(0, 0, 0), (1, 1, 1, 1)),  # both empty
        (Counts(0, 0, 7), (0, 0, 0, 0)),  # nothing predicted
        (Counts(0, 7, 0), (0, 0, 0, 0)),  # nothing there
    ],
)
def test_scores_by_hand(counts, scores):
    for score, expected in zip(SCORES, scores, strict=True):
        for cast in (np.int32, jax.numpy.int32):
            np.testing.assert_allclose(score(Counts(*map(cast, counts))), expected, rtol=1e-6)


def test_scores_of_arrays_by_hand():
    counts = Counts(*np.array([[3, 0], [4, 0], [8, 0]], np.int32))
    np.testing.assert_allclose(metrics.dice(counts), [0.5, 1])
    np.testing.assert_allclose(jax.jit(metrics.dice)(counts), [0.5, 1])


@quick
@given(possible_counts())
def test_scores_keep_their_ranges_and_symmetries(counts):
    swapped = Counts(counts.tp, counts.true, counts.pred)
    dice, iou = metrics.dice(counts), metrics.iou(counts)
    assert all(0 <= score(counts) <= 1 for score in SCORES)
    assert dice == metrics.dice(swapped) and iou == metrics.iou(swapped)
    assert metrics.sensitivity(counts) == metrics.precision(swapped)
    np.testing.assert_allclose(iou, dice / (2 - dice))
    if counts.tp:  # Dice is the harmonic mean of sensitivity and precision
        inverse = 1 / metrics.sensitivity(counts) + 1 / metrics.precision(counts)
        np.testing.assert_allclose(dice, 2 / inverse)


def test_count_by_hand():
    """Two slices of patient 1 and a padded one of patient 0; patient 2 has none."""
    prediction = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool).reshape(3, 2, 2, 1)
    mask = np.array([[0, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]], bool).reshape(3, 2, 2, 1)
    counts = count(prediction, mask, np.float32([1, 1, 0]), np.int32([1, 1, 0]), 3)
    assert_counts_equal(counts, Counts([[0], [2], [0]], [[0], [3], [0]], [[0], [4], [0]]))
    np.testing.assert_allclose(metrics.dice(counts), [[1], [4 / 7], [1]], rtol=1e-6)


@shapes
@quick
@given(data=st.data())
def test_count_agrees_with_loops(shape, data):
    batch = data.draw(batches(shape))
    counts = jitted_count(*batch, PATIENTS)
    assert all(c.dtype == np.int32 and c.shape == (PATIENTS, shape[-1]) for c in counts)
    assert_counts_equal(counts, count_by_loops(*batch))


@shapes
@quick
@given(data=st.data())
def test_counts_of_parts_add_up(shape, data):
    """However the samples fall into two batches (weight 0 where not in it)."""
    prediction, mask, weight, patient = data.draw(batches(shape))
    part = data.draw(hnp.arrays(bool, 5, fill=st.nothing()))
    parts = [jitted_count(prediction, mask, weight * p, patient, PATIENTS) for p in (part, ~part)]
    whole = jitted_count(prediction, mask, weight, patient, PATIENTS)
    assert_counts_equal(parts[0] + parts[1], whole)


@shapes
@quick
@given(data=st.data())
def test_padding_changes_nothing(shape, data):
    """Whatever a sample of weight 0 holds, and whoever it belongs to."""
    batch = data.draw(batches(shape))
    other = data.draw(batches(shape))
    weight = batch[2]

    def refilled(values, others):
        return np.where((weight > 0).reshape((5,) + (1,) * (values.ndim - 1)), values, others)

    prediction, mask, patient = (refilled(batch[i], other[i]) for i in (0, 1, 3))
    assert_counts_equal(
        jitted_count(*batch, PATIENTS), jitted_count(prediction, mask, weight, patient, PATIENTS)
    )


@shapes
@quick
@given(data=st.data(), order=st.permutations(range(5)))
def test_order_of_samples_does_not_matter(shape, data, order):
    batch = data.draw(batches(shape))
    shuffled = [v[order] for v in batch]
    assert_counts_equal(jitted_count(*batch, PATIENTS), jitted_count(*shuffled, PATIENTS))


@pytest.mark.parametrize("shape", [(2, 4, 4, 2), (1, 4, 4, 1), (2, 4, 4)])
def test_shape_mismatch_raises_even_where_it_would_broadcast(shape):
    prediction, mask = np.zeros((2, 4, 4, 1), bool), np.zeros(shape, bool)
    with pytest.raises(ValueError, match="differ in shape"):
        count(prediction, mask, np.ones(2), np.zeros(2, np.int32), 1)
