"""The U-Net: shapes that work and that must raise, parameters, norms, and what it sees."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.config import Config, Input, Model
from jaxseg.errors import UserError
from jaxseg.models.unet import Block, Norm, UNet

TINY = Model(widths=(2, 4))
DEEP = Model(widths=(2, 4, 6, 8))
THIN = Model(  # the first axis is pooled late, by 4, and convolved from the second level on
    widths=(2, 4, 6),
    windows=((1, 2, 2), (4, 2, 2)),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    num_classes=3,
    deep_supervision=1,
)
NNUNET = dataclasses.replace(
    THIN, downsample="stride", norm="instance", norm_epsilon=1e-5, activation="leaky_relu"
)
HALF = {"widths": (2, 4), "windows": ((1, 2, 2),), "kernels": ((1, 3, 3), (3, 3, 3))}
HALF |= {"deep_supervision": 0}
RESIDUAL = dataclasses.replace(NNUNET, blocks=(1, 2, 2), decoder_convs=1)


def initial(config, shape, seed=0):
    """Return the variables of the net, by eager shapes and one compilation."""
    init = jax.jit(functools.partial(UNet(config).init, train=False))
    return init(jax.random.key(seed), jnp.zeros(shape))


def shapes_of(config, shape, train):
    """Return (logits, variables) as shapes and dtypes; computes nothing."""

    def run(key):
        net, x = UNet(config), jnp.zeros(shape)
        variables = net.init(key, x, train=False)
        rngs = {"dropout": key}
        logits, _ = net.apply(variables, x, train=train, rngs=rngs, mutable=["batch_stats"])
        return logits, variables

    return jax.eval_shape(run, jax.random.key(0))


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "config, shape, coarser",
    [
        (TINY, (2, 16, 16, 3), 0),
        (TINY, (1, 2, 34, 1), 0),  # any multiple of 2, oblong too
        (DEEP, (1, 8, 24, 3), 0),
        (dataclasses.replace(DEEP, num_classes=4), (2, 16, 16, 3), 0),
        (dataclasses.replace(DEEP, norm="group"), (2, 16, 16, 3), 0),
        (dataclasses.replace(DEEP, norm="instance"), (2, 16, 16, 3), 0),
        (dataclasses.replace(DEEP, upsample="resize"), (2, 16, 16, 3), 0),
        (dataclasses.replace(DEEP, residual=True, dropout=0.5), (2, 16, 16, 3), 0),
        (dataclasses.replace(DEEP, deep_supervision=1), (2, 16, 16, 3), 1),
        (dataclasses.replace(DEEP, deep_supervision=2, remat=True), (2, 16, 16, 3), 2),
        (dataclasses.replace(DEEP, compute_dtype="bfloat16"), (2, 16, 16, 3), 0),
        (TINY, (1, 16, 16, 16, 2), 0),  # volumes
        (
            dataclasses.replace(DEEP, upsample="resize", residual=True, deep_supervision=2),
            (1, 8, 16, 8, 2),
            2,
        ),
        (TINY, (2, 16, 3), 0),  # signals
        (dataclasses.replace(DEEP, downsample="stride", residual=True), (2, 16, 16, 3), 0),
        (dataclasses.replace(DEEP, downsample="stride", blocks=(2, 1, 1, 1)), (1, 8, 8, 8, 2), 0),
    ],
)
def test_shapes_that_work(config, shape, coarser, train):
    logits, variables = shapes_of(config, shape, train)
    batch, *size, _ = shape
    assert [x.shape for x in logits] == [
        (batch, *(s // 2**level for s in size), config.num_classes)
        for level in range((coarser if train else 0) + 1)
    ]
    assert {x.dtype for x in jax.tree.leaves((logits, variables))} == {jnp.dtype("float32")}
    assert ("batch_stats" in variables) == (config.norm == "batch")


@pytest.mark.parametrize("remat", [False, True], ids=["plain", "remat"])
@pytest.mark.parametrize("config", [THIN, NNUNET, RESIDUAL], ids=["pool", "stride", "blocks"])
def test_axes_shrink_by_their_own_windows(config, remat):
    """8 x 12 x 4 voxels are 8 x 6 x 2 on the next level, 2 x 3 x 1 on the lowest."""
    config = dataclasses.replace(config, remat=remat, upsample="resize" if remat else "transpose")
    logits, variables = shapes_of(config, (1, 8, 12, 4, 2), train=True)
    assert [x.shape for x in logits] == [(1, 8, 12, 4, 3), (1, 8, 6, 2, 3)]
    params = variables["params"]
    names = ["down_1_0", "down_1_1"] if config.blocks else ["down_1"]
    for name in ("up_0", *names, *(["stem"] if config.blocks else ["down_0"])):
        kernel = params[name]["conv_1"]["kernel"].shape[:3]
        assert kernel == ((3, 3, 3) if "1" in name[-3:] else (1, 3, 3)), name
    if not remat:
        assert params["grow_1"]["upconv"]["kernel"].shape == (4, 2, 2, 6, 4)
    assert config.multiple(3) == (4, 4, 4)
    with pytest.raises(ValueError, match="axis 0 of 6 must be a multiple of 4"):
        shapes_of(config, (1, 6, 12, 4, 2), train=False)


@pytest.mark.parametrize(
    "config, shape, multiple",
    [
        (TINY, (1, 15, 16, 3), 2),
        (TINY, (1, 16, 15, 3), 2),
        (DEEP, (1, 16, 12, 3), 8),
        (DEEP, (1, 16, 16, 12, 3), 8),
        (Model(), (1, 256, 248, 3), 16),
    ],
)
def test_sizes_that_raise(config, shape, multiple):
    with pytest.raises(ValueError, match=f"multiple of {multiple}"):
        shapes_of(config, shape, train=False)


@pytest.mark.parametrize(
    "setting, make",
    [
        ("model.widths", lambda: Model(widths=(32,))),
        ("model.widths", lambda: Model(widths=(32, 0))),
        ("model.norm", lambda: Model(norm="layer")),
        ("model.upsample", lambda: Model(upsample="cubic")),
        ("model.compute_dtype", lambda: Model(compute_dtype="float16")),
        ("model.dropout", lambda: Model(dropout=1.0)),
        ("model.num_classes", lambda: Model(num_classes=0)),
        ("model.deep_supervision", lambda: Model(widths=(2, 4, 8), deep_supervision=2)),
        ("input.image_size", lambda: Config(input=Input(image_size=(256, 248)))),
        ("model.windows", lambda: Model(widths=(2, 4, 8), windows=((2, 2),))),
        ("model.windows", lambda: Model(widths=(2, 4, 8), windows=((2, 2), (2, 2, 2)))),
        ("model.windows", lambda: Model(widths=(2, 4), windows=((0, 2),))),
        ("model.kernels", lambda: Model(widths=(2, 4), kernels=((3, 3),))),
        ("model.kernels", lambda: Model(widths=(2, 4), kernels=((3, 3), (2, 3)))),
        ("model.blocks", lambda: Model(widths=(2, 4), blocks=(1, 2, 3))),
        ("model.blocks", lambda: Model(widths=(2, 4), blocks=(1, 0))),
        ("model.residual", lambda: Model(widths=(2, 4), blocks=(1, 1), residual=True)),
        ("model.decoder_convs", lambda: Model(decoder_convs=0)),
        ("model.downsample", lambda: Model(downsample="mean")),
        ("model.activation", lambda: Model(activation="gelu")),
        ("model.norm_epsilon", lambda: Model(norm_epsilon=0.0)),
        ("input.image_size", lambda: Input(image_size=(8, 8, 8, 8))),
        ("input.image_size", lambda: Input(image_size=(8,))),
    ],
)
def test_settings_that_raise(setting, make):
    with pytest.raises(UserError, match=setting):
        make()


@pytest.mark.parametrize(
    "model, size, words",
    [
        (
            *(THIN, (8, 10, 4)),
            "image_size=(8, 10, 4): axis 1 must be a multiple of 4, such as 8 or 12: model.windows",
        ),
        (DEEP, (155, 64, 64), "axis 0 must be a multiple of 8, such as 152 or 160: model.widths"),
        (DEEP, (64, 4), "axis 1 must be a multiple of 8, such as 8: model.widths shrinks it"),
        (
            *(THIN, (8, 8)),
            "model.windows=((1, 2, 2), (4, 2, 2)): each level needs 2 numbers, as "
            "input.image_size=(8, 8) has",
        ),
        (dataclasses.replace(THIN, windows=()), (8, 8), "model.kernels=((1, 3, 3), (3, 3, 3), "),
    ],
)
def test_images_that_do_not_fit_the_network(model, size, words):
    with pytest.raises(UserError, match=re.escape(words)):
        Config(model=model, input=Input(image_size=size))


def test_images_that_fit_the_network():
    assert Config(model=THIN, input=Input(image_size=(8, 12, 4))).model is THIN
    assert Config(model=DEEP, input=Input(image_size=(32, 64, 8)))


def test_default_is_the_classic_unet():
    """Convolutions 3x3 without bias, 2 norm parameters a channel, biases in up and head."""

    def block(inputs, features):
        return 9 * inputs * features + 9 * features**2 + 4 * features

    widths = (3, 32, 64, 128, 256, 512)
    down = sum(block(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
    up = sum(4 * 2 * w * w + w + block(2 * w, w) for w in (256, 128, 64, 32))
    _, variables = shapes_of(Model(), (1, 256, 256, 3), train=False)
    count = sum(p.size for p in jax.tree.leaves(variables["params"]))
    assert count == down + up + 33 == 7_763_041


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
def test_norms_are_those_of_numpy(kind, relu):
    """Also where the mean is a thousand standard deviations away."""
    x = np.random.default_rng(0).normal(1000, [[[1.0, 2, 3, 4, 5, 6]]], (3, 4, 4, 6))
    norm = Norm(kind, jnp.dtype("float32"), relu)
    variables = norm.init(jax.random.key(0), jnp.zeros(x.shape), False)
    y, updated = norm.apply(variables, x.astype(np.float32), True, mutable=["batch_stats"])
    # 6 channels make 6 groups: the largest divisor of at most 8.
    axes = (0, 1, 2) if kind == "batch" else (1, 2)
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    expected = (x - mean) / np.sqrt(variance)
    np.testing.assert_allclose(y, np.maximum(expected, 0) if relu else expected, atol=2e-3)
    if kind == "batch":
        stats = updated["batch_stats"]["batch"]
        np.testing.assert_allclose(stats["mean"], 0.1 * mean.ravel(), rtol=1e-5)
        np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * variance.ravel(), rtol=1e-3)


def test_group_norm_shares_statistics_within_a_group():
    """16 channels make 8 groups of 2."""
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 16)).astype(np.float32)
    norm = Norm("group", jnp.dtype("float32"), relu=False)
    y, _ = norm.init_with_output(jax.random.key(0), x, True)
    grouped = x.reshape(2, 16, 8, 2).astype(np.float64)
    mean, std = grouped.mean((1, 3), keepdims=True), grouped.std((1, 3), keepdims=True)
    np.testing.assert_allclose(y, ((grouped - mean) / std).reshape(x.shape), atol=1e-4)


@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_leaky_relu_leaves_a_hundredth_below_zero(kind):
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4, 3)).astype(np.float32)
    make = functools.partial(Norm, kind, jnp.dtype("float32"))
    plain, _ = make(False).init_with_output(jax.random.key(0), x, True)
    leaky, _ = make(True, slope=0.01).init_with_output(jax.random.key(0), x, True)
    assert (plain < -1).any()
    np.testing.assert_allclose(leaky, np.where(plain > 0, plain, 0.01 * plain), rtol=1e-6)


def test_epsilon_of_instance_norm():
    """Variance 1e-5 and epsilon 1e-5: the values are those of twice the variance."""
    x = np.sqrt(1e-5) * np.array([-1.0, 1.0, 1.0, -1.0]).reshape(1, 2, 2, 1)
    norm = Norm("instance", jnp.dtype("float32"), relu=False, epsilon=1e-5)
    y, _ = norm.init_with_output(jax.random.key(0), x.astype(np.float32), True)
    np.testing.assert_allclose(y.ravel(), np.array([-1, 1, 1, -1]) / np.sqrt(2), rtol=1e-4)


def test_strided_convolution_looks_to_both_sides():
    """Kernel 3, stride 2, as PyTorch pads it: output i is the sum of inputs 2i - 1 to 2i + 1."""
    block = Block(1, TINY, kernel=(3, 1), strides=(2, 1), convs=1)
    x = jnp.arange(1.0, 9.0).reshape(1, 8, 1, 1)
    variables = block.init(jax.random.key(0), x, False)
    kernel = variables["params"]["conv_1"]["kernel"]
    variables["params"]["conv_1"]["kernel"] = jnp.ones_like(kernel)
    y = block.apply(variables, x, False).ravel()
    np.testing.assert_allclose(y * np.sqrt(1 + 1e-5), [3, 9, 15, 21], rtol=1e-6)


def test_residual_block_with_a_stride_averages_its_input():
    """With the last norm's scale at 0, the mean of each window, then a projection with a norm."""
    block = Block(3, RESIDUAL, kernel=(3, 3), strides=(1, 2), residual=True)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 2))
    variables = block.init(jax.random.key(0), x, False)
    variables["params"]["norm_2"]["instance"]["scale"] *= 0
    mean = x.reshape(2, 4, 2, 2, 2).mean(3)
    skip = mean @ variables["params"]["skip"]["kernel"][0, 0]
    skip = (skip - skip.mean((1, 2), keepdims=True)) / np.sqrt(
        skip.var((1, 2), keepdims=True) + 1e-5
    )
    expected = np.where(skip > 0, skip, 0.01 * skip)
    np.testing.assert_allclose(block.apply(variables, x, False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [4, 3], ids=["same", "projected"])
def test_residual_block_passes_its_input_through(channels):
    """With the last norm's scale at 0 only the skip is left, before the ReLU."""
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, channels))
    block = Block(4, TINY, kernel=(3, 3), strides=(1, 1), residual=True)
    variables = block.init(jax.random.key(0), x, False)
    variables["params"]["norm_2"]["batch"]["scale"] *= 0
    skip = x
    if channels != 4:
        skip = jnp.einsum("bhwc,co->bhwo", x, variables["params"]["skip"]["kernel"][0, 0])
    np.testing.assert_allclose(block.apply(variables, x, False), jnp.maximum(skip, 0), atol=1e-5)


