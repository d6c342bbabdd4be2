"""NIfTI files as old converters and other programs leave them: read, or one line."""

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")

from fake_volumes import oblique_affine, world, write_nifti  # noqa: E402

from jaxseg.errors import UserError  # noqa: E402
from jaxseg.scans.nifti import read_nifti  # noqa: E402
from jaxseg.scans.scan_files import is_scan_file  # noqa: E402

SHAPE = (5, 6, 7)
KINDS = {
    "NIfTI-1 pair": (nibabel.Nifti1Pair, ".hdr", ".nii.gz"),
    "NIfTI-2": (nibabel.Nifti2Image, ".nii", ".nii"),
    "NIfTI-2 pair": (nibabel.Nifti2Pair, ".hdr", ".nii.gz"),
    "Analyze": (nibabel.AnalyzeImage, ".hdr", ".nii.gz"),
    "SPM's Analyze": (nibabel.Spm99AnalyzeImage, ".hdr", ".nii.gz"),
}


def written(path, kind=nibabel.Nifti1Image, affine=None, **header):
    image = kind(np.arange(210, dtype=np.int16).reshape(SHAPE), np.eye(4))
    image = kind(image.dataobj, oblique_affine() if affine is None else affine, image.header)
    for name, value in header.items():
        image.header[name] = value
    image.to_filename(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_other_headers_are_read_and_the_mask_lies_on_their_voxels(tmp_path, kind):
    form, suffix, made = KINDS[kind]
    analyze = not issubclass(form, nibabel.Nifti1Pair)
    affine = np.diag((-2.0, 1.5, 3.0, 1.0)) if analyze else oblique_affine()
    path = written(tmp_path / f"a{suffix}", form, affine)
    assert is_scan_file(path.name)
    volume, source = read_nifti(path), nibabel.load(path)
    assert any("does not state its orientation" in line for line in volume.warnings) == analyze
    for name, values in (("mask", volume.image[..., 0] > 100), ("p", volume.image[..., 0] / 210)):
        volume.write(tmp_path / name, values)
        result = nibabel.load(tmp_path / f"{name}{made}")
        places = world(result.affine, result.shape)[np.asarray(result.dataobj) > 100 / 210]
        expected = world(source.affine, SHAPE)[np.asarray(source.dataobj) > 100]
        np.testing.assert_allclose(sorted(places.tolist()), sorted(expected.tolist()), atol=1e-3)


@pytest.mark.parametrize("code", [4, 7, 4 | 8, 64, 255])
def test_a_unit_that_is_no_code_is_taken_as_mm_and_said(tmp_path, code):
    path = written(tmp_path / "a.nii")
    data = bytearray(path.read_bytes())
    data[123] = code
    path.write_bytes(data)
    volume = read_nifti(path)
    assert sorted(volume.spacing_mm) == pytest.approx([0.8, 1.5, 3.0])
    odd = code % 8 not in range(4)
    said = f"its unit of length, {code % 8}, is no code; taken as mm"
    assert (said in volume.warnings) == odd
    volume.write(tmp_path / "mask", volume.image[..., 0] > 9)
    assert nibabel.load(tmp_path / "mask.nii").shape == SHAPE


def test_forms_that_contradict_each_other_are_said(tmp_path):
    affine = np.diag((1.0, 1, 2, 1))
    write_nifti(tmp_path / "same.nii", np.zeros(SHAPE, np.uint8), affine)
    image = nibabel.load(tmp_path / "same.nii")
    image.set_qform(affine + np.eye(4, k=3) * 8, 1)
    image.to_filename(tmp_path / "odd.nii")
    assert read_nifti(tmp_path / "same.nii").warnings == ()
    volume = read_nifti(tmp_path / "odd.nii")
    assert volume.warnings == (
        "qform and sform put its voxels up to 8 mm apart; the sform is taken",
    )
    np.testing.assert_array_equal(volume.affine, read_nifti(tmp_path / "same.nii").affine)
    image.header["qform_code"] = 0
    image.to_filename(tmp_path / "one.nii")
    assert read_nifti(tmp_path / "one.nii").warnings == ()


def test_values_on_a_surface_are_one_line(tmp_path):
    axes = (
        nibabel.cifti2.ScalarAxis(["a"]),
        nibabel.cifti2.BrainModelAxis.from_mask(np.ones((3, 3, 3)), affine=np.eye(4)),
    )
    image = nibabel.Cifti2Image(np.ones((1, 27), np.float32), axes)
    image.to_filename(tmp_path / "a.dscalar.nii")
    with pytest.raises(UserError, match="a.dscalar.nii: cannot be read as NIfTI .a Cifti2 file"):
        read_nifti(tmp_path / "a.dscalar.nii")


def test_a_header_without_its_voxels_is_one_line(tmp_path):
    path = written(tmp_path / "a.hdr", nibabel.Nifti1Pair)
    path.with_suffix(".img").unlink()
    with pytest.raises(UserError, match=r"a.hdr: cannot be read as NIfTI .*a\.img"):
        read_nifti(path)
    path.write_text("ENVI\nsamples = 100\n")
    with pytest.raises(UserError, match="a.hdr: cannot be read as NIfTI"):
        read_nifti(path)
