"""One folder is read in one way by every program; nothing is left out in silence."""

import shutil
import zipfile

import numpy as np
import pytest
from fake_data import make_slice, write_folders, write_image
from fake_volumes import oblique_affine, write_nifti, write_series

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts.detect import describe_volumes, detect
from jaxseg.layouts.find import find_scans
from jaxseg.layouts.kinds import KINDS, list_source
from jaxseg.scans.files import list_files

VOXELS = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)


def scans(path, dataset=None):
    """Return the scans and the notes on what is left out."""
    notes = []
    return find_scans(path, dataset or Dataset(), notes=notes), notes


def write_lgg_flat(folder, patients):
    for patient, numbers in patients.items():
        for number in numbers:
            image, mask = make_slice(number)
            write_image(folder / f"{patient}_20000101_{number}.tif", image)
            write_image(folder / f"{patient}_20000101_{number}_mask.tif", 255 * mask)


def as_in_training(source, **settings):
    dataset = Dataset(source=str(source), **settings)
    problems = []
    found = KINDS[dataset.name].find(list(list_source(dataset).stamps), dataset, problems)
    assert not problems
    return {p: tuple(s.image for s in sorted(slices)) for p, slices in found.items()}


LAYOUTS = {  # name: settings, files
    "lgg_flat": ({"name": "lgg_mri"}, ()),
    "regex": (
        {"name": "image_folder", "patient_regex": r"(c\d+)_"},
        [f"images/c{p}_{s}.png" for p in range(3) for s in (2, 10)],
    ),
    "each": (
        {"name": "image_folder", "every_image_is_a_patient": True},
        [f"images/c{p}.png" for p in range(3)],
    ),
    "folders": ({"name": "image_folder"}, [f"p{p}/{s}.png" for p in range(3) for s in (2, 10)]),
    "around": (
        {"name": "image_folder"},
        [f"kaggle/p{p}/images/{s}.png" for p in range(3) for s in (2, 10)],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prediction_tells_patients_apart_as_training_does(tmp_path, layout):
    settings, names = LAYOUTS[layout]
    if not names:
        write_lgg_flat(tmp_path, {"TCGA_AA_0001": [1, 2, 10], "TCGA_AA_0002": [1, 2]})
    for name in names:
        image, mask = make_slice(0)
        write_image(tmp_path / name, image)
        folder = name.replace("images/", "masks/")
        is_beside = folder == name
        target = name.replace(".png", "_mask.png") if is_beside else folder
        write_image(tmp_path / target, 255 * mask)
    found, _ = scans(tmp_path, Dataset(**settings))
    assert {scan.patient: scan.names for scan in found} == as_in_training(tmp_path, **settings)


def test_a_flat_lgg_folder_is_told_by_its_names_whatever_the_run_was_trained_on(tmp_path):
    write_lgg_flat(tmp_path, {f"TCGA_AA_000{n}": [1, 2] for n in range(4)})
    assert [s.patient for s in scans(tmp_path)[0]] == [f"TCGA_AA_000{n}" for n in range(4)]
    assert [s.patient for s in scans(tmp_path, Dataset(name="image_folder"))[0]] == [
        f"TCGA_AA_000{n}" for n in range(4)
    ]


def test_a_flat_folder_of_perhaps_several_patients_is_spoken_of(tmp_path):
    for name in ("a_1", "a_2", "b_1", "b_2", "c_1", "c_2"):
        write_image(tmp_path / "flat" / f"{name}.png", make_slice(0)[0])
    (found,), (note,) = scans(tmp_path / "flat")
    assert found.patient == "flat" and len(found.names) == 6
    assert ".: by their names its 6 slices may be of 3 patients; taken for one and normal" in note
    told = Dataset(name="image_folder", patient_regex="(.)_")
    assert [s.patient for s in scans(tmp_path / "flat", told)[0]] == ["a", "b", "c"]
    assert not scans(tmp_path / "flat", told)[1]


COMPANIONS = (
    *("._IM0001.dcm", "._s0.png", "desktop.ini", "Desktop.ini", "Thumbs.db", "thumbs.db"),
    *(".DS_Store", "@eaDir/IM0000@SynoEAStream", "@eaDir/s0.png/SYNOPHOTO_THUMB_M.jpg"),
    *("__MACOSX/p/._s0.png", "$RECYCLE.BIN/s0.png", "#recycle/s0.png", "s0.png@SynoResource"),
)


@pytest.mark.parametrize("packed", [False, True])
def test_companions_of_systems_are_passed_over(tmp_path, packed):
    pytest.importorskip("pydicom")
    write_series(tmp_path / "in/d", VOXELS)
    for n in range(2):
        write_image(tmp_path / f"in/p/s{n}.png", make_slice(n)[0])
    for folder in ("d", "p"):
        for name in COMPANIONS:
            (tmp_path / "in" / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / folder / name).write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 200)
    path = tmp_path / "in"
    if packed:
        path = shutil.make_archive(tmp_path / "in", "zip", tmp_path / "in")
        shutil.rmtree(tmp_path / "in")
        path = tmp_path / "in.zip"
    found, notes = scans(path)
    assert [s.patient for s in found] == ["d", "p"] and not notes
    assert found[0].read().image.shape == (2, 3, 4, 1)
    assert found[1].read().image.shape == (2, 12, 16, 3)


def write_no_scan(path, modality, sop_class):
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    made = pydicom.Dataset()
    made.Modality, made.SOPClassUID, made.SOPInstanceUID = modality, sop_class, generate_uid()
    made.PatientID, made.SeriesInstanceUID = "p", generate_uid()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)


