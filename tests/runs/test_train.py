"""Whole runs: training, resume bit for bit, faults, the finished run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from fake_config import tiny_config

from jaxseg import train as train_program
from jaxseg.config import Config, EarlyStop
from jaxseg.config.recipes import load_recipe
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.splits import split_patients
from jaxseg.errors import TrainingFailed, UserError
from jaxseg.machine.sharding import make_mesh
from jaxseg.machine.signals import REASONS
from jaxseg.runs import checkpoint, loop, workdir
from jaxseg.training.state import TrainState, abstract_state


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def with_train(config: Config, **changes) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def run_training(config: Config, run: Path) -> str:
    prepared = prepare(config.dataset)
    splits = split_patients(prepared.patients, config.split)
    workdir.claim(run, config, prepared, splits)
    return loop.train(config, run, prepared, splits)


def latest(config: Config, run: Path) -> TrainState:
    with checkpoint.open_checkpoints(run) as checkpoints:
        return checkpoint.restore_latest(checkpoints, abstract_state(config, 3, make_mesh()))


def assert_same_state(left: TrainState, right: TrainState):
    paths = jax.tree_util.tree_leaves_with_path(left)
    others = jax.tree.leaves(right)
    assert len(paths) == len(others)
    for (path, a), b in zip(paths, others, strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=str(path))


def lasting(records):
    """The records without what depends on the clock."""
    return [
        {k: v for k, v in r.items() if k != "samples_per_second" and not k.startswith("time_")}
        for r in records
    ]


def stop_after(monkeypatch, num_checks: int):
    """Make the loop's votes to stop begin after the n-th step."""

    class Requests:
        asked = 0

        def __init__(self, max_minutes):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        @property
        def vote(self):
            Requests.asked += 1
            return REASONS.index("SIGTERM") if Requests.asked > num_checks else 0

    monkeypatch.setattr(loop, "StopRequests", Requests)


# A vote travels with the next batch, and is read when the step after that has been started or
# when there is an evaluation.
@pytest.mark.parametrize(
    "eval_every_steps, votes_after, stops_at", [(1, 2, 3), (2, 3, 4), (4, 1, 3)]
)
def test_six_steps_equal_a_part_restart_and_the_rest(
    cache, tmp_path, monkeypatch, eval_every_steps, votes_after, stops_at
):
    config = with_train(tiny_config(cache), eval_every_steps=eval_every_steps)
    assert run_training(config, tmp_path / "whole") == ""
    with monkeypatch.context() as patch:
        stop_after(patch, votes_after)
        assert run_training(config, tmp_path / "parts") == "SIGTERM"
    assert int(latest(config, tmp_path / "parts").step) == stops_at
    assert run_training(config, tmp_path / "parts") == ""
    whole, parts = (latest(config, tmp_path / name) for name in ("whole", "parts"))
    assert_same_state(whole, parts)
    # The counters were at work: one evaluation of improvement, then reductions only.
    num_evaluations = -(-6 // eval_every_steps)
    assert int(whole.early_stop.bad) == num_evaluations - 1
    assert float(whole.plateau.scale) == 0.5 ** (num_evaluations - 1)
    records = [lasting(workdir.read_metrics(tmp_path / name)) for name in ("whole", "parts")]
    assert records[0] == records[1]


def test_early_stop_ends_the_run_and_a_restart_does_not_go_on(cache, tmp_path):
    config = dataclasses.replace(
        with_train(tiny_config(cache), num_steps=50),
        early_stop=EarlyStop(patience=2, min_delta=1.0),
    )
    assert run_training(config, tmp_path) == ""
    state = latest(config, tmp_path)
    assert int(state.step) == 3  # the first evaluation is the best, two bring nothing
    assert run_training(config, tmp_path) == ""
    assert_same_state(state, latest(config, tmp_path))


def test_nan_stops_the_run_and_spares_the_checkpoint(cache, tmp_path, monkeypatch):
    config = with_train(
        tiny_config(cache), num_steps=20, eval_every_steps=4, max_nonfinite_in_row=3
    )
    good = loop.training_batches

    def poisoned(*args):
        for step, batch in enumerate(good(*args)):
            yield batch | {"image": batch["image"] * (np.nan if step >= 5 else 1)}

    monkeypatch.setattr(loop, "training_batches", poisoned)
    with pytest.raises(TrainingFailed, match="step 8: .* not finite 3 times in a row"):
        run_training(config, tmp_path)
    state = latest(config, tmp_path)
    assert int(state.step) == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.weights))


