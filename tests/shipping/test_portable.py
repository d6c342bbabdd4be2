"""The exported computation agrees with the host's NumPy, OpenCV and SciPy."""

import functools

import jax
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.imaging import geometry, intensity
from jaxseg.prediction.operating import OperatingPoint, segment
from jaxseg.shipping import portable, portable_volume

GRID = (16, 24)
BOXES = {
    "whole slice, shrinks 3.3 times": (48, 80, None),
    "half": (32, 48, None),
    "rows shrink 4 times, columns are padded": (64, 40, None),
    "head, a little": (40, 44, (3, 5, 30, 40)),
    "head, 2.5 times": (61, 70, (10, 2, 50, 62)),
    "head, grows 2.3 times": (40, 44, (12, 20, 19, 30)),
    "head, grows 6 times": (40, 44, (12, 20, 14, 24)),
    "head, pixel centres on the edge of the grid": (40, 44, (5, 14, 33, 29)),
    "as it is": (16, 24, None),
}


def blobs(rng, shape, share):
    """Return smooth random parts of all sizes, which fill a share of the shape."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
    return noise > np.quantile(noise, 1 - share)


@jax.jit
def both_ways(image, stats, box):
    """Return what the network is given, and what comes back of its sigmoid."""
    given = []

    def predict(x):
        given.append(x)
        return jax.nn.sigmoid(x)

    back = portable.segment_slices(image, stats, box, predict=predict, image_size=GRID)
    return given[0], back


def test_the_edge_of_the_training_grid_is_the_same():
    assert portable.EDGE == geometry.EDGE


@pytest.mark.parametrize("case", BOXES)
def test_there_and_back_as_geometry(case):
    height, width, box = BOXES[case]
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 200, (2, height, width, 3)).astype(np.float32)
    stats = intensity.volume_statistics(image)
    box = np.array((0, 0, height, width) if box is None else box, np.int32)
    there, back = both_ways(image, stats, box)
    for i in range(2):
        mask = np.zeros((height, width, 1), np.uint8)
        record = {"image": image[i], "mask": mask, "stats": stats, "head_box": box}
        expected = geometry.prepare_slice(record, GRID, crop_to_head=True)["image"]
        np.testing.assert_allclose(there[i], expected, atol=2e-5)
        matrix = geometry.record_matrix(record, GRID, crop_to_head=True)
        probability = np.asarray(jax.nn.sigmoid(expected))
        native = geometry.to_native_grid(probability, matrix, (height, width))
        np.testing.assert_allclose(back[i], native, atol=1e-5)


@jax.jit
def statistics_and_box(image):
    image = portable_volume.darken_background(image)
    head = portable_volume.head_mask(image)
    return portable_volume.statistics(image, head), portable_volume.head_box(head)


def volume(rng, dtype, channels=3):
    """Return a bright head with a speck and a small part beside it, on noise."""
    image = rng.integers(0, 12, (5, 40, 50, channels))
    image[1:, 6:30, 8:33] += rng.integers(40, 200, (4, 24, 25, channels))
    image[2, 36:38, 2:4] = 150  # a speck
    image[3, 33:38, 40:46] = 150  # too small a part
    return (image * 1.1).astype(dtype) if dtype == np.float32 else image.astype(dtype)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_statistics_and_head_box_as_intensity(channels):
    rng = np.random.default_rng(1)
    for dtype in (np.uint8, np.uint16, np.float32):
        noise = rng.integers(0, 9, (5, 40, 50, channels)).astype(dtype)
        constant = np.full((5, 40, 50, channels), 7, dtype)
        for image in (volume(rng, dtype, channels), noise, constant):
            stats, box = statistics_and_box(image.astype(np.float32))
            np.testing.assert_allclose(stats, intensity.volume_statistics(image), rtol=3e-6)
            np.testing.assert_array_equal(box, intensity.head_box(image))
        assert (intensity.head_box(volume(rng, dtype)) == [6, 8, 30, 33]).all()
        assert (intensity.head_box(constant) == [0, 0, 40, 50]).all()


@pytest.mark.parametrize("amid", [1, 2, 3])
def test_a_background_amid_the_tissue_as_intensity(amid):
    image = volume(np.random.default_rng(5), np.float32)
    head = image[..., 1] > 30
    scored = np.where(head[..., None], (image - 120) / 50, 0).astype(np.float32)
    image[..., :amid] = scored[..., :amid]
    dark = intensity.darken_background(image)
    assert (dark is image) == (amid == 1)  # outvoted
    found = jax.jit(portable_volume.darken_background)(image)
    np.testing.assert_allclose(found, dark, rtol=1e-6)
    stats, box = statistics_and_box(image)
    np.testing.assert_allclose(stats, intensity.volume_statistics(dark), rtol=3e-6, atol=1e-6)
    np.testing.assert_array_equal(box, intensity.head_box(dark))


def test_order_statistics_are_exact_for_every_float():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(3, 4, 50)) * 10.0 ** rng.integers(-30, 30, 50)
    values = values.astype(np.float32)
    values[0, 0, :3] = 0.0, -0.0, 1e-45
    members = rng.uniform(size=values.shape) < 0.7
    ranks = np.array([0, 1, 17, members.sum() - 1])
    found = jax.jit(portable_volume._order_statistics)(values, members, ranks)
    np.testing.assert_array_equal(found, np.sort(values[members])[ranks])


@pytest.mark.parametrize("shape", [(30, 41), (7, 20, 22)])
def test_components_as_scipy(shape):
    rng = np.random.default_rng(3)
    components = jax.jit(portable_volume.components)
    spiral = np.zeros(shape, bool)
    spiral[..., ::2, :] = True  # rows, joined at alternating ends: one long path
    spiral[..., 1::4, -1] = spiral[..., 3::4, 0] = True
    masks = [blobs(rng, shape, share) for share in (0.05, 0.3, 0.6)]
    for mask in [*masks, spiral, np.zeros(shape, bool), np.ones(shape, bool)]:
        found = np.asarray(components(mask))
        expected, number = ndimage.label(mask, np.ones((3,) * mask.ndim))
        assert ((found > 0) == mask).all()
        pairs = set(zip(found[mask].tolist(), expected[mask].tolist(), strict=True))
        assert len(pairs) == number == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_small_lesions_are_dropped():
    mask = np.zeros((3, 8, 8), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True  # three voxels, joined by corners
    mask[0, 5:7, 5] = True  # two
    kept = jax.jit(portable_volume.drop_small)(mask, 3)
    assert np.asarray(kept).sum() == 3 and kept[1, 1, 1]


@pytest.mark.parametrize("depth", [1, 5])
def test_a_volume_of_any_depth_as_the_host(depth):
    """Batches of 3 are filled up; a sigmoid stands for the network."""
    image = volume(np.random.default_rng(4), np.uint8)[:depth]
    point = OperatingPoint(threshold=0.6, min_lesion=5)
    stats, box = intensity.volume_statistics(image), intensity.head_box(image)
    expected = []
    for slice_ in image:
        mask = np.zeros((*slice_.shape[:2], 1), np.uint8)
        record = {"image": slice_, "mask": mask, "stats": stats, "head_box": box}
        given = geometry.prepare_slice(record, GRID, crop_to_head=True)["image"][..., :1]
        matrix = geometry.record_matrix(record, GRID, crop_to_head=True)
        probability = 1 / (1 + np.exp(-given))
        expected.append(geometry.to_native_grid(probability, matrix, slice_.shape[:2])[..., 0])
    run = functools.partial(
        portable_volume.segment_volume,
        predict=lambda x: jax.nn.sigmoid(x[..., :1]),
        image_size=GRID,
        crop_to_head=True,
        batch_size=3,
        threshold=point.threshold,
        min_lesion_voxels=5,
    )
    probability, mask = jax.jit(run)(image.astype(np.float32))
    np.testing.assert_allclose(probability, np.stack(expected), atol=1e-5)
    segmented = segment(np.array(probability), point)
    np.testing.assert_array_equal(mask, segmented)
    assert 0 < segmented.sum() < (np.array(probability) >= 0.6).sum(), "none was small"
