"""A disk that fills up in mid-run: nothing is lost that had been saved, and the run goes on."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fake_config import tiny_config
from test_train import CONFIG_FILE, assert_same_state, lasting, latest, run_training, with_train

from jaxseg.config import Config, Train
from jaxseg.errors import TrainingFailed, UserError
from jaxseg.machine.files import read_json, write_json
from jaxseg.runs import checkpoint, loop, workdir
from jaxseg.runs.progress import Progress
from jaxseg.runs.tensorboard import TensorBoard

# What tensorstore and asyncio leave behind is silenced in programs, but pytest looks deeper.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")


class Disk(NamedTuple):
    folder: Path
    fill: Callable[[], None]
    make_room: Callable[[], None]
    reason: str


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A tmpfs of 8 MB with a file that takes all that is left; needs the right to mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    ballast = folder / "ballast"

    def fill():
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    try:
        yield Disk(folder, fill, ballast.unlink, "No space left on device")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def limited_files(folder: Path) -> Iterator[Disk]:
    """This process's files must not grow beyond 4 kB while the disk is 'full'; for any user."""
    folder.mkdir()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python has it so; else a write beyond the limit would end the test process.
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN

    def make_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))

    try:
        yield Disk(folder, fill, make_room, "File too large")
    finally:
        make_room()


@pytest.fixture(
    params=[pytest.param(small_disk, marks=pytest.mark.slow), limited_files],
    ids=["small_disk", "limited_files"],
)
def disk(request, tmp_path) -> Iterator[Disk]:
    with request.param(tmp_path / "disk") as made:
        yield made


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(cache) -> Config:
    return with_train(tiny_config(cache), num_steps=12, eval_every_steps=2)


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory) -> Path:
    """A run whose disk was never full."""
    run = tmp_path_factory.mktemp("undisturbed")
    run_training(config, run)
    return run


