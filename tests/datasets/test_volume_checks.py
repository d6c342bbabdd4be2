"""The guard of a volume set: what is sound comes as it is stored, each fault is one line."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_data import write_folders
from fake_volume_sets import AFFINE, SHAPE, head, labels, write_brats, write_msd, write_nnunet
from fake_volumes import oblique_affine, write_nifti

from jaxseg.config import Dataset
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.volume_checks import read_cases
from jaxseg.errors import UserError
from jaxseg.layouts.kinds import kind_of, list_source, told_by_files
from jaxseg.scans.volume import as_stored, axial_order, to_axial

pytest.importorskip("nibabel")


def read(source, name="brats", **settings):
    """Return {patient: volume}, the ids of the sound ones, problems and warnings."""
    config = told_by_files(Dataset(name=name, source=str(source), **settings))
    kind, files, problems, warnings = kind_of(config), list_source(config), [], []
    cases = kind.find(list(files.stamps), config, problems)
    found = list(read_cases(files, cases, kind.regions, problems, warnings))
    sound = [volume.patient for volume, is_sound in found if is_sound]
    return {volume.patient: volume for volume, _ in found}, sound, problems, warnings


def axial(voxels, affine=AFFINE):
    return to_axial(voxels, axial_order(affine))


FIRST, SECOND = "BraTS20_Training_001", "BraTS20_Training_002"


def path(root, suffix, case=FIRST) -> Path:
    return root / case / f"{case}{suffix}.nii.gz"


def test_a_sound_set_comes_as_it_is_stored(tmp_path):
    write_brats(tmp_path, 2)
    volumes, sound, problems, warnings = read(tmp_path)
    assert sound == [FIRST, SECOND] and not problems and not warnings
    volume = volumes[SECOND]
    assert volume.image.dtype == np.int16 and volume.image.shape == (10, 9, 8, 4)
    for c in range(4):
        np.testing.assert_array_equal(volume.image[..., c], axial(head(100 + c)))
    label = axial(labels())
    for k, values in enumerate(((1, 2, 4), (1, 4), (4,))):
        np.testing.assert_array_equal(volume.mask[..., k], np.isin(label, values))
    assert volume.mask.dtype == np.uint8 and volume.mask_values == (1, 2, 4)
    assert volume.group == SECOND and volume.orientation == "LPS"
    assert volume.spacing_mm == (1, 1, 1) and volume.slice_numbers == tuple(range(10))
    assert volume.files[0] == f"{SECOND}/{SECOND}_t1.nii.gz" and len(volume.files) == 4


@pytest.mark.parametrize(
    "stored, kept",
    [
        ("uint8", "uint8"),
        ("int16", "int16"),
        ("uint16", "uint16"),
        ("int32", "int32"),
        ("int8", "uint8"),  # of these values
        ("uint32", "uint8"),
        ("float32", "float32"),
        ("float64", "float32"),
    ],
)
def test_images_keep_their_type(tmp_path, stored, kept):
    write_brats(tmp_path, 1)
    for suffix in ("_t1", "_t1ce", "_t2", "_flair"):
        write_nifti(path(tmp_path, suffix), (head(1) // 8).astype(stored), AFFINE)
    volumes, sound, _, _ = read(tmp_path)
    assert sound and volumes[FIRST].image.dtype == kept
    np.testing.assert_array_equal(volumes[FIRST].image[..., 0], axial(head(1) // 8))


def test_integers_of_64_bits_become_the_first_type_that_holds_them():
    for values, kept in (([0, 9], "uint8"), ([-1, 9], "int16"), ([0, 70000], "int32")):
        assert as_stored(np.array(values, np.int64)).dtype == kept
    assert as_stored(np.array([0, 2**40], np.int64)).dtype == np.float32
    assert as_stored(np.array([1, 2], ">i2")).dtype == np.dtype("int16")
    with pytest.raises(ValueError, match="save real numbers"):
        as_stored(np.zeros(2, np.complex64))


def test_sequences_of_several_types_have_one_that_holds_all(tmp_path):
    write_brats(tmp_path, 2)
    write_nifti(path(tmp_path, "_t1"), head(0).astype(np.uint16) + np.uint16(64000), AFFINE)
    write_nifti(path(tmp_path, "_t1", SECOND), head(0).astype(np.float32) / 3, AFFINE)
    volumes, sound, _, _ = read(tmp_path)
    assert sound == [FIRST, SECOND]
    assert volumes[FIRST].image.dtype == np.int32 and volumes[FIRST].image.max() > 64000
    assert volumes[SECOND].image.dtype == np.float32


def test_a_scale_in_the_header_is_applied(tmp_path):
    import nibabel

    write_brats(tmp_path, 1)
    image = nibabel.Nifti1Image(head(0), AFFINE)
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(path(tmp_path, "_t1"))
    stored = np.asanyarray(nibabel.load(path(tmp_path, "_t1")).dataobj)
    volumes, _, _, _ = read(tmp_path)
    assert volumes[FIRST].image.dtype == np.float32
    np.testing.assert_allclose(volumes[FIRST].image[..., 0], axial(stored.astype(np.float32)))


def test_geometry_is_kept_however_the_file_lies(tmp_path):
    """The label is written with other axes than the images, on the same voxels in space."""
    affine = oblique_affine()
    write_brats(tmp_path, 1)
    for suffix in ("_t1", "_t1ce", "_t2", "_flair"):
        write_nifti(path(tmp_path, suffix), head(3), affine)
    flipped = affine.copy()
    flipped[:3, 0] *= -1
    flipped[:3, 3] += affine[:3, 0] * (SHAPE[0] - 1)
    turned = labels()[::-1].transpose(1, 0, 2)
    write_nifti(path(tmp_path, "_seg"), turned, flipped[:, [1, 0, 2, 3]])
    volumes, sound, problems, warnings = read(tmp_path)
    assert sound and not problems
    assert not [line for line in warnings if "squeezed" in line]  # patches are cut, not fitted
    volume, order = volumes[FIRST], axial_order(affine)
    np.testing.assert_array_equal(volume.mask[..., 2], to_axial(labels() == 4, order))
    np.testing.assert_array_equal(volume.image[..., 0], to_axial(head(3), order))


def break_with(suffix, voxels, affine=AFFINE):
    def broken(root):
        write_nifti(path(root, suffix), voxels, affine)

    return broken


def with_value(array, value, dtype):
    array = array.astype(dtype)
    array[3, 3, 3] = value
    return array


MOVED = AFFINE + np.array([[0, 0, 0, 0.1], [0] * 4, [0] * 4, [0] * 4])
NAN = with_value(head(0), np.nan, np.float32)
FAR = np.zeros(SHAPE, np.uint8)
FAR[0, :, 0] = (1, 1, 2, 2, 4, 4, 4, 4, 4)


@pytest.mark.parametrize(
    "broken, line",
    [
        (
            break_with("_t2", head(0)[:, :, :7]),
            "_t2.nii.gz lies on other voxels than .*_t1.nii.gz ",
        ),
        (break_with("_t2", head(0), MOVED), r"_t2.nii.gz lies on .* first at \(0.1, 0, 0\)"),
        (
            break_with("_seg", labels(), np.diag([-1, -1, 2.0, 1])),
            "_seg.nii.gz lies on other voxels",
        ),
        (break_with("_seg", labels((1, 2, 3, 4))), "_seg.nii.gz: label 3, which no region names"),
        (break_with("_seg", with_value(labels(), -1, np.int16)), "_seg.nii.gz: label -1, which no"),
        (
            break_with("_seg", with_value(labels(), 0.5, np.float32)),
            "_seg.nii.gz: labels with fractions, as 0.5: whole numbers",
        ),
        (
            break_with("_seg", with_value(labels(), np.nan, np.float32)),
            "_seg.*: labels that are no n",
        ),
        (break_with("_t1", NAN), "_t1.nii.gz: voxels that are no numbers"),
        (break_with("_t1", with_value(head(0), np.inf, np.float32)), "_t1.*: voxels that are no n"),
        (
            break_with("_t1", np.full(SHAPE, 7, np.int16)),
            "_t1.nii.gz: an empty volume: all .* are 7",
        ),
        (break_with("_t1", np.stack([head(0)] * 2, -1)), "_t1.nii.gz: 4D or in colours, 2 values"),
        (break_with("_seg", np.stack([labels()] * 2, -1)), "_seg.nii.gz: 4D, 2 values a voxel"),
        (break_with("_seg", FAR), "_seg.nii.gz: 100% of the label lies outside of the head"),
        (lambda root: path(root, "_t1").write_bytes(b"x" * 400), "_t1.nii.gz: cannot be read"),
        (lambda root: path(root, "_seg").write_bytes(b""), "_seg.nii.gz: cannot be read"),
    ],
)
def test_each_fault_is_one_line_and_leaves_the_others_sound(tmp_path, broken, line):
    write_brats(tmp_path, 3)
    broken(tmp_path)
    _, sound, problems, _ = read(tmp_path)
    assert sound == [SECOND, "BraTS20_Training_003"]
    first, *others = problems
    assert len([p for p in problems if FIRST in p]) == 1, problems
    assert re.search(line, first), first
    assert FIRST in first and str(tmp_path) not in first
    assert all(p.startswith("the label files have the values") for p in others)


def test_all_faults_of_all_patients_are_told_before_any_training(tmp_path):
    write_brats(tmp_path, 3)
    break_with("_t1", NAN)(tmp_path)
    break_with("_t2", head(0)[:, :, :7])(tmp_path)
    path(tmp_path, "_flair", SECOND).unlink()
    with pytest.raises(UserError) as caught:
        prepare(Dataset("brats", str(tmp_path), str(tmp_path / "cache")))
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("3 problems to mend first") and len(lines) == 4
    for what in ("no file of flair", "no numbers", "other voxels"):
        assert sum(what in line for line in lines) == 1


def test_the_trap_of_the_empty_enhancing_tumour(tmp_path):
    """Labels of 2023 read as those of 2021: 3 has no name, 4 is nowhere; the remedy is named."""
    write_brats(tmp_path, 2, values=(1, 2, 3))
    _, sound, problems, _ = read(tmp_path)
    assert not sound
    assert problems[2:] == [
        "region enhancing_tumour (label 4): empty in all 2 patients",
        "the label files have the values 1 in 2, 2 in 2, 3 in 2 of 2 files; what fits them: "
        "--config.dataset.labels=brats2023 or --config.dataset.labels=msd_task01 or "
        "--config.dataset.regions=\"('label_1=1', 'label_2=2', 'label_3=3')\"",
    ]
    _, sound, problems, _ = read(tmp_path, labels="brats2023")
    assert len(sound) == 2 and not problems


def test_a_region_may_be_empty_in_some_patients(tmp_path):
    write_brats(tmp_path, 1)
    break_with("_seg", labels((2,)))(tmp_path)
    _, _, problems, _ = read(tmp_path)
    assert [p for p in problems if p.startswith("region")] == [
        "region tumour_core (label 1, 4): empty in the only patient",
        "region enhancing_tumour (label 4): empty in the only patient",
    ]
    write_brats(tmp_path / "other", 2)
    break_with("_seg", labels((2,)))(tmp_path / "other")
    _, sound, problems, _ = read(tmp_path / "other")
    assert len(sound) == 2 and not problems


def test_labels_of_brats_2015_are_merged_and_that_is_said(tmp_path):
    write_brats(tmp_path, 1, values=(1, 2, 3, 4))
    _, sound, problems, warnings = read(tmp_path, labels="brats2015")
    assert sound and not problems
    assert warnings == ["label 3 will be written as 1: no region parts them"]


def test_overlapping_regions_fail_the_proof_on_the_values_there_are(tmp_path):
    write_brats(tmp_path, 1)
    regions = ("a=1,2", "b=2,4:4")
    _, _, problems, _ = read(tmp_path, regions=regions)
    assert problems[0].startswith("label 2 would be written as 4, which means other regions")


def test_labels_by_any_value_and_by_one(tmp_path):
    write_brats(tmp_path, 1)
    volumes, sound, problems, _ = read(tmp_path, labels="any")
    assert sound and not problems and volumes[FIRST].mask.sum() == 6
    _, sound, problems, _ = read(tmp_path, regions=("tumour=1",))
    assert not sound and problems[0].endswith("_seg.nii.gz: label 2, 4, which no region names")


def test_other_spacing_orientation_and_a_few_voxels_outside_are_warned_of(tmp_path):
    write_brats(tmp_path, 2)
    for suffix in ("_t1", "_t1ce", "_t2", "_flair"):
        write_nifti(path(tmp_path, suffix), head(9), np.diag([1, 1, 2.0, 1]))
    outside = labels()
    outside[0, 0, 0] = 2
    write_nifti(path(tmp_path, "_seg"), outside, np.diag([1, 1, 2.0, 1]))
    _, sound, problems, warnings = read(tmp_path)
    assert len(sound) == 2 and not problems
    assert warnings == [
        f"patient {FIRST}: 14% of the label lies where the images are empty",
        f"patients of different voxels: 2 x 1 x 1 (1: {FIRST}); 1 x 1 x 1 (1: {SECOND})",
        f"patients of different orientations: RAS (1: {FIRST}); LPS (1: {SECOND})",
    ]


def test_the_decathlon_and_nnunet_are_read_alike(tmp_path):
    write_msd(tmp_path / "msd", ("edema", "non-enhancing tumor", "enhancing tumour"))
    volumes, sound, problems, _ = read(tmp_path / "msd", "msd")
    assert sound == ["BRATS_000", "BRATS_001"] and not problems
    np.testing.assert_array_equal(volumes["BRATS_001"].image[..., 3], axial(head(13)))
    assert volumes["BRATS_001"].mask.sum((0, 1, 2)).tolist() == [6, 4, 2]
    content = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "a": 1, "b": 2},
    }
    write_nnunet(tmp_path / "nnunet", content, (1, 2))
    volumes, sound, problems, _ = read(tmp_path / "nnunet", "nnunet")
    assert sound == ["case_0", "case_1"] and not problems
    np.testing.assert_array_equal(volumes["case_1"].image[..., 1], axial(head(11)))


def test_4d_files_of_other_channels_are_told(tmp_path):
    write_msd(tmp_path, ("a", "b", "c"), count=3)
    three = np.stack([head(0)] * 3, -1)
    write_nifti(tmp_path / "imagesTr/BRATS_001.nii.gz", three, AFFINE)
    _, sound, problems, _ = read(tmp_path, "msd")
    assert sound == ["BRATS_000", "BRATS_002"]
    assert problems == [
        "patients of different channels: 4 channels (2: BRATS_000, BRATS_002); 3 channels (1: "
        "BRATS_001)"
    ]


def test_a_zip_is_read_as_its_folder(tmp_path):
    write_brats(tmp_path / "set", 2)
    shutil.make_archive(tmp_path / "packed", "zip", tmp_path / "set")
    volumes, sound, problems, _ = read(tmp_path / "packed.zip")
    assert len(sound) == 2 and not problems
    np.testing.assert_array_equal(volumes[FIRST].image[..., 1], axial(head(1)))


def test_a_copy_is_prepared_and_found_again_until_the_labels_mean_something_else(tmp_path):
    write_brats(tmp_path / "set", 3)
    config = Dataset("brats", str(tmp_path / "set"), str(tmp_path / "cache"))
    prepared = prepare(config)
    assert prepared.num_channels == 4 and len(prepared.patients) == 3
    assert prepared.regions == ("whole_tumour", "tumour_core", "enhancing_tumour")
    assert prepare(config).path == prepared.path == prepare(told_by_files(config)).path
    plain = prepare(
        Dataset("brats", str(tmp_path / "set"), str(tmp_path / "cache"), labels="plain")
    )
    assert plain.path != prepared.path and plain.regions[0] == "label_1"


def test_slices_are_completed_by_nothing(tmp_path):
    write_folders(tmp_path)
    config = Dataset("image_folder", str(tmp_path))
    assert told_by_files(config) is config


REAL = Path(os.environ.get("JAXSEG_DATA", Path(__file__).parents[3] / "shared/data"))


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "brats2015").is_dir(), reason=f"no real scans at {REAL}")
def test_real_scans_of_brats():
    volumes, sound, problems, warnings = read(REAL / "brats2015")
    assert len(sound) == 4 and not problems
    assert warnings == ["label 3 will be written as 1: no region parts them"]
    first = volumes["brats_2013_pat0001_1"]
    assert first.group == "brats_2013_pat0001" and first.image.shape == (155, 240, 240, 2)
    assert first.mask.sum((0, 1, 2)).tolist() == [111724, 58674, 31485]
    volumes, sound, problems, _ = read(REAL / "brats2021")
    assert sound == ["BraTS2021_00006"] and not problems
    assert volumes[sound[0]].image.dtype == np.int16
    assert volumes[sound[0]].mask.sum((0, 1, 2)).tolist() == [137911, 51954, 26448]
    channels = tuple(f"{s}={{patient}}/{s}.nii.gz" for s in ("t1", "t1c", "t2", "flair"))
    tree = {"channel_files": channels, "mask_file": "{patient}/silver_simple.nii.gz"}
    _, sound, _, _ = read(REAL / "brats_silver", "nifti", **tree, labels="brats2021")
    assert sound == ["TCGA-FG-6692"]
