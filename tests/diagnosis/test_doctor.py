"""The doctor tells what is there, what is wrong, and whether training would fail."""

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_data import make_slice, write_folders, write_image, write_lgg

from jaxseg.config import Dataset
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.splits import place
from jaxseg.diagnosis.examine import Examination
from jaxseg.diagnosis.examine import examine as examine_source
from jaxseg.diagnosis.findings import Finding, of_lines, shown
from jaxseg.diagnosis.page import format_page
from jaxseg.errors import UserError
from jaxseg.layouts import detect

ROOT = Path(__file__).parents[2]


def examine(source, name=None, **settings) -> Examination:
    return examine_source(str(source), Dataset(**settings), name)


def texts(found: Examination, severity: str) -> list[str]:
    return [shown(f) for f in found.findings if f.severity == severity]


def test_numbers_of_a_sound_folder(tmp_path):
    """3 slices of 12 x 16 pixels each; 6 tumour pixels, but none in slice 2 of each patient."""
    write_folders(tmp_path, patients=5)
    for p in range(5):
        write_image(tmp_path / f"p{p}/s2_mask.png", np.zeros((12, 16, 1), np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    found = examine(tmp_path)
    facts = found.report["facts"]
    assert not found.fails and found.report["layout"] == "image_folder"
    assert found.report["patients_by"] == "the folder"
    assert (facts["patients"], facts["slices"], facts["empty_slices"]) == (5, 15, 5)
    assert facts["sizes"] == {"12 x 16": 5} and facts["forms"] == {"3 of uint8": 5}
    assert facts["tumour_voxels"] == {"low": 12, "median": 12, "high": 12}
    assert facts["mask_values"] == {"255": 10}
    assert facts["predict_nothing"] == {"dice": 0, "slice_dice": pytest.approx(1 / 3)}
    stored = [image for p in range(5) for s in range(3) for image in [make_slice(100 * p + s)[0]]]
    for c, channel in enumerate(facts["intensities"]):
        values = np.stack(stored)[..., c]
        assert (channel["lowest"], channel["highest"]) == (values.min(), values.max())
    assert sum(part["slices"] for part in found.report["split"].values()) == 15
    assert texts(found, "note") == ["notes.txt: neither image nor mask, not read"]
    noise, *others = texts(found, "warning")
    assert noise.startswith("no head stands out") and "5: patient p0, patient p1" in noise
    assert others == ["5 patients are few: the score of a single split is a matter of luck"]


def test_a_broken_set_has_all_faults_named_and_statistics_of_the_rest(tmp_path):
    write_folders(tmp_path, patients=8)
    (tmp_path / "p0/s0_mask.png").unlink()
    (tmp_path / "p0/s1_mask.png").unlink()
    (tmp_path / "p0/s2.png").unlink()
    write_image(tmp_path / "p1/s0_mask.png", np.full((12, 16, 1), 7, np.uint8))
    (tmp_path / "p2/s1.png").write_bytes((tmp_path / "p2/s1.png").read_bytes()[:-20])
    for suffix, channels in (("", 3), ("_mask", 1)):
        other = np.ones((10, 16, channels), np.uint8)
        write_image(tmp_path / f"p3/s2{suffix}.png", other)
    write_image(tmp_path / "p4/s0.png", make_slice(0, 1)[0])
    found = examine(tmp_path)
    assert found.fails
    errors = texts(found, "error")
    assert errors[:2] == [
        "image without mask (2: p0/s0.png, p0/s1.png)",
        "p0/s2_mask.png: mask without image",
    ]
    for part in (
        "p1/s0_mask.png: mask with values 7",
        "p2/s1.png: truncated PNG file",
        "patient p3: slices of different sizes: 12x16",
        "images of different channels or depth",
    ):
        assert sum(part in line for line in errors) == 1, part
    assert len(errors) == 6
    # p0 has no pair left; p1, p2, p3 and p4 lack a slice each.
    assert (found.report["facts"]["patients"], found.report["facts"]["slices"]) == (7, 17)
    with pytest.raises(UserError):
        prepare(Dataset("image_folder", str(tmp_path), str(tmp_path / "cache")))


def test_copies_within_a_part_warn_and_across_parts_are_errors(tmp_path):
    write_folders(tmp_path, patients=6)
    parts, found = {}, examine(tmp_path)
    for name, part in place([f.patient for f in found.facts], found.config.split).items():
        parts |= {p.id: name for p in part}
    a = next(p for p in parts if parts[p] == "train")
    b = next(p for p in parts if parts[p] == "train" and p != a)
    c = next(p for p in parts if parts[p] == "test")
    shutil.copy(tmp_path / f"{a}/s0.png", tmp_path / f"{b}/s0.png")
    found = examine(tmp_path)
    line = f"patients {a} and {b}: 1 identical image: {a}/s0.png = {b}/s0.png"
    assert any(text.startswith(line) for text in texts(found, "warning")) and not found.fails
    shutil.copy(tmp_path / f"{a}/s1.png", tmp_path / f"{c}/s1.png")
    (error,) = texts(examine(tmp_path), "error")
    assert error.startswith(f"patients {a} (train) and {c} (test): 1 identical image")


def write_flat(root: Path, stems):
    for seed, stem in enumerate(stems):
        image, mask = make_slice(seed)
        write_image(root / f"images/{stem}.png", image)
        write_image(root / f"masks/{stem}.png", 255 * mask)


def test_without_ids_a_guess_serves_the_numbers_but_training_would_fail(tmp_path):
    write_flat(tmp_path, [f"c{p}_z{s}" for p in range(4) for s in range(3)])
    found = examine(tmp_path)
    assert found.fails and found.report["facts"]["patients"] == 4
    (error,) = texts(found, "error")
    regex = re.search(r"--patient-regex='(.*)'$", error)[1]
    assert "GUESS" in found.report["patients_by"]
    said = examine(tmp_path, patient_regex=regex)
    assert not said.fails and "GUESS" not in said.report["patients_by"]
    assert said.config.dataset.patient_regex == regex


def test_images_as_patients_are_asked_about(tmp_path):
    write_flat(tmp_path, [f"{n}" for n in range(8)])
    assert examine(tmp_path).fails
    said = examine(tmp_path, every_image_is_a_patient=True)
    assert not said.fails
    assert any("single slice" in text for text in texts(said, "warning"))


@pytest.mark.parametrize(
    "stems, patients",
    [
        (["a_1", "a_2", "b_1", "b_2", "c_1", "c_2"], {"a", "b", "c"}),
        (["p1-s1", "p1-s2", "p2-s1", "p2-s2", "p3-s1", "p3-s2"], {"p1", "p2", "p3"}),
        (["p1s1", "p1s2", "p2s1", "p2s2", "p3s1", "p3s2"], {"p1", "p2", "p3"}),
        (["a_1", "a_2", "b_1", "b_2"], None),  # too few to split
        (["img_1", "img_2", "img_3", "img_4"], None),
        (["a_1", "b_1", "c_1", "d_1"], None),  # every image another
        (["a_1", "a_2", "b_1", "b_2", "c_1", "c_2", "other"], None),
    ],
)
def test_guessed_patterns(stems, patients):
    pattern = detect.guess_patient_regex([f"images/{stem}.png" for stem in stems])
    found = pattern and {re.search(pattern, stem)[1] for stem in stems}
    assert found == patients


def test_lgg_names_win_and_a_name_given_decides(tmp_path):
    write_lgg(tmp_path, {f"CS_{n}": [1, 2] for n in range(4)})
    found = examine(tmp_path)
    assert (
        found.report["layout"] == "lgg_mri" and "image_folder would fit too" in found.report["why"]
    )
    assert {f.patient.id for f in found.facts} == {f"TCGA_CS_{n}" for n in range(4)}
    found = examine(tmp_path, "image_folder")
    assert {f.patient.id for f in found.facts} == {f"TCGA_CS_{n}_19970222" for n in range(4)}
    with pytest.raises(UserError, match="found 1 other files"):
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        (tmp_path / "x").mkdir()
        (tmp_path / "x/a.txt").write_text("")
        examine(tmp_path / "x", "lgg_mri")


def test_equal_channels_inverted_masks_and_sizes_are_noted(tmp_path):
    write_folders(tmp_path, patients=4)
    for s in range(3):
        image = make_slice(s)[0]
        image[..., 2] = image[..., 0]
        write_image(tmp_path / f"p1/s{s}.png", image)
        write_image(tmp_path / f"p2/s{s}_mask.png", 255 - 255 * make_slice(s)[1])
        write_image(tmp_path / f"p3/s{s}.png", np.full((20, 20, 3), 9, np.uint8))
        write_image(tmp_path / f"p3/s{s}_mask.png", np.eye(20, dtype=np.uint8)[..., None])
    found = examine(tmp_path)
    notes = "\n".join(texts(found, "note"))
    assert "p1: channels 1, 3 are the same image" in notes
    assert "p3: channels 1, 2, 3 are the same image" in notes
    assert "patients of different sizes, all brought to one: 12 x 16 (3), 20 x 20 (1)" in notes
    assert "taken alike: 255 in 9 masks, 1 in 3 masks" in notes and "3 slices are blank" in notes
    assert any(text.startswith("p2: tumour in more than half") for text in texts(found, "warning"))


def test_volumes_are_described_and_refused(tmp_path):
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 240, 200, 155, 1, 1, 1, 1)
    struct.pack_into("<h", header, 70, 16)
    struct.pack_into("<8f", header, 76, 1, 1, 0.9, 3, 0, 0, 0, 0)
    (tmp_path / "p0").mkdir()
    (tmp_path / "p0/flair.nii").write_bytes(header)
    (tmp_path / "p0/0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "p0/readme").write_text("no scan")
    found = examine(tmp_path)
    assert found.fails and found.config is None
    assert "1 DICOM files, 1 NIfTI files in 1 folders" in found.report["why"]
    assert "240 x 200 x 155 voxels of 1 x 0.9 x 3 mm, float32 (1 files)" in found.report["why"]
    page = format_page(found.report, found.findings)
    assert "no volumes with labels" in page and "--config.dataset.name=nifti" in page


@pytest.mark.parametrize("content", [{}, {"a.txt": b"x"}, {"images/a.png": b"x"}])
def test_no_pairs_at_all(tmp_path, content):
    for name, data in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    found = examine(tmp_path)
    assert found.fails and "images/ + masks/" in texts(found, "error")[0]


def test_a_broken_zip_is_a_finding(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    found = examine(tmp_path / "a.zip")
    assert found.fails and "neither a folder nor a complete zip" in texts(found, "error")[0]


def test_lines_of_one_kind_are_one_finding():
    found = of_lines("error", ["a: bad", "b: worse", "c: bad", "d: bad", "e: bad", "plain"])
    assert found[0] == Finding("error", "bad", ("a", "c", "d", "e"))
    assert [shown(f) for f in found] == ["bad (4: a, c, d, ...)", "b: worse", "plain"]


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jaxseg.doctor", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_program_with_a_sound_set(tmp_path):
    write_folders(tmp_path / "source", patients=6)
    file, report = tmp_path / "mine.py", tmp_path / "report.json"
    done = run(tmp_path / "source", "--write-config", file, "--json", report, "--no-timing")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = [line for line in done.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 100 and done.stdout.isascii()
    for section in ("SOURCE", "IMAGES", "TUMOUR", "SPLIT BY PATIENT", "FINDINGS", "SUGGESTED"):
        assert section in done.stdout
    assert done.stdout.endswith(f"  python -m jaxseg.train --config {file}\n")
    assert file.is_file() and json.loads(report.read_text())["training_would_fail"] is False


@pytest.mark.parametrize("flag", ["--json", "--write-config"])
def test_a_folder_to_write_to_is_told_before_the_work(tmp_path, flag):
    write_folders(tmp_path / "source", patients=6)
    done = run(tmp_path / "source", flag, tmp_path, "--no-timing")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {tmp_path}: is a folder; give the name of a file\n"


def test_the_program_with_a_broken_set(tmp_path):
    write_folders(tmp_path / "source", patients=6)
    (tmp_path / "source/p0/s0.png").write_bytes(b"")
    file = tmp_path / "mine.py"
    done = run(tmp_path / "source", "--write-config", file, "--no-timing")
    assert done.returncode == 1 and done.stderr == "", done.stderr
    assert "p0/s0.png: empty file" in done.stdout and not file.exists()
    assert done.stdout.endswith(f"mend the error first; {file} is not written.\n")


def test_channels_are_named_where_the_data_set_has_names(tmp_path):
    write_lgg(tmp_path, {f"CS_{n}": [1, 2, 3] for n in range(6)})
    page = format_page(examine(tmp_path).report, [])
    for number, name in enumerate(("T1", "FLAIR", "T1C"), 1):
        assert f"  channel {number} ({name})" in page
    assert re.search(
        r"where it was chosen: channel \d \((T1|FLAIR|T1C)\) >= ", " ".join(page.split())
    )
    assert all(len(line) <= 100 for line in page.splitlines())
