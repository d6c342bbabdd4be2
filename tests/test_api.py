"""`import jaxseg` for notebooks: small, late, and the same numbers as the programs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_config import tiny_config
from fake_data import make_slice, write_folders, write_image
from fake_run import write_run

import jaxseg
from jaxseg.datasets.prepare import prepare
from jaxseg.errors import UserError
from jaxseg.prediction import operating, trained
from jaxseg.prediction.inference import predict_patients
from jaxseg.prediction.operating import OperatingPoint

ROOT = Path(__file__).parents[1]


def run_python(code: str, **environment: str) -> str:
    """Run code in a process of its own, with the environment as a user's."""
    drop = ("XLA_FLAGS", "JAX_PLATFORMS", "MALLOC_")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_nothing_and_changes_nothing():
    code = """
import os, signal, sys
before = dict(os.environ), signal.getsignal(signal.SIGINT), set(sys.modules)
import jaxseg
assert (dict(os.environ), signal.getsignal(signal.SIGINT)) == before[:2]
new = {name.split(".")[0] for name in set(sys.modules) - before[2]}
print(sorted(new - set(sys.stdlib_module_names)), jaxseg.__version__)
assert set(jaxseg._API) <= set(dir(jaxseg))
assert all(f"jaxseg.{name}(" in jaxseg.__doc__ for name in jaxseg._API)
for name in jaxseg._API:
    getattr(jaxseg, name)
assert not {"jax", "flax", "matplotlib", "tensorflow_datasets", "cv2.gapi"} & set(sys.modules)
"""
    assert run_python(code) == f"['jaxseg'] {jaxseg.__version__}\n"
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        jaxseg.load  # noqa: B018


def test_scans_are_read_and_statistics_computed_without_jaxlib(tmp_path):
    """What the README's ONNX example needs."""
    for n in range(2):
        write_image(tmp_path / f"p/s{n}.png", make_slice(n)[0])
    code = f"""
import sys
sys.modules["jaxlib"] = sys.modules["jax"] = None
import jaxseg
from jaxseg.imaging.intensity import head_box, volume_statistics
image = jaxseg.read_scan({str(tmp_path / "p")!r}).image
print(image.shape, volume_statistics(image).shape, head_box(image).shape)
mask = image[..., 0] > 100
print(jaxseg.score_masks(mask, mask)["dice"])
"""
    assert run_python(code) == "(2, 12, 16, 3) (3, 4) (4,)\n1.0\n"


def test_a_patient_among_several_is_asked_for(tmp_path):
    write_folders(tmp_path, patients=2)
    with pytest.raises(UserError, match="2 patients, say which: p0, p1"):
        jaxseg.read_scan(tmp_path)
    with pytest.raises(UserError, match="no patient p7"):
        jaxseg.read_scan(tmp_path, "p7")
    volume = jaxseg.read_scan(tmp_path, "p1")
    np.testing.assert_array_equal(volume.image[2], make_slice(102)[0])
    with pytest.raises(UserError, match="does not exist"):
        jaxseg.read_scan(tmp_path / "none")


def test_data_are_prepared_by_what_the_files_say(tmp_path):
    write_folders(tmp_path / "scans")
    data = jaxseg.prepare_data(tmp_path / "scans", cache_dir=str(tmp_path / "cache"))
    assert [p.id for p in data.patients] == ["p0", "p1", "p2"] and data.regions == ("tumour",)
    volume = data.volume(data.patients[1])
    np.testing.assert_array_equal(volume.image[0], make_slice(100)[0])
    np.testing.assert_array_equal(volume.mask[0], make_slice(100)[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pairs of image and mask"):
        jaxseg.prepare_data(tmp_path / "empty")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_run(folder / "run", tiny_config(folder / "cache"), OperatingPoint(0.5, 3.0))


def test_a_volume_is_predicted_as_by_the_programs(run, monkeypatch):
    monkeypatch.setattr("jaxseg.machine.start.start_computing", lambda: None)
    loaded = jaxseg.load_run(run)
    assert loaded.regions == ("tumour",) and loaded.patients["test"] == ["phantom_005"]
    prepared = prepare(loaded.trained.config.dataset)
    patient = prepared.patients[5]
    (case,) = predict_patients(trained.predictor(trained.load(run)), prepared, [patient])
    for volume in (case.volume, case.volume.image):
        probability, mask = loaded.predict(volume)
        np.testing.assert_allclose(probability, case.probability[..., 0], atol=1e-6)
        expected = operating.segment(case.probability[..., 0], OperatingPoint(0.5, 3.0))
        np.testing.assert_array_equal(mask, expected)
    with pytest.raises(UserError, match=r"give \[slices, rows, columns, 3\]"):
        loaded.predict(case.volume.image[..., :2])
    with pytest.raises(UserError, match="no run here"):
        jaxseg.load_run(run / "elsewhere")


def test_scores_are_those_of_the_scorecard_by_hand():
    prediction, truth = np.zeros((2, 4, 4)), np.zeros((2, 4, 4), np.uint8)
    prediction[0, 0, :3], truth[0, 0, 1:] = 1, 255  # 2 of 3 in common
    scores = jaxseg.score_masks(prediction, truth, (5.0, 1.0, 1.0))
    assert scores["dice"] == pytest.approx(2 / 3) and scores["iou"] == pytest.approx(1 / 2)
    assert scores["hd95"] == pytest.approx(np.percentile([1, 0, 0], 95))
    assert scores["truth_voxels"] == 3 and scores["volume_error"] == 0
    assert jaxseg.score_masks(prediction[0], truth[0])["dice"] == pytest.approx(2 / 3)
    with pytest.raises(UserError, match="give two of one shape"):
        jaxseg.score_masks(prediction, truth[0])


def test_pictures_show_themselves_in_a_notebook():
    image = np.random.default_rng(0).normal(size=(3, 20, 20))
    mask = np.zeros((3, 20, 20), bool)
    mask[1, 5:9, 5:9] = True
    picture = jaxseg.draw_contours(image, truth=mask, prediction=mask, title="p")
    assert picture._repr_png_().startswith(b"\x89PNG") and repr(picture).startswith("<PNG of ")
    with pytest.raises(UserError, match="nothing to draw"):
        jaxseg.draw_contours(image)


def test_loader_processes_work_where_nobody_parsed_flags(tmp_path):
    code = f"""
import jaxseg
from jaxseg.config import Config, Input, Train
from jaxseg.datasets.samples import training_batches

if __name__ == "__main__":
    data = jaxseg.prepare_data(phantom_patients=3, cache_dir={str(tmp_path)!r})
    config = Config(input=Input(image_size=(32, 32), num_workers=1), train=Train(batch_size=4))
    batches = training_batches(data, data.patients, config, 0)
    print(next(batches)["image"].shape)
    batches.close()
"""
    (tmp_path / "program.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=590)
    assert done.stdout == "(4, 32, 32, 3)\n", done.stderr
