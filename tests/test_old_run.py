"""Runs of an older version: continued, scored, predicted, exported, compared and shown as it did.

old_run.zip was made by the programs of commit edaf647, before the package was sorted into folders:

  git worktree add ../old edaf647
  cp tests/test_old_run.py ../old/tests/ && cd ../old && python tests/test_old_run.py

with jaxseg installed from there. It holds what the programs are given, and in expected.json and
expected.npz what those of that commit made of it:

  stopped/      a run ended by SIGTERM between two evaluations, in the cooldown of the learning rate
  finished/     the same run continued, tuned and tested; without figures and report
  untuned/      scores of the best weights in stopped/
  scans/        slices as PNG, and an oblique NIfTI file
  model.jaxseg  exported from finished/
  first.json    settings of a run of twenty steps: configs/unet.py with fewer patients

Only programs are started, so nothing here knows the modules of jaxseg. On the kind of machine that
the file was made on all numbers are the same to the last bit; on others XLA sums in another order,
and TOLERANCES are about five times or more what differed when other CPUs were imitated there (XLA
up to SSE 4.2, AVX and AVX2, OpenCV and NumPy without AVX, one thread): of `first` 2e-4 of the
metrics and 1e-3 of the parameters, of `continued` 3e-5 of the metrics, 6e-4 of Adam's moments and
nothing of the scores.
"""

import csv
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import nibabel
import numpy as np
import orbax.checkpoint as ocp
import pytest

ROOT, ZIP = Path(__file__).parents[1], Path(__file__).with_name("old_run.zip")
CONFIG = ("--config", str(ROOT / "configs" / "unet.py"))
# On other kinds of machines, of numbers and of arrays: relative, and absolute for numbers below 1;
# of arrays of floats the norm of the difference by the norm, of others the share of values.
TOLERANCES = {
    "first": (2e-3, 1e-2),
    "continued": (1e-3, 3e-3),
    "evaluated": (1e-3, 1e-4),
    "predicted": (1e-3, 1e-4),
    "exported": (1e-3, 5e-3),
    "compared": (1e-6, 0),
    "viewed": (1e-3, 1e-4),
}
EXACT = (None, None)
# On every machine: the calibration curve of the tuning is made from the logits since, and was from
# probabilities rounded to float32. The temperature, four digits of it, is the same.
ROUNDED = {"calibration": 1e-3}
# Mended since: the old version multiplied edge lengths, and the voxels of `head` are sheared.
MENDED = {"volume_ml"}


class Found(NamedTuple):
    """What a program made; what stands under the name `bits` is not compared with a tolerance."""

    values: dict[str, Any]  # as JSON
    arrays: dict[str, np.ndarray]


def machine() -> dict[str, Any]:
    """Return what the last bits depend on."""
    libraries = ("jax", "jaxlib", "flax", "optax", "grain", "numpy", "scipy", "nibabel")
    kept = ("model", "cpu family", "stepping", "cache size", "flags", "Features", "CPU ")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"model {platform.processor()}"]
    kind = "\n".join(sorted({line for line in lines if line.startswith(kept)}))
    affinity = getattr(os, "sched_getaffinity", None)
    return {name: importlib.metadata.version(name) for name in libraries} | {
        "opencv": cv2.__version__,
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "cpu": hashlib.sha256(kind.encode()).hexdigest()[:16],
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
    }


# Programs.


