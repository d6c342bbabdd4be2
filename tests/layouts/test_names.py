"""Masks by any usual name, in any capitals, are masks to every finder."""

import numpy as np
import pytest
from fake_data import make_slice, write_image
from fake_volumes import write_nifti

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts import image_folder, lgg
from jaxseg.layouts.find import find_scans
from jaxseg.layouts.image_folder import find_slices
from jaxseg.layouts.names import is_mask, looks_like

MASKS = (
    *("p/s0_mask.png", "p/s0_MASK.PNG", "p/s0-Mask.tif", "p/s0 mask.png", "p/s0Mask.png"),
    *("p/s0_seg.png", "p/s0_SEG.nii.gz", "p/BraTS-GLI-00000-000-seg.nii.gz", "p/seg.nii.gz"),
    *("p/s0_label.png", "p/s0_labels.png", "p/s0_segmentation.png", "p/s0_gt.nii.gz"),
    *("p/mask.png", "p/mask_0.png", "p/mask0.png", "p/s0_mask_1.png", "p/Segmentation 3.nii"),
    *("Masks/s0.png", "MASK/s0.png", "p/masks/s0.png", "labels/s0.png", "Labels/p/s0.tif"),
    *("labelsTr/case_1.nii.gz", "p/Segmentations/s.nii", "GroundTruth/s0.png", "gt/s0.png"),
)
SCANS = (
    *("p/s0.png", "p/flair.nii.gz", "images/s0.png", "Images/p_seg_1.png", "imagesTr/c_0000.nii"),
    *("p/masked.png", "p/unmasked_1.png", "p/Segers_1.png", "p/t1.nii", "p/legt.png", "p/IM1"),
)


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    assert is_mask(name)


@pytest.mark.parametrize("name", SCANS)
def test_scans(name):
    assert not is_mask(name)


@pytest.mark.parametrize(
    "image, mask",
    [
        ("p{}/s{}.png", "p{}/s{}_MASK.png"),
        ("p{}/s{}.png", "p{}/s{}_seg.png"),
        ("p{}/s{}.png", "p{}/s{}-Label.png"),
        ("p{}/Images/s{}.png", "p{}/Masks/s{}.png"),
        ("p{}/images/s{}.png", "p{}/labels/s{}_mask.png"),
        ("images/p{}/s_seg_{}.png", "masks/p{}/s_seg_{}.png"),  # as the image is named
    ],
)
def test_training_pairs_what_prediction_leaves_out(tmp_path, image, mask):
    for p in range(2):
        for s in range(3):
            pixels, truth = make_slice(10 * p + s)
            write_image(tmp_path / image.format(p, s), pixels)
            write_image(tmp_path / mask.format(p, s), 255 * truth)
    names = [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*.png"))]
    problems = []
    found = find_slices(names, Dataset(name="image_folder"), problems)
    assert not problems
    assert {p: [(s.image, s.mask) for s in slices] for p, slices in found.items()} == {
        f"p{p}": [(image.format(p, s), mask.format(p, s)) for s in range(3)] for p in range(2)
    }
    notes = []
    scans = find_scans(tmp_path, Dataset(), notes=notes)
    assert {scan.patient: scan.names for scan in scans} == {
        f"p{p}": tuple(image.format(p, s) for s in range(3)) for p in range(2)
    }
    assert len(notes) == 1 and "left out, masks by their names: 6 (" in notes[0]


def test_masks_of_volumes_are_no_scans(tmp_path):
    voxels = np.zeros((2, 3, 4), np.uint8)
    for name in ("p1/flair.nii.gz", "p1/seg.nii.gz", "imagesTr/a.nii", "labelsTr/a.nii"):
        write_nifti(tmp_path / name, voxels, np.eye(4))
    notes = []
    scans = find_scans(tmp_path, Dataset(), notes=notes)
    assert [scan.patient for scan in scans] == ["imagesTr_a", "p1_flair"]
    assert "masks by their names: 2 (labelsTr/a.nii, p1/seg.nii.gz)" in notes[0]
    assert not find_scans(tmp_path / "p1/seg.nii.gz", Dataset(), notes=notes)
    assert notes[1].endswith("p1/seg.nii.gz: a mask by its name, no scan")
    (scan,) = find_scans(tmp_path / "p1/seg.nii.gz", Dataset(), masks=True)
    assert scan.read().image.shape == (4, 3, 2, 1)


def test_masks_of_other_formats_are_named():
    names = [f"images/{n}.png" for n in range(3)] + [f"masks/{n}.gif" for n in range(3)]
    with pytest.raises(UserError, match=r"3 images and 0 masks .*; 3 .gif files \(masks/0.gif, "):
        find_slices(names, Dataset(), [])
    problems = []
    find_slices(["p/a.png", "p/a_mask.png", "p/b.png", "p/b_mask.gif"], Dataset(), problems)
    assert "p/b_mask.gif: neither PNG, TIFF nor JPEG" in problems


@pytest.mark.parametrize(
    "names, expected",
    [
        (
            ["a/t1.nii.gz", "b/t1.nii"],
            "2 NIfTI files: jaxseg.predict reads them; --con",
        ),
        (["a/1.dcm"], "1 DICOM file: jaxseg.predict reads"),
        (["a/1.mha"], "1 MetaImage file: jaxseg.predict reads them; --config.dataset.name=nifti"),
        (["TCGA_A_1_2000_1.tif"], "1 .tif file named as in the LGG set: --config.dataset.name"),
        (
            ["a/1.png", "a/1_mask.png"],
            "images (1) and masks (1): --config.dataset.name=image_folder",
        ),
        (["a/1.png"], "images (1) without masks: jaxseg.predict reads them"),
        (["a/1.gif"], r"1 .gif file (a/1.gif), which jaxseg does not read"),
        (["notes.txt"], ""),
    ],
)
def test_what_a_folder_looks_like(names, expected):
    assert looks_like(names).startswith(expected) and bool(looks_like(names)) == bool(expected)


@pytest.mark.parametrize("find", [image_folder.find_slices, lgg.find_slices])
def test_a_finder_that_fails_says_which_command_reads_the_folder(find):
    names = [f"p{n}/flair.nii.gz" for n in range(30)]
    with pytest.raises(UserError, match="30 NIfTI files: jaxseg.predict reads them"):
        find(names, Dataset(), [])
