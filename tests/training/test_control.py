"""Plateau and early stop: sequences worked by hand, and Keras' rules written out in Python."""

import functools
import math

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from jaxseg import config
from jaxseg.training import control

quick = settings(deadline=None, max_examples=60)
# Few distinct values: repeats, small gains and NaN are the interesting cases.
values_lists = st.lists(
    st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, 0.75, math.nan, -math.inf]), max_size=25
)

# The settings as arrays, so that one compilation serves all of them.
plateau_step = jax.jit(lambda s, v, *c: control.observe_plateau(s, v, config_like(*c)))
early_stop_step = jax.jit(control.observe_early_stop, static_argnums=2)


class config_like:  # noqa: N801 (stands for config.Plateau, which checks Python numbers)
    def __init__(self, factor, patience, cooldown, min_delta, min_scale):
        self.factor, self.patience, self.cooldown = factor, patience, cooldown
        self.min_delta, self.min_scale = min_delta, min_scale


def run_plateau(values, factor=0.5, patience=2, cooldown=0, min_delta=0.0, min_scale=0.0):
    """Return the states after each value."""
    state, states = control.init_plateau(), []
    settings_ = (
        np.float32(factor),
        patience,
        cooldown,
        np.float32(min_delta),
        np.float32(min_scale),
    )
    for value in values:
        state = plateau_step(state, np.float32(value), *settings_)
        states.append(state)
    return states


def run_early_stop(values, settings_):
    """Return the number of evaluations until the stop; None: never."""
    state = control.init_early_stop()
    for i, value in enumerate(values):
        state = early_stop_step(state, np.float32(value), settings_)
        if control.should_stop(state, settings_):
            return i + 1
    return None


class KerasPlateau:
    """`ReduceLROnPlateau.on_epoch_end`, mode max, learning rate 1."""

    def __init__(self, factor, patience, cooldown, min_delta, min_lr):
        self.factor, self.patience, self.cooldown = np.float32(factor), patience, cooldown
        self.min_delta, self.min_lr = np.float32(min_delta), np.float32(min_lr)
        self.lr, self.best = np.float32(1), np.float32(-math.inf)
        self.wait = self.cooldown_left = 0

    def observe(self, value):
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.wait = 0
        if np.float32(value) > self.best + self.min_delta:
            self.best, self.wait = np.float32(value), 0
        elif self.cooldown_left == 0:
            self.wait += 1
            if self.wait >= self.patience and self.lr > self.min_lr:
                self.lr = max(self.lr * self.factor, self.min_lr)
                self.cooldown_left, self.wait = self.cooldown, 0


