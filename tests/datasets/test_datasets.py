"""What is prepared equals what is on disk, once, in order, and is made anew when it changed."""

import dataclasses
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fake_data import make_slice, tiff, write_folders, write_image, write_lgg

from jaxseg.config import Dataset, Split
from jaxseg.datasets import builder, decoded, phantom
from jaxseg.datasets.prepare import _path, prepare
from jaxseg.errors import UserError
from jaxseg.imaging.intensity import head_box, volume_statistics
from jaxseg.layouts import lgg
from jaxseg.layouts.kinds import kind_of
from jaxseg.scans.files import list_files


def config(tmp_path, name="image_folder", source="source", **kwargs) -> Dataset:
    cache = str(tmp_path / "cache")
    return Dataset(name=name, source=str(tmp_path / source), cache_dir=cache, **kwargs)


def ids(prepared) -> list[str]:
    return [p.id for p in prepared.patients]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_records_equal_the_pixels_on_disk(tmp_path, channels, dtype, suffix):
    slices = [make_slice(seed, channels, dtype) for seed in range(2)]
    for n, (image, mask) in enumerate(slices):
        write_image(tmp_path / f"source/a/images/{n}{suffix}", image)
        write_image(tmp_path / f"source/a/masks/{n}.png", mask)
    prepared = prepare(config(tmp_path))
    records = list(prepared.source())
    assert prepared.num_channels == channels
    for n, (record, (image, mask)) in enumerate(zip(records, slices, strict=True)):
        assert record["image"].dtype == dtype
        np.testing.assert_array_equal(record["image"], image)
        np.testing.assert_array_equal(record["mask"], mask)
        assert (record["patient"], record["slice"]) == (b"a", n)
        volume = np.stack([image for image, _ in slices])
        np.testing.assert_array_equal(record["stats"], volume_statistics(volume))
        np.testing.assert_array_equal(record["head_box"], head_box(volume))


@pytest.mark.parametrize("fits", [True, False])
def test_decoded_slices_are_the_records(tmp_path, monkeypatch, fits):
    write_folders(tmp_path / "source")
    monkeypatch.setattr(decoded, "_SHARE", 0.5 * fits)
    prepared = prepare(config(tmp_path))
    assert decoded.exists(prepared.path) == fits == any(prepared.path.glob("decoded.bin"))
    records, source = builder.open_source(prepared.path), prepared.source()
    assert len(records) == len(source) == 9
    for i in range(9):
        assert source[i].keys() == records[i].keys()
        for name, value in records[i].items():
            np.testing.assert_array_equal(source[i][name], value)


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_fourth_channel_of_a_tiff_is_no_alpha(tmp_path, extra):
    image, mask = make_slice(0, channels=4)
    write_image(tmp_path / "source/a/1_mask.png", mask)
    (tmp_path / "source/a/1.tif").write_bytes(tiff(image, extra=(extra,)))
    record = prepare(config(tmp_path)).source()[0]
    np.testing.assert_array_equal(record["image"], image)


def test_lgg_slices_are_in_numeric_order_and_indexed(tmp_path):
    images = write_lgg(tmp_path / "source", {"DU_2": [1, 2, 10], "CS_1": [3, 4]})
    prepared = prepare(config(tmp_path, "lgg_mri"))
    cs, du = prepared.patients
    assert (cs.id, cs.first, cs.slice_numbers) == ("TCGA_CS_1", 0, (3, 4))
    assert (du.id, du.first, du.slice_numbers) == ("TCGA_DU_2", 2, (1, 2, 10))
    assert (cs.num_slices, du.num_slices) == (2, 3)
    assert du.tumour_pixels == (6, 6, 6)
    assert len(set(cs.digests + du.digests)) == 5
    records = prepared.source()
    for record, file in zip(records, cs.files + du.files, strict=True):
        np.testing.assert_array_equal(record["image"], images[file])
    assert [r["slice"] for r in records] == [3, 4, 1, 2, 10]
    assert "patient TCGA_DU_2: slice numbers jump from 2 to 10" in prepared.warnings


