"""What a run says: the time ledger, metrics.jsonl, TensorBoard, the progress bar."""

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from fake_config import tiny_config

from jaxseg.config import Train
from jaxseg.datasets.prepare import prepare
from jaxseg.machine.sharding import make_mesh
from jaxseg.runs import progress, validation, workdir
from jaxseg.runs.progress import Ledger, Progress
from jaxseg.training.state import best_weights, new_state


def test_shares_of_the_ledger():
    ledger = Ledger()
    ledger.add("steps", 6.0)
    ledger.add("steps", 1.0)
    ledger.add("evaluation", 2.0)
    ledger.add("saving", 1.0)
    shares, line = ledger.report()
    assert shares == {"steps": 0.7, "evaluation": 0.2, "saving": 0.1}
    assert line == "steps 70%, evaluation 20%, saving 10%"
    assert ledger.report() == ({}, "")  # starts anew


@pytest.mark.parametrize("waiting, bound", [(30.0, True), (24.0, False), (1.0, False)])
def test_input_bound_is_said_when_waiting_takes_over_a_fifth(waiting, bound):
    ledger = Ledger()
    ledger.add("waiting for data", waiting)
    ledger.add("steps", 100.0 if waiting > 2 else 1.0)
    ledger.add("evaluation", 1000.0)  # not part of the training time
    assert ("input-bound" in ledger.report()[1]) == bound


FAKE_STATE = SimpleNamespace(
    early_stop=SimpleNamespace(bad=12), plateau=SimpleNamespace(scale=np.float32(0.125))
)


def fake_metrics(step: int, loss: float) -> dict:
    values = {"train_loss": loss, "train_dice": 0.1 * step, "learning_rate": 0.01}
    values |= {"gradient_norm": 1.0, "nonfinite_in_row": 0.0, "nonfinite_total": 0.0, "stop": 0.0}
    return {name: jnp.float32(value) for name, value in values.items()}


def test_records_are_means_over_the_window_and_nan_is_null(tmp_path, capsys):
    config = Train(num_steps=4, batch_size=8, log_every_steps=2)
    with Progress(tmp_path, 0, config) as shown:
        for step, loss in enumerate((1.0, 3.0, 5.0, float("nan")), start=1):
            shown.step(step, fake_metrics(step, loss))
        shown.flush()
        shown.record(4, {"other": float("inf")})
    records = workdir.read_metrics(tmp_path)
    assert [r["step"] for r in records] == [2, 4, 4]
    assert records[0]["train_loss"] == 2.0
    assert records[0]["train_dice"] == pytest.approx(0.15)
    assert records[1]["train_loss"] == 5.0  # over the finite ones
    assert records[2]["other"] is None
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert "step 2/4  loss 2.0000  dice 0.150  lr 1.00e-02" in capsys.readouterr().out


