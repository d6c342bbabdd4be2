"""Published networks have the published sizes; levels that fit an image, worked by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxseg.config import Config, Input, Model, fit_levels, networks
from jaxseg.errors import UserError
from jaxseg.models.unet import UNet


def count(model, size, train=False):
    """Return shapes of the logits and the number of parameters; computes nothing."""

    def run(key):
        x = jnp.zeros((1, *size, 4))
        variables = UNet(model).init(key, x, train=False)
        return UNet(model).apply(variables, x, train=train), variables["params"]

    logits, params = jax.eval_shape(run, jax.random.key(0))
    return [x.shape for x in logits], sum(p.size for p in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "make, published, exact",
    [
        # By hand for the plain one: of nnU-Net's 31,198,991 the biases of the convolutions before
        # a norm are left out (3,840), and the head that it weighs with 0 (963).
        (networks.nnunet_plain, 31.2e6, 31_194_188),
        (networks.residual_encoder_m, 102e6, 102_339_148),
    ],
)
def test_published_networks(make, published, exact):
    logits, number = count(make(3), (128, 128, 128), train=True)
    assert logits == [(1, *(128 >> level,) * 3, 3) for level in range(4)]
    assert number == exact and abs(number / published - 1) < 0.005
    assert Config(model=make(3), input=Input(image_size=(128, 128, 128)))


def test_parameters_of_the_plain_network_by_hand():
    """27 weights per pair of channels, 8 in the transposed ones, 2 per channel in a norm."""

    def block(a, b):
        return 27 * (a * b + b * b) + 4 * b

    widths = (4, 32, 64, 128, 256, 320, 320)
    down = sum(block(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
    pairs = zip(widths[1:-1], widths[2:], strict=True)
    up = sum(8 * low * w + w + block(2 * w, w) for w, low in pairs)
    heads = sum(3 * w + 3 for w in (32, 64, 128, 256))
    assert count(networks.nnunet_plain(3), (64, 64, 64))[1] == down + up + heads


def test_networks_work_on_slices_and_at_small_widths():
    small = dataclasses.replace(
        networks.residual_encoder_m(2), widths=(4, 8, 16), blocks=(1, 1, 1), deep_supervision=1
    )
    logits, _ = count(small, (16, 24), train=True)
    assert logits == [(1, 16, 24, 2), (1, 8, 12, 2)]


def test_levels_of_a_cube_are_the_defaults():
    """128 halved five times is 4; the lists say what () says."""
    model = networks.nnunet_plain(3)
    fitted = fit_levels(model, (128, 128, 128))
    assert fitted.windows == ((2, 2, 2),) * 5 and fitted.kernels == ((3, 3, 3),) * 6
    assert dataclasses.replace(fitted, windows=(), kernels=()) == model


def test_levels_of_thick_slices():
    """nnU-Net's plan for prostates: 3.6 mm beside 0.62 mm are 5.8, 2.9, 1.4 times as thick."""
    fitted = fit_levels(Model(widths=(32,) * 9), (20, 320, 256), (3.6, 0.62, 0.62))
    assert fitted.windows == (((1, 2, 2),) * 2 + ((2, 2, 2),) * 2 + ((1, 2, 2),) * 2)
    assert fitted.kernels == ((1, 3, 3),) * 2 + ((3, 3, 3),) * 5
    assert len(fitted.widths) == 7
    assert Config(model=fitted, input=Input(image_size=(20, 320, 256)))


def test_fewer_levels_where_nothing_can_be_halved():
    """24 is halved to 12 and 6, which would leave 3; 6 x 6 x 10 cannot be halved twice."""
    model = networks.residual_encoder_m(1)
    fitted = fit_levels(model, (24, 24, 24))
    assert (fitted.widths, fitted.blocks) == ((32, 64, 128), (1, 3, 4))
    assert fitted.deep_supervision == 0
    assert fit_levels(model, (6, 6, 10)).windows == ((1, 1, 2),)
    with pytest.raises(UserError, match="no axis is even"):
        fit_levels(model, (6, 33, 6))
