"""DICOM series as devices, CDs and anonymisers leave them: read, or one line for the series."""

import logging

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
nibabel = pytest.importorskip("nibabel")

from fake_volumes import world, write_series  # noqa: E402
from pydicom.datadict import dictionary_VR, tag_for_keyword  # noqa: E402
from pydicom.dataelem import RawDataElement  # noqa: E402

from jaxseg.errors import UserError  # noqa: E402
from jaxseg.scans.dicom import is_dicom, read_series  # noqa: E402
from jaxseg.scans.dicom_seg import read_segmentation  # noqa: E402
from jaxseg.scans.nifti import read_nifti  # noqa: E402

SHAPE = (5, 6, 7)
SAGITTAL = (0, 1, 0, 0, 0, -1)


def voxels(dtype=np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype(dtype)


def files(folder) -> list:
    return sorted(folder.iterdir())


def change(path, raw=None, drop=(), **tags):
    """Set attributes of a file, write bytes that are no value of theirs, or take them away."""
    header = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(header, name, value)
    for name in drop:
        if name in header:
            delattr(header, name)
    for name, text in (raw or {}).items():
        tag, data = pydicom.tag.Tag(tag_for_keyword(name)), text.encode() + b" " * (len(text) % 2)
        header._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(data), data, 0, False, True)
    header.save_as(path)


def one_line(paths) -> str:
    with pytest.raises(UserError) as error:
        read_series(paths)
    assert "\n" not in str(error.value)
    return str(error.value)


NUMBERS = ("RescaleSlope", "RescaleIntercept", "NumberOfFrames", "SliceThickness", "SeriesNumber")


@pytest.mark.parametrize("name", NUMBERS)
def test_an_empty_number_is_as_none(tmp_path, name):
    stored = voxels()
    write_series(tmp_path / "series", stored, **{name: None})
    volume = read_series(files(tmp_path / "series"))
    assert volume.image.dtype == np.uint16
    np.testing.assert_array_equal(volume.image[..., 0], stored)
    assert volume.spacing_mm[0] == pytest.approx(4)
    volume.write(tmp_path / "mask", stored > 500)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "mask.dcm").values, stored > 500)


@pytest.mark.parametrize("text", ["a", "0.9,0.9", "1\\2\\3\\4\\5\\6\\7", "nan", "inf", "1e99", ""])
@pytest.mark.parametrize(
    "name",
    ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames")
    + ("SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept"),
)
def test_a_number_that_is_none_is_named(tmp_path, name, text):
    write_series(tmp_path, voxels())
    odd = files(tmp_path)[2]
    change(odd, raw={name: text})
    needed = name in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
    if text or needed:
        line = one_line(files(tmp_path))
        assert line.startswith(f"{odd}: ") and name in line and "," not in line.split(name)[0]
    else:
        assert read_series(files(tmp_path)).image.shape == (*SHAPE, 1)


@pytest.mark.parametrize("name", ["Rows", "Columns"])
def test_an_image_without_size_is_named_not_left_out(tmp_path, name):
    for number, how in enumerate(({"drop": [name]}, {name: None}, {name: 0})):
        write_series(tmp_path / f"{number}", voxels())
        odd = files(tmp_path / f"{number}")[2]
        change(odd, **how)
        assert one_line(files(tmp_path / f"{number}")).startswith(f"{odd}: ")


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"ImageOrientationPatient": [0] * 6}, "ImageOrientationPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "ImageOrientationPatient"),
        ({"PixelSpacing": [0, 0]}, "PixelSpacing"),
        ({"PixelSpacing": [-1, 1]}, "PixelSpacing"),
        ({"NumberOfFrames": 3}, "several frames in one file"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "a mosaic, all slices in one"),
        ({"BitsAllocated": None}, "pixels cannot be read"),
        ({"PixelRepresentation": None}, "pixels cannot be read"),
        ({"PixelData": None}, "pixels cannot be read"),
    ],
)
def test_headers_that_describe_no_image_are_one_line(tmp_path, tags, said):
    write_series(tmp_path, voxels())
    for path in files(tmp_path):
        change(path, **tags)
    assert said in one_line(files(tmp_path))


