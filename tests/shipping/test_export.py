"""The exported file: equal to evaluation, complete without jaxseg, honest about itself."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from fake_config import tiny_config
from fake_run import write_run

from jaxseg import export
from jaxseg.config import Input, Model, Optimizer
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.splits import split_patients
from jaxseg.errors import UserError
from jaxseg.prediction.inference import predict_patients
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.prediction.trained import Trained, load, predictor
from jaxseg.shipping import about, bundle, make, onnx_convert, onnx_export
from jaxseg.shipping.agreement import agreement, min_lesion_voxels

POINT = OperatingPoint(threshold=0.5, min_lesion=30, unit="voxels", temperature=1.5)
SCORES = {
    "about": {"step": 1, "split": "test"},
    "patients": {"n": 1, "dice": {"mean": 0.25, "median": 0.25, "ci95": [None, None]}},
    "warnings": ["1 patient is few"],
    "operating_point": POINT._asdict(),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    config = tiny_config(
        folder / "cache",
        optimizer=Optimizer(ema_decay=0.0),
        input=Input(image_size=(48, 32), crop_to_head=True, num_threads=1),
        model=Model(widths=(4, 8)),
    )
    run = write_run(folder / "run", config, POINT)
    (run / "evaluation" / "test").mkdir(parents=True)
    (run / "evaluation" / "test" / "scores.json").write_text(json.dumps(SCORES))
    return run


@pytest.fixture(scope="module")
def trained(run) -> Trained:
    return load(run)


@pytest.fixture(scope="module")
def path(run, trained) -> Path:
    output = run.parent / "out" / "model.jaxseg"  # a folder that does not exist yet
    make.export_jaxseg(trained, True, None, compare=1, batch_size=3, output=output)
    return output


@pytest.fixture(scope="module")
def exported(path) -> bundle.Exported:
    return bundle.open_bundle(path)


@pytest.fixture(scope="module")
def call(exported):
    """The exported computation, once for a volume: compiled as in tests it takes seconds."""
    made = {}

    def once(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if (key := volume.tobytes()) not in made:
            made[key] = tuple(map(np.asarray, exported.call(volume)))
        return made[key]

    return once


def test_predicts_what_evaluation_predicts(exported, call, trained):
    prepared = prepare(trained.config.dataset)
    patients = split_patients(prepared.patients, trained.config.split)["test"]
    assert patients[0].num_slices % 3, "the last batch is to be padded"
    model = predictor(trained, flip=True)
    (case,) = predict_patients(model, prepared, patients)
    probability, mask = call(case.volume.image.astype(np.float32))
    np.testing.assert_allclose(probability, case.probability[..., 0], atol=2e-5)
    thresholded = case.probability[..., 0] >= POINT.threshold
    assert 0 < np.sum(thresholded & ~mask) < np.sum(thresholded)  # small ones dropped
    found = agreement(call, trained, True, prepared, patients)
    assert found["voxels"] == 0 and found["mask_dice"] == 1 and found["probability"] < 2e-5
    stated = exported.metadata["agreement"]
    assert stated["patients"] == 1 and stated["slices"] == patients[0].num_slices
    assert stated["probability"] == pytest.approx(found["probability"], abs=1e-6)


def test_agreement_counts_every_difference(call, trained):
    prepared = prepare(trained.config.dataset)
    patients = split_patients(prepared.patients, trained.config.split)["test"]

    def other(volume):
        probability, mask = map(np.copy, call(volume))
        probability[1, 2, 3] += 0.25
        mask[0, 0, :2] ^= True
        return probability, mask

    found = agreement(other, trained, True, prepared, patients)
    assert found["voxels"] == 2 and found["mask_dice"] < 1
    assert found["probability"] == pytest.approx(0.25, abs=1e-4)
    assert agreement(other, trained, True, prepared, []) is None


def test_the_example_of_the_file_runs_where_jaxseg_is_not(path, exported, tmp_path):
    with zipfile.ZipFile(path) as file:
        text = file.read("README.txt").decode()
    code = text[text.index("import json") : text.index("volume: all slices")]
    assert len(code.strip().splitlines()) <= 10
    code = code.replace("model.jaxseg", str(path))
    golden = "np.load(zipfile.ZipFile(PATH).open('golden.npz'), allow_pickle=False)"
    code += "import sys; assert not {'jaxseg', 'cv2', 'flax'} & set(sys.modules)\n"
    code += f"golden = {golden.replace('PATH', repr(str(path)))}\n"
    code += "probability, mask = model.call(golden['volume'])\n"
    code += "print(float(abs(probability - golden['probability']).max()), about['use'][:21])\n"
    code += "print(int((mask != golden['mask']).sum()), golden['mask'].size)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    first, second = done.stdout.splitlines()
    assert float(first.split()[0]) < 2e-5 and first.endswith("For research use only")
    assert second == f"0 {exported.golden['mask'].size}"


def test_the_file_describes_itself(exported, run, path):
    about = exported.metadata
    assert about["input"] == ["volume", "float32", ["slices", 128, 128, 3]]
    assert about["channels"][1] == "FLAIR" and about["classes"] == ["tumour"]
    assert about["inside"]["threshold"] == 0.5 and about["inside"]["temperature"] == 1.5
    assert about["inside"]["flip_averaging"] and about["inside"]["min_lesion_voxels"] == 30
    assert about["data"]["licence"].startswith("synthetic")
    assert about["data"]["patients"] == {"train": 4, "validation": 1, "test": 1}
    assert about["scores"]["dice"]["mean"] == 0.25
    assert "without the flip averaging" in about["scores"]["what"]
    assert about["spacing_mm"] is None and about["versions"]["jax"]
    with zipfile.ZipFile(path) as file:
        text = b"".join(file.read(name) for name in ("metadata.json", "README.txt")).decode()
    assert "phantom_00" not in text and str(run) not in text, "patients and paths stay at home"
    assert "Dice 0.250, 1 patient." in text and "fewer than 30 voxels" in text


def test_scores_of_other_weights_are_not_taken_along(run):
    assert about._scores(run, 1, flip=False)["what"].endswith("test patients")
    assert about._scores(run, 2, flip=False) is None
    assert about._scores(run.parent, 1, flip=False) is None


def rewritten(path: Path, made: Path, **members: bytes) -> Path:
    """Copy the file with members replaced; None leaves one out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = members.get(name.replace(".", "_"), old.read(name))
            if content is not None:
                new.writestr(name, content)
    return made


