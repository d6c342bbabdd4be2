"""Labels to regions and back, for the label values that people have."""

import itertools

import numpy as np
import pytest

from jaxseg.config import Dataset
from jaxseg.config.settings import setting_types
from jaxseg.layouts.kinds import KINDS, PHANTOM_REGIONS, kind_of
from jaxseg.scans.regions import TUMOUR, Region, own_labels, to_labels, to_masks

BRATS = PHANTOM_REGIONS.regions
BRATS_2023 = (Region("wt", (1, 2, 3)), Region("tc", (1, 3)), Region("et", (3,)))
TASK01 = (Region("wt", (1, 2, 3)), Region("tc", (2, 3)), Region("et", (3,)))
ONE_EACH = (Region("a", (1,)), Region("b", (2,)), Region("c", (5,)))


@pytest.mark.parametrize(
    "regions, values",
    [
        (BRATS, (0, 1, 2, 4)),
        (BRATS_2023, (0, 1, 2, 3)),
        (TASK01, (0, 1, 2, 3)),
        (ONE_EACH, (0, 1, 2, 5)),
    ],
)
def test_labels_survive_the_way_to_masks_and_back(regions, values):
    labels = np.array(list(itertools.permutations(values)), np.uint8)
    masks = to_masks(labels, regions)
    assert masks.shape == (*labels.shape, len(regions)) and masks.dtype == np.uint8
    np.testing.assert_array_equal(to_labels(masks, regions), labels)


def test_the_masks_of_brats_by_hand():
    masks = to_masks(np.array([0, 1, 2, 4]), BRATS)
    assert masks.tolist() == [[0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert own_labels(BRATS) == (2, 1, 4)


def test_of_one_region_every_value_is_tumour():
    values = np.array([0, 1, 255, 65535], np.uint16)
    assert to_masks(values, TUMOUR)[..., 0].tolist() == [0, 1, 1, 1]
    assert to_labels(to_masks(values, TUMOUR), TUMOUR).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    "regions",
    [
        (Region("wt", (1, 2)), Region("core", (1, 2))),  # nothing of its own is left
        (Region("wt", (1, 2, 3)), Region("et", (3,))),  # two are left: which to write?
    ],
)
def test_what_cannot_be_written_back_is_an_error(regions):
    with pytest.raises(ValueError, match="region wt: labels of its own"):
        own_labels(regions)


def test_every_data_set_is_an_object_that_holds_together():
    for name, kind in KINDS.items():
        assert kind_of(Dataset(name=name)) == kind and kind.name == name
        own_labels(kind.regions)
        assert kind.about and kind.licence
        assert not kind.channels or kind.channel_names(3) == kind.channels
        assert set(kind.settings) <= set(setting_types(Dataset))
    assert KINDS["image_folder"].channel_names(2) == ("channel_1", "channel_2")


def test_the_settings_know_the_same_data_sets():
    with pytest.raises(Exception, match="choose one of") as caught:
        Dataset(name="other")
    assert all(repr(name) in str(caught.value) for name in KINDS)
