"""Lesions matched and scored, on masks small enough to count by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxseg.scoring import lesions
from jaxseg.scoring.surface import diagonal

SHAPE = (5, 6, 40)
MASKS = st.tuples(
    *[hnp.arrays(bool, (3, 5, 6), elements=st.sampled_from([True] + [False] * 4))] * 2
)


def _cubes(*starts, size=3):
    """Return a mask with cubes that begin at these columns."""
    mask = np.zeros(SHAPE, bool)
    for start in starts:
        mask[1:4, 1:4, start : start + size] = True
    return mask


def test_found_missed_and_invented():
    truth = _cubes(1, 10, 20)
    prediction = _cubes(1, 11, 30, 35)
    scores = lesions.score_lesions(prediction, truth, (1.0, 1.0, 1.0))
    assert (scores.lesions, scores.found, scores.invented) == (3, 2, 2)
    assert scores.dice == pytest.approx((1, 2 * 18 / 54, 0))
    assert scores.hd95 == pytest.approx((0, 1, diagonal(SHAPE, (1, 1, 1))))


def test_lesions_that_touch_at_a_corner_are_one():
    mask = np.zeros((3, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[1, 3, 3] = True
    assert lesions.score_lesions(mask, mask, (1.0, 1.0, 1.0)).lesions == 2


def test_one_prediction_over_two_lesions_and_two_over_one():
    two, bridge = _cubes(1, 6), _cubes(1, size=8)
    scores = lesions.score_lesions(bridge, two, (1.0, 1.0, 1.0))
    assert (scores.lesions, scores.found, scores.invented) == (2, 2, 0)
    assert scores.dice == pytest.approx([2 * 27 / (27 + 72)] * 2)
    scores = lesions.score_lesions(two, bridge, (1.0, 1.0, 1.0))
    assert (scores.lesions, scores.found, scores.invented) == (1, 1, 0)
    assert scores.dice == pytest.approx([2 * 54 / (54 + 72)])
    # One to one, each has one partner at most.
    matched = lesions.match_one_to_one(bridge, two)
    assert (matched.found, matched.missed, matched.invented) == (1, 1, 0)
    matched = lesions.match_one_to_one(two, bridge)
    assert (matched.found, matched.missed, matched.invented) == (1, 0, 1)


def test_one_to_one_takes_the_best_sum_not_the_best_pair():
    # Part b overlaps both lesions, the first one more; a overlaps the first only. Greedy would
    # pair b with the first lesion and leave the second without.
    truth, prediction = np.zeros((2, 1, 1, 20), bool)
    truth[..., 0:8] = truth[..., 9:13] = True
    prediction[..., 0:2] = prediction[..., 3:11] = True
    matched = lesions.match_one_to_one(prediction, truth)
    assert matched.partners == ((1,), (2,))


def test_dilations_join_lesions_and_reach_the_prediction():
    truth = _cubes(1, 10)  # six voxels between them
    prediction = np.zeros(SHAPE, bool)
    prediction[2, 2, 7] = True
    for dilations, number in ((0, 2), (1, 2), (2, 2), (3, 1)):  # 3 + 3 voxels: they touch
        matched = lesions.match_touching(truth, truth, dilations)
        assert len(matched.partners) == number
        assert (matched.truth > 0).sum() == 54  # undilated
    assert lesions.match_touching(prediction, truth, 2).invented == 1
    assert lesions.match_touching(prediction, truth, 3).partners == ((1,),)
    # The corner of a cube is dilated to its 18 neighbours only.
    corner = np.zeros(SHAPE, bool)
    corner[4, 4, 4] = True
    assert lesions.match_touching(corner, _cubes(1), 1).found == 0
    assert lesions.match_touching(corner, _cubes(1), 2).found == 1


def test_nothing_at_all():
    empty = np.zeros(SHAPE, bool)
    scores = lesions.score_lesions(empty, empty, (1.0, 1.0, 1.0))
    assert scores == (0, 0, 0, (), ())
    assert lesions.score_lesions(_cubes(1), empty, (1.0, 1.0, 1.0)) == (0, 0, 1, (), ())
    assert lesions.match_one_to_one(empty, _cubes(1)).missed == 1


def test_a_thin_lesion_in_a_volume_is_a_volume():
    truth = np.zeros(SHAPE, bool)
    truth[2, 1:5, 1:5] = True
    prediction = truth.copy()
    prediction[2, 2:4, 2:4] = False  # all 16 voxels of truth are surface, these 4 are 1 away
    scores = lesions.score_lesions(prediction, truth, (1.0, 1.0, 1.0))
    assert scores.hd95 == pytest.approx((1.0,))


@settings(deadline=None, max_examples=80)
@given(MASKS)
def test_properties(pair):
    prediction, truth = pair
    spacing = (2.0, 1.0, 1.0)
    same = lesions.score_lesions(truth, truth, spacing)
    assert same.found == same.lesions and same.invented == 0 and set(same.dice) <= {1.0}
    scores = lesions.score_lesions(prediction, truth, spacing)
    mirrored = lesions.score_lesions(prediction[:, ::-1], truth[:, ::-1], spacing)
    assert scores[:3] == mirrored[:3]
    assert sorted(scores.dice) == pytest.approx(sorted(mirrored.dice))
    there, back = (
        lesions.match_one_to_one(prediction, truth),
        lesions.match_one_to_one(truth, prediction),
    )
    assert (there.found, there.missed, there.invented) == (back.found, back.invented, back.missed)
    touching = lesions.match_touching(prediction, truth)
    assert touching.found >= there.found
    assert touching.invented <= there.invented
