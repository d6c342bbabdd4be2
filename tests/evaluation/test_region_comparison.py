"""Two evaluations of several regions compared: each region, and their mean."""

import json

import numpy as np
import pytest

from jaxseg import compare
from jaxseg.evaluation import comparison
from jaxseg.evaluation.region_comparison import compare_regions, format_regions
from jaxseg.machine.files import write_json
from jaxseg.scoring import scorecard
from jaxseg.scoring.brats import Rules
from jaxseg.scoring.patient_score import score_patient

NAMES = ("WT", "TC")
SPACING = (2.0, 1.0, 1.0)


def write(folder, found, rules=None, persons=("", "", "", "")):
    """Write what an evaluation writes: of a row of 10 voxels, so many of each region found."""
    row = np.arange(10)[None, None]
    scores = [
        [
            score_patient(f"p{i}", row < k, row < 10, SPACING, name, persons[i], rules)
            for name, k in zip(NAMES, pair, strict=True)
        ]
        for i, pair in enumerate(found)
    ]
    parts = [
        scorecard.summarise([s[k] for s in scores], 100, in_mm=True, rules=rules) for k in (0, 1)
    ]
    summary = scorecard.join_regions(parts, scorecard.mean_over_regions(scores, 100))
    summary["about"] = {"split": "test", "source": None, "step": 7}
    summary["scans"] = {f"p{i}": "scan" for i in range(len(found))}
    folder.mkdir(parents=True)
    write_json(folder / "scores.json", summary)
    (folder / "patients.csv").write_text(scorecard.patients_csv([s for p in scores for s in p]))
    return folder


A, B = ((10, 2), (2, 2), (2, 5), (5, 0)), ((10, 5), (5, 2), (10, 5), (2, 10))


def dice(k):
    return 2 * k / (10 + k)


def read(folder):
    return [comparison.read_scores(folder, name) for name in NAMES]


def test_every_region_and_the_mean_by_hand(tmp_path):
    a, b = read(write(tmp_path / "a", A)), read(write(tmp_path / "b", B))
    compared = compare_regions(a, b, 200)
    assert list(compared["regions"]) == list(NAMES)
    for k, name in enumerate(NAMES):
        part = compared["regions"][name]
        gains = [dice(y[k]) - dice(x[k]) for x, y in zip(A, B, strict=True)]
        assert part["measures"]["dice"]["difference"] == pytest.approx(np.mean(gains), abs=1e-5)
        assert part["measures"] == comparison.compare(a[k], b[k], 200)["measures"]
        assert "nsd" in part["measures"] and "lesion_dice" in part["measures"]
        assert "brats_dice" not in part["measures"]
    assert compared["measures"] == compared["regions"]["WT"]["measures"]  # the first, as before
    means = [[np.mean([dice(k) for k in pair]) for pair in one] for one in (A, B)]
    measure = compared["mean_over_regions"]["measures"]["dice"]
    assert measure["difference"] == pytest.approx(np.mean(means[1]) - np.mean(means[0]), abs=1e-5)
    # Errors of p0 in A: 0 and -80 %: 40 % on average.
    errors = [np.mean([1 - k / 10 for k in pair]) for pair in A]
    volume = compared["mean_over_regions"]["measures"]["absolute_volume_error"]
    assert volume["mean_a"] == pytest.approx(np.mean(errors), abs=1e-5)


def test_time_points_of_one_person_are_drawn_together(tmp_path):
    same = ("x", "x", "x", "x")
    a, b = write(tmp_path / "a", A, persons=same), write(tmp_path / "b", B, persons=same)
    part = comparison.compare(read(a)[0], read(b)[0], 200)
    assert part["measures"]["dice"]["ci95"] == [None, None]  # one person
    assert comparison.headline(part).endswith("(no interval), n = 4 scans of 1 person")
    assert "4 scans of 1 person only" in part["warnings"][0]
    assert "PER SCAN" in comparison.format_comparison(part)


def test_brats_scores_are_compared_under_one_definition_only(tmp_path):
    legacy, other = Rules("legacy"), Rules("lesionwise_2023", "MET")
    a, b = write(tmp_path / "a", A, legacy), write(tmp_path / "b", B, legacy)
    compared = compare_regions(read(a), read(b), 100)
    assert compared["brats"] == "legacy (GLI)" and "brats_nsd" not in compared["measures"]
    assert compared["measures"]["brats_dice"]["mean_a"] == pytest.approx(
        compared["measures"]["dice"]["mean_a"], abs=1e-5
    )
    assert "BraTS: as legacy (GLI) defines it." in format_regions(compared)
    c = write(tmp_path / "c", B, other)
    compared = compare_regions(read(a), read(c), 100)
    assert compared["brats"] == "" and "brats_dice" not in compared["measures"]


def test_older_tables_are_compared_by_what_they_have(tmp_path):
    a, b = write(tmp_path / "a", A), write(tmp_path / "b", B)
    table = (a / "patients.csv").read_text().splitlines()
    end = table[0].split(",").index("region") + 1
    old = "\n".join(",".join(line.split(",")[:end]) for line in table)
    (a / "patients.csv").write_text(old + "\n")
    compared = compare_regions(read(a), read(b), 100)
    assert "dice" in compared["measures"] and "nsd" not in compared["measures"]


def test_the_program_compares_all_regions(tmp_path, capsys):
    a, b, out = write(tmp_path / "a", A), write(tmp_path / "b", B), tmp_path / "out"
    compare.main([str(a), str(b), "--output", str(out)])
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith("WT: Dice, B minus A: +0.") and lines[1].startswith("TC: ")
    assert lines[2].startswith("mean of regions: ")
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    for name in (*NAMES, "mean of regions"):
        assert f"REGION {name}" in lines
    assert {p.name for p in out.iterdir()} == {
        "comparison.json",
        "comparison.png",
        "comparison_TC.png",
    }
    assert tuple(json.loads((out / "comparison.json").read_text())["regions"]) == NAMES
    compare.main([str(a), str(b), "--region", "TC"])
    text = capsys.readouterr().out
    assert text.startswith("Dice, B minus A") and "REGION" not in text
