"""Volumes predicted in patches: every voxel once more, at any size and spacing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.config import Config, Evaluation, Input, Model
from jaxseg.imaging import volumes
from jaxseg.imaging.intensity import normalise, outside_level, volume_statistics
from jaxseg.imaging.volumes import MARGIN, head_and_truth, patch_box, with_statistics
from jaxseg.machine.sharding import make_mesh
from jaxseg.prediction.predictor import Predictor
from jaxseg.prediction.windows import predict_patches
from jaxseg.scans.volume import Volume, cut

PATCH = (4, 8, 8)


def model(predict, spacing=(), devices=None) -> Predictor:
    config = Config(
        input=Input(image_size=PATCH, spacing_mm=spacing),
        model=Model(widths=(2, 4)),
        evaluation=Evaluation(batch_size=8),
    )
    compiled = jax.jit(lambda weights, image, temperature: predict(image))
    mesh = make_mesh(devices=devices)
    return Predictor(compiled, None, None, (1.0,), config, mesh, 8)


def head(shape, inner, dtype=np.int16):
    """A bright box of noise, everything else 0."""
    image = np.zeros((*shape, 2), dtype)
    box = tuple(slice(a, b) for a, b in inner)
    size = image[box].shape
    image[box] = np.random.default_rng(0).integers(300, 900, size)
    return image, box


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 5, 7), (9, 17, 12), (10, 30, 9)])
def test_a_network_that_returns_its_input_gives_back_the_volume(shape):
    image = np.random.default_rng(1).integers(300, 900, (*shape, 2)).astype(np.int16)
    predicted = predict_patches(model(lambda x: x[..., :1]), Volume(image))
    expected = normalise(image, volume_statistics(image))[..., :1]
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected, atol=1e-4)


def test_windows_are_averaged_with_gaussian_weights():
    """The network answers where in the window a voxel lies; the mean is worked out by hand."""
    image = np.random.default_rng(2).integers(300, 900, (4, 8, 12, 2)).astype(np.int16)

    def where(x):
        return jnp.broadcast_to(jnp.arange(8.0)[:, None], (*x.shape[:-1], 1))

    found = predict_patches(model(where), Volume(image))
    weight = np.exp(-0.5 * (np.arange(-3.5, 4) / (8 / 8)) ** 2)  # sigma: an eighth of the side
    total, weights = np.zeros(12), np.zeros(12)
    for start in (0, 4):
        total[start : start + 8] += weight * np.arange(8)
        weights[start : start + 8] += weight
    np.testing.assert_allclose(
        found, np.broadcast_to((total / weights)[:, None], found.shape), 1e-5
    )


def test_outside_of_the_scan_the_network_sees_its_darkest():
    """Intensities below 0, as of CT: 0 would be as bright as the brightest."""
    image = np.random.default_rng(3).integers(-900, -300, (3, 6, 6, 2)).astype(np.int16)
    stats = volume_statistics(image)
    found = predict_patches(
        model(lambda x: 0 * x[..., :1] + x[..., :1].mean((1, 2, 3), keepdims=True)), Volume(image)
    )
    whole = np.full(PATCH, outside_level(stats)[0])
    whole[:3, 1:7, 1:7] = normalise(image, stats)[..., 0]
    np.testing.assert_allclose(found, whole.mean(), atol=0.01)  # darkest is a whole number


def test_only_the_head_is_looked_at():
    image, box = head((20, 40, 40), [(6, 12), (10, 25), (12, 30)])
    shapes = []

    def seen(x):
        shapes.append(x.shape)
        return x[..., :1]

    predicted = predict_patches(model(seen), Volume(image))
    expected = normalise(image, volume_statistics(image))[..., :1]
    near = tuple(slice(s.start - 2, s.stop + 2) for s in box)
    np.testing.assert_allclose(predicted[near], expected[near], atol=1e-4)
    predicted[near] = 0
    assert not predicted.any()
    assert shapes == [(8, *PATCH, 2)]  # one program, of eight patches at once


def test_a_constant_network_is_constant_whatever_the_spacing():
    image, _ = head((10, 20, 20), [(0, 10), (0, 20), (0, 20)])
    for spacing in ((), (2.0, 1.0, 1.0), (1.0, 0.7, 1.3)):
        half = model(lambda x: 0 * x[..., :1] + 0.5, spacing)
        found = predict_patches(half, Volume(image, (1.5, 1.0, 1.0)))
        assert found.shape == (10, 20, 20, 1)
        np.testing.assert_allclose(found, 0.5, rtol=1e-5)


def test_another_spacing_leaves_everything_in_its_place():
    """A smooth blob comes back where it was, from a finer and from a coarser grid."""
    index = np.stack(np.meshgrid(*map(np.arange, (12, 24, 24)), indexing="ij"), axis=-1)
    blob = np.exp(-(((index - [5, 13, 10]) / [3, 5, 5]) ** 2).sum(-1))
    image = (1000 * blob + 100)[..., None].astype(np.float32)
    expected = predict_patches(model(lambda x: x[..., :1]), Volume(image, (2.0, 1.0, 1.0)))
    for spacing in ((1.0, 1.0, 1.0), (2.0, 2.0, 1.5)):
        found = predict_patches(
            model(lambda x: x[..., :1], spacing), Volume(image, (2.0, 1.0, 1.0))
        )
        assert np.abs(found - expected).mean() < 0.05
        peak = np.unravel_index(found[..., 0].argmax(), found.shape[:3])
        assert np.abs(np.array(peak) - [5, 13, 10]).max() <= 2


def test_the_same_on_one_device_and_on_eight():
    image, _ = head((10, 30, 25), [(1, 9), (3, 28), (2, 24)])

    def blur(x):
        left, right = (jax.numpy.roll(x, shift, 2) for shift in (-1, 1))
        return (0.4 * x + 0.3 * left + 0.3 * right)[..., :1]

    one = predict_patches(model(blur, devices=jax.devices()[:1]), Volume(image))
    eight = predict_patches(model(blur), Volume(image))
    np.testing.assert_allclose(one, eight, atol=1e-6)


def shrinking_head() -> np.ndarray:
    """Return a scan whose head seems smaller without the air around it.

    A few very bright voxels are under half a percent of the scan, and above it of the box of the
    head: their level then decides what is head, and a rim of 4 voxels is not.
    """
    image = np.zeros((20, 60, 60, 2), np.int16)
    image[3:17, 16:44, 14:46] = 50
    image[3:17, 20:40, 18:42] = np.random.default_rng(5).integers(200, 400, (14, 20, 24, 2))
    image[8:11, 25:32, 25:35] = 4000
    return image


def test_a_prepared_copy_is_predicted_as_the_scan_itself(monkeypatch):
    """Its box is not searched anew; of a scan in patches no box of slices is computed either."""
    image = shrinking_head()
    whole = with_statistics(Volume(image, mask=np.zeros((*image.shape[:3], 1), np.uint8)))
    low, high = box = head_and_truth(whole.image, whole.mask)
    copy = cut(whole, *box)._replace(cropped=True)
    anew = head_and_truth(copy.image, copy.mask)
    assert (anew[1] - anew[0])[1] < (high - low)[1]  # what the copy itself would tell
    np.testing.assert_array_equal(patch_box(copy), [(0, 0, 0), high - low])

    def blur(x):
        return x[..., :1] + x.mean((1, 2, 3, 4), keepdims=True)

    bare = Volume(image)
    monkeypatch.setattr(volumes, "head_box", None)  # which only slices need
    expected = predict_patches(model(blur), bare)
    monkeypatch.setattr(volumes, "head_box_3d", None)
    found = predict_patches(model(blur), copy)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    np.testing.assert_array_equal(found, expected[inside])
    expected[inside] = 0
    assert not expected.any()


def test_the_truth_beyond_the_head_does_not_widen_what_is_predicted():
    image = shrinking_head()
    mask = np.zeros((*image.shape[:3], 1), np.uint8)
    mask[10, 30, 55] = 1  # in the air
    whole = with_statistics(Volume(image, mask=mask))
    box = head_and_truth(whole.image, mask)
    copy = cut(whole, *box)._replace(cropped=True)
    assert box[1, 2] == 56 and patch_box(copy)[1, 2] + box[0, 2] == 46 + MARGIN
