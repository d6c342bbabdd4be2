"""NRRD and MetaImage: the voxels, places and masks of the same head in NIfTI."""

import gzip
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from fake_volumes import oblique_affine, world, write_metaimage, write_nifti, write_nrrd

from jaxseg.config import Dataset
from jaxseg.errors import UserError
from jaxseg.layouts.find import find_scans
from jaxseg.scans.scan_files import read_scan_file

pytest.importorskip("nibabel")
pytest.importorskip("nrrd")

SHAPE = (5, 6, 7)
FRAMES = {
    "oblique": oblique_affine(),
    "flipped": oblique_affine((1, 2, 0), (1, -1, -1), (0.9, 1.0, 2.5)),
}
LPS, RAS, LAS = "left-posterior-superior", "right-anterior-superior", "left-anterior-superior"


def head() -> np.ndarray:
    return np.random.default_rng(0).integers(-300, 3000, SHAPE).astype(np.int16)


def written(folder, affine) -> list:
    """Write the head in every way that is read."""
    image = head()
    return [
        *(write_nrrd(folder / f"{s[:5]}.nrrd", image, affine, s) for s in (LPS, RAS, LAS)),
        write_nrrd(folder / "short.nrrd", image, affine, "RAS").with_name("short.nrrd"),
        *(write_nrrd(folder / f"{e}.nrrd", image, affine, LPS, e) for e in ("gzip", "bzip2")),
        write_nrrd(folder / "text.nrrd", image, affine, LPS, "ascii"),
        write_nrrd(folder / "a.nhdr", image, affine, RAS, "raw", "a.raw"),
        write_nrrd(folder / "b.nhdr", image, affine, LPS, "gzip", "b.raw.gz"),
        write_nrrd(folder / "mm.nrrd", image, affine, extra='space units: "mm" "mm" "mm"\n'),
        write_metaimage(folder / "a.mha", image, affine),
        write_metaimage(folder / "b.mha", image, affine, packed=True),
        write_metaimage(folder / "c.mhd", image, affine),
        write_metaimage(folder / "d.mhd", image, affine, packed=True),
        write_metaimage(folder / "big.mha", image, affine, BinaryDataByteOrderMSB="True"),
        write_metaimage(folder / "end.mha", image, affine, HeaderSize="-1"),
    ]


@pytest.mark.parametrize("frame", FRAMES)
def test_the_same_voxels_places_and_mask_as_in_nifti(tmp_path, frame):
    affine = FRAMES[frame]
    expected = read_scan_file(write_nifti(tmp_path / "p.nii.gz", head(), affine))
    bright = head() > 1000
    lies = np.sort(world(affine, SHAPE)[bright].round(3), 0)
    for path in written(tmp_path, affine):
        volume = read_scan_file(path)
        assert volume.image.dtype == np.int16, path.name
        np.testing.assert_array_equal(volume.image, expected.image, path.name)
        np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5, err_msg=path.name)
        assert volume.spacing_mm == pytest.approx(expected.spacing_mm, abs=1e-6)
        assert volume.orientation == expected.orientation
        assert not [line for line in volume.warnings if "orientation" in line]
        out = tmp_path / "out"
        out.mkdir()
        volume.write(out / "mask", volume.image[..., 0] > 1000)
        (made,) = out.iterdir()
        assert made.suffix == {"n": ".nrrd", "m": ".mha"}[path.suffix[1]]
        again = read_scan_file(made)
        assert again.image.dtype == np.uint8
        np.testing.assert_allclose(again.affine, volume.affine, atol=1e-9)
        marked = np.argwhere(again.image[..., 0] > 0) @ again.affine[:3, :3].T
        found = np.sort((marked + again.affine[:3, 3]).round(3), 0)
        np.testing.assert_allclose(found, lies, atol=2e-3)
        made.unlink()
        volume.write(out / "probability", (again.image[..., 0] / 3).astype(np.float32))
        (made,) = out.iterdir()
        np.testing.assert_array_equal(
            read_scan_file(made).image, (again.image / 3).astype(np.float32)
        )
        made.unlink()
        out.rmdir()


@pytest.mark.parametrize("frame", FRAMES)
def test_simpleitk_sees_the_same(tmp_path, frame):
    sitk = pytest.importorskip("SimpleITK")
    source = sitk.ReadImage(str(write_nifti(tmp_path / "p.nii.gz", head(), FRAMES[frame])))
    for path in written(tmp_path, FRAMES[frame]):
        if path.stem == "bzip2":  # ITK is built without
            continue
        image, mask = sitk.ReadImage(str(path)), tmp_path / f"mask{path.suffix}"
        volume = read_scan_file(path)
        volume.write(tmp_path / "mask", volume.image[..., 0] > 1000)
        made = mask.with_suffix({"n": ".nrrd", "m": ".mha"}[path.suffix[1]])
        for other in (image, sitk.ReadImage(str(made))):
            assert other.GetSize() == source.GetSize()
            for what in ("GetSpacing", "GetOrigin", "GetDirection"):
                expected = getattr(source, what)()
                assert getattr(other, what)() == pytest.approx(expected, abs=1e-5), path.name
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, head())
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(made))).T
        np.testing.assert_array_equal(found, head() > 1000)


