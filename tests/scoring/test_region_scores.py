"""Several regions: their mean, persons, empty truths, BraTS definitions, colours, pictures."""

import json
import re

import cv2
import numpy as np
import pytest

from jaxseg.scoring import (
    colours,
    intervals,
    planes,
    region_figure,
    regiontext,
    report,
    scorecard,
    scoretext,
)
from jaxseg.scoring.brats import Rules
from jaxseg.scoring.cohort import cohort
from jaxseg.scoring.patient_score import score_patient

NAMES = ("WT", "TC", "ET")
SPACING = (2.0, 1.0, 0.5)
LEGACY = Rules("legacy")


def _cube(low, high):
    mask = np.zeros((8, 16, 16), bool)
    mask[2:6, 3:9, low:high] = True
    return mask


def _scores(rules=None):
    """Return four patients; the innermost region of the last two is empty, one predicted so."""
    found = []
    for i in range(4):
        regions = []
        for k, name in enumerate(NAMES):
            truth = _cube(2 + k, 14 - k) if k < 2 or i < 2 else _cube(0, 0)
            prediction = _cube(2 + k + i, 14 - k) if k < 2 or i < 3 else _cube(0, 0)
            regions.append(score_patient(f"p{i}", prediction, truth, SPACING, name, "", rules))
        found.append(regions)
    return found


def _summary(scores, rules=None):
    parts = [
        scorecard.summarise([p[k] for p in scores], 200, in_mm=True, rules=rules)
        for k in range(len(NAMES))
    ]
    return scorecard.join_regions(parts, scorecard.mean_over_regions(scores, 200))


def test_mean_over_regions_is_of_each_patient_first():
    scores = _scores()
    means = _summary(scores)["mean_over_regions"]
    expected = [np.mean([s.dice for s in regions]) for regions in scores]
    assert means["patients"]["dice"]["mean"] == pytest.approx(np.mean(expected))
    assert means["patients"]["dice"]["median"] == pytest.approx(np.median(expected))
    # The volume error of an empty truth is left out of that patient's mean.
    errors = [
        np.mean([s.volume_error for s in regions if s.volume_error is not None])
        for regions in scores
    ]
    assert means["patients"]["volume_error"]["mean"] == pytest.approx(np.mean(errors))
    nothing = means["baselines"]["predict_nothing"]["patients"]
    assert nothing["dice"]["mean"] == pytest.approx(np.mean([0, 0, 1 / 3, 1 / 3]))
    assert scorecard.mean_over_regions(scores[::-1], 200) == means | {"patients": means["patients"]}


def test_empty_truths_are_told_apart():
    summary = _summary(_scores())["regions"]["ET"]
    empty = summary["empty_truth"]
    voxels = _cube(6, 12).sum()  # of p2
    assert (empty["n"], empty["n_predicted_empty"]) == (2, 1)
    assert empty["mean_false_positive_voxels"] == voxels / 2
    assert empty["mean_false_positive_mm3"] == voxels / 2  # 2 x 1 x 0.5 mm
    assert summary["with_truth"]["n"] == 2 and summary["patients"]["n"] == 4
    assert summary["with_truth"]["dice"]["mean"] > summary["patients"]["dice"]["mean"]
    line = regiontext.empty_line(summary | {"definitions": {"hd95_unit": "mm"}})
    assert "2 of 4 patients, 1 of them predicted empty" in line and "Over the 2 others" in line
    assert regiontext.empty_line(_summary(_scores())) == ""  # of the whole tumour


