"""The operations for a GPU, on the CPU: equal to XLA's plain ones in value and gradient."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_layers import assert_trees_close

from jaxseg.config import Loss, Model
from jaxseg.config import Mesh as MeshConfig
from jaxseg.errors import UserError
from jaxseg.machine.sharding import make_mesh, split_images
from jaxseg.models import gpu, layers, native, resampling
from jaxseg.models.gpu import fold, head, norm, pool
from jaxseg.models.unet import UNet
from jaxseg.training.steps import supervised_loss

EPSILON = 1e-5
SLOPES = 0.0, 0.01, 1.0  # ReLU, leaky ReLU, neither
by_slope = pytest.mark.parametrize("slope", SLOPES)
SHAPES = (
    (2, 12, 10, 16),
    (3, 7, 5, 3, 8),
    (2, 33, 41, 128),
    (1, 1, 1, 8),  # one number, no variance
    (2, 5, 9, 12),
)
by_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def ask(monkeypatch, *parts):
    monkeypatch.setattr(gpu, "uses", lambda part: part in parts)


def normed(shape, mean, std):
    """Return images, a gradient, scale and bias, float32; every sample has its own mean."""
    rng = np.random.default_rng(1)
    x, dy = rng.normal(mean, std, shape), rng.normal(size=shape)
    x += np.arange(shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
    scale, bias = rng.normal(1, 0.3, shape[-1]), rng.normal(size=shape[-1])
    return tuple(a.astype(np.float32) for a in (x, dy, scale, bias))


def reference(x, dy, scale, bias, slope, by_sample):
    """In float64: the result, mean and variance, the gradients, and y before the activation."""
    x, dy, scale, bias = (np.asarray(a, np.float64) for a in (x, dy, scale, bias))
    axes = tuple(range(int(by_sample), x.ndim - 1))
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    root = np.sqrt(variance + EPSILON)
    unit = (x - mean) / root
    before = unit * scale + bias
    dy = np.where(before > 0, dy, slope * dy)
    both = (a.mean(axes, keepdims=True) for a in (dy, dy * unit))
    dx = scale / root * (dy - next(both) - unit * next(both))
    over = tuple(range(x.ndim - 1))
    shape = (len(x), x.shape[-1]) if by_sample else scale.shape
    values = np.where(before > 0, before, slope * before), mean.reshape(shape)
    return (*values, variance.reshape(shape)), (dx, (dy * unit).sum(over), dy.sum(over)), before


def run(x, dy, scale, bias, slope, by_sample):
    """Return the three results and the three gradients."""

    def both(x, dy, scale, bias):
        call = functools.partial(norm.norm, epsilon=EPSILON, slope=slope)
        call = functools.partial(call, by_sample=by_sample)
        values, pull_back = jax.vjp(call, x, scale, bias)
        return values, pull_back((dy, *map(jnp.zeros_like, values[1:])))

    return jax.tree.map(np.asarray, jax.jit(both)(x, dy, scale, bias))


@by_slope
@by_shape
@pytest.mark.parametrize("by_sample", (False, True), ids=("batch", "instance"))
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1e4, 1.0), (-3.0, 1e-2)])
def test_norm_and_its_gradient_are_those_of_float64(shape, slope, by_sample, mean, std):
    """A mean of 1e4 takes four of the seven digits: sums about 0 would leave no variance."""
    arrays = normed(shape, mean, std)
    values, gradients = run(*arrays, slope, by_sample)
    expected, expected_gradients, before = reference(*arrays, slope, by_sample)
    near = 3e-6 * np.abs(expected[0]).max()
    np.testing.assert_allclose(values[0], expected[0], rtol=2e-6, atol=near)
    np.testing.assert_allclose(values[1], expected[1], rtol=2e-7, atol=2e-6)
    np.testing.assert_allclose(values[2], expected[2], rtol=1e-5, atol=1e-12)
    unsure = np.any(np.abs(before) < near) and slope != 1  # on which side of 0?
    if not unsure:
        for mine, float64 in zip(gradients, expected_gradients, strict=True):
            close = 1e-5 * max(np.abs(float64).max(), np.abs(arrays[1]).max())
            np.testing.assert_allclose(mine, float64, rtol=0, atol=close)
    assert not unsure or shape == (2, 33, 41, 128)


def test_plain_one_pass_statistics_would_lose_all_digits():
    """What the test above is there for: float32 sums about 0 of a mean of 1e4."""
    x = normed((2, 33, 41, 8), 1e4, 1.0)[0]
    axes = (0, 1, 2)
    bad = jnp.mean(jnp.square(x), axes) - jnp.square(jnp.mean(x, axes))
    true = np.var(x.astype(np.float64), axes)
    assert np.abs(bad / true - 1).max() > 0.5
    good = run(x, x, np.ones(8, "f"), np.ones(8, "f"), 1.0, False)[0][2]
    np.testing.assert_allclose(good, true, rtol=1e-5)


@by_slope
@pytest.mark.parametrize("by_sample", (False, True), ids=("batch", "instance"))
def test_norm_in_bfloat16_rounds_once(slope, by_sample):
    """Statistics in float32: only results and gradients are rounded, to 8 bits."""
    x, dy, scale, bias = normed((2, 9, 11, 16), 2.0, 1.0)
    x, dy = jnp.asarray(x, jnp.bfloat16), jnp.asarray(dy, jnp.bfloat16)
    values, gradients = run(x, dy, scale, bias, slope, by_sample)
    wide = np.asarray(x, np.float32), np.asarray(dy, np.float32), scale, bias
    expected, expected_gradients, _ = reference(*wide, slope, by_sample)
    assert values[0].dtype == gradients[0].dtype == jnp.bfloat16
    bit = 2.0**-8
    np.testing.assert_allclose(values[0].astype("f"), expected[0], rtol=bit, atol=1e-6)
    np.testing.assert_allclose(values[1], expected[1], rtol=1e-6)
    np.testing.assert_allclose(values[2], expected[2], rtol=1e-5)
    dx, *rest = gradients
    np.testing.assert_allclose(dx.astype("f"), expected_gradients[0], rtol=bit, atol=2e-6)
    for mine, float64 in zip(rest, expected_gradients[1:], strict=True):
        np.testing.assert_allclose(mine, float64, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("slope", "kept"), [(0.0, 0.0), (0.01, 1.0), (1.0, 1.0)])
def test_the_gradient_of_what_is_exactly_0_is_that_of_jax(slope, kept):
    """An empty patch: every number is its channel's mean."""
    x = np.full((2, 3, 4, 8), 0.1, np.float32)
    dy, one, zero = np.ones_like(x), np.ones(8, np.float32), np.zeros(8, np.float32)
    (y, mean, variance), gradients = run(x, dy, one, zero, slope, True)
    assert not y.any() and not variance.any()
    np.testing.assert_array_equal(mean, np.float32(0.1) + np.zeros((2, 8), np.float32))
    np.testing.assert_array_equal(gradients[2], 24 * kept * one)


