"""The doctor reads a volume set: what is there in numbers, what is wrong, and how to mend it."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_config import tiny_config
from fake_volume_sets import AFFINE, head, labels, write_brats, write_case, write_msd, write_nnunet
from fake_volumes import write_nifti

from jaxseg import train
from jaxseg.config import Dataset
from jaxseg.diagnosis.examine import Examination
from jaxseg.diagnosis.examine import examine as examine_source
from jaxseg.diagnosis.findings import shown
from jaxseg.diagnosis.page import format_page
from jaxseg.diagnosis.volume_facts import count_lesions
from jaxseg.errors import UserError

ROOT = Path(__file__).parents[2]
NEW = ("-t1n", "-t1c", "-t2w", "-t2f")


def examine(source, name=None, **settings) -> Examination:
    return examine_source(str(source), Dataset(name="brats", **settings), name)


def texts(found: Examination, severity: str) -> list[str]:
    return [shown(f) for f in found.findings if f.severity == severity]


def write_time_points(root):
    """Write two time points of one person, and one of another with voxels of 2 x 1 x 1 mm."""
    for n, case in enumerate(("GLI-00001-000", "GLI-00001-001", "GLI-00002-000")):
        case = f"BraTS-{case}"
        write_case(root / case, case, NEW, "-seg", (1, 2, 3) if n else (2,), seed=n)
        if n == 2:
            for seed, suffix in enumerate((*NEW, "-seg")):
                voxels = labels((1, 2, 3)) if suffix == "-seg" else head(77 + seed)
                affine = np.diag([1.0, 1.0, 2.0, 1.0])
                write_nifti(root / case / f"{case}{suffix}.nii.gz", voxels, affine)
    (root / "readme.txt").write_text("x")


@pytest.mark.parametrize("kind", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_a_tree_of_nrrd_or_metaimage_has_the_facts_of_nifti(tmp_path, kind):
    pytest.importorskip("nrrd")
    facts = []
    for suffix in (".nii.gz", kind):
        root = tmp_path / suffix[1:]
        for seed in range(3):
            case = f"p{seed}"
            write_case(root / case, case, NEW[:2], "-seg", (1, 2), suffix, seed)
        patterns = tuple(f"{c[1:]}={{patient}}/{{patient}}{c}{suffix}" for c in NEW[:2])
        found = examine_source(
            str(root),
            Dataset(
                name="nifti",
                channel_files=patterns,
                mask_file=f"{{patient}}/{{patient}}-seg{suffix}",
                regions=("a=1", "b=2"),
            ),
            "nifti",
        )
        assert not texts(found, "error")
        facts.append(found.report["volumes"])
    for name in ("regions", "channels", "sizes", "spacings_mm", "orientations", "label_values"):
        assert facts[0][name] == facts[1][name], name


def test_the_numbers_of_a_sound_set(tmp_path):
    """Two voxels of each label: of 1 mm3 in the first two scans, of 2 mm3 in the third."""
    write_time_points(tmp_path)
    found = examine(tmp_path)
    assert found.report["layout"] == "brats" and found.config is not None
    assert found.report["patients_by"].endswith("as BraTS-GLI-00001 of BraTS-GLI-00001-000")
    facts = found.report["volumes"]
    assert (facts["scans"], facts["persons"]) == (3, 2)
    assert facts["time_points"] == {
        "BraTS-GLI-00001": ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001"]
    }
    assert facts["sizes"] == {"10 x 9 x 8": 3}
    assert facts["spacings_mm"] == {"1 x 1 x 1": 2, "2 x 1 x 1": 1}
    assert facts["orientations"] == {"LPS": 2, "RAS": 1} and facts["types"] == {"int16": 3}
    assert facts["label_values"] == {"1": 2, "2": 3, "3": 2}
    whole, core, enhancing = facts["regions"]
    assert (whole["name"], whole["labels"], whole["scans"]) == ("whole_tumour", [1, 2, 3], 3)
    assert whole["ml"] == pytest.approx({"low": 0.002, "median": 0.006, "high": 0.012})
    assert core["scans"] == enhancing["scans"] == 2
    assert enhancing["ml"] == pytest.approx({"low": 0.002, "median": 0.003, "high": 0.004})
    assert core["lesions"] == {"low": 2, "median": 2, "high": 2}  # 1 and 3 lie apart, 2 between
    assert whole["lesions"]["high"] == 1
    assert [c["name"] for c in facts["channels"]] == ["t1", "t1c", "t2", "flair"]
    first = np.stack([head(0), head(100)])
    assert facts["channels"][0]["lowest"] == 0 == first.min()
    assert facts["channels"][0]["highest"] >= first.max()
    # The head is 6 x 7 x 8 of 720 voxels: four channels of 2 bytes and three masks.
    assert facts["copy_bytes"] == pytest.approx(3 * 6 * 7 * 8 * 11, abs=3)
    assert facts["source_bytes"] == sum(p.stat().st_size for p in tmp_path.rglob("*.nii.gz"))
    assert texts(found, "note") == ["readme.txt: neither image nor label of a scan, not read"]
    assert [text.partition(":")[0] for text in texts(found, "warning")] == [
        "patients of different voxels",
        "patients of different orientations",
        "2 patients are few",
    ]
    assert found.fails  # two persons make no three parts
    assert texts(found, "error") == [
        "scans of 2 persons: training needs three, for train, validation and test"
    ]


def test_the_page_can_be_read(tmp_path):
    write_time_points(tmp_path)
    found = examine(tmp_path)
    page = format_page(found.report, found.findings)
    assert page.isascii() and max(map(len, page.splitlines()[2:])) <= 100
    for text in (
        "scans                3, of 2 persons",
        "several time points  1 persons: BraTS-GLI-00001 (2)",
        "spacing, mm          1 x 1 x 1 (2 scans), 2 x 1 x 1 (1 scans)",
        "axes in the files    LPS (2 scans), RAS (1 scans); all are read as axial slices",
        "values of labels     1 in 2, 2 in 3, 3 in 2 of 3 files",
        "0.002 / 0.006 / 0.012",
    ):
        assert text in page, page


def test_faults_of_many_scans_are_one_finding(tmp_path):
    write_brats(tmp_path, 5)
    for n in (1, 2, 3):
        case = f"BraTS20_Training_{n:03d}"
        (tmp_path / case / f"{case}_t1ce.nii.gz").unlink()
    (tmp_path / case / f"{case}_seg.nii.gz").unlink()
    fourth = "BraTS20_Training_004"
    copy = tmp_path / fourth / f"{fourth}_t2.nii.gz"
    shutil.copy(tmp_path / fourth / f"{fourth}_t1.nii.gz", copy)  # the same sequence twice
    found = examine(tmp_path)
    lacking, unlabelled = texts(found, "error")
    assert lacking.startswith(
        "no file of t1c (3: patient BraTS20_Training_001 (BraTS20_Training_001/"
    )
    assert unlabelled.endswith("no label file") and found.fails
    assert not [text for text in texts(found, "note") if "neither image nor label" in text]
    assert texts(found, "note")[-1] == (
        f"{fourth}: channels 1, 3 are the same image: a sequence missing there?"
    )


def test_one_person_under_two_names_is_found(tmp_path):
    write_brats(tmp_path, 3)
    first, second = (f"BraTS20_Training_00{n}" for n in (1, 2))
    for suffix in ("_t1", "_t1ce", "_t2", "_flair"):
        copy = tmp_path / second / f"{second}{suffix}.nii.gz"
        shutil.copy(tmp_path / first / f"{first}{suffix}.nii.gz", copy)
    found = examine(tmp_path)
    (said,) = [text for text in texts(found, "error") + texts(found, "warning") if "4 id" in text]
    assert said.startswith(f"patients {first} ") and f" and {second}" in said


def test_the_trap_of_the_labels_is_an_error_with_its_remedy(tmp_path):
    write_brats(tmp_path, 3, values=(1, 2, 3))
    found = examine(tmp_path)
    errors = texts(found, "error")
    assert any("region enhancing_tumour (label 4): empty in all 3 patients" in e for e in errors)
    assert any("--config.dataset.labels=brats2023" in e for e in errors)
    assert not examine(tmp_path, labels="brats2023").fails


@pytest.mark.parametrize("name", ["msd", "nnunet"])
def test_sets_with_a_dataset_json(tmp_path, name):
    labelled = {"background": 0, "whole": [1, 2, 3], "enhancing": [3]}
    content = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": labelled}
    if name == "msd":
        write_msd(tmp_path, ("edema", "non-enhancing tumor", "enhancing tumour"), 3)
    else:
        write_nnunet(tmp_path, content | {"regions_class_order": [1, 3]}, (1, 2, 3), 3)
    found = examine(tmp_path)
    assert found.report["layout"] == name and not found.fails
    assert len(found.report["volumes"]["channels"]) == (4 if name == "msd" else 2)
    if name == "nnunet":
        content = content | {"regions_class_order": [3, 1]}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        (error,) = texts(examine(tmp_path), "error")
        assert "regions_class_order [3, 1] writes whole [1, 2, 3] as 3" in error


def test_sequences_without_labels_are_no_training_set(tmp_path):
    write_brats(tmp_path, 2)
    for mask in tmp_path.rglob("*_seg.nii.gz"):
        mask.unlink()
    found = examine_source(str(tmp_path), Dataset(), None)
    assert found.report["why"].startswith("sequences of 2 scans by their names, but no label files")
    assert "--config.dataset.name=nifti" in texts(found, "error")[0]


def test_lesions_that_touch_by_a_corner_are_one():
    mask = np.zeros((4, 5, 6), np.uint8)
    assert count_lesions(mask) == 0
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    assert count_lesions(mask) == 1
    mask[3, 4, 5] = 1
    assert count_lesions(mask) == 2


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jaxseg.doctor", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_program_with_patterns(tmp_path):
    write_brats(tmp_path / "set", 3)
    patterns = "flair={patient}/{patient}_flair.nii.gz,t1={patient}/{patient}_t1.nii.gz"
    tree = ("--channels", patterns, "--mask", "{patient}/{patient}_seg.nii.gz", "--no-timing")
    report = tmp_path / "report.json"
    done = run(tmp_path / "set", *tree, "--regions", "wt=1,2,4:2;et=4", "--json", report)
    assert done.returncode == 0 and done.stderr == "", done.stderr + done.stdout
    assert "Nothing stops a training" in done.stdout and "flair, t1; stored as int16" in done.stdout
    volumes = json.loads(report.read_text())["volumes"]
    assert [r["labels"] for r in volumes["regions"]] == [[1, 2, 4], [4]]
    done = run(tmp_path / "set", *tree)
    assert done.returncode == 1 and "--config.dataset.labels=brats2021" in " ".join(
        done.stdout.split()
    )


def test_a_training_keeps_what_the_files_tell(tmp_path, monkeypatch):
    write_brats(tmp_path / "set", 2)
    config = tiny_config(tmp_path, dataset=Dataset("brats", str(tmp_path / "set")))
    seen = []
    monkeypatch.setattr(train, "set_up", lambda config, *_: seen.append(config))
    with contextlib.ExitStack() as stack:
        train.train_and_test(config, tmp_path / "run", stack)
    assert seen[0].dataset.channel_names == ("t1", "t1c", "t2", "flair")
    assert seen[0].dataset.regions[2] == "enhancing_tumour=4"
    shutil.rmtree(tmp_path / "set")
    with contextlib.ExitStack() as stack, pytest.raises(UserError, match="does not exist"):
        train.train_and_test(config, tmp_path / "run", stack)


def test_an_affine_that_differs_is_named(tmp_path):
    write_brats(tmp_path, 2)
    moved = AFFINE.copy()
    moved[0, 3] = 3
    case = "BraTS20_Training_001"
    write_nifti(tmp_path / case / f"{case}_flair.nii.gz", head(4), moved)
    (error,) = texts(examine(tmp_path), "error")
    assert "lies on other voxels" in error and "the first at (3, 0, 0)" in error