ANONYMISED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID") + (
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "Manufacturer"),
    *("SeriesNumber", "InstanceNumber", "SliceThickness", "SeriesDescription"),
)


@pytest.mark.parametrize("orientation", [None, SAGITTAL])
def test_a_series_that_says_nothing_of_the_patient_becomes_a_dicom_seg(tmp_path, orientation):
    write_series(tmp_path / "series", voxels(), orientation=orientation)
    for path in files(tmp_path / "series"):
        change(path, drop=ANONYMISED)
    volume = read_series(files(tmp_path / "series"))
    mask = volume.image[..., 0] > 500
    volume.write(tmp_path / "mask", mask)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "mask.dcm").values, mask)
    volume.write(tmp_path / "p", volume.image[..., 0] / np.float32(1000))
    found = read_segmentation(tmp_path / "p.dcm").values
    np.testing.assert_allclose(found, volume.image[..., 0] / 1000, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"drop": ["FrameOfReferenceUID"]}, "no FrameOfReferenceUID"),
        ({"FrameOfReferenceUID": ""}, "no FrameOfReferenceUID"),
        ({"drop": ["StudyInstanceUID"]}, "no StudyInstanceUID"),
        ({"drop": ["SOPInstanceUID"]}, "without a SOPInstanceUID"),
        ({"SOPInstanceUID": "1.2.3"}, "without a SOPInstanceUID"),
        ({"drop": ["SOPClassUID"]}, "no SOPClassUID"),
        ({"SOPClassUID": "1.2.3.4"}, "SOPClassUID 1.2.3.4 is none"),
        ({"raw": {"StudyDate": "soon"}}, ""),
    ],
)
def test_where_no_dicom_seg_can_be_made_the_mask_is_kept_as_nifti(tmp_path, how, said):
    orientation = SAGITTAL if how.get("drop") else None
    write_series(tmp_path / "series", voxels(), orientation=orientation)
    for path in files(tmp_path / "series"):
        change(path, **how)
    volume = read_series(files(tmp_path / "series"))
    (line,) = (line for line in volume.warnings if "DICOM-SEG" in line)
    assert said in line and "written as NIfTI" in line and "\n" not in line
    mask = volume.image[..., 0] > 500
    volume.write(tmp_path / "mask", mask)
    np.testing.assert_array_equal(read_nifti(tmp_path / "mask.nii.gz").image[..., 0], mask)
    made = nibabel.load(tmp_path / "mask.nii.gz")
    places = world(made.affine, made.shape)[np.asarray(made.dataobj) > 0]
    expected = world(volume.affine, mask.shape)[mask]
    np.testing.assert_allclose(sorted(places.tolist()), sorted(expected.tolist()), atol=1e-3)


@pytest.mark.parametrize(
    "places", [[0, 4, 8, 16, 20], [0, 4, 8.3, 12, 16], [0, 4, 8, 12, 16.001], [7]]
)
@pytest.mark.parametrize("tilt", [0, 0.7])
def test_what_was_written_for_an_odd_series_is_read_in_its_order(tmp_path, places, tilt):
    stored = voxels()[: len(places)]
    write_series(tmp_path / "series", stored, places=places, SliceThickness=None)
    for path in files(tmp_path / "series"):
        (x, y, z), number = pydicom.dcmread(path).ImagePositionPatient, int(path.name[2:])
        change(path, ImagePositionPatient=[x, y + tilt * z / 4, z], InstanceNumber=number + 1)
    volume = read_series(files(tmp_path / "series"))
    mask = volume.image[..., 0] > 500
    volume.write(tmp_path / "mask", mask)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "mask.dcm").values, mask)


def move_frames(path, position):
    """Give the frames of a DICOM-SEG the places that `position` makes of theirs."""
    header = pydicom.dcmread(path)
    for group in header.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        place.ImagePositionPatient = position(place.ImagePositionPatient)
    header.save_as(path)