def test_the_loss_can_be_watched_instead_of_dice(cache, tmp_path):
    config = with_train(tiny_config(cache), monitor="loss", num_steps=8)
    run_training(config, tmp_path)
    evaluations = [r for r in workdir.read_metrics(tmp_path) if "validation_loss" in r]
    lowest = min(evaluations, key=lambda r: r["validation_loss"])
    step, _ = checkpoint.load_best(tmp_path, config, 3)
    assert step == lowest["step"]
    best = float(latest(config, tmp_path).plateau.best)
    # Gains under min_delta = 1 do not count: the first evaluation stays the plateau's best.
    assert best == pytest.approx(-evaluations[0]["validation_loss"])


def test_a_single_nan_is_skipped_and_counted(cache, tmp_path, monkeypatch):
    config = tiny_config(cache)
    good = loop.training_batches

    def poisoned(*args):
        for step, batch in enumerate(good(*args)):
            yield batch | {"image": batch["image"] * (np.nan if step == 2 else 1)}

    monkeypatch.setattr(loop, "training_batches", poisoned)
    assert run_training(config, tmp_path) == ""
    assert int(latest(config, tmp_path).nonfinite_total) == 1
    training = [r for r in workdir.read_metrics(tmp_path) if "train_loss" in r]
    assert [r["nonfinite_total"] for r in training] == [0, 0, 1, 1, 1, 1]
    assert training[2]["train_loss"] is None  # strict JSON has no NaN


def test_another_config_in_the_same_workdir_is_refused(cache, tmp_path):
    config = with_train(tiny_config(cache), num_steps=1)
    run_training(config, tmp_path)
    with pytest.raises(UserError, match=r"config.train.batch_size was 8, is 16\)"):
        run_training(with_train(config, batch_size=16), tmp_path)
    others = with_train(config, batch_size=16, num_steps=2)
    with pytest.raises(UserError, match=r"was \d+, is \d+; others differ: 1\)"):
        run_training(others, tmp_path)
    free = dataclasses.replace(config, input=dataclasses.replace(config.input, num_threads=3))
    run_training(free, tmp_path)


def test_a_changed_data_set_in_the_same_workdir_is_refused(cache, tmp_path):
    config = with_train(tiny_config(cache), num_steps=1)
    run_training(config, tmp_path)
    data = json.loads((tmp_path / "data.json").read_text())
    data["digests"]["train"][0][0] = "another image"
    (tmp_path / "data.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="split has changed since"):
        run_training(config, tmp_path)


def test_redrawn_masks_are_refused_and_a_run_that_kept_no_digests_of_them_goes_on(cache, tmp_path):
    config = with_train(tiny_config(cache), num_steps=1)
    prepared = prepare(config.dataset)
    splits = split_patients(prepared.patients, config.split)
    workdir.claim(tmp_path, config, prepared, splits)
    path, text = tmp_path / "data.json", (tmp_path / "data.json").read_text()
    data = json.loads(text)
    data["mask_digests"]["train"][0][0] = "another mask"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=f"masks of 1 patients .{splits['train'][0].id}. have chan"):
        workdir.claim(tmp_path, config, prepared, splits)
    del data["mask_digests"]
    path.write_text(json.dumps(data))
    workdir.claim(tmp_path, config, prepared, splits)
    assert path.read_text() == text  # noticed from now on


CONFIG_FILE = """
import dataclasses, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from fake_config import tiny_config

def get_config():
    config = tiny_config(Path({cache!r}))
    return dataclasses.replace(
        config, train=dataclasses.replace(config.train, num_steps=40, eval_every_steps=5)
    )
"""