def test_a_cd_and_a_download_of_tcia(tmp_path):
    """DICOMDIR in the root; SEG, SR and RTSTRUCT in folders of their own."""
    pytest.importorskip("pydicom")
    write_series(tmp_path / "ST/SE1", VOXELS)
    write_no_scan(tmp_path / "DICOMDIR", "", "1.2.840.10008.1.3.10")
    write_no_scan(tmp_path / "ST/SE2/1-1.dcm", "SEG", "1.2.840.10008.5.1.4.1.1.66.4")
    write_no_scan(tmp_path / "ST/SE3/1-1.dcm", "SR", "1.2.840.10008.5.1.4.1.1.88.33")
    write_no_scan(tmp_path / "ST/SE4/1-1", "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3")
    write_no_scan(tmp_path / "ST/SE1/9.dcm", "PR", "1.2.840.10008.5.1.4.1.1.11.1")
    found, (note,) = scans(tmp_path)
    assert [s.patient for s in found] == ["ST_SE1"]
    assert found[0].read().image.shape == (2, 3, 4, 1)
    assert "DICOM files that are no scans: 1 presentation state (ST/SE1/9.dcm), " in note
    for part in ("1 segmentation (ST/SE2/1-1.dcm)", "1 structured report", "1 radiotherapy object"):
        assert part in note
    with pytest.raises(UserError, match="index of a disk .*; give the folder around it"):
        scans(tmp_path / "DICOMDIR")
    with pytest.raises(
        UserError, match="no .* among 1 files; DICOM files that are no scans: 1 seg"
    ):
        scans(tmp_path / "ST/SE2")


def test_volumes_in_a_zip_are_read_as_those_in_a_folder(tmp_path):
    pytest.importorskip("nibabel")
    pytest.importorskip("highdicom")
    write_nifti(tmp_path / "in/p1/flair.nii.gz", VOXELS, oblique_affine())
    write_series(tmp_path / "in/p2", VOXELS)
    shutil.make_archive(tmp_path / "in", "zip", tmp_path / "in")
    here, there = scans(tmp_path / "in")[0], scans(tmp_path / "in.zip")[0]
    assert [s.patient for s in there] == [s.patient for s in here] == ["p1_flair", "p2"]
    for a, b in zip(here, there, strict=True):
        assert a.digest() == b.digest()
        a, b = a.read(), b.read()
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.affine, b.affine)
    mask = b.image[..., 0] > 5
    b.write(tmp_path / "mask", mask)
    assert (tmp_path / "mask.dcm").is_file()
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("p/x.nii.gz", b"broken")
    with pytest.raises(UserError, match=r"bad.zip/x.nii.gz: cannot be read as NIfTI"):
        scans(tmp_path / "bad.zip")[0][0].read()