def test_units_of_length_and_files_without_orientation(tmp_path):
    affine = FRAMES["oblique"]
    small = np.diag([0.1, 0.1, 0.1, 1]) @ affine
    cm = write_nrrd(tmp_path / "cm.nrrd", head(), small, extra='space units: "cm" "cm" "cm"\n')
    um = write_metaimage(
        tmp_path / "um.mha", head(), np.diag([1e3, 1e3, 1e3, 1]) @ affine, DistanceUnits="um"
    )
    expected = read_scan_file(write_metaimage(tmp_path / "mm.mha", head(), affine)).affine
    for path in (cm, um):
        np.testing.assert_allclose(read_scan_file(path).affine, expected, atol=1e-9)
    bare = b"NRRD0001\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nspacings: 3 2 1\nencoding: raw\n\n"
    (tmp_path / "bare.nrrd").write_bytes(bare + bytes(range(8)))
    bare = read_scan_file(tmp_path / "bare.nrrd")
    assert bare.spacing_mm == (1, 2, 3) and bare.orientation == "LPS"
    # The first voxel of the file is on the right, in front and below: the first of all.
    np.testing.assert_array_equal(bare.image.ravel(), range(8))
    plain = write_metaimage(tmp_path / "p.mha", head(), np.diag([-2.0, -2, 2, 1]))
    plain.write_bytes(plain.read_bytes().replace(b"TransformMatrix", b"Comment"))
    for volume in (bare, read_scan_file(plain)):
        assert "does not state its orientation; taken as LPS" in volume.warnings[0]
        assert volume.orientation == "LPS"


def changed(path, old: str, new: str):
    content = path.read_bytes()
    assert old.encode() in content, old
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("NRRD0004", "NRRD0009", "Unsupported NRRD file version"),
        ("dimension: 3\n", "", "missing required field: dimension"),
        ("sizes: 5 6 7", "sizes: 5 6 8", "does not equal the product|cannot reshape|buffer"),
        ("sizes: 5 6 7", "sizes: 5 6 6", "holds more than the 360 bytes"),
        ("sizes: 5 6 7", "sizes: 5 42", "2 axes .*; 3 of space can be read"),
        ("sizes: 5 6 7", "sizes: 50000 60000 70000", "bytes of voxels; at most"),
        ("kinds: domain domain domain", "kinds: vector domain domain", "3 axes .vector, domain"),
        ("kinds: domain domain domain", "kinds: RGB-color domain domain", "one file per channel"),
        ("space: left-posterior-superior", "space: scanner-xyz", "its space is 'scanner-xyz'"),
        ("encoding: raw", "encoding: hex", "Unsupported encoding: hex"),
        ("encoding: raw", "encoding: raw\ndata file: LIST\nx.raw", "one file beside the header"),
        ("encoding: raw", "encoding: raw\ndata file: ../x.raw", "one file beside the header"),
        ("encoding: raw", "encoding: raw\ndata file: /etc/passwd", "one file beside the header"),
        ("encoding: raw", "encoding: raw\ndata file: x%03d.raw 1 7 1", "one file beside"),
        ("encoding: raw", "encoding: raw\ndata file: x.raw", "beside it in x.raw: no such file"),
        ("encoding: raw", 'encoding: raw\nspace units: "mm" "mm" "s"', "units of length are mm, s"),
        ("space directions", "spice directions", "voxels of unknown size"),
        ("type: int16", "type: block", "voxels of type|cannot|block"),
    ],
)
def test_a_nrrd_that_cannot_be_read_rightly_is_one_line(tmp_path, old, new, why):
    path = write_nrrd(tmp_path / "p.nrrd", head(), FRAMES["oblique"])
    changed(path, old, new)
    with pytest.raises(UserError, match=f"p.nrrd: cannot be read as NRRD .*{why}") as caught:
        read_scan_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"DimSize": "5 6"}, "3 of space can be read"),
        ({"DimSize": "5 6 7 1"}, "3 of space can be read"),
        ({"DimSize": "5 6 8"}, "holds 420 bytes of voxels, its header says 480"),
        ({"DimSize": "50000 60000 70000"}, "bytes of voxels; at most"),
        ({"ElementNumberOfChannels": "3"}, "3 channels in a voxel; give one file per channel"),
        ({"ElementType": "MET_STRING"}, "voxels of type MET_STRING"),
        ({"ElementType": "MET_LONG"}, "holds 420 bytes of voxels, its header says 840"),
        ({"ElementSpacing": "1 2"}, "ElementSpacing has 2 numbers, not 3"),
        ({"ElementSpacing": "1 2 0"}, "its affine is singular"),
        ({"ElementSpacing": ""}, "ElementSpacing has 0 numbers, not 3"),
        ({"TransformMatrix": "1 0 0 1"}, "TransformMatrix has 4 numbers, not 9"),
        ({"DistanceUnits": "inch"}, "DistanceUnits are 'inch', not mm"),
        ({"BinaryData": "False"}, "voxels as text"),
        ({"ElementDataFile": "LIST"}, "one file beside the header"),
        ({"ElementDataFile": "../a.raw"}, "one file beside the header"),
        ({"ElementDataFile": "a%03d.raw 1 7 1"}, "one file beside the header"),
        ({"ElementDataFile": "a.raw"}, "beside it in a.raw: no such file"),
        ({"CompressedData": "True"}, "incorrect header check"),
    ],
)
def test_a_metaimage_that_cannot_be_read_rightly_is_one_line(tmp_path, tags, why):
    path = write_metaimage(tmp_path / "p.mha", head(), FRAMES["oblique"], **tags)
    with pytest.raises(UserError, match=f"p.mha: cannot be read as MetaImage .*{why}"):
        read_scan_file(path)


