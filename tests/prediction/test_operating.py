"""The operating point: from probabilities to masks, kept with the run."""

import json

import numpy as np
import pytest
from fake_config import tiny_config

from jaxseg.errors import UserError
from jaxseg.prediction import operating
from jaxseg.prediction.operating import OperatingPoint, segment, segment_regions
from jaxseg.prediction.predictions import measure
from jaxseg.scans.regions import PRESETS, TUMOUR, Region, to_labels, to_masks
from jaxseg.scans.volume import voxel_mm3


@pytest.fixture
def volume():
    """Four parts: 8 voxels in a cube, 3 in a diagonal over slices, 2 in a row, 1 alone."""
    probability = np.zeros((5, 12, 12), np.float32)
    probability[0:2, 0:2, 0:2] = 0.9
    probability[[0, 1, 2], [5, 6, 7], [5, 6, 7]] = 0.9
    probability[4, 0, 10:12] = 0.9
    probability[4, 11, 0] = 0.9
    return probability


@pytest.mark.parametrize(
    "min_lesion, kept", [(0, 14), (1, 14), (2, 13), (3, 11), (4, 8), (8, 8), (9, 0)]
)
def test_parts_smaller_than_the_smallest_lesion_are_dropped(volume, min_lesion, kept):
    """26 neighbours: the diagonal is one part; a part of just that size stays."""
    mask = segment(volume, OperatingPoint(min_lesion=min_lesion))
    assert mask.dtype == bool and mask.shape == volume.shape
    assert mask.sum() == kept
    assert not mask[volume < 0.5].any()


def test_in_mm3_the_size_of_a_voxel_counts(volume):
    spacing = (5.0, 0.5, 0.8)  # 2 mm3
    point = OperatingPoint(min_lesion=6.0, unit="mm3")
    assert segment(volume, point, spacing).sum() == 11  # 8 and 3 voxels: 16 and 6 mm3
    assert segment(volume, point, (5.0, 0.5, 0.7)).sum() == 8
    in_voxels = OperatingPoint(min_lesion=6.0)
    assert segment(volume, in_voxels, spacing).sum() == 8
    with pytest.raises(UserError, match="the smallest lesion kept is in mm3"):
        segment(volume, point)


def test_a_sheared_voxel_is_smaller_than_the_box_of_its_edges(volume):
    """Tilted by 60 degrees, half of it: 2 mm3 become 1."""
    spacing, affine = (5.0, 0.5, 0.8), np.eye(4)
    affine[:3, 0] = 0, 5 * np.sin(np.pi / 3), 5 * np.cos(np.pi / 3)
    affine[:3, 1], affine[:3, 2] = (0, 0.5, 0), (0.8, 0, 0)
    point = OperatingPoint(min_lesion=6.0, unit="mm3")
    assert segment(volume, point, spacing, affine).sum() == 8  # 8 and 3 mm3
    assert segment_regions(volume[..., None], [point], TUMOUR, spacing, affine).sum() == 8
    row = measure("p", "file", volume > 0.5, volume, spacing, affine)
    assert row.volume_ml == pytest.approx(0.014)
    for axial in (affine, affine + np.float32(1e-7)):  # as headers of float32 state right angles
        axial[:3, 0] = 0, 0, 5
        assert voxel_mm3(spacing, axial) == np.prod(spacing)


def test_the_threshold_belongs_to_the_tumour(volume):
    assert segment(volume, OperatingPoint(threshold=0.9)).sum() == 14  # 0.9 as float32 >= 0.9
    assert segment(volume, OperatingPoint(threshold=0.91)).sum() == 0
    assert segment(volume * 0, OperatingPoint(min_lesion=2.0)).sum() == 0


def test_written_and_read_and_the_configs_threshold_without(tmp_path):
    config = tiny_config(tmp_path)
    one = ["tumour"]
    assert operating.read(tmp_path, config, one) == (OperatingPoint(0.5, 0.0, "voxels", 1.0),)
    point = OperatingPoint(0.35, 50.0, "mm3", 1.234)
    operating.write(tmp_path, one, [{"point": point._asdict()}], step=7)
    assert operating.read(tmp_path, config, one) == (point,)
    assert json.loads((tmp_path / "operating_point.json").read_text())["step"] == 7


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not readable as JSON"),
        ("[]", "no operating point"),
        ("{}", "no operating point"),
        ('{"point": {"limit": 1}}', "no operating point"),
        ('{"point": {"threshold": "x"}}', "no operating point"),
        ('{"point": {"threshold": 1.5}}', "out of range"),
        ('{"point": {"temperature": 0}}', "out of range"),
        ('{"point": {"min_lesion": -1}}', "out of range"),
        ('{"point": {"unit": "litres"}}', "out of range"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, text, message):
    (tmp_path / "operating_point.json").write_text(text)
    with pytest.raises(UserError, match=message):
        operating.read(tmp_path, tiny_config(tmp_path), ["tumour"])