def test_persons_are_drawn_whole():
    values = [0.1, 0.2, 0.9, 0.8]
    alone = intervals.mean_interval(values, 500, 0)
    assert intervals.mean_interval(values, 500, 0, ["a", "b", "c", "d"]) == alone
    pairs = intervals.mean_interval(values, 500, 0, ["a", "a", "b", "b"])
    assert pairs == pytest.approx([0.15, 0.85])  # both time points of one person, or of the other
    assert intervals.mean_interval(values, 500, 0, ["a"] * 4) == [None, None]
    # The mean is over time points, so a person with more of them weighs more.
    uneven = intervals.mean_interval([0.0, 1.0, 1.0], 2000, 0, ["a", "b", "b"])
    assert uneven == pytest.approx([0.0, 1.0])
    scores = [s[0]._replace(group="one") for s in _scores()]
    patients = scorecard.summarise(scores, 100)["patients"]
    assert patients["n"] == 4 and patients["n_persons"] == 1
    assert patients["dice"]["ci95"] == [None, None]


def test_scans_are_counted_as_scans_of_persons_wherever_a_person_has_several():
    """Four scans of three persons: in the console, in the report, in words of the summary."""
    assert cohort(4, 3) == "4 scans of 3 persons" and cohort(2, 1) == "2 scans of 1 person"
    assert cohort(4, 4) == "4 patients" and cohort(1, 1) == "1 patient"
    assert cohort(1200, 900, "validation") == "1,200 validation scans of 900 persons"
    rules = Rules("brats_2026")
    scores = _scores(rules)
    scores[1] = [s._replace(group=scores[0][0].group) for s in scores[1]]
    summary = _summary(scores, rules)
    assert scoretext.headline(summary).endswith("n = 4 scans of 3 persons")
    assert scoretext.headline(summary).startswith("Dice per scan ")
    page = report.page("t", summary, [s for row in scores for s in row], {}, "{}", {}, [])
    text = scoretext.format_scorecard(summary).replace("\n  ", " ")
    assert "PER SCAN" in text and "PER PATIENT" not in text
    assert "In brackets 95 % intervals over scans, persons drawn whole." in text
    assert "Empty truth: 2 of 4 scans, 1 of them" in text and "for 1 of 4 scans" in text
    for shown in (text, page):
        assert "4 scans of 3 persons are few, far too few" in shown
        assert not re.findall(r"\d patients", shown)
    assert "<h2>Scores per scan, ET</h2>" in page and "All scans, worst first" in page
    of_one = _summary(scores[:1], rules)  # no interval, so none in brackets
    assert "In brackets" not in scoretext.format_scorecard(of_one)
    of_old = summary["patients"] | {"n": 4}
    del of_old["n_persons"]
    assert scoretext.headline(summary | {"patients": of_old}).endswith("n = 4")
    alone = scoretext.format_scorecard(_summary(_scores()))
    assert "PER PATIENT" in alone and "scan" not in alone


def test_the_brats_definition_is_named_with_its_numbers():
    summary = _summary(_scores(LEGACY), LEGACY)
    found = summary["regions"]["ET"]["brats"]
    assert (found["definition"], found["challenge"], found["n_undefined"]) == ("legacy", "GLI", 0)
    assert found["dice"]["mean"] == summary["regions"]["ET"]["patients"]["dice"]["mean"]
    assert found["nsd"]["mean"] is None and found["found"] is None
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    text = scoretext.format_scorecard(summary)
    assert max(map(len, text.splitlines())) <= 80 and text.isascii()
    assert "BraTS, legacy (GLI): Dice " in text.replace("\n  ", " ")
    assert "\nlegacy           Dice                 HD95, mm\n" in text
    assert "legacy: BraTS, definition to 2022" in summary["definitions"]["brats"]
    assert "brats" not in _summary(_scores()) and "BraTS" not in scoretext.format_scorecard(
        _summary(_scores())
    )
    undefined = Rules("brats_2026")
    found = _summary(_scores(undefined), undefined)["regions"]["ET"]["brats"]
    assert found["n_undefined"] == 1 and found["invented"] == 1 and found["nsd"]["mean"] > 0


def test_the_table_of_regions_has_all_rows():
    blocks = regiontext.region_blocks(_summary(_scores()))
    assert [len(b.labels) for b in blocks] == [3, 3, 3]
    for block in blocks:
        assert [name for name, _ in block.rows] == [*NAMES, "mean of regions"]
    one = scorecard.summarise([p[0] for p in _scores()], 100)
    assert regiontext.region_blocks(one) == [] and regiontext.format_regions(one) == ""