def test_what_is_not_a_number_is_not_hidden_by_the_relu():
    x, dy, scale, bias = normed((2, 5, 7, 16), 0.0, 1.0)
    x[1, 2, 0, 5] = np.nan
    hidden = np.isnan(run(x, dy, scale, bias, 0.0, True)[0][0])
    assert hidden[1, ..., 5].all()
    assert hidden.sum() == 35, "no other channel and no other sample"


def test_a_gradient_that_the_relu_hides_harms_nothing():
    x, dy, scale, bias = normed((2, 5, 7, 16), 0.0, 1.0)
    before = reference(x, dy, scale, bias, 0.0, True)[2]
    dy = np.where(before < -0.1, np.inf, dy).astype(np.float32)
    _, gradients = run(x, dy, scale, bias, 0.0, True)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("by_sample", (False, True), ids=("batch", "instance"))
def test_norm_and_pooling_of_images_that_lie_on_several_devices(by_sample):
    """Two samples on each of two, their rows on four."""
    images = split_images(make_mesh(MeshConfig(data=2, spatial=4)))
    x, dy, scale, bias = normed((4, 16, 6, 8), 1e3, 1.0)

    def both(x, dy, small):
        call = functools.partial(norm.norm, epsilon=EPSILON, slope=0.0, by_sample=by_sample)
        values, pull_back = jax.vjp(call, x, scale, bias)
        y, pull_pooled = jax.vjp(lambda x: pool.max_pool(x, (2, 2)), values[0])
        back = pull_back((dy, *map(jnp.zeros_like, values[1:])))
        return values, back, y, pull_pooled(small)

    arrays = x, dy, dy[:, ::2, ::2]
    alone = jax.jit(both)(*arrays)
    split = jax.jit(both)(*(jax.device_put(a, images) for a in arrays))
    assert len(split[0][0].sharding.device_set) == 8
    assert_trees_close(split, alone, rtol=1e-5, atol=2e-5)


