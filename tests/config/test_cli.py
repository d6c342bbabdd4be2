"""Command lines: every mistake is one line that says how to mend it, exit code 2, no traceback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxseg.__main__ import PROGRAMS
from jaxseg.config import Config, command_line, settings
from jaxseg.config.recipes import load_recipe
from jaxseg.errors import UserError

ROOT = Path(__file__).parents[2]
PARSE = """
import sys
from jaxseg.config import command_line
from jaxseg.config.settings import to_json

def program(argv):
    _, config, name = command_line.parse_config(argv, "What it does.")
    print(name, to_json(config))

command_line.run(program)
"""


def parse(*arguments: str) -> subprocess.CompletedProcess:
    """Parse a command line in a process of its own: absl's flags are global."""
    return subprocess.run(
        [sys.executable, "-c", PARSE, *arguments], cwd=ROOT, capture_output=True, text=True
    )


def train(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "jaxseg.train", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def python(code: str, shell: str = "", **variables: str | None) -> subprocess.CompletedProcess:
    """Run code as a program of jaxseg, by a shell that closes or pipes its streams."""
    given = {k: v for k, v in (os.environ | variables).items() if v is not None}
    code = f"from jaxseg.config import command_line\ndef p(argv):\n    {code}\ncommand_line.run(p)"
    command = ["sh", "-c", f'"$0" -c "$1" {shell}', sys.executable, code]
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True)


def test_streams_that_are_closed_or_ascii_end_no_program(tmp_path):
    done = python("print('M\u00fcller')", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "M\\xfcller\n"), done.stderr
    code = f"import os, sys; print('told', file=sys.stderr); f = open({str(tmp_path / 'f')!r}, 'w')"
    done = python(f"{code}; os.write(2, b'noise'); print('done')", "2>&-")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert (tmp_path / "f").read_bytes() == b"", "what libraries print went into a file"
    assert python("print('x')", ">&-").returncode == 0
    done = python("[print('x' * 100) for _ in range(9999)]", "| head -n 1")
    assert done.stderr == ""


def test_an_unknown_home_is_one_line():
    code = (
        "from unittest import mock; import pathlib\n    with mock.patch('os.path.expanduser', str):"
    )
    done = python(f"{code} pathlib.Path('~/scans').expanduser()")
    assert_refused(done, "error: ~ is not known here: set HOME or give whole paths")


def test_ctrl_c_while_the_program_is_imported_prints_nothing(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # or it may be ignored
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "jaxseg.train", "--config", "unet"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        signal.signal(signal.SIGINT, before)
        while "numpy" not in (line := started.stderr.readline()):
            assert line
        started.send_signal(signal.SIGINT)
        rest = started.communicate()[1]
    assert started.returncode == -signal.SIGINT and "Traceback" not in rest


def assert_refused(done: subprocess.CompletedProcess, *parts: str):
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


RECIPES = "brats, lgg, lgg_cpu, lgg_volumes, unet, volumes"
UNET = ("--config", "configs/unet.py")
LISTS = [f"--config.split.{name}=('{name}',)" for name in ("train", "validation", "test")]


def test_overrides_of_every_type():
    done = parse(
        *UNET,
        "--config.seed=7",
        "--config.optimizer.learning_rate=1",
        "--config.model.widths=(4, 8)",
        "--config.model.remat=true",
        "--config.dataset.source=/some/where",
        "--config.split.train=('a',)",
        "--config.split.validation=('b',)",
        "--config.split.test=('c',)",
    )
    assert done.returncode == 0, done.stderr
    name, _, text = done.stdout.partition(" ")
    assert name == "unet"
    for part in ('"seed": 7', '"learning_rate": 1.0', '"remat": true', '"source": "/some/where"'):
        assert part in text


def test_folds_have_a_name_beside_the_data_set():
    done = parse(*UNET, "--config.dataset.folds=5", "--config.dataset.fold", "3")
    assert done.returncode == 0, done.stderr
    assert '"num_folds": 5' in done.stdout and '"fold": 3' in done.stdout


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ((), ["--config configs/unet.py"]),
        (("--config",), ["--config needs a value"]),
        (
            ("--config", "nowhere.py"),
            ["nowhere.py: no such file", RECIPES],
        ),
        (
            ("--config", "unit"),
            ["unit: no such file", RECIPES],
        ),
        ((*UNET, "--config.train.batchsize=4"), ["batchsize", "batch_size"]),
        ((*UNET, "--config.trian.batch_size=4"), ["trian", "did you mean config.train.batch"]),
        ((*UNET, "--config.learning_rate=4"), ["did you mean config.optimizer.learning_rate?"]),
        ((*UNET, "--config.split.train=a,b"), ["give ids in quotes"]),
        ((*UNET, "--config.train.batch_size=four"), ["batch_size", "four"]),
        ((*UNET, "--config.train.batch_size=0"), ["config.train.batch_size=0: must be at least 1"]),
        ((*UNET, "--config.model.norm=layer"), ["config.model.norm='layer'", "batch", "group"]),
        ((*UNET, "--config.model.dropout=1.5"), ["config.model.dropout=1.5"]),
        (
            (*UNET, "--config.input.image_size=(100, 128)"),
            ["(100, 128)", "multiple of 8, such as 96 or 104"],
        ),
        ((*UNET, "--config.input.image_size=128"), ["image_size"]),
        ((*UNET, "--config.split.fractions=(0.5, 0.5, 0.5)"), ["sum to 1"]),
        ((*UNET, "--config.dataset.fold=1"), ["config.split.fold=1: must lie in 0..0"]),
        ((*UNET, *LISTS, "--config.dataset.folds=3"), ["config.split.num_folds=3: leave it out"]),
        ((*UNET, "--config.dataset.folder=1"), ["config.dataset.folder: no such setting"]),
        ((*UNET, "--wrokdir=x"), ["wrokdir"]),
        ((*UNET, "train.batch_size=4"), ["train.batch_size=4", "--config.name=VALUE"]),
    ],
)
def test_mistakes(arguments, parts):
    assert_refused(parse(*arguments), *parts)


