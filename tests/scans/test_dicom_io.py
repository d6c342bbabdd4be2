import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from fake_volumes import write_series  # noqa: E402

from jaxseg.errors import UserError  # noqa: E402
from jaxseg.scans.dicom import is_dicom, read_series  # noqa: E402

SHAPE = (5, 6, 7)
LPS = np.array([-1, -1, 1])
AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)


def voxels(seed: int = 0, dtype=np.uint16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, SHAPE).astype(dtype)


def paths(folder):
    return sorted(folder.iterdir())


def test_slices_are_sorted_by_position_and_lie_where_the_headers_say(tmp_path):
    stored = voxels()
    columns, rows, normal = write_series(tmp_path, stored)
    volume = read_series(paths(tmp_path))
    assert volume.image.dtype == np.uint16
    np.testing.assert_array_equal(volume.image[..., 0], stored)  # axial already
    assert volume.spacing_mm == pytest.approx((4, 0.5, 0.75))
    assert volume.warnings == ()
    expected = np.array([-60, -50, 20]) + 3 * 4 * normal + 2 * 0.5 * rows + 5 * 0.75 * columns
    np.testing.assert_allclose((volume.affine @ (3, 2, 5, 1))[:3], expected * LPS, atol=1e-4)


def test_a_sagittal_series_is_shown_axially(tmp_path):
    stored = voxels()  # slices from left to right, rows down, columns to the back
    write_series(tmp_path, stored, orientation=SAGITTAL)
    volume = read_series(paths(tmp_path))
    expected = stored.transpose(1, 2, 0)[::-1, :, ::-1]
    np.testing.assert_array_equal(volume.image[..., 0], expected)
    assert volume.spacing_mm == pytest.approx((0.5, 0.75, 4))


def test_values_are_rescaled_slice_by_slice(tmp_path):
    stored = voxels(dtype=np.int16) - 500
    write_series(tmp_path, stored, RescaleIntercept=-3.0)
    for path in paths(tmp_path):
        slice_ = pydicom.dcmread(path)
        slice_.RescaleSlope = 1 + slice_.InstanceNumber / 4
        slice_.save_as(path)
    volume = read_series(paths(tmp_path))
    slopes = 1 + (np.random.default_rng(0).permutation(5) + 1) / 4
    assert volume.image.dtype == np.float32
    np.testing.assert_allclose(volume.image[..., 0], stored * slopes[:, None, None] - 3, rtol=1e-6)