class Normed(nn.Module):
    """A norm and its activation as the model calls them."""

    kind: str
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, train):
        dtype = jnp.dtype(self.dtype)
        if self.kind == "batch":
            return layers.batch_norm(x, train, relu=True, dtype=dtype)
        return layers.instance_norm(x, 0.01, dtype)


@pytest.mark.parametrize("kind", ("batch", "instance"))
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_the_layers_are_those_of_flax_with_the_same_variables(monkeypatch, kind, dtype):
    x, dy, scale, bias = normed((2, 12, 10, 24), 3.0, 2.0)
    x, net = jnp.asarray(x, dtype), Normed(kind, dtype)
    variables = {"params": {kind: {"scale": scale, "bias": bias}}}
    if kind == "batch":
        variables["batch_stats"] = {"batch": {"mean": bias, "var": scale**2}}

    def run():
        def loss(params):
            y, new = net.apply(variables | {"params": params}, x, True, mutable="batch_stats")
            return jnp.sum(y * jnp.asarray(dy, dtype)), (y, new)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    initial = functools.partial(net.init, jax.random.key(0), x, True)
    flax, flax_initial = run(), initial()
    ask(monkeypatch, "norm")
    called = []
    monkeypatch.setattr(layers, "gpu_norm", lambda *a, **k: called.append(1) or norm.norm(*a, **k))
    mine = run()
    assert called
    jax.tree.map(np.testing.assert_array_equal, initial(), flax_initial)
    assert jax.tree.structure(mine) == jax.tree.structure(flax)
    (_, (y, new)), gradients = mine
    (_, (flax_y, flax_new)), flax_gradients = flax
    assert y.dtype == flax_y.dtype
    assert_trees_close(new, flax_new, rtol=1e-6, atol=1e-6)
    near = {"rtol": 2e-6, "atol": 1e-5} if dtype == "float32" else {"rtol": 2**-7, "atol": 1e-3}
    np.testing.assert_allclose(y.astype("f"), flax_y.astype("f"), **near)
    # flax sums gradients that it has rounded to the images' 8 bits.
    assert_trees_close(gradients, flax_gradients, **near | {"atol": near["atol"] * 200})


WINDOWS = (2,), (2, 2), (2, 2, 2), (1, 2, 2), (3, 1), (1, 2, 4), (1, 1)


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_pooling_is_the_plain_one_bit_for_bit(monkeypatch, window, dtype):
    """Whole numbers: most windows have several that are largest."""
    rng, sizes = np.random.default_rng(0), (3, 5, 2)[: len(window)]
    shape = (2, *(s * w for s, w in zip(sizes, window, strict=True)), 3)
    parts = rng.normal(size=shape), rng.integers(0, 3, shape), np.zeros(shape)
    x = jnp.asarray(np.concatenate(parts), dtype)
    y = resampling.max_pool(x, window)
    dy = jnp.asarray(rng.normal(size=y.shape), dtype)
    expected = y, jax.vjp(lambda x: resampling.max_pool(x, window), x)[1](dy)
    ask(monkeypatch, "pool")
    monkeypatch.setattr(resampling, "_views", None)  # what the plain one cannot do without
    actual = jax.vjp(lambda x: resampling.max_pool(x, window), x)
    jax.tree.map(np.testing.assert_array_equal, (actual[0], actual[1](dy)), expected)


def test_pooling_hides_nothing_and_minds_its_limits(monkeypatch):
    x = jnp.array([[1.0, jnp.nan], [5.0, 2.0]]).reshape(1, 2, 2, 1)
    assert jnp.isnan(pool.max_pool(x, (2, 2))).all()
    assert pool.fits((4, 8, 8)) and not pool.fits((4, 8, 9)), "numbered in a byte"
    last = jnp.arange(256.0).reshape(1, 256, 1)
    assert jax.grad(lambda x: pool.max_pool(x, (256,)).sum())(last)[0, 255, 0] == 1
    ask(monkeypatch, "pool")
    with pytest.raises(ValueError, match="must be multiples"):
        resampling.max_pool(x, (2, 3))