def test_each_region_has_its_own_point(tmp_path):
    names, points = ["whole", "core"], (OperatingPoint(0.35), OperatingPoint(0.6, 20.0))
    operating.write(tmp_path, names, [{"point": p._asdict()} for p in points])
    assert operating.read(tmp_path, tiny_config(tmp_path), names) == points
    assert operating.read(tmp_path, tiny_config(tmp_path), names[::-1]) == points[::-1]
    regions = (Region("whole", (1, 2)), Region("core", (2,)))
    probability = np.full((1, 8, 8, 2), 0.5, np.float32)
    assert segment_regions(probability, points, regions).sum((0, 1, 2)).tolist() == [64, 0]


NESTED = PRESETS["brats2024"]  # whole, core and enhancing tumour, and the cavity beside them


def row(**voxels):
    """Return [1, 1, 8, 4] probabilities, 0.9 at the voxels of each region."""
    probability = np.full((1, 1, 8, 4), 0.1, np.float32)
    for k, region in enumerate(NESTED):
        probability[0, 0, voxels.get(region.name, []), k] = 0.9
    return probability


def test_what_sticks_out_of_the_outer_region_is_cut_off():
    probability = row(
        whole_tumour=[1, 2, 3, 4, 5], tumour_core=[0, 2, 3, 6], enhancing_tumour=[0, 1, 3, 7]
    )
    masks = segment_regions(probability, [OperatingPoint()] * 4, NESTED)[0, 0]
    found = [np.flatnonzero(masks[:, k]).tolist() for k in range(4)]
    assert found == [[1, 2, 3, 4, 5], [2, 3], [3], []]


def test_a_dropped_outer_lesion_takes_the_inner_along_and_what_is_cut_is_measured():
    """Whole: 3 and 2 voxels, from 3 on they stay. Core: two, one of which is outside of it."""
    probability = row(whole_tumour=[0, 1, 2, 5, 6], tumour_core=[2, 3, 5, 6], enhancing_tumour=[6])
    points = [OperatingPoint(min_lesion=3), OperatingPoint(min_lesion=2), *[OperatingPoint()] * 2]
    masks = segment_regions(probability, points, NESTED)[0, 0]
    assert np.flatnonzero(masks[:, 0]).tolist() == [0, 1, 2]
    assert not masks[:, 1:].any()
    points[1] = OperatingPoint()
    masks = segment_regions(probability, points, NESTED)[0, 0]
    assert np.flatnonzero(masks[:, 1]).tolist() == [2]


def test_of_regions_beside_each_other_the_later_one_has_the_voxel():
    probability = row(whole_tumour=[1, 2, 3], tumour_core=[2, 3], resection_cavity=[3, 4])
    masks = segment_regions(probability, [OperatingPoint()] * 4, NESTED)[0, 0]
    found = [np.flatnonzero(masks[:, k]).tolist() for k in range(4)]
    assert found == [[1, 2], [2], [], [3, 4]]


@pytest.mark.parametrize(
    "regions",
    [
        *(PRESETS[name] for name in PRESETS),
        (Region("any"), Region("core", (2, 3), 2), Region("dead", (3,))),
        (Region("a", (1, 2)), Region("b", (2, 3), 3)),
        (Region("a", (1,)), Region("b", (2,)), Region("c", (7,))),
    ],
    ids=lambda regions: regions[0].name,
)
def test_the_labels_written_are_the_masks_scored(regions):
    probability = np.random.default_rng(0).random((4, 9, 9, len(regions)), np.float32)
    points = [OperatingPoint(0.4, 2 * (k + 1)) for k in range(len(regions))]
    masks = segment_regions(probability, points, regions)
    assert masks.any((0, 1, 2)).all() and not masks.all((0, 1, 2)).any()
    if len(regions) == 1:
        np.testing.assert_array_equal(masks[..., 0], segment(probability[..., 0], points[0]))
    else:
        np.testing.assert_array_equal(masks, to_masks(to_labels(masks, regions), regions))