def test_a_broken_config_file_names_the_error(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def get_config():\n    return 1 / 0\n")
    assert_refused(parse("--config", str(file)), "broken.py: ZeroDivisionError")
    file.write_text("x = 1\n")
    assert_refused(parse("--config", str(file)), "get_config")


def test_help_lists_every_setting():
    done = parse("--help")
    assert done.returncode == 0
    assert "What it does." in done.stdout
    assert "--config.train.batch_size=16" in done.stdout
    assert "--config.plateau.patience=" in done.stdout
    assert "--config.dataset.folds    same as --config.split.num_folds" in done.stdout


def test_flags_are_spelled_with_dashes_or_underscores():
    for argv in (["--a-b=c_d", "--e-f", "x_y"], ["--a_b", "c_d", "--e_f", "x_y"]):
        options, rest = command_line.parse(argv, "", text=("a-b",), switch=("e-f",), g_h=3)
        assert (options.a_b, options.e_f, options.g_h, rest) == ("c_d", True, 3, ["x_y"])
    with pytest.raises(UserError, match="did you mean --a-b"):
        command_line.parse(["--a_c"], "", text=("a_b",))
    assert '"batch_size": 3' in parse(*UNET, "--config.train.batch-size=3").stdout


def jaxseg(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "jaxseg", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_one_command_has_all_programs(tmp_path):
    done = jaxseg()
    assert done.returncode == 0 and done.stdout == jaxseg("--help").stdout
    for name in PROGRAMS:
        assert f"\n  {name} " in done.stdout and (ROOT / f"jaxseg/{name}.py").is_file()
    assert_refused(jaxseg("tarin"), "tarin: no such program; did you mean train?")
    assert_refused(jaxseg("--workdir"), "--workdir: no such flag")
    assert_refused(jaxseg("evaluate", "--workdir", str(tmp_path)), "no run here")
    assert jaxseg("doctor", "--help").stdout.startswith("Say what a data set is")


def test_the_program_itself_refuses_a_missing_source():
    assert_refused(train("--config", "configs/lgg_cpu.py"), "--config.dataset.source=PATH")
    done = train("--config", "configs/lgg_cpu.py", "--config.dataset.source=/nowhere/at/all")
    assert_refused(done, "/nowhere/at/all")


def test_evaluate_refuses_a_folder_without_a_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxseg.evaluate", "--workdir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert_refused(done, "no run here")


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_the_configs_load_and_survive_json(file):
    loaded = load_recipe(str(file))
    assert settings.from_dict(json.loads(settings.to_json(loaded))) == loaded


def test_what_differs_from_the_defaults_is_said():
    assert settings.differences(Config()) == "  the defaults"
    changed = settings.from_dict({"seed": 3, "train": {"batch_size": 4, "num_steps": 20_000}})
    assert settings.differences(changed) == "  seed=3, train.batch_size=4"


@pytest.mark.parametrize(
    "values, message",
    [
        ({"optimiser": {}}, "config.optimiser: no such setting"),
        ([], r"config=\[\]: must be a group of settings"),
        ({"train": None}, "config.train=None: must be a group of settings"),
        ({"train": {"steps": 3}}, "config.train.steps: no such setting; config.train has"),
        ({"train": {"batch_size": 1.5}}, "must be of type int"),
        ({"train": {"batch_size": True}}, "must be of type int"),
        ({"model": {"remat": 1}}, "must be of type bool"),
        ({"model": {"widths": 3}}, "must be a tuple"),
        ({"dataset": {"source": 3}}, "must be of type str"),
    ],
)
def test_wrong_values_in_a_saved_config(values, message):
    with pytest.raises(UserError, match=message):
        settings.from_dict(values)


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(28, "No space left on device", "a/report.html"), "error: a/report.html: No space"),
        (OSError(28, "No space left on device"), "error: the disk is full: No space left on"),
    ],
)
def test_a_full_disk_is_one_line_and_1(capsys, monkeypatch, error, said):
    def program(argv):
        raise error

    monkeypatch.setattr(sys, "argv", ["jaxseg"])
    with pytest.raises(SystemExit) as ended:
        command_line.run(program)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(said)


def test_other_errors_of_files_keep_their_traceback(monkeypatch):
    def program(argv):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sys, "argv", ["jaxseg"])
    with pytest.raises(PermissionError):
        command_line.run(program)
