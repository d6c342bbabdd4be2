"""Every fault of a data set is found, all in one pass, and named with its file."""

import re
import shutil
import struct
import zipfile

import cv2
import numpy as np
import pytest
from fake_data import make_slice, tiff, write_folders, write_image, write_lgg

from jaxseg.config import Dataset, Split
from jaxseg.datasets.checks import raise_problems, read_volumes
from jaxseg.datasets.prepare import prepare
from jaxseg.errors import UserError
from jaxseg.layouts import image_folder
from jaxseg.scans.files import list_files
from jaxseg.scans.regions import TUMOUR


def error(tmp_path, name="image_folder", source="source", **kwargs) -> str:
    """Prepare and return the message; the cache must stay without a copy."""
    cache = tmp_path / "cache"
    with pytest.raises(UserError) as caught:
        prepare(Dataset(name=name, source=f"{tmp_path}/{source}", cache_dir=f"{cache}", **kwargs))
    assert not [f for f in cache.rglob("*") if f.is_file() and f.suffix != ".lock"]
    return str(caught.value)


def lines(message: str) -> list[str]:
    return [line.strip() for line in message.splitlines()[1:]]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


FAULTS = {  # name: (what is done to the folder, what the only line says)
    "missing mask": (
        lambda root: (root / "p1/s1_mask.png").unlink(),
        r"p1/s1\.png: image without mask",
    ),
    "orphan mask": (
        lambda root: (root / "p1/s1.png").unlink(),
        r"p1/s1_mask\.png: mask without image",
    ),
    "mask of another size": (
        lambda root: write_image(root / "p1/s1_mask.png", np.zeros((12, 15, 1), np.uint8)),
        r"p1/s1_mask\.png: mask of 12x15 pixels, image of 12x16",
    ),
    "slice of another size": (
        lambda root: [
            write_image(root / f"p1/s1{s}.png", np.ones((10, 16, c), np.uint8))
            for s, c in (("", 3), ("_mask", 1))
        ],
        r"patient p1: slices of different sizes: 12x16 \(2: .*\); 10x16 \(1: p1/s1\.png\)",
    ),
    "mask with other values": (
        lambda root: write_image(root / "p1/s1_mask.png", make_slice(0, 1)[0]),
        r"p1/s1_mask\.png: mask with values .*expected only 0 and 1, or 0 and 255",
    ),
    "mask of 0, 1 and 255": (
        lambda root: write_image(
            root / "p1/s1_mask.png", np.tile(np.uint8([[0, 1, 255, 0]]), (12, 4))[..., None]
        ),
        r"p1/s1_mask\.png: mask with values 0, 1, 255",
    ),
    "mask in colour": (
        lambda root: write_image(root / "p1/s1_mask.png", make_slice(0)[0]),
        r"p1/s1_mask\.png: mask of 3 different channels",
    ),
    "truncated image": (
        lambda root: truncate(root / "p1/s1.png"),
        r"p1/s1\.png: truncated PNG file",
    ),
    "truncated mask": (
        lambda root: truncate(root / "p1/s1_mask.png"),
        r"p1/s1_mask\.png: truncated PNG file",
    ),
    "empty file": (
        lambda root: (root / "p1/s1.png").write_bytes(b""),
        r"p1/s1\.png: empty file",
    ),
    "text called png": (
        lambda root: (root / "p1/s1.png").write_text("hello"),
        r"p1/s1\.png: no PNG, TIFF or JPEG file",
    ),
    "link to nowhere": (
        lambda root: [(root / "p1/s1.png").unlink(), (root / "p1/s1.png").symlink_to("gone")],
        r"p1/s1\.png: .*No such file",
    ),
    "JPEG mask": (
        lambda root: [
            (root / "p1/s1_mask.png").unlink(),
            write_image(root / "p1/s1_mask.jpg", 255 * make_slice(0)[1]),
        ],
        r"p1/s1_mask\.jpg: a JPEG mask; JPEG changes values",
    ),
    "grey among colour": (
        lambda root: write_image(root / "p1/s1.png", make_slice(0, 1)[0]),
        r"images of different channels or depth.*3 channels uint8 \(8: .*1 channels uint8 "
        r"\(1: p1/s1\.png\)",
    ),
    "16 bit among 8": (
        lambda root: [
            write_image(root / f"p1/s{n}.png", make_slice(n, 3, np.uint16)[0]) for n in range(3)
        ],
        r"images of different channels.*3 channels uint16 \(3: p1/s0\.png, p1/s1\.png, ",
    ),
    "float pixels": (
        lambda root: [
            (root / "p1/s1.png").unlink(),
            cv2.imwrite(str(root / "p1/s1.tif"), np.ones((12, 16), np.float32)),
        ],
        r"p1/s1\.tif: 32-bit pixels; save as unsigned 8 or 16 bit",
    ),
    "pixels of a TIFF beyond its end": (
        lambda root: [
            (root / "p1/s1.png").unlink(),
            (root / "p1/s1.tif").write_bytes(
                tiff(make_slice(0)[0]).replace(
                    struct.pack("<HHII", 273, 4, 1, 8), struct.pack("<HHII", 273, 4, 1, 10**6)
                )
            ),
        ],
        r"p1/s1\.tif: truncated or broken file",
    ),
    "two images of a slice": (
        lambda root: write_image(root / "p1/s1.tif", make_slice(0)[0]),
        r"p1/s1\.tif: a second image of the slice of p1/s1\.png",
    ),
    "folder in a patient": (
        lambda root: (
            (root / "p1/s1.png").parent.rename(root / "deep")
            and (root / "p1").mkdir()
            or (root / "deep").rename(root / "p1/scan")
        ),
        r"p1/scan/s0: folders in the folder of a patient",
    ),
    "split for a patient": (
        lambda root: (root / "p1").rename(root / "Train"),
        r"Train/s0: the folder names a split, no patient; set patient_regex",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named(tmp_path, capfd, fault):
    damage, expected = FAULTS[fault]
    write_folders(tmp_path / "source")
    damage(tmp_path / "source")
    found = lines(error(tmp_path))
    assert re.match(expected, found[0])
    assert len(found) == (3 if fault in ("folder in a patient", "split for a patient") else 1)
    assert capfd.readouterr().err == ""


def test_all_faults_are_told_at_once(tmp_path):
    root = tmp_path / "source"
    write_folders(root, patients=4)
    (root / "p0/s0_mask.png").unlink()
    (root / "p0/s1.png").unlink()
    write_image(root / "p1/s0_mask.png", np.full((12, 16, 1), 7, np.uint8))
    truncate(root / "p1/s2.png")
    write_image(root / "p3/s2.png", make_slice(0, 4)[0])
    message = error(tmp_path)
    assert message.splitlines()[0] == f"{root}: 5 problems to mend first"
    for name in ("p0/s0.png", "p0/s1_mask.png", "p1/s0_mask.png", "p1/s2.png", "p3/s2.png"):
        assert sum(name in line for line in lines(message)) == 1, name


def test_faults_of_files_and_of_the_split_are_told_in_one_round(tmp_path):
    write_folders(tmp_path / "source", patients=4)
    truncate(tmp_path / "source/p1/s2.png")
    split = Split(train=("p0", "p1"), validation=("p2",), test=("p2", "p9"))
    dataset = Dataset("image_folder", f"{tmp_path}/source", f"{tmp_path}/cache")
    with pytest.raises(UserError) as caught:
        prepare(dataset, split)
    assert lines(str(caught.value)) == [
        "p1/s2.png: truncated PNG file",
        "patient p2: in validation and test; keep it in one",
        "patient p9: in test, but not in the data set",
    ]


def test_the_same_images_under_two_patients_and_twice_in_one_are_warned_of(tmp_path):
    root = tmp_path / "source"
    write_folders(root, patients=3)
    for suffix in ("", "_mask"):
        shutil.copy(root / f"p0/s1{suffix}.png", root / f"p2/s7{suffix}.png")
        shutil.copy(root / f"p1/s0{suffix}.png", root / f"p1/s3{suffix}.png")
    prepared = prepare(Dataset("image_folder", str(root), f"{tmp_path}/cache"))
    noise = [w for w in prepared.warnings if "no head stands out" in w]
    assert noise and tuple(w for w in prepared.warnings if w not in noise) == (
        "patient p2: slice numbers jump from 2 to 7",
        "patient p1: 1 identical image: p1/s0.png = p1/s3.png; an image twice?",
        "patients p0 and p2: 1 identical image: p0/s1.png = p2/s7.png; one person under two ids?",
    )


def test_what_can_be_read_of_an_unsound_patient_is_passed_on_and_marked(tmp_path):
    write_folders(tmp_path, patients=2)
    truncate(tmp_path / "p0/s1.png")
    files = list_files(tmp_path)
    patients = image_folder.find_slices(list(files.stamps), Dataset("image_folder"), [])
    problems = []
    (broken, broken_is_sound), (whole, whole_is_sound) = read_volumes(
        files, patients, TUMOUR, problems, []
    )
    assert problems == ["p0/s1.png: truncated PNG file"]
    assert (broken.slice_numbers, broken_is_sound) == ((0, 2), False)
    assert (whole.slice_numbers, whole_is_sound) == ((0, 1, 2), True)
    np.testing.assert_array_equal(broken.image[1], make_slice(2)[0])
    assert broken.mask_values == (255, 255)


def test_long_lists_are_cut():
    with pytest.raises(UserError) as caught:
        raise_problems("set", [f"file {n}: bad" for n in range(73)])
    assert len(lines(str(caught.value))) == 51
    assert lines(str(caught.value))[-2:] == ["file 49: bad", "and 23 more"]
    raise_problems("set", [])


def test_missing_source(tmp_path):
    assert "source: does not exist; set config.dataset.source" in error(tmp_path)


def test_source_that_is_neither_folder_nor_zip(tmp_path):
    (tmp_path / "source").write_text("no zip")
    assert "neither a folder nor a complete zip" in error(tmp_path, "lgg_mri")


@pytest.mark.parametrize("name", ["lgg_mri", "image_folder"])
def test_empty_source_says_what_was_expected(tmp_path, name):
    (tmp_path / "source").mkdir()
    message = error(tmp_path, name)
    assert {"lgg_mri": "kaggle_3m", "image_folder": "images/ + masks/"}[name] in message
    assert {"lgg_mri": "found no files", "image_folder": "0 images and 0 masks"}[name] in message


def test_wrong_layout_says_what_was_seen(tmp_path):
    write_folders(tmp_path / "source")
    assert "found 18 other files, such as p0/s0.png" in error(tmp_path, "lgg_mri")


def test_images_without_any_mask(tmp_path):
    write_image(tmp_path / "source/images/a.png", make_slice(0)[0])
    assert "found 1 images and 0 masks" in error(tmp_path, patient_regex="(a)")


@pytest.mark.parametrize("name", ["/tmp/x.tif", "../x.tif", "a/../../x.tif"])
def test_zip_member_outside_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        archive.writestr(name, b"")
    assert "lies outside of the zip" in error(tmp_path, "lgg_mri", "source.zip")


def test_broken_zip_member_is_named(tmp_path):
    write_folders(tmp_path / "tree")
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        for file in (tmp_path / "tree").rglob("*.png"):
            archive.write(file, str(file.relative_to(tmp_path / "tree")))
    data = (tmp_path / "source.zip").read_bytes()
    pixels = (tmp_path / "tree/p1/s1.png").read_bytes()[60:90]
    assert data.count(pixels) == 1
    (tmp_path / "source.zip").write_bytes(data.replace(pixels, bytes(30)))
    (line,) = lines(error(tmp_path, source="source.zip"))
    assert line.startswith("p1/s1.png: Bad CRC-32")


def test_flat_folder_without_patients_is_refused(tmp_path):
    image, mask = make_slice(0)
    write_image(tmp_path / "source/images/a.png", image)
    write_image(tmp_path / "source/masks/a.png", mask)
    message = error(tmp_path)
    assert "patient_regex" in message and "every_image_is_a_patient" in message


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"patient_regex": "(p"}, "unterminated"),
        ({"patient_regex": "p"}, "needs a group"),
        ({"patient_regex": "(p)", "every_image_is_a_patient": True}, "not both"),
    ],
)
def test_regex_that_cannot_work(tmp_path, settings, expected):
    write_folders(tmp_path / "source")
    assert expected in error(tmp_path, **settings)