def test_verify_passes_and_says_by_how_much(path, capsys):
    export.verify(path)
    assert "differ by at most" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["probability", "mask"])
def test_verify_fails_when_the_result_is_another(path, exported, tmp_path, capsys, what):
    golden = {name: x.copy() for name, x in exported.golden.items()}
    if what == "probability":
        golden["probability"][2, 60, 60] += 0.01
    else:
        far = np.abs(golden["probability"] - POINT.threshold) > 0.1
        golden["mask"][tuple(np.argwhere(far)[0])] ^= True
    np.savez(tmp_path / "golden.npz", **golden)
    other = rewritten(path, tmp_path / "o", golden_npz=(tmp_path / "golden.npz").read_bytes())
    with pytest.raises(SystemExit) as ended:
        export.verify(other)
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert "do not use it" in captured.err
    assert ("1.0e-02" in captured.out) == (what == "probability")
    assert ("in 1 voxels" in captured.out) == (what == "mask")


@pytest.mark.parametrize(
    "members, said",
    [
        ({"model_stablehlo": b"rubbish"}, "cannot read it"),
        ({"model_stablehlo": None}, "not a whole file"),
        ({"metadata_json": b"{"}, "not a whole file"),
        ({"golden_npz": b"PK"}, "not a whole file"),
    ],
)
def test_damaged_files_are_refused_in_a_line(path, tmp_path, members, said):
    with pytest.raises(UserError, match=said):
        bundle.open_bundle(rewritten(path, tmp_path / "broken", **members))


def test_other_files_are_refused_in_a_line(path, tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    for name, said in (("text", "not a whole"), ("cut", "not a whole"), ("none", "No such file")):
        with pytest.raises(UserError, match=said):
            bundle.open_bundle(tmp_path / name)


def test_nothing_is_left_where_a_file_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        bundle.write(tmp_path / "folder", b"", {}, {}, "")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_missing_extra_is_named(run, trained, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(UserError, match=r"pip install 'jaxseg\[export\]'"):
        make.export_jaxseg(trained, True, (8, 8), 0, 1, tmp_path / "x")


@pytest.mark.parametrize(
    "point, spacing, voxels",
    [
        (OperatingPoint(min_lesion=0), (), 0),
        (OperatingPoint(min_lesion=12.0), (), 12),
        (OperatingPoint(min_lesion=100.0, unit="mm3"), (5.0, 1.0, 1.0), 20),
        (OperatingPoint(min_lesion=101.0, unit="mm3"), (5.0, 1.0, 1.0), 21),
        (OperatingPoint(min_lesion=0.3, unit="mm3"), (1.0, 0.1, 1.0), 3),  # 0.3 / 0.1 > 3
    ],
)
def test_smallest_lesion_in_voxels(point, spacing, voxels):
    assert min_lesion_voxels(point, spacing) == voxels


@pytest.mark.parametrize("text", [["256"], ["a", "4"], ["0", "4"], ["1", "2", "3"], ["-1", "2"]])
def test_a_wrong_size_is_an_error(text):
    assert export.parse_size(["128", " 96"]) == (128, 96)
    with pytest.raises(UserError, match="rows and columns"):
        export.parse_size(text)


def test_onnx_needs_a_python_with_the_converter(run, trained, tmp_path):
    with pytest.raises(UserError, match="--onnx-python .*none: no such file"):
        make.export_onnx(trained, True, (64, 64), str(tmp_path / "none"), tmp_path / "m.onnx")
    with pytest.raises(UserError, match="conversion to ONNX failed .*No module named"):
        make.export_onnx(trained, True, (64, 64), sys.executable, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_agrees_with_jax(run, trained, tmp_path, capsys):
    """With $JAXSEG_ONNX_PYTHON, a Python that has jax2onnx and onnxruntime."""
    python = os.environ.get("JAXSEG_ONNX_PYTHON")
    if not python:
        pytest.skip("no converter; set JAXSEG_ONNX_PYTHON")
    make.export_onnx(trained, True, (64, 72), python, tmp_path / "m.onnx")
    difference = float(capsys.readouterr().out.split("at most ")[1].split()[0])
    assert 0 < difference < onnx_export.TOLERANCE


def test_onnx_that_disagrees_is_not_written(tmp_path, monkeypatch):
    printed = json.dumps({"difference": 2e-4})
    monkeypatch.setattr(onnx_export, "run", lambda *_, **__: f"log\n{printed}\n")
    with pytest.raises(UserError, match=r"2\.0e-04, more than 1e-04"):
        onnx_export.convert(Path(sys.executable), {}, {"params": {}}, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_reach_the_converter_as_they_are(trained):
    tree = onnx_convert.unflatten(onnx_export.flatten(trained.weights._asdict()))
    assert tree.keys() == {"params", "batch_stats"}
    assert jax.tree.structure(tree) == jax.tree.structure(trained.weights._asdict())
    kernel = trained.weights.params["down_0"]["conv_1"]["kernel"]
    np.testing.assert_array_equal(tree["params"]["down_0"]["conv_1"]["kernel"], kernel)
