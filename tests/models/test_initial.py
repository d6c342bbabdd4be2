"""Kernels drawn together have the bits of those that flax draws one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.config import Model, networks
from jaxseg.models.initial import initialise
from jaxseg.models.unet import UNet

PLAIN = Model(widths=(4, 8, 16))
NETWORKS = {
    "slices": (PLAIN, (16, 16, 3)),
    "volumes": (dataclasses.replace(PLAIN, norm="instance", num_classes=3), (8, 8, 8, 4)),
    "group norm, resized": (
        dataclasses.replace(PLAIN, norm="group", upsample="resize", dropout=0.1),
        (16, 16, 1),
    ),
    "remat": (dataclasses.replace(PLAIN, remat=True, residual=True), (16, 16, 3)),
    "residual encoder": (
        dataclasses.replace(
            networks.residual_encoder_m(2), widths=(4, 8, 16), blocks=(1, 2, 1), deep_supervision=1
        ),
        (16, 16, 16, 2),
    ),
    "nnU-Net": (
        dataclasses.replace(networks.nnunet_plain(2), widths=(4, 8, 16), deep_supervision=1),
        (16, 16, 16, 2),
    ),
}


def together(model, image):
    return jax.jit(lambda key: initialise(model, key, image))


def as_programs_do(function, key):
    """Compile with the optimisation of `machine/cpu.py`, and not the tests' own, which is none."""
    compiled = function.lower(key).compile({"xla_backend_optimization_level": 1})
    return compiled(key)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_bits_are_those_of_flax(kind):
    config, shape = NETWORKS[kind]
    model, image, key = UNet(config), jnp.zeros((1, *shape)), jax.random.key(7)
    expected = as_programs_do(jax.jit(lambda key: model.init(key, image, train=False)), key)
    found = as_programs_do(together(model, image), key)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(one).view(np.int32), np.asarray(other).view("i4"))


def test_few_draws_for_many_kernels():
    """Sizes within a factor of 16 are one draw; the network itself has left the program."""
    model, image = UNet(Model(widths=(8, 16, 32, 64))), jnp.zeros((1, 16, 16, 3))
    shapes = jax.eval_shape(together(model, image), jax.random.key(0))
    kernels = [x for x in jax.tree.leaves(shapes["params"]) if x.ndim > 1]
    text = together(model, image).lower(jax.random.key(0)).as_text()
    assert len(kernels) == 18 and 1 <= text.count("call @_truncated_normal") <= 4
    assert "convolution" not in text and "custom_call" not in text


def test_outside_of_it_flax_draws_as_ever():
    """Also after an initialisation that failed."""
    with pytest.raises(ValueError, match="must be a multiple"):
        initialise(UNet(PLAIN), jax.random.key(0), jnp.zeros((1, 15, 16, 3)))
    variables = UNet(PLAIN).init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)
    assert isinstance(variables["params"]["down_0"]["conv_1"]["kernel"], jax.Array)
