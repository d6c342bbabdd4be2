"""The phantom: same bytes everywhere, look-alikes that defeat a threshold, tumours in a third."""

import hashlib

import numpy as np
import pytest

from jaxseg.datasets import phantom
from jaxseg.datasets.phantom import patient_id

PRE, FLAIR, POST = range(3)


def generate_patient(seed, index):
    """Return the image, and the mask of the whole tumour [D, H, W, 1]."""
    image, labels = phantom.generate_patient(seed, index)
    return image, (labels > 0)[..., None].astype(np.uint8)


@pytest.fixture(scope="module")
def patients() -> list[tuple[np.ndarray, np.ndarray]]:
    """Twenty patients of the default seed: float64 [3, D, 128, 128] and bool [D, 128, 128]."""
    made = (generate_patient(0, index) for index in range(20))
    return [(np.moveaxis(image, -1, 0).astype(float), mask[..., 0] > 0) for image, mask in made]


def test_golden_bytes():
    """Update the digest only when the phantom is meant to change; then say so in CHANGELOG.md,
    retrain configs/unet.py and correct the scores in its header."""
    digest = hashlib.sha256()
    for index in (0, 1, 47):
        for array in generate_patient(0, index):
            digest.update(str(array.shape).encode() + array.tobytes())
    assert (
        digest.hexdigest() == "f76770311d060d4c28176cc8a1cd390bc461ab456a41e9d21bae0ba499015fb8"
    ), (
        "the phantom's bytes changed: either phantom.py did (see this test's docstring) or a new "
        "NumPy draws other numbers"
    )


def test_patient_depends_on_seed_and_index_alone():
    image, mask = generate_patient(3, 5)
    generate_patient(3, 6)
    np.random.default_rng(0).random()
    again, mask_again = generate_patient(3, 5)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)


def test_other_seed_or_index_makes_another_patient():
    image, *others = (generate_patient(*key)[0] for key in ((3, 5), (4, 5), (3, 6), (5, 3)))
    for other in others:
        level = min(len(image), len(other)) // 2
        assert np.mean(image[level] == other[level]) < 0.5


def test_types_shapes_and_values():
    for index in (0, 7):
        image, mask = generate_patient(1, index)
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == (len(image), 128, 128, 3)
        assert mask.shape == (len(image), 128, 128, 1)
        assert set(np.unique(mask)) == {0, 1}
        assert np.mean(image == 255) < 0.01  # the gains leave room


def test_patient_id():
    assert [patient_id(i) for i in (0, 7, 123)] == ["phantom_000", "phantom_007", "phantom_123"]


def test_number_of_slices_and_share_without_tumour(patients):
    counts = [len(mask) for _, mask in patients]
    assert min(counts) >= 20
    assert max(counts) <= 40
    assert len(set(counts)) > 5
    empty = np.concatenate([~mask.any((1, 2)) for _, mask in patients])
    assert 0.6 < empty.mean() < 0.72
    assert all(mask.any() for _, mask in patients)


def test_tumour_slices_are_contiguous_and_no_dots(patients):
    for _, mask in patients:
        areas = mask.sum((1, 2))
        rows = np.flatnonzero(areas)
        assert rows[-1] - rows[0] + 1 == len(rows)
        assert areas[rows].min() >= 80
        diameter = 2 * np.sqrt(areas.max() / np.pi)
        assert 18 < diameter < 48


def test_tumours_vary_in_place_size_and_contrast(patients):
    columns = [np.nonzero(mask)[2].mean() for _, mask in patients]
    assert min(columns) < 50
    assert max(columns) > 78
    volumes = [mask.sum() for _, mask in patients]
    assert max(volumes) > 3 * min(volumes)


def test_tumour_is_brighter_than_the_brain_on_flair(patients):
    for image, mask in patients:
        flair = image[FLAIR]
        rows = mask.any((1, 2))
        brain = flair[rows][:, 40:88, 48:80][~mask[rows][:, 40:88, 48:80]]
        assert np.median(flair[mask]) > 1.2 * np.median(brain)


def test_rim_enhances_in_some_tumours_but_not_all(patients):
    """The share of the tumour that is much brighter after contrast than before."""
    shares = []
    for image, mask in patients:
        gain = image[POST][mask] / (image[PRE][mask] + 1)
        shares.append(np.mean(gain > 1.7 * np.median(gain)))
    enhancing = np.array(shares) > 0.02
    assert 0.3 * len(patients) <= enhancing.sum() <= 0.9 * len(patients), np.round(shares, 3)


def test_look_alikes_are_brighter_than_the_tumour(patients):
    """Counted in a box around the ventricles that neither skull nor scalp reaches."""
    found = 0
    for image, mask in patients:
        flair = image[FLAIR]
        box = np.zeros_like(mask)
        box[len(box) // 3 : 3 * len(box) // 4, 36:92, 44:84] = True
        found += np.sum((flair > np.median(flair[mask])) & box & ~mask) >= 40
    assert found >= 0.7 * len(patients)


def test_best_global_threshold_stays_under_half(patients):
    """The threshold is chosen on the very patients it is scored on, which flatters it."""
    thresholds = np.linspace(-1, 8, 181)
    dice = np.empty((len(patients), len(thresholds)))
    for row, (image, mask) in zip(dice, patients, strict=True):
        flair = image[FLAIR]
        z = (flair - flair.mean()) / flair.std()
        # Voxels above each threshold, from the sorted values.
        above = z.size - np.searchsorted(np.sort(z, axis=None), thresholds, side="right")
        hits = mask.sum() - np.searchsorted(np.sort(z[mask]), thresholds, side="right")
        row[:] = 2 * hits / (above + mask.sum())
    mean = dice.mean(axis=0)
    assert 0 < mean.argmax() < len(thresholds) - 1  # the scan holds the best one
    assert 0.05 < mean.max() < 0.5