def test_compiling_is_not_in_the_estimate(tmp_path, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    with Progress(tmp_path, 0, Train(num_steps=10, batch_size=8, log_every_steps=2)) as shown:
        for step in (1, 2):
            with shown.compiling("training step"):
                clock[0] += 60 if step == 1 else 1
            clock[0] += 1
            shown.step(step, fake_metrics(step, 1.0))
        with shown.away("evaluation"):
            clock[0] += 7
        shown.flush()
        shown.evaluation(2, {"validation_dice": 0.5, "validation_loss": 1.0}, FAKE_STATE)
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("0:12 left")  # two steps in three seconds
    assert told[1].endswith(
        "loss per sample 1.0000  no better for 12 evaluations; learning rate x 0.125"
    )
    assert told[2] == "  time since the last evaluation: compiling 90%, evaluation 10%"
    assert max(map(len, told)) < 120


def test_a_log_that_says_no_more_is_broken_by_a_line(tmp_path, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    with Progress(tmp_path, 0, Train(num_steps=10, batch_size=8, log_every_steps=5)) as shown:
        for step in range(1, 7):
            clock[0] += 25
            shown.step(step, fake_metrics(step, 1.0))
        shown.flush()
    still, window = capsys.readouterr().out.splitlines()
    assert still == "step 2/10  37.5 s a step  5:00 left"  # 75 s after the start
    assert window.startswith("step 5/10  loss 1.0000")
    assert [r["step"] for r in workdir.read_metrics(tmp_path)] == [5]  # nothing more on record


def test_a_resumed_run_drops_what_lies_beyond_its_checkpoint(tmp_path):
    lines = [json.dumps({"step": s}) for s in (1, 2, 3)] + ['{"step": 4, "tra']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    workdir.truncate_metrics(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Progress(tmp_path, 0, Train(num_steps=2, log_every_steps=1)) as shown:
        assert shown.wants_pictures
        shown.record(1, {"train_loss": 0.5})
        shown.pictures(1, [np.full((8, 6, 3), 200, np.uint8)])
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(1, 0.5)]
    (image,) = events.Images("validation/0")
    assert (image.step, image.height, image.width) == (1, 8, 6)


def test_tensorboard_shows_of_an_earlier_start_nothing_beyond_the_resumed_step(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first_step, value in ((0, 0.5), (2, 0.25)):
        (tmp_path / "tensorboard").mkdir(exist_ok=True)
        for file in (tmp_path / "tensorboard").iterdir():
            file.rename(file.with_name("events.out.tfevents.1.earlier"))
        with Progress(tmp_path, first_step, Train(num_steps=4)) as shown:
            for step in range(first_step + 1, 4):
                shown.record(step, {"train_loss": value})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(e.step, e.value) for e in events.Scalars("train_loss")]
    assert shown == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with Progress(tmp_path, 0, Train(num_steps=2)) as shown:
        assert not shown.wants_pictures
        shown.record(1, {"train_loss": 0.5})
    assert not (tmp_path / "tensorboard").exists()


def test_outlines_of_truth_and_prediction():
    truth, prediction = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    truth[1:6, 1:6], prediction[4:8, 4:8] = True, True
    picture = validation.overlay(np.zeros((9, 9), np.float32), truth, prediction)
    assert picture[1, 1].tolist() == [0, 200, 100]
    assert picture[7, 7].tolist() == [255, 140, 0]
    grey = picture[0, 0].tolist()
    assert grey[0] == grey[1] == grey[2]
    assert picture[2, 2].tolist() == grey  # inside: the image shows


def test_validation_pictures_of_the_first_patients(tmp_path):
    config = tiny_config(tmp_path)
    prepared = prepare(config.dataset)
    mesh = make_mesh()
    checked = validation.Validation(config, prepared, prepared.patients[:3], mesh)
    pictures = checked.pictures(best_weights(new_state(config, 3, mesh)))
    assert [p.shape for p in pictures] == [(32, 32, 3)] * 3
    outlined = [(p == (0, 200, 100)).all(-1).any() for p in pictures]
    assert all(outlined)  # each shows a slice with tumour


BAR = """
import jax.numpy as jnp
from pathlib import Path
from jaxseg.config import Train
from jaxseg.runs.progress import Progress
import sys
sys.path[:0] = [{tests!r}, {here!r}]
from test_progress import fake_metrics

with Progress(Path({folder!r}), 0, Train(num_steps=4, batch_size=8, log_every_steps=2)) as shown:
    for step in range(1, 5):
        shown.step(step, fake_metrics(step, 1.0))
    shown.flush()
"""


def read_all(leader: int) -> str:
    parts = []
    with contextlib.suppress(OSError):  # how a pseudo-terminal says that it has ended
        while part := os.read(leader, 10_000):
            parts.append(part)
    os.close(leader)
    return b"".join(parts).decode()


def test_a_terminal_shows_a_bar(tmp_path):
    leader, follower = pty.openpty()
    rows_columns = struct.pack("HHHH", 24, 120, 0, 0)
    fcntl.ioctl(follower, termios.TIOCSWINSZ, rows_columns)
    code = BAR.format(
        tests=str(Path(__file__).parents[1]), here=str(Path(__file__).parent), folder=str(tmp_path)
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stderr=follower, stdout=subprocess.PIPE
    )
    os.close(follower)
    text = read_all(leader)
    assert done.returncode == 0, text
    assert "4/4" in text and "loss 1.0000" in text and "lr 1.00e-02" in text
    assert b"step 2/4" not in done.stdout  # plain lines are for logs


def test_durations():
    assert progress._duration(59.6) == "1:00"
    assert progress._duration(3661) == "1:01:01"
