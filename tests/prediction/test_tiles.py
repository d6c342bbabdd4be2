"""Tiles: every pixel once more, weighted by its tiles, for any size of slice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.config import Config, Evaluation, Input, Model
from jaxseg.imaging.intensity import normalise, volume_statistics
from jaxseg.machine.sharding import make_mesh
from jaxseg.prediction.predictor import Predictor
from jaxseg.prediction.windows import predict_tiles
from jaxseg.scans.volume import Volume

TILE = (8, 12)


def model(predict) -> Predictor:
    config = Config(
        input=Input(image_size=TILE),
        model=Model(widths=(2, 4)),
        evaluation=Evaluation(batch_size=8),
    )
    compiled = jax.jit(lambda weights, image, temperature: predict(image))
    return Predictor(compiled, None, None, (1.0,), config, make_mesh(), 8)


def volume(shape, seed=0):
    return np.random.default_rng(seed).integers(1, 200, (*shape, 2)).astype(np.uint8)


@pytest.mark.parametrize("size", [(8, 12), (5, 7), (5, 30), (21, 12), (19, 41)])
def test_a_network_that_returns_its_input_gives_back_the_slices(size):
    image = volume((3, *size))
    predicted = predict_tiles(model(lambda x: x[..., :1]), Volume(image))
    stats = volume_statistics(image)
    expected = np.stack([normalise(x, stats)[..., :1] for x in image])
    np.testing.assert_allclose(predicted, expected, atol=1e-5)


def test_a_pixel_is_the_mean_of_its_tiles_by_the_gaussian():
    # Columns 0 to 17: tiles of 12 begin at 0 and 6. Each returns the column within the tile.
    ramp = jnp.arange(12, dtype=jnp.float32)[:, None]
    predicted = predict_tiles(
        model(lambda x: jnp.broadcast_to(ramp, (*x.shape[:3], 1))), Volume(volume((1, 8, 18)))
    )
    weight = np.exp(-0.5 * ((np.arange(12) - 5.5) / 1.5) ** 2)
    for column in range(18):
        tiles = [column - start for start in (0, 6) if 0 <= column - start < 12]
        expected = sum(weight[t] * t for t in tiles) / sum(weight[t] for t in tiles)
        np.testing.assert_allclose(predicted[0, :, column, 0], expected, rtol=1e-4)


def test_one_program_serves_volumes_of_all_sizes():
    identity = model(lambda x: x[..., :1])
    for size in ((8, 12), (30, 17)):
        predict_tiles(identity, Volume(volume((5, *size))))
    assert identity.predict._cache_size() == 1


def test_the_head_is_not_cut_out():
    image = np.zeros((2, 16, 24, 2), np.uint8)
    image[:, 4:9, 6:12] = volume((2, 5, 6))
    cropped = model(lambda x: x[..., :1])
    section = dataclasses.replace(cropped.config.input, crop_to_head=True)
    cropped = cropped._replace(config=dataclasses.replace(cropped.config, input=section))
    whole = predict_tiles(model(lambda x: x[..., :1]), Volume(image))
    np.testing.assert_array_equal(predict_tiles(cropped, Volume(image)), whole)