@pytest.mark.parametrize("orientation", [None, SAGITTAL])
def test_frames_belong_to_the_images_that_they_refer_to(tmp_path, monkeypatch, orientation):
    """Not to places: those may contradict, be one and the same, or lack where nothing is drawn."""
    write_series(tmp_path / "series", voxels(), orientation=orientation)
    volume = read_series(files(tmp_path / "series"))
    mask = volume.image[..., 0] > 990  # of some slices
    stored_axis = volume.images.order.axes.index(0)
    drawn = mask.any(tuple({0, 1, 2} - {stored_axis}))
    assert 0 < drawn.sum() < len(drawn) == len(volume.images.names)
    volume.write(tmp_path / "mask", mask)
    by_place, images = read_segmentation(tmp_path / "mask.dcm")
    assert images == volume.images
    np.testing.assert_array_equal(by_place, mask)
    move_frames(tmp_path / "mask.dcm", lambda place: [-x for x in place])
    upside_down = read_segmentation(tmp_path / "mask.dcm")
    assert (upside_down.values != mask).any()
    read = read_segmentation(tmp_path / "mask.dcm", volume.images)
    np.testing.assert_array_equal(read.values, mask)
    move_frames(tmp_path / "mask.dcm", lambda place: [0, 0, 0])
    with pytest.raises(UserError, match="two images at one position"):
        read_segmentation(tmp_path / "mask.dcm")
    read = read_segmentation(tmp_path / "mask.dcm", volume.images)
    np.testing.assert_array_equal(read.values, mask)
    # As other programs write it: no frame where nothing is drawn.
    make = highdicom.seg.Segmentation
    monkeypatch.setattr(
        highdicom.seg,
        "Segmentation",
        lambda **given: make(**given | {"omit_empty_frames": True}),
    )
    volume.write(tmp_path / "few", mask)
    assert pydicom.dcmread(tmp_path / "few.dcm").NumberOfFrames == drawn.sum()
    read = read_segmentation(tmp_path / "few.dcm", volume.images)
    np.testing.assert_array_equal(read.values, mask)
    # Of another series: nothing is known but the places.
    other = volume.images._replace(names=tuple((f"1.{n}", 0) for n in range(len(drawn))))
    assert len(read_segmentation(tmp_path / "few.dcm", other).values.flat) < mask.size


def test_nothing_of_the_patient_is_in_warnings_logs_and_errors(tmp_path, caplog, capfd):
    """highdicom quotes a name that it holds for no name; setting an invalid one, pydicom does."""
    caplog.set_level(logging.DEBUG)
    for number, name in enumerate(("ERIKA MUSTERMANN", "Mustermann" * 9, "M=M=M=M=M^^^^^^^")):
        series = tmp_path / f"{number}"
        write_series(series, voxels(), PatientID="4711x")
        for path in files(series):
            change(
                path, raw={"PatientName": name, "PatientBirthDate": "Mai 1961", "StudyDate": "?"}
            )
        volume = read_series(files(series))
        volume.write(tmp_path / f"mask{number}", volume.image[..., 0] > 500)
        said = " ".join([*volume.warnings, caplog.text, *capfd.readouterr()])
        for word in ("M=M", "ustermann", "USTERMANN", "4711x", "Mai 1961"):
            assert word not in said, said


@pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRLittleEndian"])
def test_files_without_preamble_are_found_and_read(tmp_path, syntax):
    stored = voxels()
    write_series(tmp_path, stored)
    implicit = syntax.startswith("Implicit")
    for path in files(tmp_path):
        header = pydicom.dcmread(path)
        header.preamble, header.file_meta = None, pydicom.dataset.FileMetaDataset()
        pydicom.dcmwrite(path, header, implicit_vr=implicit, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    assert all(is_dicom(path) for path in files(tmp_path))
    np.testing.assert_array_equal(read_series(files(tmp_path)).image[..., 0], stored)


def test_other_files_are_no_dicom(tmp_path):
    for number, data in enumerate((b"", b"\x08\0", b"\x08\0\5\0text, no DICOM", b"\2" * 200)):
        (tmp_path / f"{number}").write_bytes(data)
        assert not is_dicom(tmp_path / f"{number}")


def test_what_lies_beside_scans_on_cds_and_in_archives_is_no_scan(tmp_path):
    """An index (DICOMDIR), macOS's companions, a SEG, a report, a plan, whatever they are named."""
    write_series(tmp_path / "series", voxels())
    volume, first = read_series(files(tmp_path / "series")), files(tmp_path / "series")[0]
    assert is_dicom(first)
    volume.write(tmp_path / "mask", volume.image[..., 0] > 500)
    assert not is_dicom(tmp_path / "mask.dcm")
    (tmp_path / "._IM1.dcm").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(300))
    assert not is_dicom(tmp_path / "._IM1.dcm")
    kinds = ("BasicTextSRStorage", "RTStructureSetStorage", "RTDoseStorage", "RawDataStorage")
    for kind in (*kinds, "EncapsulatedPDFStorage", "MediaStorageDirectoryStorage"):
        header = pydicom.dcmread(first)
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = getattr(pydicom.uid, kind)
        header.save_as(tmp_path / "odd.dcm", enforce_file_format=True)
        assert not is_dicom(tmp_path / "odd.dcm"), kind


def enhanced(path, stored, places, shuffled, **tags):
    """Write [D, H, W] as one file of several frames, every second one rescaled by 2 x + 5."""
    write_series(path.parent / "single", stored[:1])
    image = pydicom.dcmread(files(path.parent / "single")[0])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(image, name)
    image.SOPClassUID, image.NumberOfFrames = pydicom.uid.EnhancedMRImageStorage, len(stored)
    measures, turn, shared = (pydicom.Dataset() for _ in range(3))
    measures.PixelSpacing, measures.SliceThickness = [1.0, 1.0], 4.0
    turn.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
    image.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number in shuffled:
        group, place, values = (pydicom.Dataset() for _ in range(3))
        place.ImagePositionPatient = [-60.0, -50.0, places[number]]
        values.RescaleSlope, values.RescaleIntercept = (2, 5) if number % 2 else (1, 0)
        group.PlanePositionSequence = [place]
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = groups
    image.PixelData = stored[list(shuffled)].tobytes()
    for name, value in tags.items():
        setattr(image, name, value)
    image.save_as(path)


@pytest.mark.parametrize("places", [[0, 4, 8, 12, 16], [0, 4, 8, 16, 20]])
def test_frames_of_an_enhanced_file_are_slices_and_back(tmp_path, places):
    stored, shuffled = voxels(), (3, 1, 0, 4, 2)
    enhanced(tmp_path / "a.dcm", stored, [float(p) for p in places], shuffled)
    volume = read_series([tmp_path / "a.dcm"])
    expected = np.where(np.arange(5)[:, None, None] % 2, 2.0 * stored + 5, stored)
    np.testing.assert_array_equal(volume.image[..., 0], expected)
    assert volume.spacing_mm == pytest.approx((4, 1, 1))
    np.testing.assert_allclose(volume.affine[:3, 3], (60, 50, 0))
    assert len(volume.warnings) == (places[3] == 16)
    mask = stored > 500
    volume.write(tmp_path / "mask", mask)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "mask.dcm").values, mask)
    move_frames(tmp_path / "mask.dcm", lambda place: [0, 0, 0])
    read = read_segmentation(tmp_path / "mask.dcm", volume.images)
    np.testing.assert_array_equal(read.values, mask)
    made = highdicom.seg.segread(tmp_path / "mask.dcm")
    for frame, group in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        number = np.atleast_1d(source.ReferencedFrameNumber)[0]
        np.testing.assert_array_equal(frame, mask[shuffled[number - 1]])


def test_frames_without_a_place_each_or_at_one_place_are_one_line(tmp_path):
    enhanced(tmp_path / "a.dcm", voxels(), [0.0, 4.0, 8.0, 8.0, 12.0], range(5))
    assert "a.dcm, frame 3 and a.dcm" in one_line([tmp_path / "a.dcm"])
    enhanced(tmp_path / "b.dcm", voxels(), [0.0] * 5, range(5), NumberOfFrames=4)
    assert "several frames in one file (4)" in one_line([tmp_path / "b.dcm"])
