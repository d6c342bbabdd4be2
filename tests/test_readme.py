"""README's own command lines, one after the other, as a shell reads them, on small data.

What a line calls is recorded by stand-ins of `python`, `pip` and `pytest`; the programs of jaxseg
are then run with what they were given, smaller. Nothing is written here twice: a command that is
added to README is run too, and one that fails fails the test.
"""

import importlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_data import write_folders, write_lgg
from fake_volume_sets import write_gliomas
from fake_volumes import write_nifti

from jaxseg import view
from jaxseg.config import command_line

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = ("train", "evaluate", "predict", "export", "view", "doctor", "compare")

# Smaller than README's, for a training of seconds; the settings of `doctor` are README's.
SMALL = (
    *("--config.train.num_steps=2", "--config.train.eval_every_steps=2"),
    *("--config.train.batch_size=8", "--config.evaluation.batch_size=8"),
    *(
        "--config.input.image_size=32,32",
        "--config.model.widths=2,4",
        "--config.input.num_workers=0",
    ),
    *("--config.model.compute_dtype=float32", "--config.evaluation.bootstrap_samples=100"),
)
# Of volumes; what the doctor wrote is only made shorter.
SHORT = tuple(text for text in SMALL if re.search("train|evaluation|num_workers", text))
SMALL_VOLUMES = (*SHORT, "--config.input.image_size=(8, 8, 8)", "--config.model.widths=(2, 4)") + (
    *("--config.model.windows=()", "--config.model.kernels=()", "--config.model.blocks=()"),
    *("--config.model.deep_supervision=0", "--config.model.compute_dtype=float32"),
)
# Six persons in three splits.
FEW = ("--config.split.fractions=(0.4, 0.3, 0.3)", "--config.split.salt=2")
PHANTOM = ("--config.dataset.phantom_patients=10", "--config.split.salt=1")
# What stands for the reader's own; the scans of --channels are NIfTI files.
PLACES = {"PATH": "kaggle_3m", "OTHER": "other", "INPUT...": "kaggle_3m", "SCANS": "kaggle_3m"}
PLACES |= {"BRATS": "brats", "RUN": "runs/lgg_cpu", "NAME": "none_of_this_name"}
# Only read: they install, or run all tests; the launch script is run, up to its processes, which
# tests/machine/test_launch.py starts.
ONLY_READ = ("pip", "pytest", "multiprocess")

STAND_IN = f"""#!{sys.executable} -IS
import json, os, sys
record = [os.path.basename(sys.argv[0]), *sys.argv[1:]], os.environ.get("JAX_PROCESS_ID")
with open(os.environ["RECORD"], "a") as file:
    print(json.dumps(record), file=file)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def inline() -> list[str]:
    """Return the calls of jaxseg within README's sentences."""
    found = re.findall(
        r"(?<!`)`(?!`)([^`]+)`", re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
    )
    lines = [" ".join(text.split()) for text in found]
    return [t for t in lines if re.match(r"(python -m )?jaxseg[ .]\w+ --", t)]


def calls(folder: Path, script: str) -> list[list[str]]:
    """Run a script with stand-ins for all programs; return what each was called with."""
    shims = folder / "shims"
    shims.mkdir(exist_ok=True)
    for name in ("python", "pip", "pytest", "jaxseg"):
        (shims / name).write_text(STAND_IN)
        (shims / name).chmod(stat.S_IRWXU)
    record = folder / "record"
    record.write_text("")
    environment = os.environ | {"PATH": f"{shims}:/usr/bin:/bin", "RECORD": str(record)}
    environment["PYTHON"] = str(shims / "python")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), (script, done.stderr)
    found = []
    for line in record.read_text().splitlines():
        (name, *arguments), process = json.loads(line)
        if process is not None:
            found.append(["multiprocess", process, *arguments])
        elif name == "python":
            assert arguments[0] == "-m", line
            found.append(arguments[1:])
        else:
            found.append([f"jaxseg.{arguments[0]}", *arguments[1:]] if name == "jaxseg" else [name])
    return found


def placed(arguments: list[str]) -> list[str]:
    """Return the arguments with small data where README has the reader's."""
    places = dict(PLACES)
    if "--config.dataset.name=image_folder" in arguments:
        places["PATH"] = "folders"
    if "--channels" in arguments:
        places["SCANS"] = "nifti"
    swap = lambda text: places.get(text, text)  # noqa: E731
    return ["=".join(map(swap, text.split("=", 1))) for text in arguments]


