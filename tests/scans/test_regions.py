"""Labels to regions and back, for the label values that people have."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.config import Dataset
from jaxseg.config.settings import setting_types
from jaxseg.errors import UserError
from jaxseg.layouts.kinds import KINDS, PHANTOM_REGIONS, kind_of
from jaxseg.scans.regions import (
    PRESETS,
    TUMOUR,
    Region,
    changed_labels,
    fitting,
    merged_labels,
    own_labels,
    parse_regions,
    plain,
    to_labels,
    to_masks,
    to_texts,
    unnamed,
    unwritable,
)

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
        assert not kind.channels or kind.channel_names(len(kind.channels)) == kind.channels
        assert set(kind.settings) <= set(setting_types(Dataset))
    assert KINDS["image_folder"].channel_names(2) == ("channel_1", "channel_2")


def _choices(error: Exception) -> set[str]:
    return set(str(error).partition("choose one of ")[2].split(", "))


def test_the_settings_know_the_same_data_sets():
    with pytest.raises(Exception, match="choose one of") as caught:
        Dataset(name="other")
    assert set(KINDS) <= _choices(caught.value)
    presets = {*PRESETS, "plain"}
    with pytest.raises(UserError, match="choose one of") as caught:
        Dataset(name="brats", labels="other")
    assert presets <= _choices(caught.value)
    assert all(Dataset(name="brats", labels=name) for name in presets)


# What the data sets have in their files.
SEEN = {
    "brats2015": {1, 2, 3, 4},
    "brats2021": {1, 2, 4},
    "brats2023": {1, 2, 3},
    "brats2024": {1, 2, 3, 4},
    "msd_task01": {1, 2, 3},
}


@pytest.mark.parametrize("name", SEEN)
def test_a_preset_proves_the_way_there_and_back_on_the_values_of_its_data_set(name):
    regions = PRESETS[name]
    assert not unwritable(regions) and not unnamed(SEEN[name], regions)
    assert not changed_labels(SEEN[name], regions)
    merged = ["label 3 will be written as 1: no region parts them"] if name == "brats2015" else []
    assert merged_labels(SEEN[name], regions) == merged
    assert parse_regions(to_texts(regions)) == regions
    assert f"--config.dataset.labels={name}" in fitting(SEEN[name])


def test_the_traps_of_the_field_by_hand():
    """ET = 4 taken for granted in 2023; the labels of Task01 read as those of BraTS."""
    assert unnamed({0, 1, 2, 3}, PRESETS["brats2021"]) == [3]
    necrosis, oedema = to_masks(np.array([1, 2]), PRESETS["brats2023"]).tolist()
    assert (necrosis, oedema) == ([1, 1, 0], [1, 0, 0])
    oedema, core = to_masks(np.array([1, 2]), PRESETS["msd_task01"]).tolist()
    assert (oedema, core) == ([1, 0, 0], [1, 1, 0])
    assert to_masks(np.array([4]), PRESETS["brats2024"]).tolist() == [[0, 0, 0, 1]]
    assert fitting({1, 2, 4}).startswith("--config.dataset.labels=brats2021 or --config.dataset.r")
    assert fitting({255}) == "--config.dataset.regions=\"('tumour=255',)\""
    assert fitting({2, 4}).count("labels=") == 2  # of a few patients: all that it may be


def test_several_labels_of_its_own_need_the_one_to_be_written():
    regions = (Region("wt", (1, 2, 3, 4)), Region("tc", (1, 3, 4)), Region("et", (4,)))
    assert "labels of its own [1, 3], not one, so" in unwritable(regions)
    told = (regions[0], regions[1]._replace(written=3), regions[2])
    assert not unwritable(told) and own_labels(told) == (2, 3, 4)
    assert to_labels(to_masks(np.array([1, 2, 3, 4]), told), told).tolist() == [3, 2, 3, 4]
    other = (regions[0], regions[1]._replace(written=4), regions[2])
    assert "[1, 3], not one (4 is none of them)" in unwritable(other)


def test_regions_that_overlap_may_write_a_label_that_means_others():
    """a holds 1 and 2, b holds 2 and 3: of label 2 both masks are written as b's 3."""
    regions = (Region("a", (1, 2)), Region("b", (2, 3), 3))
    (line,) = changed_labels({1, 2, 3}, regions)
    assert line.startswith("label 2 would be written as 3, which means other regions")
    assert not changed_labels({1, 3}, regions)


def test_plain_is_a_region_for_each_label():
    assert to_texts(plain(PRESETS["brats2021"])) == (
        "label_1=1",
        "label_2=2",
        "enhancing_tumour=4",
    )


@given(
    st.lists(
        st.tuples(st.sets(st.integers(1, 6), min_size=1), st.none() | st.integers(1, 6)),
        min_size=2,
        max_size=4,
    )
)
def test_what_passes_the_proof_is_written_back_as_the_same_regions(drawn):
    """Whatever the regions: either something is said, or all labels keep their regions."""
    regions = [
        Region(f"r{k}", tuple(sorted(labels)), written) for k, (labels, written) in enumerate(drawn)
    ]
    if unwritable(regions):
        with pytest.raises(UserError):
            parse_regions(to_texts(regions))
        return
    values = sorted({n for region in regions for n in region.labels})
    masks = to_masks(np.array(values), regions)
    back = to_labels(masks, regions)
    kept = (to_masks(back, regions) == masks).all(-1)
    said = {int(line.split()[1]) for line in changed_labels(values, regions)}
    assert said == {v for v, is_kept in zip(values, kept, strict=True) if not is_kept}
    merged = {int(line.split()[1]) for line in merged_labels(values, regions)}
    assert merged == {
        v for v, w, k in zip(values, back.tolist(), kept, strict=True) if k and v != w
    }
    assert parse_regions(to_texts(regions)) == tuple(regions)
