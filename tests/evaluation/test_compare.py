"""Two evaluations compared: differences counted by hand, what is refused, what is warned of."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jaxseg.errors import UserError
from jaxseg.evaluation import comparison
from jaxseg.machine.files import write_json
from jaxseg.scoring import comparison_figure, figures, scorecard
from jaxseg.scoring.patient_score import score_patient

NUM_VOXELS = 10  # of the truth; a prediction of the first k has Dice 2 k / (10 + k)


def score(patient: str, found: int, truth: int = NUM_VOXELS, spacing_mm=()):
    row = np.arange(NUM_VOXELS)[None, None]
    return score_patient(patient, row < found, row < truth, spacing_mm)


def write(folder: Path, found, split="test", scans=None, spacing_mm=(), names=None) -> Path:
    """Write what an evaluation writes, for patients with so many voxels found each."""
    names = names or [f"p{i}" for i in range(len(found))]
    scores = [score(p, k, spacing_mm=spacing_mm) for p, k in zip(names, found, strict=True)]
    folder.mkdir(parents=True)
    summary = scorecard.summarise(scores, 100, in_mm=bool(spacing_mm))
    summary["about"] = {"split": split, "source": None, "step": 7}
    summary["scans"] = scans or dict.fromkeys(names, "scan")
    write_json(folder / "scores.json", summary)
    (folder / "patients.csv").write_text(scorecard.patients_csv(scores))
    return folder


def in_memory(values: dict[str, np.ndarray]) -> comparison.Scores:
    """Return scores with these values [N] and 0 for the other measures."""
    n = len(next(iter(values.values())))
    zeros = dict.fromkeys(("iou", "sensitivity", "precision", "hd95", "volume_error"), 0.0)
    rows = [zeros | {k: v[i] for k, v in values.items()} | {"diagonal": 9.0} for i in range(n)]
    summary = {"about": {"split": "test"}, "definitions": {"hd95_unit": "pixels"}}
    return comparison.Scores(Path("x"), summary, {f"p{i:03}": row for i, row in enumerate(rows)})


def compared(a: Path, b: Path, num_samples: int = 200):
    read = [comparison.read_scores(folder) for folder in (a, b)]
    comparison.check_comparable(*read)
    return comparison.compare(*read, num_samples)


def test_masks_drawn_anew_of_the_same_size_are_noticed(tmp_path):
    """Where both evaluations know the masks; those of old know only their areas."""
    folders = []
    truths = [None, {"p0": "m", "p1": ""}, {"p0": "m", "p1": "n"}, {"p0": "o", "p1": "n"}]
    for number, masks in enumerate(truths):
        folders.append(write(tmp_path / f"{number}", (10, 2)))
        path = folders[-1] / "scores.json"
        write_json(path, json.loads(path.read_text()) | ({"truths": masks} if masks else {}))
    for a, b in ((0, 1), (0, 3), (1, 2), (2, 1)):
        compared(folders[a], folders[b])
    for a in (1, 2):
        with pytest.raises(UserError, match="other images or masks: p0;"):
            compared(folders[a], folders[3])


@pytest.fixture
def pair(tmp_path):
    """Dice of A: 1, 1/3, 1/3, 2/3; of B: 1, 2/3, 1, 1/3."""
    return write(tmp_path / "a", (10, 2, 2, 5)), write(tmp_path / "b", (10, 5, 10, 2))


def test_differences_wins_and_ties_by_hand(pair):
    found = compared(*pair)
    dice = found["measures"]["dice"]
    assert found["n"] == dice["n"] == 4
    assert dice["mean_a"] == pytest.approx(7 / 12, abs=1e-6)
    assert dice["mean_b"] == pytest.approx(9 / 12, abs=1e-6)
    assert dice["difference"] == pytest.approx(1 / 6, abs=1e-6)  # 0, 1/3, 2/3, -1/3
    assert dice["median_difference"] == pytest.approx(1 / 6, abs=1e-6)
    assert (dice["a_better"], dice["b_better"], dice["ties"]) == (1, 2, 1)
    error = found["measures"]["absolute_volume_error"]  # A: 0, 0.8, 0.8, 0.5; B: 0, 0.5, 0, 0.8
    assert error["difference"] == pytest.approx(-0.2, abs=1e-6)
    assert (error["a_better"], error["b_better"], error["ties"]) == (1, 2, 1)
    distance = found["measures"]["hd95"]  # of a row cut off: lower is better
    assert (distance["a_better"], distance["b_better"], distance["ties"]) == (1, 2, 1)
    assert distance["difference"] < 0
    assert found["dice"]["p1"] == pytest.approx([1 / 3, 2 / 3], abs=1e-6)
    low, high = dice["ci95"]
    assert -1 / 3 <= low < 1 / 6 < high <= 2 / 3


def test_swapping_the_two_turns_the_signs(pair):
    forth, back = (compared(*folders)["measures"] for folders in (pair, pair[::-1]))
    for key, row in forth.items():
        assert back[key]["difference"] == -row["difference"]
        assert back[key]["a_better"] == row["b_better"]
        assert back[key]["ties"] == row["ties"]
        assert back[key]["ci95"] == pytest.approx([-row["ci95"][1], -row["ci95"][0]], abs=1e-9)


def test_the_volume_error_is_over_patients_with_tumour(tmp_path):
    folders = []
    for name, found in (("a", 4), ("b", 6)):
        folder = write(tmp_path / name, (10,), names=["p0"])
        scores = [score("p0", 10), score("empty", found - 4, truth=0)]
        summary = scorecard.summarise(scores, 100)
        summary |= {"about": {"split": "test"}, "scans": {"p0": "x", "empty": "y"}}
        write_json(folder / "scores.json", summary)
        (folder / "patients.csv").write_text(scorecard.patients_csv(scores))
        folders.append(folder)
    found = compared(*folders)
    assert found["n"] == 2 and found["measures"]["absolute_volume_error"]["n"] == 1
    assert found["measures"]["dice"]["difference"] == -0.5  # both empty: 1; a false alarm: 0


def test_the_interval_is_that_of_paired_differences():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0, 0.9, 60)  # patients differ by far more than the models
    steady = comparison.compare(in_memory({"dice": hard}), in_memory({"dice": hard + 0.05}), 500)
    assert steady["measures"]["dice"]["ci95"] == pytest.approx([0.05, 0.05])
    gains = rng.normal(0.03, 0.04, 60)
    varied = comparison.compare(in_memory({"dice": hard}), in_memory({"dice": hard + gains}), 5000)
    half = 1.96 * gains.std() / np.sqrt(60)
    expected = [gains.mean() - half, gains.mean() + half]
    assert varied["measures"]["dice"]["ci95"] == pytest.approx(expected, abs=0.1 * half)


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    rng, hits, trials = np.random.default_rng(1), 0, 200
    for trial in range(trials):
        a = rng.uniform(0.3, 0.9, 50)
        b = a + rng.normal(0.02, 0.05, 50)
        row = comparison.compare(in_memory({"dice": a}), in_memory({"dice": b}), 300, seed=trial)
        low, high = row["measures"]["dice"]["ci95"]
        hits += low <= 0.02 <= high
    assert 0.88 <= hits / trials <= 0.98


@pytest.mark.parametrize(
    "change, message",
    [
        ({"names": ["p0", "p1", "q2", "q3"]}, "different patients; only in .*/a: p2, p3; only in"),
        ({"split": "validation"}, "/a is scored on test, .*/b on validation"),
        ({"scans": {"p0": "scan", "p1": "x", "p2": "scan", "p3": "y"}}, "other images.*: p1, p3"),
    ],
)
def test_what_is_not_comparable(tmp_path, change, message):
    a = write(tmp_path / "a", (10, 2, 2, 5))
    b = write(tmp_path / "b", (10, 2, 2, 5), **change)
    with pytest.raises(UserError, match=f"not comparable: .*{message}"):
        compared(a, b)


def test_many_foreign_patients_are_counted_not_listed(tmp_path):
    a, b = write(tmp_path / "a", (5,) * 9), write(tmp_path / "b", (5,) * 2)
    with pytest.raises(UserError, match="only in .*/a: p2, p3, p4 and 4 more$"):
        compared(a, b)


def test_the_same_folder_twice(pair, tmp_path):
    (tmp_path / "link").symlink_to(pair[0])
    with pytest.raises(UserError, match="given twice"):
        compared(pair[0], tmp_path / "link")


def test_damaged_and_foreign_files(pair, tmp_path):
    with pytest.raises(UserError, match="no scores.json here; score the run first"):
        comparison.read_scores(tmp_path)
    table, summary = pair[0] / "patients.csv", pair[0] / "scores.json"
    whole = table.read_text()
    for text, message in (
        (whole[:-8], "not readable as scores per patient"),
        (whole + whole.splitlines()[1] + "\n", "p0 stands twice"),
        ("patient,dice\np0,high\n", "not readable"),
        ("", "not of one evaluation"),
        (whole.rsplit("\n", 2)[0] + "\n", "not of one evaluation"),
        ((pair[1] / "patients.csv").read_text(), "not of one evaluation"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=message):
            comparison.read_scores(pair[0])
    table.write_text(whole)
    comparison.read_scores(pair[0])
    values = json.loads(summary.read_text())
    del values["scans"]
    for text in (json.dumps(values), "[]"):
        summary.write_text(text)
        with pytest.raises(UserError, match="another version"):
            comparison.read_scores(pair[0])
    table.unlink()
    with pytest.raises(UserError, match="patients.csv: not readable"):
        comparison.read_scores(pair[0])


def test_warnings(tmp_path):
    found = {}
    for n, split in ((49, "test"), (50, "test"), (50, "validation")):
        names = [f"{n}_{split}_{x}" for x in "ab"]
        found[n, split] = compared(
            *(write(tmp_path / name, range(n), split) for name in names), num_samples=10
        )
    assert "under 50" in found[49, "test"]["warnings"][0]
    assert found[50, "test"]["warnings"] == []
    assert "not an honest comparison" in found[50, "validation"]["warnings"][0]


def test_distances_of_different_spacing_are_left_out(tmp_path):
    a = write(tmp_path / "a", (10, 2))
    for name, spacing_mm in (("mm", (3.0, 1.0, 1.0)), ("far", (3.0, 2.0, 2.0))):
        b = write(tmp_path / name, (10, 2), spacing_mm=spacing_mm)
        found = compared(a, b)
        assert "hd95" not in found["measures"]
        assert any("HD95 and NSD are left out" in w for w in found["warnings"])
        assert "HD95, " not in comparison.format_comparison(found)
        a = b
    assert (
        "hd95"
        in compared(b, write(tmp_path / "same", (10, 2), spacing_mm=(3.0, 2.0, 2.0)))["measures"]
    )


def test_the_text_says_what_the_interval_allows(pair, tmp_path):
    text = comparison.format_comparison(compared(*pair))
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)
    assert "Dice, B minus A: +0.167 (95 % interval" in text
    assert "do not show which of the two is better" in text
    assert "Dice                 0.583   0.750   +0.167" in text
    assert "p =" not in text and "significant" not in text
    better = write(tmp_path / "c", (10, 3, 3, 6))
    assert "speaks for B" in comparison.format_comparison(compared(pair[0], better))
    assert "speaks for A" in comparison.format_comparison(compared(better, pair[0]))
    one = compared(write(tmp_path / "1a", (4,)), write(tmp_path / "1b", (5,)))
    text = comparison.format_comparison(one)
    assert "no interval" in text and "One patient shows nothing" in text
    assert one["measures"]["dice"]["ci95"] == [None, None]


def test_the_figure_shows_who_is_better(pair, tmp_path):
    found, paths = compared(*pair), [tmp_path / f"{i}.png" for i in range(3)]
    for path, shown in zip(paths, (found, found, compared(*pair[::-1])), strict=True):
        path.write_bytes(comparison_figure.dice_of_pairs(shown, "title"))
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()

    def coloured(path, colour):
        pixels = cv2.imread(str(path))[:-60, 500:, ::-1]  # the right panel
        return int((pixels == np.round(255 * np.array(to_rgb(colour)))).all(-1).sum())

    # Each patient has a dot: two of B better, one of A, so twice as much colour.
    blue, orange = (coloured(paths[0], c) for c in (figures.BLUE, figures.ORANGE))
    assert blue > 1.5 * orange > 0
    blue, orange = (coloured(paths[2], c) for c in (figures.BLUE, figures.ORANGE))
    assert orange > 1.5 * blue > 0


def test_a_figure_of_many_patients_and_of_one(tmp_path):
    rng = np.random.default_rng(0)
    for n in (1, 200):
        a, b = (in_memory({"dice": rng.uniform(size=n)}) for _ in range(2))
        image = comparison_figure.dice_of_pairs(comparison.compare(a, b, 10), "t")
        (tmp_path / f"{n}.png").write_bytes(image)
        assert cv2.imread(str(tmp_path / f"{n}.png")).shape[1] == 1100


def test_the_program(pair, tmp_path):
    run = tmp_path / "run"  # the folder of a run stands for its test patients
    (run / "evaluation").mkdir(parents=True)
    pair[1].rename(run / "evaluation" / "test")
    command = [sys.executable, "-m", "jaxseg.compare", pair[0], run]
    command += ["--output", tmp_path / "out/here"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out/here/comparison.json").read_text())
    assert written["measures"]["dice"]["b_better"] == 2
    assert "B minus A" in done.stdout and str(run / "evaluation/test") in done.stdout
    assert (tmp_path / "out/here/comparison.png").is_file()
