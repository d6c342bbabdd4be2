"""What the loader says when its files or its processes are lost; nothing waits for ever."""

import contextlib
import dataclasses
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from fake_config import tiny_config
from fake_data import write_folders

from jaxseg.config import Config, Dataset, Input
from jaxseg.datasets import decoded, loaders, samples
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.prepared import Prepared
from jaxseg.errors import TrainingFailed
from jaxseg.machine import locks
from jaxseg.runs import workdir

TIME_LIMIT_SECONDS = 300  # a hang fails the test; on a busy machine it may well take minutes
pytestmark = pytest.mark.time_limit(TIME_LIMIT_SECONDS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    prepare(tiny_config(cache).dataset)
    return cache


@pytest.fixture
def config(cache, tmp_path, request) -> Config:
    """The tiny config on a copy of the cache, to be damaged; without decoded slices too."""
    shutil.copytree(cache, tmp_path / "cache")
    config = tiny_config(tmp_path / "cache")
    if getattr(request, "param", None) == "records":
        for file in prepare(config.dataset).path.glob("decoded.*"):
            file.unlink()
    return config


def with_input(config: Config, workers: int, threads: int) -> Config:
    changed = Input(image_size=(32, 32), num_workers=workers, num_threads=threads)
    return dataclasses.replace(config, input=changed)


both_forms = pytest.mark.parametrize("config", ["decoded", "records"], indirect=True)
every_loader = pytest.mark.parametrize("workers, threads", [(0, 0), (0, 2), (1, 1)])


def training(config: Config, prepared: Prepared, start: int = 0):
    return samples.training_batches(prepared, prepared.patients, config, start)


def records_file(prepared: Prepared) -> Path:
    file = prepared.path / "decoded.bin"
    return file if file.exists() else next(prepared.path.glob("*.array_record*"))


def damage(prepared: Prepared) -> int:
    """Turn 64 bytes in the middle of the records around; return the record they belong to."""
    with records_file(prepared).open("r+b") as file:
        file.seek(records_file(prepared).stat().st_size // 2)
        content = file.read(64)
        file.seek(-64, os.SEEK_CUR)
        file.write(bytes(255 - byte for byte in content))
    source = prepared.source()
    (bad,) = [i for i in range(len(source)) if not readable(source, i)]
    return bad


def readable(source, index: int) -> bool:
    with contextlib.suppress(TrainingFailed):
        return bool(source[index])
    return False


def loader_processes() -> list[psutil.Process]:
    """The living loader processes of this one."""
    return [
        child
        for child in psutil.Process().children()
        if any("spawn_main" in word for word in child.cmdline())
    ]


@both_forms
@pytest.mark.parametrize("workers, threads", [(0, 0), (0, 2), (2, 1)])
def test_a_damaged_record_is_named_with_its_source_file(config, workers, threads):
    prepared = prepare(config.dataset)
    bad = damage(prepared)
    patient = next(p for p in prepared.patients if p.first <= bad < p.first + p.num_slices)
    file = f"{patient.id}/{bad - patient.first}"  # what the phantom has instead of files
    with pytest.raises(TrainingFailed) as error:
        for _ in training(with_input(config, workers, threads), prepared):
            pass  # an epoch of 200 slices is 25 batches: it comes by soon
    text = str(error.value)
    assert text.startswith(f"{file}: cannot be read from the prepared copy {prepared.path} (")
    assert "mismatch" in text and "delete the folder of the prepared copy" in text
    assert ("(seen by loader process " in text) == bool(workers)
    assert not loader_processes()
    with pytest.raises(TrainingFailed, match=f"^{file}: cannot be read .*mismatch"):
        list(samples.evaluation_batches(prepared, prepared.patients, config))
    shutil.rmtree(prepared.path)  # the remedy of the message
    assert readable(prepare(config.dataset).source(), bad)


def test_files_of_records_are_those_of_their_slices(tmp_path):
    write_folders(tmp_path / "source")
    dataset = Dataset(
        name="image_folder", source=str(tmp_path / "source"), cache_dir=str(tmp_path / "cache")
    )
    prepared = prepare(dataset)
    files = [prepared.file_of(i) for i in range(9)]
    assert files == [f"p{p}/s{s}.png" for p in range(3) for s in range(3)]


@both_forms
@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_a_file_of_records_cut_off_under_its_readers_gives_no_wrong_pixels(config, share):
    prepared = prepare(config.dataset)
    whole = prepared.source()
    expected = [whole[i] for i in range(len(whole))]
    opened = prepared.source()
    assert opened[0]
    os.truncate(records_file(prepared), int(share * records_file(prepared).stat().st_size))
    failures = 0
    for i, record in enumerate(expected):
        try:
            np.testing.assert_array_equal(opened[i]["image"], record["image"])
        except TrainingFailed as error:
            failures += 1
            assert f"{prepared.file_of(i)}: cannot be read" in str(error)
    assert failures
    assert len(prepare(config.dataset).source()) == len(expected)  # seen and mended at the start


@every_loader
def test_training_goes_on_without_the_source_folder(tmp_path, workers, threads):
    write_folders(tmp_path / "source", patients=4)
    config = with_input(tiny_config(tmp_path / "cache"), workers, threads)
    cache = str(tmp_path / "cache")
    dataset = Dataset(name="image_folder", source=str(tmp_path / "source"), cache_dir=cache)
    prepared = prepare(dataset)
    whole = list(itertools.islice(training(config, prepared), 6))
    batches = training(config, prepared)
    parts = [next(batches)]
    shutil.rmtree(tmp_path / "source")
    parts += itertools.islice(batches, 5)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
    assert list(samples.evaluation_batches(prepared, prepared.patients, config))


@every_loader
def test_training_reads_on_in_a_prepared_copy_that_vanished(config, workers, threads):
    config = with_input(config, workers, threads)
    prepared = prepare(config.dataset)
    batches = training(config, prepared)
    for _ in range(max(1, workers)):  # each process has opened its file
        next(batches)
    shutil.rmtree(prepared.path)
    assert len(list(itertools.islice(batches, 30))) == 30  # over an epoch
    with pytest.raises(TrainingFailed, match=f"{prepared.path}: the prepared copy cannot be ope"):
        samples.evaluation_batches(prepared, prepared.patients, config)
    with pytest.raises(TrainingFailed, match=f"{prepared.path}: the prepared copy cannot be ope"):
        training(config, prepared)


@both_forms
@every_loader
def test_a_prepared_copy_that_vanished_before_the_first_batch_is_named(config, workers, threads):
    prepared = prepare(config.dataset)
    batches = training(with_input(config, workers, threads), prepared)
    is_open = decoded.exists(prepared.path) and not workers
    shutil.rmtree(prepared.path)
    if is_open:  # the decoded slices, which are then read to the end
        assert len(list(itertools.islice(batches, 30))) == 30
        return
    with pytest.raises(TrainingFailed, match=f"{prepared.path}.*delete the folder") as error:
        next(batches)
    assert ("loader process 1 of" in str(error.value)) == bool(workers)
    assert not loader_processes()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_loader_process_is_named(config, workers):
    config = with_input(config, workers, 1)
    prepared = prepare(config.dataset)
    batches = training(config, prepared)
    for _ in range(5):
        next(batches)
    victim = loader_processes()[-1]
    victim.kill()
    with pytest.raises(TrainingFailed) as error:
        for _ in batches:
            pass
    text = str(error.value)
    assert f"of {workers} (pid {victim.pid}) was killed by signal 9" in text
    assert "memory ran out; lower input.num_workers" in text
    assert not loader_processes()  # the other one was ended


def test_a_loader_process_that_dies_at_its_start_is_named(config, monkeypatch):
    def die(*_):
        os._exit(3)

    monkeypatch.setattr(loaders, "_start_worker", die)
    prepared = prepare(config.dataset)
    with pytest.raises(
        TrainingFailed, match="^loader process 1 of 2, at its start, ended with exit code 3;"
    ):
        next(training(with_input(config, 2, 0), prepared))


def test_what_loader_processes_read_is_the_users_own_and_goes_with_them(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    batches = training(with_input(config, 1, 1), prepare(config.dataset))
    next(batches)
    (folder,) = tmp_path.glob("jaxseg_*")
    assert folder.stat().st_mode & 0o777 == 0o700
    batches.close()
    assert not list(tmp_path.glob("jaxseg_*"))


def test_without_room_for_what_loader_processes_read_that_is_said(config, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    prepared = prepare(config.dataset)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TrainingFailed, match="No space left on device.*let TMPDIR name another"):
        next(training(with_input(config, 1, 1), prepared))


UNGUARDED = """
import grain
from jaxseg.datasets.loaders import in_background
from jaxseg.errors import TrainingFailed
order = grain.MapDataset.source(list(range(100_000)))  # more than a pipe holds
try:
    next(in_background(order.batch(2), 1, 2))
except TrainingFailed as error:
    print(error)
"""


def test_a_loader_process_that_dies_before_it_has_read_its_work_is_named(tmp_path):
    """A script without `if __name__ == "__main__"`: Python would wait for ever to hand it over."""
    (tmp_path / "unguarded.py").write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, tmp_path / "unguarded.py"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("loader process 1 of 2, at its start, ended with exit code 1;")
    assert "forgotten to use the proper idiom" in done.stderr


def test_an_exception_in_a_loader_process_keeps_its_message_and_names_the_process(
    config, monkeypatch
):
    def broken(*_):
        raise ZeroDivisionError("in the augmentation")

    monkeypatch.setattr(samples, "augment_slice", broken)
    batches = training(with_input(config, 2, 0), prepare(config.dataset))
    with pytest.raises(ZeroDivisionError, match="in the augmentation") as error:
        next(batches)
    assert error.value.__notes__[-1] == "in loader process 1 of 2"
    assert not loader_processes()


def test_loader_processes_do_not_inherit_the_lock_of_the_workdir(config, tmp_path):
    prepared = prepare(config.dataset)
    with locks.hold(tmp_path / "lock", "a run"):
        batches = training(with_input(config, 2, 0), prepared)
        next(batches)
        children = psutil.Process().children(recursive=True)
        opened = {file.path for child in children for file in child.open_files()}
        batches.close()
    assert any(str(prepared.path) in path for path in opened)  # the search itself works
    assert str(tmp_path / "lock") not in opened


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from fake_config import tiny_config

def get_config():
    return tiny_config(Path({cache!r}))
"""


@pytest.fixture
def program(config, tmp_path):
    """Start a long `python -m jaxseg.train` on the tiny config; all it leaves is ended."""
    file = tmp_path / "tiny.py"
    text = PROGRAM.format(tests=str(Path(__file__).parents[1]), cache=config.dataset.cache_dir)
    file.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "jaxseg.train", "--config", str(file)]
        command += ["--workdir", str(tmp_path / "run"), "--config.train.num_steps=100000"]
        command += ["--config.train.eval_every_steps=100000", *arguments]
        # No pipe for the output: a process left over would hold it open.
        with (tmp_path / "output").open("w") as output:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_step(tmp_path: Path, step: int, process: subprocess.Popen):
    while not any(r["step"] >= step for r in workdir.read_metrics(tmp_path / "run")):
        assert process.poll() is None, (tmp_path / "output").read_text()
        time.sleep(0.05)


def errors(tmp_path: Path) -> list[str]:
    text = (tmp_path / "output").read_text()
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_a_run_ends_with_a_line_when_a_loader_process_is_killed(program, tmp_path):
    process = program("--config.input.num_workers=2")
    wait_for_step(tmp_path, 5, process)
    family = psutil.Process(process.pid).children(recursive=True)
    victim = next(c for c in family if any("spawn_main" in word for word in c.cmdline()))
    victim.kill()
    assert process.wait(TIME_LIMIT_SECONDS) == 1
    (line,) = errors(tmp_path)
    assert "error: loader process " in line
    assert f"of 2 (pid {victim.pid}) was killed by signal 9" in line
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_ends_with_a_line_at_a_record_damaged_meanwhile(program, config, tmp_path, workers):
    prepared = prepare(config.dataset)
    process = program(f"--config.input.num_workers={workers}")
    wait_for_step(tmp_path, 5, process)
    bad = damage(prepared)
    last = prepared.patients[3]  # of the training
    assert bad < last.first + last.num_slices
    assert process.wait(TIME_LIMIT_SECONDS) == 1
    (line,) = errors(tmp_path)
    assert line.startswith(f"error: {prepared.file_of(bad)}: cannot be read from the prepared copy")


@pytest.mark.slow
def test_loader_processes_end_when_the_run_is_killed(program, tmp_path):
    process = program("--config.input.num_workers=2")
    wait_for_step(tmp_path, 5, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.kill()
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
