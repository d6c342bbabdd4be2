"""Losses against float64 NumPy references, hand-worked numbers and properties."""

import dataclasses
import functools

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import expit

from jaxseg.config import Loss
from jaxseg.training import losses

SHAPE = (3, 2, 2, 2)
MIXED = Loss(bce=0.5, dice=2.0, focal=0.25, tversky=1.5, dice_over_batch=True, dice_smooth=3.0)
quick = settings(deadline=None, max_examples=30)


def bce64(x, m):
    return (np.logaddexp(0, x) - x * m).mean(axis=(1, 2, 3))


def focal64(x, m, gamma):
    true = np.where(m > 0.5, x, -x)
    return (expit(-true) ** gamma * np.logaddexp(0, -true)).mean(axis=(1, 2, 3))


def tversky64(x, m, alpha, beta, smooth, over_batch):
    def ratio(p, m):  # [n, K] voxels
        tp, fp, fn = (p * m).sum(0), (p * (1 - m)).sum(0), ((1 - p) * m).sum(0)
        return np.mean(1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth))

    p, m = (v.reshape(len(x), -1, x.shape[-1]) for v in (expit(x), m))
    if over_batch:
        return np.full(len(x), ratio(p.reshape(-1, p.shape[-1]), m.reshape(-1, m.shape[-1])))
    return np.array([ratio(*sample) for sample in zip(p, m, strict=True)])


def mixed64(x, m):
    dice = tversky64(x, m, 0.5, 0.5, 1.5, True)
    tversky = tversky64(x, m, 0.3, 0.7, 3.0, True)
    return 0.5 * bce64(x, m) + 2 * dice + 0.25 * focal64(x, m, 2.0) + 1.5 * tversky


def _dice(over_batch, smooth=1.0):
    return functools.partial(losses.soft_dice, smooth=smooth, over_batch=over_batch)


def _tversky(over_batch):
    options = {"alpha": 0.3, "beta": 0.7, "smooth": 2.0, "over_batch": over_batch}
    return functools.partial(losses.soft_tversky, **options)