def command(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Return what starts `python -m jaxseg.NAME` in folder: one CPU device, without C++."""
    others = ("JAX", "XLA_", "SLURM_", "OMPI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    own = {
        "JAX_PLATFORMS": "cpu",
        "JAXSEG_NATIVE": "0",  # is compiled for the very CPU
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return {
        "args": [sys.executable, "-m", f"jaxseg.{name}", *arguments],
        "cwd": folder,
        "env": kept | own,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }


def run(folder: Path, name: str, *arguments: str):
    """Run a program to its end, which must be good."""
    done = subprocess.run(**command(folder, name, *arguments), timeout=590, check=False)
    assert done.returncode == 0, f"{name} {' '.join(arguments)}:\n{done.stdout}"


def settings(path: Path) -> list[str]:
    """Return the arguments that give a training the settings in a config.json."""
    made = []
    for section, values in read_json(path).items():
        inside = values if isinstance(values, dict) else {"": values}
        for name, value in inside.items():
            value = tuple(value) if isinstance(value, list) else value
            setting = f"{section}.{name}".rstrip(".")
            made += [] if value is None else [f"--config.{setting}={value}"]
    return made


# What is compared.


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_csv(path: Path) -> list[dict[str, float | str]]:
    with path.open(newline="") as file:
        return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def read_metrics(run_: Path) -> list[dict[str, float]]:
    """Return the records without what depends on the clock."""
    records = map(json.loads, (run_ / "metrics.jsonl").read_text().splitlines())
    clock = re.compile("samples_per_second|time_.*")
    return [{k: v for k, v in r.items() if not clock.fullmatch(k)} for r in records]


def read_state(run_: Path) -> dict[str, np.ndarray]:
    """Return all arrays of the newest checkpoint."""
    newest = max((run_ / "checkpoints").iterdir(), key=lambda path: int(path.name)).absolute()
    made = {}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        for item in ("model", "train"):
            tree = checkpointer.metadata(newest / item).item_metadata.tree
            target = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            args = ocp.args.PyTreeRestore(restore_args=target)
            tree = checkpointer.restore(newest / item, args=args)
            for path, array in jax.tree_util.tree_leaves_with_path(tree):
                made[f"{item}/{jax.tree_util.keystr(path, simple=True, separator='/')}"] = array
    return made


def written(folder: Path) -> dict[str, str]:
    """Return the files in a folder; others may come to them."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    kept = [path for path in paths if path.parts[0] not in ("checkpoints", "tensorboard")]
    return {path.as_posix(): "written" for path in kept}


def digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()


def read_evaluation(folder: Path) -> dict[str, Any]:
    return {
        "scores": read_json(folder / "scores.json"),
        "patients": read_csv(folder / "patients.csv"),
        "files": written(folder),
    }


def first(folder: Path) -> Found:
    """Train for twenty steps."""
    run(folder, "train", *CONFIG, *settings(folder / "first.json"), "--workdir", "first")
    state = {k: v for k, v in read_state(folder / "first").items() if k.startswith("model")}
    sums = [[x.sum(dtype=np.float64), np.abs(x).sum(dtype=np.float64)] for x in state.values()]
    some = [x.ravel()[:: -(-x.size // 8)] for x in state.values()]
    values = {
        "parameters": {name: [list(x.shape), str(x.dtype)] for name, x in state.items()},
        "bits": digest(*(x.tobytes() for x in state.values())),
        "metrics": read_metrics(folder / "first"),
    }
    return Found(values, {"sums": np.array(sums), "some": np.concatenate(some)})


def continued(folder: Path, name: str = "stopped") -> Found:
    """Go on with the stopped run, to its test scores."""
    run(folder, "train", *CONFIG, *settings(folder / name / "config.json"), "--workdir", name)
    files = ("config", "data", "baseline", "operating_point", "finished")
    values = {file: read_json(folder / name / f"{file}.json") for file in files}
    values |= {
        "files": written(folder / name),
        "checkpoints": sorted(path.name for path in (folder / name / "checkpoints").iterdir()),
        "metrics": read_metrics(folder / name),
        "test": read_evaluation(folder / name / "evaluation" / "test"),
    }
    return Found(values, read_state(folder / name))


def copy_finished(folder: Path, name: str) -> Path:
    return shutil.copytree(folder / "finished", folder / name)


def give_point(run_: Path):
    """Write an operating point that drops small lesions."""
    point = {"threshold": 0.15, "min_lesion": 20.0, "unit": "voxels", "temperature": 1.25}
    (run_ / "operating_point.json").write_text(json.dumps({"point": point}))


def evaluated(folder: Path) -> Found:
    """Score the finished run again."""
    shutil.rmtree(copy_finished(folder, "again") / "evaluation")
    run(folder, "evaluate", "--workdir", "again")
    return Found(read_evaluation(folder / "again" / "evaluation" / "test"), {})


def predicted(folder: Path) -> Found:
    """Predict slices and a NIfTI file."""
    output = folder / "predicted"
    give_point(copy_finished(folder, "predicting"))
    arguments = ("--workdir", "predicting", "scans", "--output", output.name, "--probabilities")
    run(folder, "predict", *arguments)
    records = {p.name: read_json(p / "prediction.json") for p in output.iterdir() if p.is_dir()}
    for record in records.values():
        del record["how"]["runs"]  # where they lie
    values = {"table": read_csv(output / "predictions.csv"), "records": records}
    voxel_mm3 = abs(np.linalg.det(nibabel.load(folder / "scans" / "head.nii.gz").affine[:3, :3]))
    head = records["head"]
    assert math.isclose(head["volume_ml"], head["voxels"] * voxel_mm3 / 1000, rel_tol=1e-6)
    values["files"] = written(output)
    masks = [output / "head" / "mask.nii.gz", *sorted((output / "slices" / "mask").iterdir())]
    values["bits"] = {path.name: digest(path.read_bytes()) for path in masks}
    arrays = {}
    for kind in ("mask", "probability"):
        slices = sorted((output / "slices" / kind).iterdir())
        images = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in slices]
        arrays[f"slices {kind}"] = np.stack(images)
        file = nibabel.load(output / "head" / f"{kind}.nii.gz")
        arrays[f"head {kind}"] = np.asarray(file.dataobj)
        arrays[f"head {kind} affine"] = file.affine
    arrays["slices probability"] = arrays["slices probability"].astype(np.float32) / 65535
    return Found(values, arrays)


def exported(folder: Path) -> Found:
    """Verify the old file, and export anew."""
    run(folder, "export", "--verify", "model.jaxseg")
    return read_export(export(folder, "new.jaxseg"))


def export(folder: Path, name: str) -> Path:
    run_ = copy_finished(folder, f"exporting {name}")
    give_point(run_)
    size = ("--size=64,48", "--compare=0")
    run(folder, "export", "--workdir", run_.name, "--output", name, *size)
    return folder / name


def read_export(path: Path) -> Found:
    with zipfile.ZipFile(path) as file:
        metadata, text = json.loads(file.read("metadata.json")), file.read("README.txt").decode()
        arrays = dict(np.load(io.BytesIO(file.read("golden.npz"))))
        names = dict.fromkeys(file.namelist(), "written")
    del metadata["versions"]
    return Found({"metadata": metadata, "readme": text.splitlines(), "members": names}, arrays)


def compared(folder: Path) -> Found:
    """Compare the scores of the finished run with those of the stopped one."""
    run(folder, "compare", "untuned", "finished", "--output", "comparison")
    made = folder / "comparison"
    return Found({"comparison": read_json(made / "comparison.json"), "files": written(made)}, {})


def viewed(folder: Path) -> Found:
    """Ask the viewer for its list, a patient and some planes."""
    options = command(folder, "view", "--workdir", "finished", "--no-browser")
    with subprocess.Popen(**options) as viewer:
        try:
            printed = ""
            while not (match := re.search(r"at (http://\S+/)", printed)):
                line = viewer.stdout.readline()
                assert line, printed
                printed += line

            def get(path: str) -> bytes:
                with urllib.request.urlopen(match[1] + path, timeout=100) as answer:
                    return answer.read()

            pages = ("patients", "patient/0/scan", "patient/0/prediction")
            values = {page: json.loads(get(f"{page}.json")) for page in pages}
            shape = values["patient/0/scan"]["shape"]
            as_of_one_region(values)
            tumour = values["patient/0/scan"]["truth"][0]
            where = f"0/{tumour.index(max(tumour))}"
            planes = {name: get(f"patient/0/{name}/{where}") for name in LAYERS}
            arrays = {
                name: np.frombuffer(plane, LAYERS[name]).reshape(shape[1:])
                for name, plane in planes.items()
            }
            arrays["probability"] = arrays.pop("probability-0").astype(np.float32) / 255
        finally:
            viewer.send_signal(signal.SIGINT)
            rest, _ = viewer.communicate(timeout=60)
    assert viewer.returncode == 130, printed + rest
    return Found(values, arrays)


def as_of_one_region(values: dict):
    """Bring what the page is told into the form of before, when there were no regions."""
    patients, scan, prediction = values.values()
    patients["threshold"] = patients.pop("thresholds")[0]
    patients["patients"] = [
        {"patient": row["patient"]} | row["regions"][0] for row in patients["patients"]
    ]
    scan["truth"], prediction["areas"] = scan["truth"][0], prediction["areas"][0]


LAYERS = {
    "image-0": "<u2",
    "image-1": "<u2",
    "image-2": "<u2",
    "truth": bool,
    "prediction": bool,
    "probability-0": np.uint8,
}
PROGRAMS = {
    f.__name__: f for f in (first, continued, predicted, exported, viewed, evaluated, compared)
}


# The comparison.


def differences(old: Any, new: Any, tolerance: float | None, where: str = "") -> Iterator[str]:
    """Say where new values are not the old ones; keys may be added.

    Args:
        old, new: values as JSON.
        tolerance: of numbers; None: equal.
        where: the path so far.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() - new.keys():
            yield f"{where}/{name}: missing"
        for name in old.keys() & new.keys() - MENDED:
            if tolerance is None or name != "bits":
                allowed = tolerance or ROUNDED.get(name)
                yield from differences(old[name], new[name], allowed, f"{where}/{name}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, tolerance, f"{where}/{i}")
    elif tolerance and _is_number(old) and _is_number(new):
        if not math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance):
            yield f"{where}: was {old!r}, is {new!r}"
    elif old != new:
        yield f"{where}: was {old!r}, is {new!r}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def array_differences(old: dict, new: dict, tolerance: float | None) -> Iterator[str]:
    """Say which new arrays are not the old ones; see TOLERANCES."""
    for name, a in old.items():
        b = new.get(name)
        if b is None or b.shape != a.shape or b.dtype != a.dtype:
            yield f"{name}: was {a.dtype} {a.shape}, is {None if b is None else (b.dtype, b.shape)}"
        elif tolerance is None:
            if not np.array_equal(a, b):
                yield f"{name}: {np.sum(a != b)} of {a.size} values differ"
        elif a.dtype.kind == "f":
            change, size = np.linalg.norm(b.astype(float) - a), np.linalg.norm(a.astype(float))
            if not change <= tolerance * size:
                yield f"{name}: differs by {change / size:.1e} of its norm"
        elif np.mean(a != b) > tolerance:
            yield f"{name}: {np.mean(a != b):.1e} of the values differ"


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old_run")
    with zipfile.ZipFile(ZIP) as file:
        file.extractall(folder)
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "first" else ()) for n in PROGRAMS]
)
def test_does_what_the_old_version_did(old, name):
    expected = read_json(old / "expected.json")
    of_numbers, of_arrays = EXACT if expected["machine"] == machine() else TOLERANCES[name]
    with np.load(old / "expected.npz") as file:
        arrays = {k.removeprefix(f"{name}: "): file[k] for k in file if k.startswith(f"{name}: ")}
    found = PROGRAMS[name](old)
    values = json.loads(json.dumps(found.values))  # lists for tuples
    problems = [
        *differences(expected[name], values, of_numbers),
        *array_differences(arrays, found.arrays, of_arrays),
    ]
    assert not problems, "\n".join(problems[:40])


@pytest.mark.parametrize("tolerance", [None, 1e-3])
def test_a_difference_is_seen(tolerance):
    old = {"a": [1.0, {"b": "x"}], "c": None, "bits": "1"}
    more = old | {"d": 2}
    assert not list(differences(old, more, tolerance))
    assert list(differences(more, old, tolerance)) == ["/d: missing"]
    for other in ({"a": [1.01, {"b": "x"}]}, {"a": [1.0, {"b": "y"}]}, {"a": [1.0]}, {"c": 0}):
        assert len(list(differences(old, old | other, tolerance))) == 1
    assert bool(list(differences(old, old | {"bits": "2"}, tolerance))) == (tolerance is None)
    assert not list(differences({"calibration": 0.5}, {"calibration": 0.5001}, tolerance))
    assert list(differences({"calibration": 0.5}, {"calibration": 0.51}, tolerance))
    arrays = {"x": np.ones(8, np.float32), "y": np.arange(8)}
    assert not list(array_differences(arrays, arrays, tolerance))
    for other in ({"x": np.float32(1.01) * arrays["x"]}, {"y": arrays["y"] ^ 1}, {"x": np.ones(8)}):
        assert len(list(array_differences(arrays, arrays | other, tolerance))) == 1


# How old_run.zip was made.

PATIENTS = [f"phantom_{i:03d}" for i in range(10)]
SETTINGS = {
    "dataset.phantom_patients": len(PATIENTS),
    "train.batch_size": 8,
    "evaluation.bootstrap_samples": 1000,
}
FIRST = SETTINGS | {
    "split.train": tuple(PATIENTS[:8]),
    "split.validation": tuple(PATIENTS[8:9]),
    "split.test": tuple(PATIENTS[9:]),
    "train.num_steps": 20,
    "train.log_every_steps": 1,
    "evaluation.tune": False,
}
STOPPED = SETTINGS | {
    "split.train": tuple(PATIENTS[:3]),
    "split.validation": tuple(PATIENTS[3:6]),
    "split.test": tuple(PATIENTS[6:]),
    "input.image_size": (32, 32),
    "model.widths": (4, 8),
    "optimizer.learning_rate": 0.015,
    "optimizer.warmup_steps": 10,
    "optimizer.ema_decay": 0.9,
    "plateau.patience": 2,
    "plateau.min_delta": 0.1,
    "early_stop.patience": 0,
    "train.num_steps": 120,
    "train.eval_every_steps": 12,
    "train.log_every_steps": 5,
}
MEMBERS = ("stopped", "finished", "untuned", "scans", "model.jaxseg", "first.json")
STOP_AT = 72  # SIGTERM after the evaluation of this step, which reduces the learning rate


def main():
    """Make old_run.zip with the jaxseg that is installed."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        given = {
            name: [f"--config.{k}={v}" for k, v in made.items()]
            for name, made in (("first", FIRST), ("stopped", STOPPED))
        }
        run(folder, "train", *CONFIG, *given["first"], "--workdir", "first")
        shutil.move(folder / "first" / "config.json", folder / "first.json")
        shutil.rmtree(folder / "first")
        options = command(folder, "train", *CONFIG, *given["stopped"], "--workdir", "stopped")
        with subprocess.Popen(**options) as training:
            for line in training.stdout:
                print(line, end="")
                if line.startswith(f"step {STOP_AT}/") and "validation" in line:
                    training.send_signal(signal.SIGTERM)
        assert training.returncode == 0
        step = read_metrics(folder / "stopped")[-1]["step"]
        assert all(step % STOPPED[f"train.{name}_every_steps"] for name in ("eval", "log")), step
        run(folder, "evaluate", "--workdir", "stopped", "--output", "untuned")
        shutil.rmtree(folder / "stopped" / "tensorboard")
        shutil.copytree(folder / "stopped", folder / "finished")
        found = {"continued": continued(folder, "finished")}
        for name in ("untuned", "finished"):
            for path in (folder / name).rglob("*"):
                if path.suffix in (".png", ".html"):
                    path.unlink()
        shutil.rmtree(folder / "finished" / "tensorboard")
        for path in folder.rglob("commit_success.txt"):
            path.write_text("")  # names the place
        make_scans(folder / "scans", read_export(export(folder, "model.jaxseg")).arrays["volume"])
        kept = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        kept = [p for p in kept if p.relative_to(folder).parts[0] in MEMBERS]
        members = {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}
        found |= {name: PROGRAMS[name](folder) for name in PROGRAMS if name != "continued"}
    values = {"machine": machine()} | {name: made.values for name, made in found.items()}
    arrays = {f"{n}: {k}": array for n, made in found.items() for k, array in made.arrays.items()}
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    members["expected.json"] = json.dumps(values, indent=1).encode()
    members["expected.npz"] = packed.getvalue()
    with zipfile.ZipFile(ZIP, "w") as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)
    print(f"{ZIP}: {len(members)} files, {ZIP.stat().st_size} bytes")


def make_scans(folder: Path, volume: np.ndarray):
    """Write a volume [D, H, W, C] of bytes as slices and, turned, as a NIfTI file."""
    (folder / "slices").mkdir(parents=True)
    for i, pixels in enumerate(volume.astype(np.uint8)):
        assert cv2.imwrite(str(folder / "slices" / f"slice_{i}.png"), pixels[..., ::-1])
    affine = np.array([[-0.9, 0.1, 0, 30], [0.1, 0.9, 0.3, -20], [0, -0.2, 4, 5], [0, 0, 0, 1.0]])
    voxels = volume.transpose(2, 1, 0, 3)[:, ::-1].astype(np.int16)
    nibabel.Nifti1Image(voxels, affine).to_filename(folder / "head.nii.gz")


if __name__ == "__main__":
    main()