@pytest.fixture
def program(cache, tmp_path):
    """Start `python -m jaxseg.train` on the tiny config in a workdir; returns the process."""
    file = tmp_path / "tiny.py"
    file.write_text(CONFIG_FILE.format(tests=str(Path(__file__).parents[1]), cache=str(cache)))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    devices = "--xla_force_host_platform_device_count=2"  # quicker on two cores than eight
    environment["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {devices}"

    def start(run: Path, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "jaxseg.train", "--config", file, "--workdir", run, *arguments],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    return start


def wait_for_step(run: Path, step: int, process: subprocess.Popen):
    deadline = time.monotonic() + 590
    while not any(r["step"] >= step for r in workdir.read_metrics(run)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_interrupted_and_whole_runs_end_the_same(program, cache, tmp_path):
    whole = program(tmp_path / "whole")
    text, _ = whole.communicate(timeout=590)
    assert whole.returncode == 0, text
    assert (
        "Dice per patient" in text and str(tmp_path / "whole/evaluation/test/report.html") in text
    )

    parts = tmp_path / "parts"
    killed = program(parts)
    wait_for_step(parts, 12, killed)
    killed.kill()
    killed.communicate()
    stopped = program(parts)
    wait_for_step(parts, 22, stopped)
    stopped.send_signal(signal.SIGTERM)
    text, _ = stopped.communicate(timeout=590)
    assert stopped.returncode == 0, text
    assert "continuing at step" in text
    assert "SIGTERM: saved in" in text
    final = program(parts)
    text, _ = final.communicate(timeout=590)
    assert final.returncode == 0, text

    config = load_recipe(str(tmp_path / "tiny.py"))
    assert_same_state(latest(config, tmp_path / "whole"), latest(config, parts))
    records = [lasting(workdir.read_metrics(r)) for r in (tmp_path / "whole", parts)]
    assert records[0] == records[1]
    for name in ("operating_point.json", "evaluation/test/scores.json"):
        assert (tmp_path / "whole" / name).read_text() == (parts / name).read_text()

    again = program(parts)
    text, _ = again.communicate(timeout=590)
    assert again.returncode == 0
    assert "is finished" in text

    other = program(parts, "--config.train.batch_size=16")
    text, _ = other.communicate(timeout=590)
    assert other.returncode == 2
    assert "made with another config" in text and "Traceback" not in text


def test_a_batch_that_does_not_divide_over_the_devices_claims_nothing(program, tmp_path):
    refused = program(tmp_path / "run", "--config.train.batch_size=13")
    text, _ = refused.communicate(timeout=590)
    assert refused.returncode == 2
    assert "error: config.train.batch_size=13: must be a multiple of the 2 devices" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_reaches_the_loader_processes_too_and_the_run_is_saved(program, tmp_path):
    run = tmp_path / "run"
    # In a group of its own, which gets the signal whole, as from a terminal.
    process = program(run, "--config.input.num_workers=2", "--config.train.num_steps=5000")
    wait_for_step(run, 12, process)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=590)
    assert process.returncode == 0, text
    assert "SIGINT: saved in" in text and "Traceback" not in text


@pytest.mark.slow
def test_a_second_run_in_the_workdir_is_refused_and_a_dead_one_is_taken_over(program, tmp_path):
    run = tmp_path / "run"
    first = program(run, "--config.train.num_steps=5000")
    wait_for_step(run, 7, first)
    second = program(run, "--config.train.num_steps=5000")
    text, _ = second.communicate(timeout=590)
    assert second.returncode == 2, text
    assert f"error: --workdir {run}: in use by process {first.pid} on " in text
    assert first.poll() is None
    first.kill()
    first.communicate()
    reached = workdir.read_metrics(run)[-1]["step"]
    third = program(run, "--config.train.num_steps=5000")
    wait_for_step(run, reached + 5, third)
    third.send_signal(signal.SIGTERM)
    text, _ = third.communicate(timeout=590)
    assert third.returncode == 0, text
    assert f"taken over from process {first.pid} on" in text


def test_scoring_beside_a_training_disturbs_nothing(cache, tmp_path):
    config = with_train(tiny_config(cache), num_steps=4)
    run_training(config, tmp_path)
    unfinished = tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp"
    unfinished.mkdir()  # as a training that goes on leaves it for a moment
    step, _ = checkpoint.load_best(tmp_path, config, 3)
    assert step <= 4
    assert unfinished.is_dir()


def test_a_run_goes_on_and_ends_after_its_best_checkpoint_was_damaged(cache, tmp_path, capsys):
    config = with_train(tiny_config(cache), num_steps=3)
    run_training(config, tmp_path)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        latest_step = checkpoints.latest_step()
    for file in (tmp_path / "checkpoints" / str(latest_step)).rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(b"")
    assert run_training(config, tmp_path) == ""
    assert int(latest(config, tmp_path).step) == 3
    checkpoint.load_best(tmp_path, config, 3)
    assert "damaged_3" in capsys.readouterr().err


def test_the_baselines_are_found_beside_the_training_and_once(monkeypatch, tmp_path):
    training = threading.Event()

    def find(*_):
        training.wait(10)
        raise UserError("why")

    monkeypatch.setattr(train_program, "find_baselines", find)
    found = train_program.baselines_meanwhile(tmp_path, None, ())
    assert not found.done()
    training.set()
    with pytest.raises(UserError, match="why"):
        found.result(10)
    (tmp_path / "baseline.json").touch()
    assert train_program.baselines_meanwhile(tmp_path, None, ()).result(10) is None
