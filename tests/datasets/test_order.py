"""The numbers written out here were made by grain 0.2.18, as each comment says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.datasets import order


@pytest.mark.parametrize(
    ("n", "seed", "positions", "expected"),
    [  # MapDataset.source(range(n)).seed(seed).shuffle().repeat(1 << 32)
        (5, 0, range(15), [1, 2, 4, 0, 3, 0, 3, 1, 4, 2, 3, 0, 2, 4, 1]),
        (300, 7, range(8), [170, 84, 161, 284, 167, 274, 110, 295]),
        (100_000, 3, (0, 1, 99_999, 100_000, 250_001), [62692, 8553, 12890, 80116, 92562]),
        (1, 0, range(3), [0, 0, 0]),
    ],
)
def test_samples_are_shuffled_as_they_always_were(n, seed, positions, expected):
    at = order.shuffled(range(n), seed)
    assert [at(i) for i in positions] == expected


@given(n=st.integers(1, 3000) | st.sampled_from([65_535, 65_536, 65_537, 300_000]), data=st.data())
def test_every_epoch_has_every_sample_once(n, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    drawn = order.permutation(n, seed)
    assert np.array_equal(np.sort(drawn), np.arange(n))
    assert n < 20 or not np.array_equal(drawn, order.permutation(n, (seed + 1) % 2**32))


def test_neighbours_do_not_stay_neighbours():
    steps = np.diff(order.permutation(10_000, 1).astype(int))
    assert np.abs(np.corrcoef(order.permutation(10_000, 1), np.arange(10_000))[0, 1]) < 0.05
    assert (np.abs(steps) < 10).mean() < 0.01  # 0.002 of numbers drawn by chance


@pytest.mark.parametrize(
    ("share", "expected", "later"),
    [  # MapDataset.mix of two ranges without end, the second from 1000 on; element 777
        (0.5, [0, 1000, 1, 1001, 2, 1002, 3, 1003, 4, 1004, 5, 1005], 1388),
        (0.67, [0, 1, 2, 1000, 3, 4, 1001, 5, 6, 1002, 7, 8], 521),
        (0.3, [0, 1000, 1001, 1, 1002, 1003, 2, 1004, 1005, 3, 1006, 1007], 1543),
        (0.1, [0, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1, 1009], 1699),
    ],
)
def test_orders_are_mixed_as_they_always_were(share, expected, later):
    at = order.mixed(lambda i: i, lambda i: 1000 + i, share)
    assert [at(i) for i in range(12)] == expected
    assert at(777) == later


@given(share=st.floats(0.001, 0.999), count=st.integers(1, 2000))
def test_a_mixture_leaves_nothing_out_and_has_its_share_at_every_moment(share, count):
    at = order.mixed(lambda i: ("one", i), lambda i: ("other", i), share)
    drawn = [at(i) for i in range(count)]
    for name in ("one", "other"):
        found = [i for which, i in drawn if which == name]
        assert found == list(range(len(found)))
    ones = sum(which == "one" for which, _ in drawn)
    assert abs(ones - share * count) <= 1 + 0.01 * count * min(share, 1 - share)


def test_every_position_has_the_numbers_it_always_had():
    expected = {  # MapDataset.range(1 << 20).seed(5).random_map(lambda i, rng: rng.random(2))
        0: [0.6883119784656991, 0.990602076933562],
        900_000: [0.8878602331460332, 0.8015417066176472],
        1: [0.2098180528558673, 0.31975876689894167],
    }
    drawn = [rng.random(2).tolist() for rng in order.generators(5, expected)]
    assert drawn == list(expected.values())


def test_numbers_of_a_position_do_not_depend_on_what_was_drawn_before():
    alone = [next(order.generators(1, [i])).random(5) for i in range(4)]
    for i, rng in enumerate(order.generators(1, range(4))):
        np.testing.assert_array_equal(rng.random(5), alone[i])
        rng.integers(9, size=1 + i, dtype=np.uint32)  # leaves half of a word for later
        rng.standard_normal(3)


def test_positions_and_seeds_share_no_numbers():
    drawn = [rng.random(8) for seed in (0, 1) for rng in order.generators(seed, range(500))]
    assert len(np.unique(drawn)) == 8 * 1000