@pytest.mark.parametrize(
    "config, size",
    [
        (dataclasses.replace(TINY, dropout=0.5, residual=True), (8, 8)),
        (dataclasses.replace(NNUNET, **HALF, blocks=(1, 1), dropout=0.5), (2, 4, 4)),
    ],
    ids=["slices", "volumes"],
)
def test_remat_changes_neither_parameters_nor_values_nor_gradients(config, size):
    x = jax.random.normal(jax.random.key(1), (2, *size, 3))
    plain, remat = config, dataclasses.replace(config, remat=True)
    variables = initial(plain, x.shape)
    names = jax.tree.map(jnp.shape, variables)
    assert names == jax.tree.map(jnp.shape, shapes_of(remat, x.shape, False)[1])

    def run(config, params):
        def loss(params):
            logits, updated = UNet(config).apply(
                {**variables, "params": params},
                x,
                train=True,
                rngs={"dropout": jax.random.key(2)},
                mutable=["batch_stats"],
            )
            return jnp.sum(logits[0] ** 2), (logits, updated)

        return jax.value_and_grad(loss, has_aux=True)(params)

    results = [jax.jit(functools.partial(run, c))(variables["params"]) for c in (plain, remat)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), *results)


def test_bfloat16_computes_in_bfloat16_and_agrees():
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    half = dataclasses.replace(TINY, compute_dtype="bfloat16")
    variables = initial(TINY, x.shape)
    apply = lambda config: jax.jit(lambda v, x: UNet(config).apply(v, x, train=False)[0])  # noqa: E731
    exact, rounded = apply(TINY)(variables, x), apply(half)(variables, x)
    spread = float(jnp.std(exact))
    np.testing.assert_allclose(rounded, exact, atol=0.1 * spread)
    assert jnp.max(jnp.abs(rounded - exact)) > 1e-4 * spread
    text = str(jax.make_jaxpr(apply(half))(variables, x))
    convolutions = [line for line in text.splitlines() if "= conv_general_dilated" in line]
    assert convolutions and all("bf16[" in line for line in convolutions)