@pytest.mark.parametrize(
    "options, values, scales",
    [
        # patience 2: the second evaluation without a gain reduces, then counting starts anew
        ({}, [0.5, 0.5, 0.4, 0.3, 0.2, 0.1], [1, 1, 0.5, 0.5, 0.25, 0.25]),
        # a gain resets the count
        ({}, [0.5, 0.4, 0.6, 0.5, 0.4], [1, 1, 1, 1, 0.5]),
        # one evaluation passes uncounted after a reduction
        ({"patience": 1, "cooldown": 1}, [0.5, 0.4, 0.4, 0.4, 0.4], [1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": 1, "cooldown": 2}, [0.5, 0.4, 0.4, 0.4, 0.4], [1, 0.5, 0.5, 0.5, 0.25]),
        # gains of at most 0.1 are none, and do not become the best; 0.5 + 0.05 + 0.06 counts
        ({"min_delta": 0.1}, [0.5, 0.55, 0.61, 0.65, 0.7], [1, 1, 1, 1, 0.5]),
        # the floor
        ({"patience": 1, "min_scale": 0.3}, [0.5, 0.5, 0.5, 0.5], [1, 0.5, 0.3, 0.3]),
        # NaN gains nothing, does not become the best, and does not hide a later gain
        ({}, [math.nan, math.nan, 0.1, math.nan, 0.2], [1, 0.5, 0.5, 0.5, 0.5]),
        # factor 1 is off
        ({"factor": 1.0, "patience": 1}, [0.5, 0.5, 0.5], [1, 1, 1]),
    ],
)
def test_plateau_by_hand(options, values, scales):
    states = run_plateau(values, **options)
    np.testing.assert_allclose([s.scale for s in states], scales, rtol=1e-6)


def test_best_is_the_largest_value_even_in_cooldown():
    states = run_plateau([0.5, 0.4, 0.7, math.nan, 0.6], patience=1, cooldown=3)
    np.testing.assert_allclose([s.best for s in states], [0.5, 0.5, 0.7, 0.7, 0.7])
    assert [int(s.cooldown) for s in states] == [0, 3, 2, 1, 0]


@quick
@given(
    values=values_lists,
    factor=st.sampled_from([0.5, 0.1, 1.0]),
    patience=st.integers(1, 4),
    cooldown=st.integers(0, 3),
    min_delta=st.sampled_from([0.0, 0.05, 0.2]),
    min_scale=st.sampled_from([0.0, 0.01, 0.3]),
)
def test_plateau_agrees_with_keras(values, factor, patience, cooldown, min_delta, min_scale):
    # Keras counts the last evaluation of its cooldown again; ours all pass uncounted.
    keras = KerasPlateau(factor, patience, cooldown + 1, min_delta, min_scale)
    states = run_plateau(values, factor, patience, cooldown, min_delta, min_scale)
    for value, state in zip(values, states, strict=True):
        keras.observe(value)
        np.testing.assert_allclose(state.scale, keras.lr, rtol=1e-6)
        assert state.best == keras.best


@pytest.mark.parametrize(
    "patience, min_delta, values, stop",
    [
        (2, 0.0, [0.1, 0.2, 0.2, 0.1, 0.9], 4),
        (2, 0.0, [0.1, 0.2, 0.1, 0.3, 0.2], None),
        (3, 0.1, [0.1, 0.15, 0.19, 0.2, 0.9], 4),
        (2, 0.0, [0.1, math.nan, math.nan], 3),
        (1, 0.0, [math.nan, 0.5], 1),
        (0, 0.0, [0.5] + 20 * [0.1], None),
    ],
)
def test_early_stop_by_hand(patience, min_delta, values, stop):
    assert run_early_stop(values, config.EarlyStop(patience, min_delta)) == stop


@quick
@given(values_lists, st.integers(1, 4), st.sampled_from([0.0, 0.2]))
def test_early_stop_comes_patience_evaluations_after_the_last_gain(values, patience, min_delta):
    stop, best, since = None, np.float32(-math.inf), 0
    for i, value in enumerate(np.array(values, np.float32)):
        gain = value > best + np.float32(min_delta)
        best, since = (value, 0) if gain else (best, since + 1)
        if stop is None and since >= patience:
            stop = i + 1
    assert run_early_stop(values, config.EarlyStop(patience, min_delta)) == stop


@quick
@given(values_lists)
def test_patience_0_never_stops(values):
    assert run_early_stop(values, config.EarlyStop(patience=0)) is None


@pytest.mark.parametrize("restart", range(7))
def test_counters_survive_numpy(restart):
    """A checkpoint in mid-sequence changes nothing, bit for bit."""
    values = [0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5]
    observe = (
        functools.partial(control.observe_plateau, config=config.Plateau(0.5, 2, 1)),
        functools.partial(control.observe_early_stop, config=config.EarlyStop(2)),
    )

    def run(restart):
        states = control.init_plateau(), control.init_early_stop()
        for i, value in enumerate(values):
            if i == restart:
                states = jax.tree.map(np.asarray, states)
            states = tuple(o(s, np.float32(value)) for o, s in zip(observe, states, strict=True))
        return jax.tree.map(np.asarray, states)

    resumed, whole = run(restart), run(None)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    started = control.init_plateau(), control.init_early_stop()
    jax.tree.map(lambda new, old: np.testing.assert_equal(new.dtype, old.dtype), resumed, started)