@pytest.mark.parametrize("source", [".", "lgg-mri-segmentation", "lgg-mri-segmentation/kaggle_3m"])
def test_lgg_is_found_from_each_parent(tmp_path, source):
    root = tmp_path / "data/lgg-mri-segmentation/kaggle_3m"
    write_lgg(root, {"CS_1": [1, 2]})
    prepared = prepare(config(tmp_path, "lgg_mri", f"data/{source}"))
    assert [p.num_slices for p in prepared.patients] == [2]


def test_lgg_zip_that_holds_the_set_twice_gives_each_slice_once(tmp_path):
    images = write_lgg(tmp_path / "tree", {"CS_1": [1, 2, 3], "DU_2": [1]})
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for prefix in ("kaggle_3m", "lgg-mri-segmentation/kaggle_3m"):
            for file in (tmp_path / "tree").rglob("*.*"):
                archive.write(file, f"{prefix}/{file.relative_to(tmp_path / 'tree')}")
    prepared = prepare(config(tmp_path, "lgg_mri", "archive.zip"))
    assert [(p.id, p.num_slices) for p in prepared.patients] == [("TCGA_CS_1", 3), ("TCGA_DU_2", 1)]
    np.testing.assert_array_equal(
        prepared.source()[1]["image"], images["TCGA_CS_1_19970222/TCGA_CS_1_19970222_2.tif"]
    )


@pytest.mark.parametrize(
    "files, settings, expected",
    [
        (["images/case1_{}.png", "masks/case1_{}.png"], {"patient_regex": r"(case\d+)_"}, "case1"),
        (["images/case1_{}.jpg", "masks/case1_{}_mask.png"], {"patient_regex": "(c.)"}, "ca"),
        (["ann/{}.png", "ann/{}_mask.tif"], {}, "ann"),
        (["ann/images/{}.png", "ann/masks/{}.png"], {}, "ann"),
        (["images/ann/{}.png", "masks/ann/{}.png"], {}, "ann"),
        (["download/ann/{}.png", "download/ann/{}_mask.png"], {}, "ann"),
    ],
)
def test_image_folder_layouts(tmp_path, files, settings, expected):
    for n in (1, 2, 10):
        for file, array in zip(files, make_slice(n), strict=True):
            write_image(tmp_path / "source" / file.format(n), array)
    (patient,) = prepare(config(tmp_path, **settings)).patients
    assert (patient.id, patient.slice_numbers) == (expected, (1, 2, 10))


def test_every_image_is_a_patient_when_stated(tmp_path):
    for name in ("x", "y"):
        image, mask = make_slice(ord(name))
        write_image(tmp_path / f"source/images/{name}.png", image)
        write_image(tmp_path / f"source/masks/{name}.png", mask)
    prepared = prepare(config(tmp_path, every_image_is_a_patient=True))
    assert ids(prepared) == ["x", "y"]


def test_slices_without_own_numbers_are_counted_in_natural_order(tmp_path):
    for stem in ("a10_t2", "a2_t2", "a1_t2"):  # the last integer, 2, says nothing
        image, mask = make_slice(len(stem))
        write_image(tmp_path / f"source/p/{stem}.png", image)
        write_image(tmp_path / f"source/p/{stem}_mask.png", mask)
    (patient,) = prepare(config(tmp_path)).patients
    assert patient.files == ("p/a1_t2.png", "p/a2_t2.png", "p/a10_t2.png")
    assert patient.slice_numbers == (0, 1, 2)


def test_prepared_copy_is_reused_until_the_source_changes(tmp_path):
    write_folders(tmp_path / "source")
    first = prepare(config(tmp_path))
    made = {f: f.stat().st_mtime_ns for f in first.path.iterdir()}
    again = prepare(config(tmp_path), Split(train=("p0",), validation=("p1",), test=("p2",)))
    assert again == first
    assert {f: f.stat().st_mtime_ns for f in again.path.iterdir()} == made
    image, _ = make_slice(77)
    write_image(tmp_path / "source/p1/s1.png", image)
    changed = prepare(config(tmp_path))
    assert changed.path != first.path
    np.testing.assert_array_equal(changed.source()[4]["image"], image)
    os.utime(tmp_path / "source/p1/s1.png", ns=(0, 0))  # same size, another time
    assert prepare(config(tmp_path)).path not in (first.path, changed.path)