def wait_for(path: Path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def before_step(monkeypatch, actions: dict[int, Callable[[], None]]):
    """Do something when the batch of a step is asked for."""
    good = loop.training_batches

    def batches(*args):
        for step, batch in enumerate(good(*args), start=1):
            actions.get(step, lambda: None)()
            yield batch

    monkeypatch.setattr(loop, "training_batches", batches)


def test_the_run_reports_it_goes_on_and_saves_again(config, disk, undisturbed, monkeypatch, capsys):
    run, best = disk.folder / "run", []

    def fill():
        wait_for(run / "checkpoints" / "4")
        disk.fill()

    def make_room():  # after the saves of steps 6 and 8 have begun
        best.append(checkpoint.load_best(run, config, 3)[0])
        disk.make_room()

    before_step(monkeypatch, {5: fill, 9: make_room})
    assert run_training(config, run) == ""
    told = capsys.readouterr().err
    reason = re.escape(disk.reason)
    assert re.search(
        f"^warning: checkpoint 6 could not be saved: {reason}; the older ones are kept, "
        "the next save tries again$",
        told,
        re.MULTILINE,
    )
    assert told.count("TensorBoard is off from here") == 1
    assert "Traceback" not in told
    assert best[0] in (2, 4)
    assert not (run / "checkpoints" / "6").exists()
    assert_same_state(latest(config, undisturbed), latest(config, run))
    records = [lasting(workdir.read_metrics(r)) for r in (undisturbed, run)]
    assert records[0] == records[1]
    assert (run / "metrics.jsonl").read_text().count("\n") == len(records[0])
    assert not list((run / "checkpoints").glob("*tmp*"))


def test_a_failed_last_save_is_an_error_and_the_same_command_goes_on(
    config, disk, undisturbed, monkeypatch
):
    run = disk.folder / "run"
    with monkeypatch.context() as patch:
        before_step(patch, {5: lambda: (wait_for(run / "checkpoints" / "4"), disk.fill())})
        message = "the last save, of step 12, failed; after making room .* continues from step 4$"
        with pytest.raises(TrainingFailed, match=message):
            run_training(config, run)
    disk.make_room()
    assert sorted(p.name for p in (run / "checkpoints").glob("[0-9]")) == ["2", "4"]
    assert int(latest(config, run).step) == 4
    assert run_training(config, run) == ""
    assert_same_state(latest(config, undisturbed), latest(config, run))
    records = [lasting(workdir.read_metrics(r)) for r in (undisturbed, run)]
    assert records[0] == records[1]


def test_full_before_the_first_save(config, disk, monkeypatch):
    before_step(monkeypatch, {1: disk.fill})
    with pytest.raises(TrainingFailed, match="failed; .* continues from the start"):
        run_training(config, disk.folder / "run")


def test_other_errors_of_a_save_are_not_taken_for_a_full_disk(config, disk, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("no such sharding")

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", broken)
    with pytest.raises(ValueError, match="no such sharding"):
        run_training(config, disk.folder / "run")


def test_records_wait_for_room_without_a_gap_or_a_torn_line(disk, capsys):
    # More than any buffer of Python's holds, in lines that end at no page.
    with Progress(disk.folder, 0, Train(num_steps=400)) as shown:
        for step in range(1, 401):
            if step == 100:
                disk.fill()
            if step == 300:
                disk.make_room()
            shown.record(step, {"value": step / 7})
    assert [r["step"] for r in workdir.read_metrics(disk.folder)] == list(range(1, 401))
    assert (disk.folder / "metrics.jsonl").read_text().count("\n") == 400
    assert capsys.readouterr().err.count("metrics.jsonl cannot be written now") == 1


def test_tensorboard_goes_off_and_never_waits(disk, capsys):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(disk.folder / "board", 0)
    disk.fill()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for step in range(50):
        board.scalars(step, {"value": 1.0})
        board.images(step, [noise])
    assert not board.active
    board.close()
    assert capsys.readouterr().err.count(f"TensorBoard is off from here: {disk.reason}") == 1


def test_tensorboard_is_off_where_it_cannot_begin(tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    (tmp_path / "board").write_text("a file in its place")
    TensorBoard(tmp_path / "board", 0).close()
    assert "TensorBoard is off from here: File exists" in capsys.readouterr().err


def test_a_small_file_is_written_whole_or_kept_as_it_was(disk):
    path = disk.folder / "data.json"
    write_json(path, [1])
    disk.fill()
    with pytest.raises(UserError, match=rf"data.json: cannot be written \({disk.reason}\)"):
        write_json(path, list(range(10_000)))
    disk.make_room()
    assert read_json(path) == [1]
    assert [p.name for p in disk.folder.iterdir() if p.name != "ballast"] == ["data.json"]


@pytest.mark.slow
def test_a_user_sees_one_line_and_no_traceback(cache, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        run, file = disk.folder / "run", tmp_path / "tiny.py"
        file.write_text(CONFIG_FILE.format(tests=str(Path(__file__).parents[1]), cache=str(cache)))
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "jax")
        command = [sys.executable, "-m", "jaxseg.train", "--config", file, "--workdir", run]
        command += ["--config.train.num_steps=60"]
        options = {"env": environment, "text": True, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
            wait_for(run / "checkpoints" / "10")
            disk.fill()
            told = process.communicate(timeout=240)[1].splitlines()
        assert process.returncode == 1, told
        assert told[-1].startswith(f"error: {run}/checkpoints: the last save, of step 60, failed")
        (last,) = map(int, re.findall(r"continues from step (\d+)$", told[-1]))
        assert all(line.startswith("warning: ") for line in told[:-1]), told
        kept = {int(p.name) for p in (run / "checkpoints").glob("[0-9]*") if p.name.isdigit()}
        assert max(kept) == last < 60

        disk.make_room()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=240, **options)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        steps = [r["step"] for r in workdir.read_metrics(run) if "train_loss" in r]
        assert steps == list(range(1, 61))
        evaluations = [r["step"] for r in workdir.read_metrics(run) if "validation_dice" in r]
        assert evaluations == list(range(5, 61, 5))