def test_dropout_acts_in_training_only():
    config = dataclasses.replace(TINY, dropout=0.5, norm="instance")
    x = jax.random.normal(jax.random.key(1), (1, 8, 8, 3))
    variables = initial(config, x.shape)

    @functools.partial(jax.jit, static_argnums=1)
    def apply(key, train):
        return UNet(config).apply(variables, x, train=train, rngs={"dropout": key})[0]

    a, b = jax.random.split(jax.random.key(5))
    np.testing.assert_array_equal(apply(a, True), apply(a, True))
    assert (apply(a, True) != apply(b, True)).mean() > 0.5
    np.testing.assert_array_equal(apply(a, False), apply(b, False))


@pytest.mark.parametrize("upsample", ["transpose", "resize"])
def test_follows_the_image_and_sees_its_neighbourhood_only(upsample):
    """Shifted by a multiple of the coarsest voxel, the output shifts along; far voxels are 0."""
    config = dataclasses.replace(TINY, upsample=upsample)
    x = jax.random.normal(jax.random.key(1), (1, 48, 48, 3))
    variables = initial(config, x.shape)
    run = jax.jit(lambda x: UNet(config).apply(variables, x, train=False)[0])
    changed = x.at[0, 24, 24].add(10.0)
    y, shifted, touched = (
        run(jnp.concatenate([x, jnp.roll(x, (2, 4), (1, 2)), changed]))[i] for i in range(3)
    )
    inside = slice(16, 32)  # out of reach of the padding
    np.testing.assert_allclose(shifted[18:34, 20:36], y[inside, inside], rtol=1e-4, atol=1e-5)
    rows, columns = np.nonzero(np.abs(touched - y)[..., 0] > 1e-4)
    reach = 2 + 2 * 2 + 2 + 3  # convolutions: encoder, bottleneck x 2, decoder; up-sampling
    assert 4 <= np.abs(np.concatenate([rows, columns]) - 24).max() <= reach