def test_settings_that_change_the_records_are_in_the_key(tmp_path):
    small = Dataset(phantom_patients=3, cache_dir=str(tmp_path))
    paths = {
        _path(dataclasses.replace(small, **change), None)
        for change in ({}, {"phantom_seed": 1}, {"phantom_patients": 4})
    }
    assert len(paths) == 3
    same = dataclasses.replace(small, spacing_mm=(1, 1, 1), flair_channel=2)
    assert _path(same, None) in paths


def test_phantom_records_equal_the_generated_patients(tmp_path):
    settings = Dataset(phantom_patients=3, phantom_seed=5, cache_dir=str(tmp_path))
    prepared = prepare(settings)
    assert ids(prepared) == [phantom.patient_id(i) for i in range(3)]
    image, labels = phantom.generate_patient(5, 1)
    mask = (labels > 0)[..., None]
    patient, source = prepared.patients[1], prepared.source()
    records = [source[patient.first + n] for n in range(patient.num_slices)]
    np.testing.assert_array_equal(np.stack([r["image"] for r in records]), image)
    np.testing.assert_array_equal(np.stack([r["mask"] for r in records]), mask)
    assert patient.tumour_pixels == tuple(mask.sum((1, 2, 3)))


def test_prepare_tells_the_problems_of_the_split(tmp_path):
    write_folders(tmp_path / "source")
    split = Split(train=("p0",), validation=("p1",), test=("p9",))
    with pytest.raises(UserError, match="patient p9: in test, but not in the data set"):
        prepare(config(tmp_path), split)


def test_digests_tell_pixels_apart_and_leave_constant_slices_out(tmp_path):
    image, mask = make_slice(0)
    for n, pixels in enumerate([image, image, image.swapaxes(0, 1).reshape(image.shape)]):
        write_image(tmp_path / f"source/p/{n}.png", pixels)
    write_image(tmp_path / "source/p/3.png", np.full_like(image, (1, 2, 3)))
    for n in range(4):
        write_image(tmp_path / f"source/p/{n}_mask.png", mask)
    (patient,) = prepare(config(tmp_path)).patients
    a, b, c, blank = patient.digests
    assert a == b != c
    assert blank == ""


def test_source_survives_pickling(tmp_path):
    write_folders(tmp_path / "source")
    source = prepare(config(tmp_path)).source()
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == 9
    np.testing.assert_array_equal(copy[5]["image"], source[5]["image"])


def test_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    write_folders(tmp_path / "source")
    build = builder.build

    def interrupted(made):
        build(made)
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(config(tmp_path))
    (left,) = (tmp_path / "cache/jaxseg/image_folder").iterdir()
    assert left.suffix == ".lock" and not left.stat().st_size
    monkeypatch.undo()
    assert len(prepare(config(tmp_path)).source()) == 9


def test_two_processes_may_prepare_at_once(tmp_path, monkeypatch):
    write_folders(tmp_path / "source")
    build = builder.build

    def beaten(made):  # the other process finishes while this one still writes
        monkeypatch.undo()
        prepare(config(tmp_path))
        return build(made)

    monkeypatch.setattr(builder, "build", beaten)
    prepared = prepare(config(tmp_path))
    assert len(prepared.source()) == 9
    left = sorted(path.name for path in prepared.path.parent.iterdir())
    assert left == [prepared.path.name, f"{prepared.path.name}.lock"]


def test_unwritable_cache_is_named(tmp_path):
    write_folders(tmp_path / "source")
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot write the prepared copy.*config.dataset.cache_dir"):
        prepare(config(tmp_path))


def test_cache_is_in_the_users_cache_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    write_folders(tmp_path / "source")
    prepared = prepare(dataclasses.replace(config(tmp_path), cache_dir=None))
    assert prepared.path.parent == tmp_path / "xdg/jaxseg/image_folder"