def test_the_csv_keeps_every_field_and_older_tables_are_read(tmp_path):
    scores = [p[2] for p in _scores(LEGACY)]
    path = tmp_path / "patients.csv"
    path.write_text(scorecard.patients_csv(scores))
    rows = scorecard.read_patients_csv(path)
    assert rows["p0"]["nsd"] == pytest.approx(scores[0].nsd, abs=1e-6)
    assert rows["p3"]["lesion_dice"] is None and rows["p0"]["brats_nsd"] is None
    assert rows["p0"]["brats_dice"] == 1 and rows["p0"]["group"] == "p0"
    header, *lines = path.read_text().splitlines()
    end = header.split(",").index("region")
    path.write_text("\n".join(",".join(t.split(",")[:end]) for t in (header, *lines)) + "\n")
    rows = scorecard.read_patients_csv(path)
    assert rows["p0"]["dice"] == 1 and rows["p0"]["nsd"] is None and rows["p0"]["group"] == "p0"


def test_colours_are_fixed_by_name_and_distinct():
    assert colours.of_regions(("ET", "WT", "TC")) == {
        "ET": (230, 159, 0),
        "WT": (0, 158, 115),
        "TC": (0, 114, 178),
    }
    full = colours.of_regions(("whole_tumour", "Tumour core", "enhancing-tumour"))
    assert list(full.values()) == list(colours.PALETTE[:3])
    others = colours.of_regions(("cavity", "WT", "oedema", "TC"))
    assert others["WT"] == (0, 158, 115) and len(set(others.values())) == 4
    assert len(colours.of_regions([f"r{i}" for i in range(12)])) == 12
    assert colours.as_hex((0, 158, 115)) == "#009e73"


def _num_coloured(png, colour):
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    return int((pixels == colour).all(-1).sum())


def test_planes_show_every_region_in_its_colour():
    truth = np.stack([_cube(2, 14), _cube(4, 12), _cube(6, 10)], -1)
    image = np.random.default_rng(0).random((8, 16, 16))
    drawn = planes.region_planes("p\nDice: 1", image, truth, truth, NAMES, SPACING)
    again = planes.region_planes("p\nDice: 1", image, truth, truth, NAMES, SPACING)
    assert drawn == again
    missed = planes.region_planes("p", image, truth, truth & False, NAMES, SPACING)
    for colour in colours.of_regions(NAMES).values():
        assert _num_coloured(drawn, colour) > 1.2 * _num_coloured(missed, colour) > 0
    empty = truth & False
    assert planes.region_planes("p", image, empty, empty, NAMES, SPACING)  # no tumour at all
    weight = np.zeros((4, 5, 6))
    weight[2, 3, 4] = 1
    assert planes._centre(weight) == (2, 3, 4)


def test_the_box_is_in_mm_and_within_the_volume():
    mask = np.zeros((40, 200, 200), bool)
    mask[20, 100, 3] = True
    box = planes._part(mask, (5.0, 1.0, 0.5))
    assert box == ((14, 27), (70, 131), (0, 64))  # 60 mm about the voxel, 15 mm at least


def test_figure_and_report_of_regions():
    scores = _scores(LEGACY)
    summary = _summary(scores, LEGACY)
    drawn = region_figure.by_region(scores, summary)
    for colour in colours.of_regions(NAMES).values():
        assert _num_coloured(drawn, colour) > 20
    flat = [s for p in scores for s in p]
    text = report.page("t", summary, flat, {"regions": drawn, "worst_ET": drawn}, "{}", {})
    assert "<h2>Regions</h2>" in text and "<h2>Worst by region</h2>" in text
    assert 'style="background: #009e73"></span>WT' in text
    assert "legacy Dice" in text and "ET: the worst patient." in text
    one = scorecard.summarise([p[0] for p in scores], 100)
    assert "<h2>Regions</h2>" not in report.page("t", one, [p[0] for p in scores], {}, "{}", {})
