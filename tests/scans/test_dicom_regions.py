"""Several regions in one DICOM-SEG: a coded segment each, nested, and back to labels."""

import numpy as np
import pydicom
import pytest
from fake_volumes import write_series

from jaxseg.errors import UserError
from jaxseg.scans.dicom import read_series
from jaxseg.scans.dicom_seg import read_segmentation
from jaxseg.scans.nifti import read_nifti
from jaxseg.scans.regions import PRESETS, TUMOUR, Region, to_labels, to_masks
from jaxseg.scans.volume import to_axial

highdicom = pytest.importorskip("highdicom")
SHAPE, SAGITTAL = (5, 6, 7), (0, 1, 0, 0, 0, -1)
REGIONS = PRESETS["brats2024"]


def make_series(folder, orientation=None):
    stored = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.uint16)
    write_series(folder, stored, orientation=orientation)
    return read_series(sorted(folder.iterdir()))


def make_labels(volume, values=(0, 0, 1, 2, 3, 4)):
    """Return random labels, none in the first slice of the series and in its last."""
    labels = np.random.default_rng(1).choice(values, volume.image.shape[:3]).astype(np.uint8)
    for end in (0, -1):
        np.moveaxis(labels, volume.images.order.axes.index(0), 0)[end] = 0
    return labels


@pytest.mark.parametrize("omit", [False, True])
@pytest.mark.parametrize("orientation", [None, SAGITTAL])
def test_a_segment_for_each_region_and_back(tmp_path, monkeypatch, orientation, omit):
    volume = make_series(tmp_path / "series", orientation)
    labels = make_labels(volume)
    make = highdicom.seg.Segmentation
    # Other programs leave out the frames where nothing is drawn.
    monkeypatch.setattr(
        highdicom.seg, "Segmentation", lambda **given: make(**given | {"omit_empty_frames": omit})
    )
    volume.write(tmp_path / "mask", to_masks(labels, REGIONS) > 0, REGIONS)
    path = tmp_path / "mask.dcm"
    assert pydicom.dcmread(path).SegmentsOverlap == "YES"
    by_name = read_segmentation(path, volume.images, REGIONS)
    np.testing.assert_array_equal(by_name.values, labels)
    assert by_name.values.dtype == np.uint8 and by_name.images == volume.images
    by_place = read_segmentation(path, None, REGIONS)
    first, last = (1, -1) if omit else (0, None)
    axis = volume.images.order.axes.index(0)
    inside = np.moveaxis(labels, axis, 0)[first:last]
    np.testing.assert_array_equal(np.moveaxis(by_place.values, axis, 0), inside)
    assert len(by_place.images.names) == len(inside)


def test_highdicom_reads_the_segments_on_their_voxels_with_their_terms(tmp_path):
    volume = make_series(tmp_path / "series")
    labels = make_labels(volume)
    masks = to_masks(labels, REGIONS) > 0
    volume.write(tmp_path / "mask", masks, REGIONS)
    made = highdicom.seg.segread(tmp_path / "mask.dcm")
    assert made.SegmentationType == "BINARY"
    said = [
        (s.SegmentLabel, s.segmented_property_type.value, s.segmented_property_type.meaning)
        for s in map(made.get_segment_description, made.segment_numbers)
    ]
    assert said == [
        ("Whole tumour", "108369006", "Neoplasm"),
        ("Tumour core", "108369006", "Neoplasm"),
        ("Enhancing tumour", "C113842", "Enhancing Lesion"),
        ("Resection cavity", "49755003", "Morphologically Abnormal Structure"),
    ]
    names = [uid for uid, _ in volume.images.names]
    frames = made.get_pixels_by_source_instance(names)  # [planes, rows, columns, segments]
    np.testing.assert_array_equal(to_axial(frames, volume.images.order), masks)


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("peritumoral_edema", "Edema"),
        ("oedema", "Edema"),
        ("non-enhancing tumor", "Non-Enhancing Lesion"),
        ("ET", "Enhancing Lesion"),
        ("WT", "Neoplasm"),
        ("necrosis", "Necrosis"),
        ("label_7", "Lesion"),
        ("tumour", "Neoplasm"),
    ],
)
def test_the_term_of_a_region(tmp_path, name, term):
    volume = make_series(tmp_path / "series")
    probability = np.linspace(0, 1, volume.image[..., 0].size, dtype=np.float32)
    probability = probability.reshape(volume.image.shape[:3])
    volume.write(tmp_path / "p", probability, (Region(name, (1,)),))
    (segment,) = pydicom.dcmread(tmp_path / "p.dcm").SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == term
    found = read_segmentation(tmp_path / "p.dcm")
    np.testing.assert_allclose(found.values, probability, atol=0.5 / 255 + 1e-6)


def test_segments_of_others(tmp_path):
    """Numbers where they do not overlap; else they must be named as the regions are."""
    volume = make_series(tmp_path / "series")
    labels = make_labels(volume, (0, 1, 2))
    parts = (Region("Necrosis", (1,)), Region("Oedema", (2,)))
    volume.write(tmp_path / "parts", to_masks(labels, parts) > 0, parts)
    for regions in ((), TUMOUR, REGIONS):
        found = read_segmentation(tmp_path / "parts.dcm", None, regions)
        np.testing.assert_array_equal(found.values, labels)
    nested = (Region("Gross tumour", (1, 2)), Region("core", (2,)))
    volume.write(tmp_path / "nested", to_masks(labels, nested) > 0, nested)
    with pytest.raises(UserError, match="overlap, Gross tumour, Core, and are not named as .*none"):
        read_segmentation(tmp_path / "nested.dcm")
    with pytest.raises(UserError, match="whole_tumour, tumour_core, "):
        read_segmentation(tmp_path / "nested.dcm", None, REGIONS)
    renamed = (Region("CORE", (7,)), Region("oops", (9,)))[:1]
    found = read_segmentation(tmp_path / "nested.dcm", None, renamed)
    np.testing.assert_array_equal(found.values, 7 * (labels == 2))


def test_where_no_dicom_seg_can_be_made_regions_are_labels_in_nifti(tmp_path):
    stored = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.uint16)
    write_series(tmp_path / "series", stored, FrameOfReferenceUID="")
    volume = read_series(sorted((tmp_path / "series").iterdir()))
    labels = np.random.default_rng(1).choice((0, 1, 2, 3, 4), SHAPE).astype(np.uint8)
    masks = to_masks(labels, REGIONS) > 0
    np.testing.assert_array_equal(to_labels(masks, REGIONS), labels)
    volume.write(tmp_path / "mask", masks, REGIONS)
    np.testing.assert_array_equal(read_nifti(tmp_path / "mask.nii.gz").image[..., 0], labels)
