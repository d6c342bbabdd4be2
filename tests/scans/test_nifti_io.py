import gzip
import itertools

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel")

from fake_volumes import oblique_affine, world, write_nifti  # noqa: E402

from jaxseg.errors import UserError  # noqa: E402
from jaxseg.scans.nifti import read_nifti  # noqa: E402

SHAPE = (5, 6, 7)
FRAMES = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((-1, 1), repeat=3)
]


def places_of(path) -> set:
    """Return where the voxels of a mask lie, RAS+ mm, by nibabel alone."""
    image = nibabel.load(path)
    return {tuple(p.round(3)) for p in world(image.affine, image.shape)[image.get_fdata() > 0]}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("axes", "signs"), FRAMES[::5] + FRAMES[-1:])
def test_slices_are_shown_as_radiologists_see_them_and_the_mask_lies_on_their_voxels(
    tmp_path, axes, signs, suffix
):
    affine = oblique_affine(axes, signs)
    place = world(affine, SHAPE)  # each voxel holds where it lies
    path = write_nifti(tmp_path / f"p.q{suffix}", place.astype(np.float32), affine)
    volume = read_nifti(path)
    right, front, up = np.moveaxis(volume.image, -1, 0)
    assert (np.diff(up, axis=0) > 0).all()
    assert (np.diff(front, axis=1) < 0).all()
    assert (np.diff(right, axis=2) < 0).all()
    np.testing.assert_allclose(
        world(volume.affine, volume.image.shape[:3]), volume.image, atol=1e-4
    )
    assert sorted(volume.spacing_mm) == pytest.approx([0.8, 1.5, 3.0])
    assert volume.warnings == () or volume.warnings[0].startswith("axial slices have pixels of")

    mask = np.random.default_rng(0).random(volume.image.shape[:3]) < 0.2
    volume.write(tmp_path / "mask.1", mask)
    expected = {tuple(p.round(3)) for p in volume.image.astype(np.float64)[mask]}
    found = places_of(tmp_path / f"mask.1{suffix}")
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=2e-3)


def test_header_is_kept(tmp_path):
    affine = oblique_affine()
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    path = write_nifti(tmp_path / "p.nii.gz", values, affine)
    volume = read_nifti(path)
    mask = volume.image[..., 0] >= 100
    volume.write(tmp_path / "mask", mask)
    volume.write(tmp_path / "probability", (volume.image[..., 0] / 1000).astype(np.float32))
    source, made = nibabel.load(path), nibabel.load(tmp_path / "mask.nii.gz")
    assert made.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(made.dataobj), values >= 100)
    for key in ("pixdim", "qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(made.header[key], source.header[key])
    for key in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        assert made.header[key] == source.header[key]
    assert b"scanner" not in made.header["descrip"].tobytes()
    probability = nibabel.load(tmp_path / "probability.nii.gz")
    assert probability.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(probability.dataobj), (values / 1000).astype("f4"))


def test_simpleitk_sees_the_mask_on_the_same_voxels(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    affine = oblique_affine((1, 2, 0), (1, -1, -1))
    path = write_nifti(tmp_path / "p.nii.gz", np.zeros(SHAPE, np.float32), affine)
    volume = read_nifti(path)
    mask = np.zeros(volume.image.shape[:3], bool)
    mask[4, 1, 2] = True
    volume.write(tmp_path / "mask", mask)
    source, made = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert made.GetSize() == source.GetSize()
    assert made.GetSpacing() == source.GetSpacing()
    assert made.GetDirection() == source.GetDirection()
    assert made.GetOrigin() == source.GetOrigin()
    ((z, y, x),) = np.argwhere(sitk.GetArrayFromImage(made))
    lps = np.array(made.TransformIndexToPhysicalPoint((int(x), int(y), int(z))))
    np.testing.assert_allclose(lps * (-1, -1, 1), (volume.affine @ (4, 1, 2, 1))[:3], atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "channels"), [((4, 5), 1), ((4, 5, 6), 1), ((4, 5, 6, 3), 3), ((4, 5, 6, 1, 2), 2)]
)
def test_axes(tmp_path, shape, channels):
    voxels = np.random.default_rng(0).integers(0, 99, shape).astype(np.uint8)
    image = nibabel.Nifti1Image(voxels, np.diag((-1, -1, 1, 1)))  # of voxels from left, back
    image.to_filename(tmp_path / "p.nii")
    volume = read_nifti(tmp_path / "p.nii")
    spatial = (*shape, 1)[:3]
    assert volume.image.shape == (spatial[2], spatial[1], spatial[0], channels)
    assert volume.image.dtype == np.uint8
    flat = voxels.reshape(*spatial, channels)
    np.testing.assert_array_equal(volume.image, flat.transpose(2, 1, 0, 3))
    volume.write(tmp_path / "mask", volume.image[..., 0] > 50)
    made = nibabel.load(tmp_path / "mask.nii")
    assert made.shape == shape[:3]
    np.testing.assert_array_equal(np.asarray(made.dataobj), (flat[..., 0] > 50).reshape(shape[:3]))


def test_colours_are_channels(tmp_path):
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    voxels = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 3)).astype(np.uint8)
    image = nibabel.Nifti1Image(voxels.copy().view(rgb)[..., 0], np.diag((-1, -1, 1, 1)))
    image.to_filename(tmp_path / "p.nii")
    volume = read_nifti(tmp_path / "p.nii")
    np.testing.assert_array_equal(volume.image, voxels.transpose(2, 1, 0, 3))


def test_scaled_values_units_and_what_is_not_finite(tmp_path):
    image = nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4) * 1e3)
    image.header.set_slope_inter(0.5, 10)
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / "scaled.nii")
    volume = read_nifti(tmp_path / "scaled.nii")
    assert volume.image.dtype == np.float32
    assert volume.image.max() == 13.5
    assert volume.image.min() == 10
    assert volume.spacing_mm == pytest.approx((1, 1, 1))
    voxels = np.full((2, 2, 2), 5, np.float32)
    voxels[0, 0, 0], voxels[1, 1, 1] = np.nan, -3
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "nan.nii")
    assert sorted(read_nifti(tmp_path / "nan.nii").image.ravel())[:2] == [-3, -3]


def test_a_file_without_orientation_is_said(tmp_path):
    nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None).to_filename(tmp_path / "p.nii")
    (line,) = read_nifti(tmp_path / "p.nii").warnings
    assert "does not state its orientation" in line


def test_what_cannot_be_read_is_one_line(tmp_path):
    good = write_nifti(tmp_path / "good.nii.gz", np.zeros(SHAPE, np.uint8), np.eye(4)).read_bytes()
    raw = gzip.decompress(good)
    broken = {
        "cut.nii.gz": good[: len(good) // 2],
        "short.nii": raw[:400],
        "text.nii": b"hello",
        "empty.nii.gz": b"",
        "huge.nii": raw[:42] + b"\xff\x7f\xff\x7f\xff\x7f" + raw[48:],
        "negative.nii": raw[:42] + b"\xff\xff" + raw[44:],
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
    singular = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4))
    singular.header["sform_code"], singular.header["srow_x"] = 1, 0
    nibabel.Nifti1Image(singular.dataobj, None, singular.header).to_filename(tmp_path / "flat.nii")
    nibabel.Nifti1Image(np.zeros(SHAPE, np.complex64), np.eye(4)).to_filename(tmp_path / "c.nii")
    for name in [*broken, "flat.nii", "c.nii", "missing.nii"]:
        with pytest.raises(UserError, match=rf"^.*{name}: cannot be read as NIfTI \(.+\)$"):
            read_nifti(tmp_path / name)