def test_what_is_no_file_of_these_is_one_line(tmp_path):
    for name in ("a.nrrd", "a.mha"):
        for content in (b"", b"x", b"PNG\n\n\n", bytes(3000), b"NRRD0004\n", b"NDims = 3\n" * 2000):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=f"{name}: cannot be read as"):
                read_scan_file(tmp_path / name)


def test_what_is_packed_is_unpacked_no_further_than_its_header_says(tmp_path):
    bomb = gzip.compress(bytes(100 << 20))
    nrrd = write_nrrd(tmp_path / "a.nhdr", head(), np.eye(4), LPS, "gzip", "a.raw.gz")
    (tmp_path / "a.raw.gz").write_bytes(bomb)
    image = write_metaimage(tmp_path / "b.mhd", head(), np.eye(4), packed=True)
    (tmp_path / "b.raw").write_bytes(bomb)
    tracemalloc.start()
    for path in (nrrd, image):
        with pytest.raises(UserError, match="holds more than"):
            read_scan_file(path)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


SLICER = (
    "Segment0_ID:=Segment_1\nSegment0_LabelValue:=1\nSegment0_Layer:=0\nSegment0_Name:=oedema\n"
    "Segment1_ID:=Segment_2\nSegment1_LabelValue:=2\nSegment1_Layer:={}\nSegment1_Name:=core\n"
)


def test_a_segmentation_of_3d_slicer_is_read_unless_segments_overlap(tmp_path):
    label = (head() > 0).astype(np.uint8) + (head() > 1000)
    one = write_nrrd(
        tmp_path / "p.seg.nrrd", label, np.eye(4), encoding="gzip", extra=SLICER.format(0)
    )
    expected = read_scan_file(write_nifti(tmp_path / "p.nii", label, np.eye(4))).image
    np.testing.assert_array_equal(read_scan_file(one).image, expected)
    layers = np.stack([label > 0, label > 1]).astype(np.uint8)
    two = write_nrrd(
        tmp_path / "q.seg.nrrd", layers, np.eye(4), encoding="gzip", extra=SLICER.format(1)
    )
    changed(two, "kinds: domain", "kinds: list domain")
    changed(two, "space directions: ", "space directions: none ")
    with pytest.raises(UserError, match=r"4 axes \(list, domain, .*segments in layers.*label map"):
        read_scan_file(two)


def test_without_pynrrd_a_line_says_what_to_install(tmp_path, monkeypatch):
    path = write_nrrd(tmp_path / "p.nrrd", head(), np.eye(4))
    monkeypatch.setitem(sys.modules, "nrrd", None)
    with pytest.raises(UserError, match=r"^NRRD needs pynrrd: pip install 'jaxseg\[nrrd\]'$"):
        read_scan_file(path)
    read_scan_file(write_metaimage(tmp_path / "p.mha", head(), np.eye(4)))


@pytest.mark.parametrize("name", ["p/a.nhdr", "p/b.mhd"])
def test_a_header_and_its_voxels_are_one_scan_in_folders_and_zips(tmp_path, name):
    path, affine = tmp_path / "in" / name, FRAMES["flipped"]
    if name.endswith(".nhdr"):
        write_nrrd(path, head(), affine, LPS, "gzip", "a.raw.gz")
    else:
        write_metaimage(path, head(), affine)
    names = sorted(p.name for p in path.parent.iterdir())
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        for file in path.parent.iterdir():
            packed.write(file, f"p/{file.name}")
    digests, notes = set(), []
    for source in (tmp_path / "in", tmp_path / "in.zip", path):
        (scan,) = find_scans(source, Dataset(), notes=notes)
        assert sorted(n.split("/")[-1] for n in scan.names) == names
        np.testing.assert_allclose(scan.read().affine, read_scan_file(path).affine)
        digests.add(scan.digest())
    assert len(digests) == 1 and not notes
    (voxels,) = (p for p in path.parent.iterdir() if p != path)
    voxels.write_bytes(voxels.read_bytes() + b"x")
    assert find_scans(path, Dataset())[0].digest() not in digests
