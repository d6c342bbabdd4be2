import re

import cv2
import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")

from fake_data import make_slice, write_folders, write_image, write_lgg  # noqa: E402
from fake_volumes import oblique_affine, write_nifti, write_series  # noqa: E402

from jaxseg.config import Dataset  # noqa: E402
from jaxseg.errors import UserError  # noqa: E402
from jaxseg.layouts.channels import find_by_channel, parse_patterns  # noqa: E402
from jaxseg.layouts.find import find_scans  # noqa: E402
from jaxseg.scans.decode import decode_image, decode_mask_values  # noqa: E402

RGB = ("t1", "flair", "t1c")


def scans(path, dataset=None, names=RGB, fill=None):
    return find_scans(path, dataset or Dataset(), names, fill)


def test_folders_of_slices_are_patients_and_masks_are_left_out(tmp_path):
    images = write_lgg(tmp_path / "kaggle_3m", {"CS_1": [10, 9, 2], "DU_2": [1]})
    (tmp_path / "kaggle_3m" / "data.csv").write_text("Patient\n")
    first, second = scans(tmp_path)
    assert (first.patient, second.patient) == ("TCGA_CS_1", "TCGA_DU_2")  # as in training
    folder = "TCGA_CS_1_19970222"
    assert first.path == tmp_path / "kaggle_3m" / folder
    volume = first.read()
    expected = [images[f"{folder}/{folder}_{n}.tif"] for n in (2, 9, 10)]
    np.testing.assert_array_equal(volume.image, expected)
    assert volume.spacing_mm == ()
    assert [s.patient for s in scans(first.path)] == [first.patient]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_masks_and_probabilities_have_the_slices_names(tmp_path, suffix):
    for name in ("a_2", "a_10"):
        write_image(tmp_path / "p" / f"{name}{suffix}", make_slice(0)[0])
    (scan,) = scans(tmp_path / "p", Dataset(spacing_mm=(3.0, 1.0, 1.0)))
    volume = scan.read()
    assert volume.spacing_mm == (3.0, 1.0, 1.0)
    rng = np.random.default_rng(0)
    probability = rng.random(volume.image.shape[:3], np.float32)
    volume.write(tmp_path / "mask", probability > 0.5)
    volume.write(tmp_path / "probability", probability)
    made = ".png" if suffix == ".jpg" else suffix
    for i, name in enumerate(("a_2", "a_10")):
        mask = (tmp_path / "mask" / f"{name}{made}").read_bytes()
        np.testing.assert_array_equal(decode_image(mask)[..., 0], 255 * (probability[i] > 0.5))
        assert set(np.unique(decode_mask_values(mask))) == {0, 255}  # fit to train on
        stored = decode_image((tmp_path / "probability" / f"{name}{made}").read_bytes())
        assert stored.dtype == np.uint16
        assert np.abs(stored[..., 0] / 65535 - probability[i]).max() < 1e-5


def test_settings_of_the_run_tell_patients_apart_as_in_training(tmp_path):
    for name in ("p1_1", "p1_2", "p2_1"):
        write_image(tmp_path / "s" / "images" / f"{name}.png", make_slice(0)[0])
        write_image(tmp_path / "s" / "masks" / f"{name}.png", make_slice(0)[1])
    regex = Dataset(name="image_folder", patient_regex=r"(p\d+)_")
    each = Dataset(name="image_folder", every_image_is_a_patient=True)
    assert [s.patient for s in scans(tmp_path / "s", regex)] == ["p1", "p2"]
    assert [s.patient for s in scans(tmp_path / "s", each)] == ["p1_1", "p1_2", "p2_1"]
    (scan,) = scans(tmp_path / "s")
    assert scan.patient == "s"
    assert len(scan.read().image) == 3
    (scan,) = scans(tmp_path / "s" / "images" / "p1_1.png")
    assert scan.patient == "p1_1"
    assert scan.read().image.shape == (1, 12, 16, 3)


def test_a_tree_of_all_kinds(tmp_path):
    write_folders(tmp_path / "images_of", 1)
    write_nifti(tmp_path / "n" / "x.1.nii.gz", np.zeros((2, 3, 4, 3), np.uint8), np.eye(4))
    write_series(tmp_path / "d" / "FLAIR", np.zeros((2, 3, 4), np.uint16))
    (tmp_path / "n" / "notes.txt").write_text("hello")
    found = scans(tmp_path)
    assert [s.patient for s in found] == ["d_FLAIR", "n_x.1", "p0"]  # no folder around all slices
    assert found[1].read().image.shape == (4, 3, 2, 3)
    with pytest.raises(UserError, match="^has 1 channel; the model takes 3: t1, flair, t1c"):
        found[0].read()
    assert scans(tmp_path / "d", names=("flair",))[0].read().image.shape == (2, 3, 4, 1)


def test_a_scan_of_one_channel_is_filled(tmp_path):
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = write_nifti(tmp_path / "x.nii", voxels, np.diag((-1, -1, 1, 1)))
    (scan,) = scans(path, fill="flair")
    image = scan.read().image
    np.testing.assert_array_equal(image, np.stack([voxels.transpose(2, 1, 0)] * 3, -1))
    write_nifti(path, np.zeros((2, 3, 4, 2), np.uint8), np.eye(4))
    with pytest.raises(UserError, match="has 2 channels; the model takes 3"):
        scan.read()