def test_what_is_not_read_is_named(tmp_path):
    write_image(tmp_path / "p/s0.png", make_slice(0)[0])
    for name in ("a.par", "b.par", "c.mnc", "d.img", "e.gif", "f.mgz", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    _, notes = scans(tmp_path)
    assert [note.partition(": not read: ")[2] for note in notes] == [
        *("1 .gif file (e.gif)", "1 .img file (d.img)"),
        *("1 .mgz file (f.mgz)", "1 .mnc file (c.mnc)", "2 .par files (a.par, b.par)"),
    ]
    shutil.rmtree(tmp_path / "p")
    with pytest.raises(UserError, match=r"among 7 files; not read: 1 .gif file .*2 .par files"):
        scans(tmp_path)


def test_what_jaxseg_wrote_is_no_scan_and_no_data(tmp_path):
    write_folders(tmp_path, patients=3)
    before = set(list_files(tmp_path).stamps)
    for name in ("mask/s0.png", "overlay.png", "probability/s0.png"):
        write_image(tmp_path / "predictions/p0" / name, make_slice(0)[0])
        write_image(tmp_path / "run/evaluation" / name, make_slice(0)[0])
    (tmp_path / "predictions/p0/prediction.json").write_text("{}")
    (tmp_path / "predictions/predictions.csv").write_text("")
    for name in ("scores.json", "patients.csv"):
        (tmp_path / "run/evaluation" / name).write_text("{}")
    found, notes = scans(tmp_path)
    assert [s.patient for s in found] == ["p0", "p1", "p2"]
    assert notes[-1].endswith("left out, written by jaxseg: predictions/p0, run/evaluation")
    assert set(list_files(tmp_path).stamps) == before | {"predictions/predictions.csv"}
    shutil.make_archive(tmp_path / "all", "zip", tmp_path)
    assert [s.patient for s in scans(tmp_path / "all.zip")[0]] == ["p0", "p1", "p2"]
    with pytest.raises(UserError, match="among 0 files; left out, written by jaxseg"):
        scans(tmp_path / "predictions/p0")


def test_links_in_a_folder_are_followed_and_dead_ones_named(tmp_path):
    pytest.importorskip("nibabel")
    store, source = tmp_path / "annex", tmp_path / "source"
    write_nifti(store / "x.nii.gz", VOXELS, np.eye(4))
    write_series(store / "series", VOXELS)
    for n in range(2):
        write_image(store / f"s{n}.png", make_slice(n)[0])
    for name in ("n", "p", "d"):
        (source / name).mkdir(parents=True)
    (source / "n/a.nii.gz").symlink_to("../../annex/x.nii.gz")
    (source / "n/dead.nii.gz").symlink_to("../../annex/gone.nii.gz")
    (source / "series").symlink_to(store / "series")
    for file in (store / "series").iterdir():
        (source / "d" / f"{file.name}.dcm").symlink_to(file)
    for n in range(2):
        (source / f"p/s{n}.png").symlink_to(store / f"s{n}.png")
    found, (note,) = scans(source)
    assert [s.patient for s in found] == ["d", "n_a", "n_dead", "p", "series"]
    assert note.endswith("links to nowhere: n/dead.nii.gz")
    shapes = [s.read().image.shape[0] for s in found if s.patient != "n_dead"]
    assert shapes == [2, 4, 2, 2]
    with pytest.raises(UserError, match="dead.nii.gz: No such file: a symbolic link to '../../ann"):
        found[2].read()
    next((source / "d").iterdir()).unlink()
    (source / "d/IM9.dcm").symlink_to("gone")  # a slice is missing: no volume without it
    with pytest.raises(UserError, match="IM9.dcm: No such file: a symbolic link to 'gone'"):
        scans(source / "d")[0][0].read()


def test_the_header_is_all_that_is_read_of_a_volume(tmp_path, monkeypatch):
    pytest.importorskip("nibabel")
    for name in ("a.nii", "b.nii.gz"):
        write_nifti(tmp_path / name, np.zeros((50, 60, 70), np.uint16), np.eye(4))
    with (tmp_path / "big.nii").open("wb") as file:
        file.write((tmp_path / "a.nii").read_bytes()[:348])
        file.truncate(3 << 30)
    files = list_files(tmp_path)
    files = type(files)(files.path, files.stamps, None, files.open)  # cannot read a whole file
    assert "50 x 60 x 70 voxels of 1 x 1 x 1 mm, uint16 (3 files)" in describe_volumes(files)
    assert detect(files).name == ""


@pytest.mark.parametrize("letters", [255, 240])
def test_long_names_are_shortened_each_to_its_own(tmp_path, letters):
    long = "ä" * ((letters - 10) // 2)
    for end in "ab":
        write_image(tmp_path / f"{long}{end}" / "s.png", make_slice(0)[0])
        write_image(tmp_path / f"{long}{end}" / "t.png", make_slice(1)[0])
    names = [s.patient for s in scans(tmp_path)[0]]
    assert len(set(names)) == 2 and all(len(name.encode()) <= 180 for name in names)
    assert [s.patient for s in scans(tmp_path)[0]] == names


def test_one_slice_knows_its_patient(tmp_path):
    write_folders(tmp_path, patients=2)
    (scan,), _ = scans(tmp_path / "p1/s1.png")
    assert scan.patient == "s1" and scan.around.names == ("s0.png", "s1.png", "s2.png")
    assert len(scan.around.read().image) == 3 and len(scan.read().image) == 1
    before = scan.digest()
    write_image(tmp_path / "p1/s2.png", make_slice(9)[0])
    assert scan.digest() != before
    for n in (0, 2):
        (tmp_path / f"p1/s{n}.png").unlink()
    assert scans(tmp_path / "p1/s1.png")[0][0].around is None


def test_files_of_one_name_are_told_apart_and_named(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    for suffix, number in ((".nii", 0), (".nii.gz", 1)):
        write_nifti(tmp_path / f"x{suffix}", VOXELS + np.uint16(number), np.eye(4))
    write_nifti(tmp_path / "y.nii", VOXELS, np.eye(4))
    nibabel.Nifti1Pair(VOXELS + np.uint16(2), np.eye(4)).to_filename(tmp_path / "x.hdr")
    found, notes = scans(tmp_path)
    assert [scan.patient for scan in found] == ["x_hdr", "x_nii", "x_nii_gz", "y"]
    assert [int(scan.read().image.min()) for scan in found] == [2, 0, 1, 0]
    (note,) = notes
    assert note.endswith(
        "files of one name, each taken for a scan of its own: x.hdr, x.nii, x.nii.gz"
    )


def test_a_pair_is_header_and_voxels(tmp_path):
    """Other voxels under the same header are another scan; in a zip both are found."""
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "in").mkdir()
    nibabel.Nifti1Pair(VOXELS, np.eye(4)).to_filename(tmp_path / "in/x.hdr")
    shutil.make_archive(tmp_path / "x", "zip", tmp_path / "in")
    (packed,), _ = scans(tmp_path / "x.zip")
    (one,), _ = scans(tmp_path / "in/x.hdr")
    (listed,), _ = scans(tmp_path / "in")
    assert packed.names == one.names == listed.names == ("x.hdr", "x.img")
    before = one.digest()
    assert before == packed.digest() == listed.digest()
    np.testing.assert_array_equal(packed.read().image, one.read().image)
    voxels = bytearray((tmp_path / "in/x.img").read_bytes())
    voxels[-1] ^= 1
    (tmp_path / "in/x.img").write_bytes(voxels)
    assert one.digest() != before
