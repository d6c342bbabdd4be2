"""How many programs a run compiles: who adds one sees it here."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_config import tiny_config

from jaxseg.config.settings import to_json

PROGRAM = """
import json, sys
from pathlib import Path
import jax
from jaxseg import evaluate, predict, train
from jaxseg.config.settings import from_dict
from jaxseg.config import command_line
from jaxseg.evaluation import score

config, run = from_dict(json.loads(Path(sys.argv[1]).read_text())), sys.argv[2]
score.draw_figures = lambda *_: {}  # takes long, and jax has no part in it
named = {}
names = []
def count(event, _, **about):
    if event.endswith("backend_compile_duration"):
        names.append(about["fun_name"])
jax.monitoring.register_event_duration_secs_listener(count)
command_line.parse_config = lambda *_, **__: (type("Options", (), {"workdir": run}), config, "tiny")
for name, call in (
    ("train", lambda: train.main([])),
    ("evaluate", lambda: evaluate.main(["--workdir", run, "--split", "validation"])),
):
    call()
    named[name], names[:] = list(names), []
print("programs:", json.dumps(named))
"""
NETWORK = ["jit(predict_logits)", "jit(train_step)"]
SMALL = ["jit(add_to_sums)", "jit(initial_state)", "jit(observe)", "jit(probabilities)"]


@pytest.mark.parametrize("kind", ["slices", "volumes"])
def test_programs_of_a_run(kind, tmp_path, volume_config):
    """The network is compiled twice, to train and to predict: the latter in one shape for all."""
    config = volume_config if kind == "volumes" else tiny_config(tmp_path / "cache")
    train = dataclasses.replace(config.train, num_steps=3, eval_every_steps=2)
    (tmp_path / "config.json").write_text(to_json(dataclasses.replace(config, train=train)))
    environment = os.environ | {"JAXSEG_NATIVE": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # one device
    command = [sys.executable, "-c", PROGRAM, tmp_path / "config.json", tmp_path / "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.rpartition("programs: ")[2])
    feed = ["jit(augment)"] if kind == "volumes" else []
    assert sorted(found["train"]) == sorted([*NETWORK, *SMALL, *feed])
    assert not found["evaluate"]  # in the same process: the programs are there