def test_file_that_the_regex_does_not_match(tmp_path):
    for name in ("c1_1", "c1_2", "other"):
        image, mask = make_slice(len(name))
        write_image(tmp_path / f"source/images/{name}.png", image)
        write_image(tmp_path / f"source/masks/{name}.png", mask)
    (line,) = lines(error(tmp_path, patient_regex=r"(c\d+)_"))
    assert line == "other: config.dataset.patient_regex does not match"


def test_file_of_another_type_among_the_images(tmp_path):
    image, mask = make_slice(0)
    write_image(tmp_path / "source/p/images/1.png", image)
    write_image(tmp_path / "source/p/masks/1.png", mask)
    (tmp_path / "source/p/images/2.bmp").write_bytes(b"BM")
    (tmp_path / "source/p/images/.DS_Store").write_bytes(b"")
    assert lines(error(tmp_path)) == ["p/images/2.bmp: neither PNG, TIFF nor JPEG"]


def test_lgg_faults(tmp_path):
    root = tmp_path / "source"
    write_lgg(root, {"CS_1": [1, 2], "DU_2": [1]})
    other_date = root / "TCGA_CS_1_20000101"
    other_date.mkdir()
    for n, mask in ((1, ""), (1, "_mask")):
        old = root / f"TCGA_CS_1_19970222/TCGA_CS_1_19970222_{n}{mask}.tif"
        (other_date / f"TCGA_CS_1_20000101_{n}{mask}.tif").write_bytes(old.read_bytes())
    (root / "notes.tif").write_bytes(b"")
    assert lines(error(tmp_path, "lgg_mri")) == [
        "notes.tif: not named TCGA_..._<slice>.tif",
        "TCGA_CS_1: scans of several dates (19970222, 20000101); keep one of them",
    ]


def test_two_files_of_one_slice_number(tmp_path):
    write_lgg(tmp_path / "source", {"CS_1": [1]})
    folder = tmp_path / "source/TCGA_CS_1_19970222"
    write_image(folder / "TCGA_CS_1_19970222_01.tif", make_slice(0)[0])
    (line,) = lines(error(tmp_path, "lgg_mri"))
    assert re.fullmatch(r".*_1\.tif: a second image of the slice of .*_01\.tif", line)