FOLDED = ((1, 8), (3, 8), (7, 32), (8, 8), (8, 16), (16, 32), (64, 32))  # inputs and outputs


def whole_numbers(shape, low, high, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(low, high, shape), jnp.bfloat16)


@pytest.mark.parametrize(("inputs", "outputs"), FOLDED)
@pytest.mark.parametrize("window", [(3, 3), (3, 3, 3), (1, 3, 3)], ids=str)
def test_neighbours_taken_together_are_no_other_convolution(monkeypatch, window, inputs, outputs):
    """In bfloat16, few whole numbers other than 0: exact, whatever the order of the sums."""
    rank = len(window)
    size = (2, 3, 8)[-rank:]
    x = whole_numbers((2, *size, inputs), 0, 2) * whole_numbers((2, *size, inputs), 0, 2, 1)
    kernel = whole_numbers((*window, inputs, outputs), -1, 2)
    axes = "DHW"[-rank:]
    order = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    dy = whole_numbers((2, *size, outputs), -1, 2)

    def both():
        def run(x, kernel):  # another every time: jax keeps what it has traced
            how = {"strides": (1,) * rank, "padding": "SAME", "dimension_numbers": order}
            y, pull_back = jax.vjp(functools.partial(layers.convolve, **how), x, kernel)
            return y, pull_back(dy)

        return jax.jit(run)

    expected = both()(x, kernel)
    assert np.abs(expected[1][1].astype("f")).max() > 4, "sums of several voxels"
    ask(monkeypatch, "fold")
    together = 4 if inputs < 8 else min(4, 64 // outputs)
    wide = (*window, together * (inputs + inputs % 2), together * outputs)
    assert f"bf16[{','.join(map(str, wide))}]" in str(jax.make_jaxpr(both())(x, kernel))
    jax.tree.map(np.testing.assert_array_equal, both()(x, kernel), expected)


def test_what_is_folded():
    half = functools.partial(jnp.zeros, dtype=jnp.bfloat16)
    assert fold.fits(half((1, 4, 4, 3)), half((3, 3, 3, 128))), "the scans"
    assert fold.fits(half((1, 4, 4, 8)), half((3, 3, 8, 32)))
    assert not fold.fits(half((1, 4, 4, 8)), half((3, 3, 8, 64))), "wide enough"
    assert not fold.fits(half((1, 4, 5, 8)), half((3, 3, 8, 32))), "one pixel would be left over"
    assert not fold.fits(half((1, 4, 4, 8)), half((3, 5, 8, 32)))
    assert not fold.fits(jnp.zeros((1, 4, 4, 3)), jnp.zeros((3, 3, 3, 8)))


@pytest.mark.parametrize("strides", [(2, 2), (1, 2)], ids=str)
def test_what_is_strided_is_not_folded(monkeypatch, strides):
    x, kernel = whole_numbers((1, 8, 8, 16), -2, 3), whole_numbers((3, 3, 16, 16), -1, 2)
    how = {"padding": [(1, 1), (1, 1)], "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    expected = layers.convolve(x, kernel, strides, **how)
    ask(monkeypatch, "fold")
    monkeypatch.setattr(fold, "fold", None)
    np.testing.assert_array_equal(layers.convolve(x, kernel, strides, **how), expected)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 16), (16, 32)])
def test_folding_and_head_of_images_that_lie_on_several_devices(monkeypatch, inputs, outputs):
    """Two samples on each of two, their rows on four; whole numbers: exact."""
    ask(monkeypatch, "fold")
    order = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    images = split_images(make_mesh(MeshConfig(data=2, spatial=4)))
    x, kernel = (
        whole_numbers((4, 16, 8, inputs), -1, 2),
        whole_numbers((3, 3, inputs, outputs), -1, 2),
    )
    weights, dy = whole_numbers((outputs, 2), -1, 2), whole_numbers((4, 16, 8, 2), 0, 2)

    def both(x, kernel, dy):
        def run(x, kernel):
            return head.product(layers.convolve(x, kernel, (1, 1), "SAME", **order), weights)

        y, pull_back = jax.vjp(run, x, kernel)
        return y, pull_back(dy)

    alone = jax.jit(both)(x, kernel, dy)
    split = jax.jit(both)(jax.device_put(x, images), kernel, jax.device_put(dy, images))
    assert len(split[0].sharding.device_set) == 8
    assert_trees_close(split[0], alone[0], rtol=2**-7, atol=0)
    for mine, other in zip(split[1], alone[1], strict=True):
        assert distance(mine.astype("f"), other.astype("f")) < 4e-3  # rounded to 8 bits