def test_prepare_is_silent_and_imports_neither_jax_nor_tensorflow(tmp_path):
    write_folders(tmp_path / "source")
    code = f"""
import sys
from absl import logging
from jaxseg.datasets.prepare import prepare
from jaxseg.config import Dataset
logging.set_verbosity(logging.INFO)
c = Dataset(name="image_folder", source={str(tmp_path / "source")!r}, cache_dir={str(tmp_path)!r})
prepare(c).source()[0]
assert logging.get_verbosity() == logging.INFO
assert not {{"jax", "tensorflow"}} & set(sys.modules), "heavy import"
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_real_scans_are_all_found(lgg_source):
    problems = []
    patients = lgg.find_slices(list(list_files(lgg_source, lgg.ROOTS).stamps), Dataset(), problems)
    assert not problems
    assert len(patients) == 50
    assert sum(map(len, patients.values())) == 1805


def test_real_scans_are_prepared(tmp_path, lgg_source):
    folders = sorted(f for f in lgg_source.iterdir() if f.is_dir())[:3]
    (tmp_path / "source").mkdir()
    for folder in folders:
        shutil.copytree(folder, tmp_path / "source" / folder.name)
    prepared = prepare(config(tmp_path, "lgg_mri"))
    assert [p.num_slices for p in prepared.patients] == [
        len(list(f.glob("*_mask.tif"))) for f in folders
    ]
    assert prepared.warnings == ()
    for patient in prepared.patients:
        assert patient.slice_numbers == tuple(range(1, patient.num_slices + 1))
        assert any(patient.tumour_pixels)
    record = prepared.source()[0]
    assert record["image"].shape == (256, 256, 3)
    # FLAIR is channel 1: inside the tumour it is the brightest channel against its own head.
    tumour = [r for r in prepared.source() if r["mask"].sum() > 500]
    inside = np.concatenate([r["image"][r["mask"][..., 0] > 0] for r in tumour])
    z = (inside.mean(0) - record["stats"][:, 2]) / record["stats"][:, 3]
    assert z.argmax() == 1


def test_the_phantom_takes_no_source(tmp_path):
    with pytest.raises(
        UserError, match="brain_phantom takes no source .*; set config.dataset.name"
    ):
        prepare(config(tmp_path, "brain_phantom"))


@pytest.mark.parametrize("gone", ["index.json", "*.array_record*", "features.json"])
def test_a_copy_with_parts_gone_is_prepared_anew(tmp_path, gone):
    write_folders(tmp_path / "source")
    wanted = config(tmp_path, "image_folder")
    prepared = prepare(wanted)
    for file in prepared.path.glob(gone):
        file.unlink()
    again = prepare(wanted)
    assert again.path == prepared.path
    assert len(again.source()) == 9
    np.testing.assert_array_equal(again.source()[8]["image"], make_slice(202)[0])


def test_channels_have_the_names_that_their_user_gave(tmp_path):
    image, mask = make_slice(0, channels=3)
    write_image(tmp_path / "source/a/1.png", image)
    write_image(tmp_path / "source/a/1_mask.png", mask)
    assert kind_of(config(tmp_path)).channel_names(3) == ("channel_1", "channel_2", "channel_3")
    named = config(tmp_path, channel_names=("t1", "flair", "t1c"))
    assert kind_of(named).channel_names(prepare(named).num_channels) == ("t1", "flair", "t1c")
    assert prepare(named).path == prepare(config(tmp_path)).path  # nothing is prepared anew
    with pytest.raises(UserError, match=r"2 names, but the images have 3 channels$"):
        prepare(config(tmp_path, channel_names=("t1", "flair")))
    with pytest.raises(UserError, match="a name of its own"):
        config(tmp_path, channel_names=("t1", "T1", "t1c"))
    with pytest.raises(UserError, match="the channels of lgg_mri have names already"):
        config(tmp_path, name="lgg_mri", channel_names=("t1", "flair", "t1c"))