@pytest.mark.parametrize("orientation", [None, SAGITTAL])
def test_dicom_seg_lies_on_the_same_voxels(tmp_path, orientation):
    highdicom = pytest.importorskip("highdicom")
    write_series(tmp_path / "series", voxels(), orientation=orientation)
    volume = read_series(paths(tmp_path / "series"))
    mask = np.zeros(volume.image.shape[:3], bool)
    mask[3, 1, 2] = mask[4, 4, 4] = True
    volume.write(tmp_path / "mask", mask)
    made = highdicom.seg.segread(tmp_path / "mask.dcm")
    frames = made.pixel_array
    for frame, group in zip(frames, made.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        position = group.PlanePositionSequence[0].ImagePositionPatient
        (slice_,) = [
            s
            for s in map(pydicom.dcmread, paths(tmp_path / "series"))
            if s.SOPInstanceUID == source.ReferencedSOPInstanceUID
        ]
        assert position == slice_.ImagePositionPatient
        assert frame.shape == (slice_.Rows, slice_.Columns)
    geometry = made.get_volume(combine_segments=True)
    place = {tuple((geometry.affine @ (*i, 1))[:3].round(3)) for i in np.argwhere(geometry.array)}
    ours = {tuple(((volume.affine @ (*i, 1))[:3] * LPS).round(3)) for i in np.argwhere(mask)}
    np.testing.assert_allclose(sorted(place), sorted(ours), atol=2e-3)
    assert frames.sum() == 2
    assert made.PatientID == "p"
    assert made.SegmentSequence[0].SegmentLabel == "Tumour"
    assert made.FrameOfReferenceUID == "1.2.9"


def test_simpleitk_reads_the_series_to_the_same_places(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    stored = voxels()
    write_series(tmp_path, stored)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = sitk.ReadImage(names)
    volume = read_series(paths(tmp_path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.image[..., 0])
    place = image.TransformIndexToPhysicalPoint((5, 2, 3))
    np.testing.assert_allclose((volume.affine @ (3, 2, 5, 1))[:3] * LPS, place, atol=1e-3)


def test_an_empty_mask_and_probabilities(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    write_series(tmp_path / "series", voxels())
    volume = read_series(paths(tmp_path / "series"))
    volume.write(tmp_path / "mask", np.zeros(SHAPE, bool))
    assert highdicom.seg.segread(tmp_path / "mask.dcm").pixel_array.sum() == 0
    probability = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    volume.write(tmp_path / "probability", probability)
    made = highdicom.seg.segread(tmp_path / "probability.dcm")
    assert made.SegmentationType == "FRACTIONAL"
    stored = made.get_volume(combine_segments=False).array[..., 0]  # from above or below
    errors = [np.abs(s - probability).max() for s in (stored, stored[::-1])]
    assert min(errors) <= 0.5 / 255 + 1e-6


def test_odd_distances_are_said(tmp_path):
    write_series(tmp_path / "missing", voxels(), places=[0, 4, 8, 16, 20])
    write_series(tmp_path / "uneven", voxels(), places=[0, 4, 8.2, 12, 16])
    missing = read_series(paths(tmp_path / "missing"))
    uneven = read_series(paths(tmp_path / "uneven"))
    assert missing.warnings[0] == "slices are missing: 8 mm after slice 3, usually 4 mm"
    assert missing.spacing_mm[0] == pytest.approx(4)
    assert uneven.warnings[0] == "slices are not evenly spaced: 3.8 to 4.2 mm apart"


def test_one_slice_has_the_distance_of_its_header_or_none(tmp_path):
    write_series(tmp_path / "a", voxels()[:1])
    write_series(tmp_path / "b", voxels()[:1], SliceThickness=None)
    assert read_series(paths(tmp_path / "a")).spacing_mm == pytest.approx((4, 0.5, 0.75))
    assert read_series(paths(tmp_path / "b")).spacing_mm == ()


def test_several_series_are_listed(tmp_path):
    write_series(tmp_path, voxels(), seed=0, description="AX FLAIR")
    for path in paths(tmp_path):
        path.rename(path.with_name(f"a{path.name}"))
    write_series(tmp_path, voxels()[:3], seed=1, description="AX T1")
    with pytest.raises(UserError) as error:
        read_series(paths(tmp_path))
    assert str(error.value) == (
        "2 series, give each a folder of its own: 'AX T1' (3 images, 1.2.3.1); "
        "'AX FLAIR' (5 images, 1.2.3.0)"
    )


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"NumberOfFrames": 9}, "several frames in one file"),
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, "no ImageOrientationPatient"),
        ({"PixelSpacing": None}, "no PixelSpacing"),
        ({"PhotometricInterpretation": "RGB"}, "RGB pixels"),
        ({"Rows": 3}, "pixels, not"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.8, 0.6]}, "not parallel"),
        ({"PixelSpacing": [0.5, 0.5]}, "another pixel spacing"),
        ({"ImagePositionPatient": [-60.0, -50.0, 20.0]}, "two images at one position"),
    ],
)
def test_a_slice_that_does_not_fit_is_named(tmp_path, tags, message):
    write_series(tmp_path, voxels(), orientation=AXIAL)
    (odd,) = [p for p in paths(tmp_path) if pydicom.dcmread(p).ImagePositionPatient[2] == 32]
    slice_ = pydicom.dcmread(odd)
    for name, value in tags.items():
        setattr(slice_, name, value)
    slice_.save_as(odd)
    with pytest.raises(UserError, match=message) as error:
        read_series(paths(tmp_path))
    assert odd.name in str(error.value)


def test_damaged_files_and_folders_without_images(tmp_path):
    write_series(tmp_path / "a", voxels())
    victim = paths(tmp_path / "a")[2]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-50])
    with pytest.raises(UserError, match=f"{victim.name}: pixels cannot be read"):
        read_series(paths(tmp_path / "a"))
    victim.write_bytes(b"no DICOM")
    with pytest.raises(UserError, match=f"{victim.name}: cannot be read as DICOM"):
        read_series(paths(tmp_path / "a"))
    with pytest.raises(UserError, match="no DICOM images"):
        read_series([])
    assert not is_dicom(victim)
    assert is_dicom(paths(tmp_path / "a")[0])
    assert is_dicom(tmp_path / "x.DCM")
