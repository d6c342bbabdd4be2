"""kill -9 at twenty moments of one run, in the middle of saves among them: nothing is lost.

Of volumes at six moments: what is saved is the same.
"""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_volume_sets import write_gliomas
from test_train import CONFIG_FILE, assert_same_state, lasting, latest

from jaxseg.config.recipes import load_recipe
from jaxseg.runs import workdir

EVERY = 5
AIMED_EVERY = 3  # each third kill waits for a save to be under way
NUM_STEPS = {"slices": 300, "volumes": 180}
NUM_KILLS = {"slices": 20, "volumes": 6}


@pytest.fixture(scope="module", params=["slices", "volumes"])
def start(request, tmp_path_factory):
    """Start the program in a workdir of that name; returns the process."""
    folder = tmp_path_factory.mktemp("kills")
    file = folder / "tiny.py"
    text = CONFIG_FILE.format(tests=str(Path(__file__).parents[1]), cache=str(folder))
    if request.param == "volumes":
        write_gliomas(folder / "set")
        text = text.replace("tiny_config", "tiny_volume_config")
    file.write_text(text)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "jax")
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # one device: cheap steps

    def start(name: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "jaxseg.train", "--config", file]
        command += ["--workdir", folder / name, f"--config.train.num_steps={start.num_steps}"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=environment, text=True, **streams)

    start.folder = folder
    start.num_steps, start.num_kills = NUM_STEPS[request.param], NUM_KILLS[request.param]
    return start


def saved_step(run: Path) -> int:
    """Return the newest checkpoint's step, 0 without one."""
    names = [p.name for p in (run / "checkpoints").glob("[0-9]*")]
    return max([int(name) for name in names if name.isdigit()], default=0)


def is_saving(run: Path) -> bool:
    return any((run / "checkpoints").glob("*.orbax-checkpoint-tmp"))


def wait_for_step(process: subprocess.Popen, step: int) -> str:
    """Read what the program says until it has trained a step; return that."""
    told = ""
    for line in process.stdout:
        told += line
        said = re.match(r"step (\d+)/", line)
        if said and int(said[1]) >= step:
            return told
    raise AssertionError(told)


def kill(process: subprocess.Popen, run: Path, steps: int, seconds: float | None) -> str:
    """Kill after so many trained steps and seconds, or, for None, as soon as a save is under way.

    Returns what the program has said.
    """
    watchdog = threading.Timer(240, process.kill)
    watchdog.start()
    told = wait_for_step(process, saved_step(run) + steps)
    if seconds is None:
        while not is_saving(run) and process.poll() is None:
            time.sleep(0.0005)
    else:
        time.sleep(seconds)
    assert process.poll() is None, told
    process.send_signal(signal.SIGKILL)
    process.communicate()
    watchdog.cancel()
    return told


@pytest.mark.slow
def test_a_run_killed_many_times_equals_the_one_left_alone(start):
    whole, parts = start.folder / "whole", start.folder / "parts"
    process = start("whole")
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 0, told

    num_steps, num_kills = start.num_steps, start.num_kills
    moments, hits, starts = random.Random(0), 0, []
    for number in range(start.num_kills):
        steps, seconds = moments.randint(1, num_steps // 12), moments.uniform(0, 0.3)
        process = start("parts")
        aimed = number % AIMED_EVERY == 0
        told = kill(process, parts, steps, None if aimed else seconds)
        starts.append(int((re.findall(r"^continuing at step (\d+)", told, re.M) or [0])[0]))
        hits += is_saving(parts)  # the unfinished save that the kill has left
        assert "warning" not in told
    assert hits >= num_kills // 6, hits
    assert starts == sorted(starts) and starts[-1] < num_steps  # each goes on, none was the last
    assert len(set(starts)) > num_kills / 2

    process = start("parts")
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 0, told
    print(f"{hits} of {num_kills} kills hit a save; the starts continued at {starts}")

    config = load_recipe(str(start.folder / "tiny.py"))
    assert_same_state(latest(config, whole), latest(config, parts))
    assert int(latest(config, parts).step) == num_steps
    records = [workdir.read_metrics(run) for run in (whole, parts)]
    trained = [r["step"] for r in records[1] if "train_loss" in r]
    assert trained == list(range(1, num_steps + 1))
    evaluated = [r["step"] for r in records[1] if "validation_dice" in r]
    assert evaluated == list(range(EVERY, num_steps + 1, EVERY))
    assert lasting(records[0]) == lasting(records[1])
    scores = [(run / "evaluation/test/scores.json").read_text() for run in (whole, parts)]
    assert scores[0] == scores[1]