@pytest.mark.parametrize("outputs", (1, 3))
def test_the_last_convolution_as_sums_over_channels_is_the_product(monkeypatch, outputs):
    x, weights = whole_numbers((2, 3, 5, 16), -2, 3), whole_numbers((1, 1, 16, outputs), -2, 3)
    dy = whole_numbers((2, 3, 5, outputs), -2, 3)
    how = {"strides": (1, 1), "padding": "SAME"}

    def both():
        y, pull_back = jax.vjp(functools.partial(layers.convolve, **how), x, weights)
        return y, pull_back(dy)

    expected = both()
    ask(monkeypatch, "head")
    monkeypatch.setattr(layers, "product", None)
    jax.tree.map(np.testing.assert_array_equal, both(), expected)
    assert head.fits(weights[0, 0]) and not head.fits(jnp.zeros((16, 5)))


NETS = {
    "slices": (Model(widths=(8, 16)), (2, 12, 20, 3)),
    "volumes": (
        Model(widths=(8, 16), norm="instance", activation="leaky_relu", windows=((1, 2, 2),)),
        (2, 5, 4, 8, 2),
    ),
    "remat": (Model(widths=(8, 16), remat=True), (2, 4, 8, 3)),
}


def whole_step(model, shape, dtype):
    """Return loss, gradients and running statistics of a network on noise with a bright ball."""
    net = UNet(model.__class__(**{**vars(model), "compute_dtype": dtype}))
    rng = np.random.default_rng(0)
    mask = jnp.asarray(rng.random((*shape[:-1], 1)) < 0.3, jnp.float32)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32) + mask
    variables = jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), x)

    def loss(params):
        logits, new = net.apply(variables | {"params": params}, x, True, mutable=["batch_stats"])
        return supervised_loss(logits, mask, Loss()), new

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


def distance(gradients, others):
    """Return the norm of the difference as a share of that of the others."""
    flat = [np.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in (gradients, others)]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])


@functools.cache
def plain_step(name, dtype):
    return whole_step(*NETS[name], dtype)


@pytest.mark.parametrize("name", NETS)
def test_a_whole_step_with_all_parts_is_the_plain_one(monkeypatch, name):
    plain = plain_step(name, "float32")
    ask(monkeypatch, *gpu.PARTS)
    mine = whole_step(*NETS[name], "float32")
    assert jax.tree.structure(mine) == jax.tree.structure(plain)
    np.testing.assert_allclose(mine[0][0], plain[0][0], rtol=1e-6)
    assert_trees_close(mine[0][1], plain[0][1], rtol=5e-6, atol=5e-6)
    assert distance(mine[1], plain[1]) < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_in_bfloat16_a_whole_step_is_as_near_to_float32_as_the_plain_one(monkeypatch, name):
    """Both round to 8 bits in every layer: 6 to 11 % of the gradients, by other roundings."""
    exact, plain = (plain_step(name, dtype) for dtype in ("float32", "bfloat16"))
    ask(monkeypatch, *gpu.PARTS)
    mine = whole_step(*NETS[name], "bfloat16")
    np.testing.assert_allclose(mine[0][0], plain[0][0], rtol=2e-3)
    assert_trees_close(mine[0][1], plain[0][1], rtol=1e-2, atol=1e-2)
    assert distance(mine[1], exact[1]) < 1.4 * distance(plain[1], exact[1])


def test_parts_are_asked_for_by_name(monkeypatch):
    monkeypatch.delenv(gpu.VARIABLE, raising=False)

    def used():
        return [part for part in gpu.PARTS if gpu.uses(part)]

    assert used() == [], "unasked, on a GPU alone"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert used() == list(gpu.PARTS)
    monkeypatch.setenv(gpu.VARIABLE, "plain")
    assert used() == []
    monkeypatch.setenv(gpu.VARIABLE, "pool,norm")
    assert used() == ["norm", "pool"]
    with native.plain_operations():
        assert used() == []
    monkeypatch.setenv(gpu.VARIABLE, "pool,norms")
    with pytest.raises(UserError, match="JAXSEG_GPU=pool,norms: 'norms' is none of plain, norm"):
        gpu.uses("pool")