def small(program: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a training with a smaller one."""
    if program != "train":
        return arguments
    if "mine.py" in arguments:  # README trains two data sets to one default folder
        arguments = [*arguments, "--workdir", "runs/doctors"]
    given = {text.partition("=")[0] for text in arguments}
    named = {Path(text).stem for text in arguments}
    more = SMALL_VOLUMES if named & {"volumes", "brats", "lgg_volumes"} else SMALL
    more = SHORT if "mine3d" in named else more
    more += PHANTOM if named & {"unet", "volumes"} else FEW if "brats" in named else ()
    return arguments + [text for text in more if text.partition("=")[0] not in given]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the checkout's recipes, and the scans that README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("configs", "launch"):
        (folder / name).symlink_to(ROOT / name)
    patients = [f"CS_{n:04d}" for n in (*range(10), *range(19, 100, 10))]  # no two images alike
    write_lgg(folder / "kaggle_3m", {name: [1, 2, 3] for name in patients})
    write_lgg(folder / "other", {"DU_50": [1, 2], "DU_51": [1, 2]})
    write_folders(folder / "folders", patients=16)
    write_gliomas(folder / "brats")
    rng = np.random.default_rng(0)
    for patient in ("p1", "p2"):
        for name in ("T1c", "Flair")[: 1 + (patient == "p1")]:
            voxels = rng.integers(1, 999, (16, 16, 3)).astype(np.uint16)
            voxels[:3] = 0
            file = name if patient == "p1" else "Flair"
            write_nifti(folder / f"nifti/{patient}/{file}.nii.gz", voxels, np.eye(4))
    voxels = rng.integers(1, 999, (16, 16, 3, 3)).astype(np.uint16)
    write_nifti(folder / "case.nii.gz", voxels, np.eye(4))
    return folder


def commands(place: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the programs of README's blocks with their arguments, in order, then its sentences'."""
    only_read = set()
    for script in (*blocks("bash"), *inline()):
        for name, *arguments in calls(place, script):
            if name in ONLY_READ:
                only_read.add(name)
                continue
            program = name.removeprefix("jaxseg.")
            assert program in PROGRAMS, name
            yield program, small(program, placed(arguments))
    assert only_read == set(ONLY_READ)


class Read(Exception):
    """The command line has been understood."""


def test_readmes_commands_are_understood(place, monkeypatch):
    """Programs, flags, settings and recipes are there; what they do is seen by the slow test."""
    monkeypatch.chdir(place)
    (place / "mine.py").write_text((ROOT / "configs/lgg_cpu.py").read_text())

    def then_stop(parse):
        def parse_and_stop(*given, **names):
            parse(*given, **names)
            raise Read

        return parse_and_stop

    for name in ("parse", "parse_config"):
        monkeypatch.setattr(command_line, name, then_stop(getattr(command_line, name)))
    done = set()
    for program, arguments in commands(place):
        with pytest.raises(Read):
            importlib.import_module(f"jaxseg.{program}").main(arguments)
        done.add(program)
    assert done == set(PROGRAMS)
    for code in blocks("python"):
        compile(code, "README.md", "exec")
    (place / "mine.py").unlink()


@pytest.fixture
def main(place, tmp_path, monkeypatch, capsys):
    """Run a program as its command does; whatever ends it early fails the test."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_server = view.make_server

    def serve(gallery, *given):
        server = make_server(gallery, *given)

        def looked():
            for number in range(len(gallery.rows)):
                assert gallery.scan(number).channels and gallery.predict(number).mask.size

        server.serve_forever = looked
        return server

    monkeypatch.setattr(view, "make_server", serve)
    monkeypatch.setattr(view.webbrowser, "open", lambda address: True)

    def run(program: str, arguments: list[str]):
        module = importlib.import_module(f"jaxseg.{program}")
        if hasattr(module, "start_computing"):  # the tests' own settings of jax stay
            monkeypatch.setattr(module, "start_computing", lambda **_: None)
        try:
            module.main(arguments)
        except (Exception, SystemExit) as error:
            said = capsys.readouterr()
            line = f"jaxseg.{program} {' '.join(arguments)}"
            raise AssertionError(f"{line}: {error!r}\n{said.out[-2000:]}{said.err}") from error

    return run


@pytest.mark.slow
def test_readmes_commands_run_one_after_the_other(place, main):
    done = []
    for program, arguments in commands(place):
        if program == "doctor" and "--remove" in arguments:
            continue  # of a prepared copy whose name only the reader knows
        if "configs/volumes.py" in arguments:
            continue  # heads of full size; tests/runs/test_train_volumes.py trains on small ones
        for run in ("runs/a", "runs/b") if program == "compare" else ():
            shutil.copytree("runs/lgg_cpu", run)
        main(program, arguments)
        done.append(program)
    assert set(done) == set(PROGRAMS)
    # What predict was told of the channels, view reads.
    main("view", ["--workdir", "runs/lgg_cpu", "nifti"])
    run_snippets(place)


def run_snippets(place: Path):
    """Run README's Python, after the commands that make its files.

    But for ONNX, which needs another library, and the driver of volumes, whose file README does
    not make; tests/shipping/test_export_volumes.py runs it.
    """
    for code in blocks("python"):
        code = code.replace("np.zeros((20,", "np.zeros((2,")
        compiled = compile(code, "README.md", "exec")
        if "onnxruntime" not in code and "sliding_window" not in code:
            exec(compiled, {"truth": np.zeros((3, 16, 16), bool)})