# name: (the loss, its float64 reference)
LOSSES = {
    "bce": (losses.bce, bce64),
    "focal": (
        functools.partial(losses.focal, gamma=2.0),
        functools.partial(focal64, gamma=2.0),
    ),
    "focal_half": (
        functools.partial(losses.focal, gamma=0.5),
        functools.partial(focal64, gamma=0.5),
    ),
    "dice": (_dice(False), lambda x, m: tversky64(x, m, 0.5, 0.5, 0.5, False)),
    "dice_batch": (_dice(True), lambda x, m: tversky64(x, m, 0.5, 0.5, 0.5, True)),
    "tversky": (_tversky(False), lambda x, m: tversky64(x, m, 0.3, 0.7, 2.0, False)),
    "tversky_batch": (_tversky(True), lambda x, m: tversky64(x, m, 0.3, 0.7, 2.0, True)),
    "combined": (functools.partial(losses.combined, config=MIXED), mixed64),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
SAMPLE_WEIGHTS = np.array([1.0, -2.0, 3.0])  # tell the samples apart in the gradient


@functools.cache
def value_of(name):
    return jax.jit(LOSSES[name][0])


@functools.cache
def gradient_of(name):
    loss = LOSSES[name][0]
    return jax.jit(jax.grad(lambda x, m: jnp.sum(loss(x, m) * SAMPLE_WEIGHTS.astype(np.float32))))


def finite_differences(function, x, step=1e-5):
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


ordinary = st.floats(-30, 30, width=32)
logits_arrays = hnp.arrays(
    np.float32, SHAPE, elements=ordinary | st.sampled_from([0.0, -1e4, 1e4]), fill=st.nothing()
)
masks = hnp.arrays(bool, SHAPE, fill=st.nothing()).map(lambda m: m.astype(np.float32))


@every_loss
@quick
@given(x=logits_arrays, m=masks)
def test_agrees_with_float64_and_stays_in_range(name, x, m):
    value = np.asarray(value_of(name)(x, m))
    assert value.shape == (3,) and value.dtype == np.float32
    np.testing.assert_allclose(value, LOSSES[name][1](x.astype(np.float64), m), 1e-5, 1e-6)
    assert (value >= 0).all()
    if name.startswith(("dice", "tversky")):
        assert (value <= 1).all()


@every_loss
@quick
@given(x=logits_arrays, m=masks)
def test_gradient_is_that_of_float64_finite_differences(name, x, m):
    reference = LOSSES[name][1]
    expected = finite_differences(lambda y: reference(y, m) @ SAMPLE_WEIGHTS, x.astype(np.float64))
    np.testing.assert_allclose(gradient_of(name)(x, m), expected, 1e-3, 1e-5)


@every_loss
@pytest.mark.parametrize("sign", [1, -1], ids=["right", "wrong"])
def test_finite_at_huge_logits(name, sign):
    m = np.indices(SHAPE).sum(0) % 2.0
    m = m.astype(np.float32)
    x = np.float32(sign * 1e4) * (2 * m - 1)
    assert np.isfinite(value_of(name)(x, m)).all()
    assert np.isfinite(gradient_of(name)(x, m)).all()
    if sign == 1:  # a perfect prediction
        np.testing.assert_array_equal(value_of(name)(x, m), 0)
        np.testing.assert_array_equal(gradient_of(name)(x, m), 0)


def test_worst_case_by_hand():
    """All 4 voxels wrong, 2 of them tumour: Dice 1 - 1 / (2 + 2 + 1)."""
    m = np.array([0, 0, 1, 1], np.float32).reshape(1, 2, 2, 1)
    x = 1e4 * (1 - 2 * m)
    np.testing.assert_allclose(losses.bce(x, m), [1e4])
    np.testing.assert_allclose(losses.focal(x, m, 2.0), [1e4])
    np.testing.assert_allclose(losses.soft_dice(x, m), [0.8], rtol=1e-6)
    # 1 - 1 / (0.3 * 2 + 0.7 * 2 + 1)
    np.testing.assert_allclose(losses.soft_tversky(x, m, 0.3, 0.7, 1.0, False), [2 / 3], rtol=1e-6)
    assert gradient_of("bce")(x.repeat(3, 0).repeat(2, 3), m.repeat(3, 0).repeat(2, 3)).any()


def test_empty_masks_by_hand():
    """16 voxels without tumour; then one half predicted at probability 1/2."""
    empty = np.zeros((1, 4, 4, 1), np.float32)
    nothing = np.full_like(empty, -1e4)
    half = np.where(np.indices(empty.shape)[1] < 2, 0, -1e4).astype(np.float32)
    assert losses.soft_dice(nothing, empty) == 0
    np.testing.assert_allclose(losses.soft_dice(half, empty), [1 - 1 / (4 + 1)], rtol=1e-6)
    np.testing.assert_allclose(losses.soft_dice(half, empty, smooth=4.0), [0.5], rtol=1e-6)
    np.testing.assert_allclose(
        losses.soft_tversky(half, empty, 0.25, 1.0, 1.0, False), [0.5], rtol=1e-6
    )


def test_dice_over_the_batch_by_hand():
    """A: predicted 2, true 2, common 1. B: predicted 2, true 0. Smooth 1."""
    predicted = np.array([[1, 1, 0, 0], [0, 1, 1, 0]], np.float32).reshape(2, 2, 2, 1)
    mask = np.array([[0, 1, 1, 0], [0, 0, 0, 0]], np.float32).reshape(2, 2, 2, 1)
    logits = 1e4 * (2 * predicted - 1)
    np.testing.assert_allclose(_dice(False)(logits, mask), [1 - 3 / 5, 1 - 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(_dice(True)(logits, mask), [1 - 3 / 7, 1 - 3 / 7], rtol=1e-6)
    # A and B as two classes of one sample: the mean over classes.
    logits, mask = (np.concatenate([v[:1], v[1:]], axis=-1) for v in (logits, mask))
    expected = [(1 - 3 / 5 + 1 - 1 / 3) / 2]
    np.testing.assert_allclose(_dice(False)(logits, mask), expected, rtol=1e-6)
    np.testing.assert_allclose(_dice(True)(logits, mask), expected, rtol=1e-6)


@pytest.mark.parametrize("smooth", [1.0, 1e-5])
@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("logit", [-1e4, -5.0, 0.0, 5.0, 1e4])
def test_a_region_absent_everywhere_is_stable(logit, over_batch, smooth):
    """Of three nested regions in patches of 2 x 4 x 4 voxels, the others are right."""
    mask = np.zeros((2, 2, 4, 4, 3), np.float32)
    mask[:, :, 1:3, 1:, 0] = mask[0, :, 1:3, 2:, 1] = 1
    x = (1e4 * (2 * mask - 1)).astype(np.float32)
    x[..., 2] = logit
    config = Loss(dice_over_batch=over_batch, dice_smooth=smooth)
    run = jax.value_and_grad(lambda x: losses.combined(x, mask, config).sum())
    value, gradient = jax.jit(run)(x)
    predicted = (64 if over_batch else 32) / (1 + np.exp(-np.clip(logit, -700, 700)))
    by_hand = (np.logaddexp(0, logit) + 1 - smooth / (predicted + smooth)) / 3
    np.testing.assert_allclose(value, 2 * by_hand, rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all() and (gradient[..., 2] >= 0).all()
    np.testing.assert_array_equal(gradient[..., :2], 0)
    assert logit < 0 or gradient[..., 2].max() > 0


@quick
@given(x=logits_arrays, m=masks)
def test_special_cases_are_equal(x, m):
    np.testing.assert_allclose(losses.focal(x, m, 0.0), losses.bce(x, m), 1e-6, 1e-7)
    for over_batch in (False, True):
        np.testing.assert_array_equal(
            losses.soft_dice(x, m, 3.0, over_batch),
            losses.soft_tversky(x, m, 0.5, 0.5, 1.5, over_batch),
        )


@every_loss
@quick
@given(
    x=logits_arrays, m=masks, samples=st.permutations(range(3)), voxels=st.permutations(range(4))
)
def test_order_of_samples_and_voxels_does_not_matter(name, x, m, samples, voxels):
    def shuffle(v):
        return v.reshape(3, 4, 2)[samples][:, voxels].reshape(SHAPE)

    value = np.asarray(value_of(name)(x, m))
    np.testing.assert_allclose(value_of(name)(shuffle(x), shuffle(m)), value[samples], 1e-5, 1e-6)


@every_loss
@pytest.mark.parametrize("shape", [(3, 2, 2, 1), (1, 2, 2, 2), (2, 2, 2), (3, 2, 2)])
def test_shape_mismatch_raises_even_where_it_would_broadcast(name, shape):
    with pytest.raises(ValueError, match="differ in shape"):
        LOSSES[name][0](jnp.zeros(SHAPE), jnp.zeros(shape))


def test_terms_of_weight_0_are_left_out():
    x, m = np.full(SHAPE, 2, np.float32), np.ones(SHAPE, np.float32)
    only = Loss(bce=0, dice=0, focal=0, tversky=0.5, dice_over_batch=False)
    np.testing.assert_allclose(
        losses.combined(x, m, only), 0.5 * losses.soft_tversky(x, m, 0.3, 0.7, 1.0, False)
    )
    with_bce = dataclasses.replace(only, bce=3.0)
    np.testing.assert_allclose(
        losses.combined(x, m, with_bce) - losses.combined(x, m, only), 3 * losses.bce(x, m), 1e-5
    )


@every_loss
def test_gradient_descent_finds_a_rare_bright_class(name):
    """One brightness, 4 of 24 voxels bright: descent must classify them all."""
    brightness = np.concatenate([np.linspace(-1, 0.2, 20), np.linspace(0.8, 1, 4)])
    brightness = brightness.astype(np.float32).reshape(SHAPE)
    mask = (brightness > 0.5).astype(np.float32)

    def loss(weights):
        return jnp.mean(LOSSES[name][0](weights[0] * brightness + weights[1], mask))

    def descend(weights, _):
        value, gradient = jax.value_and_grad(loss)(weights)
        return weights - 5 * gradient, value

    weights, values = jax.jit(lambda w: jax.lax.scan(descend, w, length=400))(jnp.zeros(2))
    assert values[-1] < values[0] / 3
    np.testing.assert_array_equal(weights[0] * brightness + weights[1] > 0, mask > 0.5)