@pytest.fixture
def modalities(tmp_path):
    """Two patients, one of whom lacks t1; values name the channel. FLAIR is stored flipped."""
    affine = oblique_affine()
    flipped = affine @ np.array([[-1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    for patient, channels in (("a.b", "t1 flair t1c"), ("c", "flair t1c")):
        for value, channel in enumerate(channels.split()[::-1]):
            voxels = (
                np.full((4, 3, 2), 10 * value, np.uint8)
                + np.arange(4, dtype=np.uint8)[:, None, None]
            )
            if channel == "flair":
                voxels = voxels[::-1]
            path = tmp_path / patient / f"{patient}_{channel}.nii.gz"
            write_nifti(path, voxels, flipped if channel == "flair" else affine)
    return tmp_path


def patterns(text="t1={p}_t1.nii.gz,flair={p}_flair.nii.gz,t1c={p}_t1c.nii.gz", fill=None):
    return parse_patterns(text.replace("{p}", "{patient}/{patient}"), RGB, fill)


def test_one_file_per_channel(modalities):
    first, second = find_by_channel(modalities, patterns(), RGB)
    assert (first.patient, second.patient) == ("a.b", "c")
    volume = first.read()
    for channel, value in enumerate((20, 10, 0)):  # on the same voxels, however they are stored
        np.testing.assert_array_equal(volume.image[..., channel] - value, volume.image[..., 2])
    with pytest.raises(UserError, match="^lacks t1; the model takes t1, flair, t1c$"):
        second.read()
    _, second = find_by_channel(modalities, patterns(fill="flair"), RGB, "flair")
    image = second.read().image
    np.testing.assert_array_equal(image[..., 0], image[..., 1])
    np.testing.assert_array_equal(image[..., 1] - 10, image[..., 2])


def test_channels_on_other_voxels_are_refused(modalities):
    path = modalities / "a.b" / "a.b_t1c.nii.gz"
    moved = nibabel.load(path)
    affine = moved.affine.copy()
    affine[0, 3] += 1
    write_nifti(path, np.asarray(moved.dataobj), affine)
    first, _ = find_by_channel(modalities, patterns(), RGB)
    with pytest.raises(UserError, match="^t1c and .* lie on different voxels .*register"):
        first.read()


def test_a_channel_can_be_a_dicom_folder(tmp_path):
    for seed, name in enumerate(("FLAIR", "T1")):
        write_series(tmp_path / "p7" / name, np.full((2, 3, 4), seed, np.uint16), seed=seed)
    found = parse_patterns("flair={patient}/FLAIR,t1={patient}/T1", ("t1", "flair"))
    (scan,) = find_by_channel(tmp_path, found, ("t1", "flair"))
    assert scan.patient == "p7"
    np.testing.assert_array_equal(scan.read().image[0, 0, 0], [1, 0])


@pytest.mark.parametrize(
    ("text", "fill", "message"),
    [
        ("t2={patient}.nii", None, "no channel 't2'; the model takes t1, flair, t1c"),
        ("t1", None, "give each once, as in t1={patient}_t1.nii.gz"),
        ("t1=x.nii", None, "give each once, as in t1={patient}_t1.nii.gz"),
        ("t1={patient}a,t1={patient}b", None, "'t1={patient}b': give each once"),
        ("t1={patient}.nii", None, "lacks flair, t1c; the model takes t1, flair, t1c"),
        ("t1={patient}.nii", "flair", "lacks flair, t1c"),
    ],
)
def test_patterns_that_do_not_do(text, fill, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_patterns(text, RGB, fill)


def test_nothing_to_be_found(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UserError, match="does not exist"):
        scans(tmp_path / "x")
    with pytest.raises(UserError, match=r"a.txt: expected PNG, TIFF or JPEG slices, NIfTI"):
        scans(tmp_path / "a.txt")
    with pytest.raises(UserError, match="no PNG, TIFF or JPEG slices, .* among 1 files"):
        scans(tmp_path)
    with pytest.raises(UserError, match=r"nothing matches \{patient\}/\{patient\}_t1.nii.gz or"):
        find_by_channel(tmp_path, patterns(), RGB)


def test_slices_that_do_not_fit_are_named(tmp_path):
    for n in range(3):
        write_image(tmp_path / f"s{n}.png", make_slice(n)[0])
    (scan,) = scans(tmp_path)
    cv2.imwrite(str(tmp_path / "s1.png"), np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(UserError, match=r"s1.png: 5x5 pixels, .* but s0.png: 12x16 pixels, 3 chan"):
        scan.read()
    (tmp_path / "s1.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"s1.png: no PNG, TIFF or JPEG file"):
        scan.read()
    (tmp_path / "s1.png").unlink()
    write_image(tmp_path / "s0.jpg", make_slice(0)[0])
    with pytest.raises(UserError, match=r"s0.jpg: two slices of this name"):
        scans(tmp_path)[0].read()
