"""The programs of a run are lowered for GPU and TPU on a machine that has a CPU alone."""

import dataclasses
import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.config import Augment, Config, Input, Model
from jaxseg.imaging import draws
from jaxseg.machine.sharding import make_mesh
from jaxseg.models import apply, gpu, native
from jaxseg.models.unet import UNet
from jaxseg.training.state import abstract_state
from jaxseg.training.steps import jit_train_step
from jaxseg.transforms.augment import jit_augment

PLATFORMS = "cuda", "tpu"
SIZES = {"slices": (16, 24), "volumes": (4, 8, 16)}
kinds = pytest.mark.parametrize("kind", SIZES)
dtypes = pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
platforms = pytest.mark.parametrize("platform", PLATFORMS)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """As on a CPU machine, where `native` serves; the tests' eight devices are for others."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def settings(kind, dtype):
    norm = "batch" if kind == "slices" else "instance"
    model = Model(widths=(8, 16), norm=norm, compute_dtype=dtype)
    config = Config(model=model, input=Input(image_size=SIZES[kind]))
    return config, make_mesh(devices=jax.devices()[:1])


def lowered(program, platform, *arguments):
    """Return the text of a program for a platform, and the names of what it calls."""
    made = jax.export.export(program, platforms=(platform,))(*arguments)
    assert made.platforms == (platform,)
    text = made.mlir_module()
    return text, set(re.findall(r"custom_call @([\w.$]+)", text))


def step_and_prediction(kind, dtype, platform):
    """Return text and calls of a training step and of a prediction."""
    config, mesh = settings(kind, dtype)
    state, batch = abstract_state(config, 3, mesh), (2, *SIZES[kind])
    shapes = {
        "image": jax.ShapeDtypeStruct((*batch, 3), jnp.float32),
        "mask": jax.ShapeDtypeStruct((*batch, 1), jnp.uint8),
        "stop": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    step = lowered(jit_train_step(config, state, mesh), platform, state, shapes)
    # Jitted anew: the program that a process shares may have been traced for its CPU.
    predict = jax.jit(functools.partial(apply.predict_probabilities, model=UNet(config.model)))
    temperature = jax.ShapeDtypeStruct((), jnp.float32)
    return step, lowered(predict, platform, state.weights, shapes["image"], temperature)


@platforms
@dtypes
@kinds
def test_with_plain_operations(kind, dtype, platform):
    with native.plain_operations():
        step, prediction = step_and_prediction(kind, dtype, platform)
    for text, calls in (step, prediction):
        assert "stablehlo.convolution" in text
        assert not [name for name in calls if "jaxseg" in name or "triton" in name]


def test_the_cpus_own_would_be_found():
    if native.problem():
        pytest.skip(native.problem())
    with pytest.raises(ValueError, match="jaxseg_convolve"):
        step_and_prediction("slices", "float32", "cuda")


@platforms
@dtypes
@kinds
def test_with_all_parts_for_a_gpu(monkeypatch, kind, dtype, platform):
    """As a user may ask for it: JAXSEG_NATIVE=0 JAXSEG_GPU=norm,pool,fold,head."""
    monkeypatch.setattr(native, "problem", lambda: "switched off")
    monkeypatch.setenv(gpu.VARIABLE, ",".join(gpu.PARTS))
    step, prediction = step_and_prediction(kind, dtype, platform)
    for text, calls in (step, prediction):
        assert not [name for name in calls if "jaxseg" in name or "triton" in name]
        folded = "x".join(("3",) * len(SIZES[kind])) + "x16x32xbf16"
        assert (folded in text) == (dtype == "bfloat16")


def raw_batch(size, config):
    """Return two samples as the host sends them, with numbers as drawn."""
    rng, spacing = np.random.default_rng(0), (1.0,) * len(size)
    one = {
        "image": np.zeros((*size, 3), np.int16),
        "mask": np.zeros((*size, 1), np.uint8),
        "stats": np.ones((3, 4), np.float32),
        "outside": np.zeros(3, np.float32),
        "matrix": np.eye(len(size), len(size) + 1, dtype=np.float32),
        "nodes": draws.draw_elastic(rng, size, config),
        **draws.draw_intensity(rng, spacing, 3, config),
    }
    if len(size) == 2:
        one["block"] = np.ones(2, np.float32)
    return jax.tree.map(lambda x: np.stack([x, x]), one) | {"stop": np.zeros(2, np.int32)}


@platforms
@kinds
def test_the_augmentation(kind, platform):
    config, mesh = settings(kind, "float32")
    config = dataclasses.replace(config, augment=Augment(elastic_probability=1))
    batch = raw_batch(SIZES[kind], config.augment)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    text, calls = lowered(jit_augment(config, mesh), platform, shapes)
    assert "tensor<2x" + "x".join(map(str, SIZES[kind])) + "x3xf32>" in text
    assert not [name for name in calls if "jaxseg" in name]
