"""What long runs need: a time limit, kept checkpoints, kept compiled programs, profiles."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest
from fake_config import tiny_config
from fake_run import NOTHING
from test_train import (
    CONFIG_FILE,
    assert_same_state,
    lasting,
    latest,
    run_training,
    stop_after,
    with_train,
)

from jaxseg.config import Config
from jaxseg.machine.signals import REASONS
from jaxseg.machine.start import keep_compiled_programs
from jaxseg.runs import checkpoint, loop, workdir


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(cache) -> Config:
    return tiny_config(cache)


@pytest.mark.slow
def test_a_run_in_many_time_limits_equals_the_whole(config, tmp_path):
    assert run_training(config, tmp_path / "whole") == ""
    limited = with_train(config, max_minutes=1e-6)  # each start votes at once
    stopped_at = []
    while run_training(limited, tmp_path / "parts"):
        stopped_at.append(int(latest(config, tmp_path / "parts").step))
    assert len(stopped_at) >= 2 and stopped_at == sorted(set(stopped_at))
    assert_same_state(latest(config, tmp_path / "whole"), latest(config, tmp_path / "parts"))
    records = [lasting(workdir.read_metrics(tmp_path / name)) for name in ("whole", "parts")]
    assert records[0] == records[1]


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"max_minutes": 9.0}},
        {"train": {"keep_every_steps": 3}},
        {"train": {"accumulate": 2}},
        {"train": {"log_every_steps": 3}},
        {"mesh": {"data": 4, "fsdp": 2, "fsdp_min_size": 1}},
        {"mesh": {"spatial": 2}},
        {"profile": (100, 101)},
    ],
    ids=str,
)
def test_a_started_run_may_change_how_it_goes(config, tmp_path, change):
    workdir.claim(tmp_path, config, NOTHING, {})
    for name, value in change.items():
        if isinstance(value, dict):
            value = dataclasses.replace(getattr(config, name), **value)
        config = dataclasses.replace(config, **{name: value})
    workdir.claim(tmp_path, config, NOTHING, {})
    assert workdir.load_config(tmp_path) == config


def test_checkpoints_of_every_n_steps_stay(config, tmp_path, monkeypatch):
    config = with_train(config, num_steps=14, eval_every_steps=2, keep_every_steps=4)
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        assert run_training(config, tmp_path) == "SIGTERM"
    assert run_training(config, tmp_path) == ""
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert {4, 8, 12, 14} <= kept
    assert len(kept - {4, 8, 12, 14}) <= 1  # the best


def test_what_a_checkpoint_holds_is_on_record_before(config, tmp_path, monkeypatch):
    save, seen = checkpoint.save, []

    def check(checkpoints, step, *args):
        records = [r for r in workdir.read_metrics(tmp_path) if r["step"] == step]
        assert any("train_loss" in r for r in records)
        assert any("validation_dice" in r for r in records)
        seen.append(step)
        save(checkpoints, step, *args)

    monkeypatch.setattr(checkpoint, "save", check)
    run_training(config, tmp_path)
    assert seen == [1, 2, 3, 4, 5, 6]


def steps_in(folder: Path) -> list[int]:
    """Return the numbers of the train steps in the one trace in a folder."""
    (planes,) = folder.rglob("*.xplane.pb")
    assert planes.stat().st_size > 1000
    (trace,) = folder.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return sorted(int(e["args"]["step_num"]) for e in events if e.get("name") == "train")


def test_a_profile_holds_its_steps_and_changes_nothing(config, tmp_path, capsys):
    run_training(config, tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()
    profiled = dataclasses.replace(config, profile=(3, 4))
    run_training(profiled, tmp_path / "profiled")
    assert steps_in(tmp_path / "profiled" / "profile") == [3, 4]
    assert f"profile of steps 3 to 4: {tmp_path / 'profiled/profile'}" in capsys.readouterr().out
    assert_same_state(latest(config, tmp_path / "plain"), latest(config, tmp_path / "profiled"))


@pytest.mark.slow
def test_a_profile_beyond_the_end_is_closed(config, tmp_path):
    run_training(dataclasses.replace(config, profile=(5, 100)), tmp_path)
    assert steps_in(tmp_path / "profile") == [5, 6]


@pytest.mark.slow
def test_a_resumed_run_profiles_what_is_left_of_the_chosen_steps(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        run_training(config, tmp_path)
    assert int(latest(config, tmp_path).step) == 3
    with monkeypatch.context() as patch:
        stop_after(patch, 0)
        run_training(dataclasses.replace(config, profile=(1, 3)), tmp_path)
    assert not (tmp_path / "profile").exists()
    step = int(latest(config, tmp_path).step)
    assert 3 < step < 6
    run_training(dataclasses.replace(config, profile=(2, step + 1)), tmp_path)
    assert steps_in(tmp_path / "profile") == [step + 1]


def test_the_cache_is_the_users_own_where_it_is_named(tmp_path, monkeypatch):
    named = jax.config.jax_compilation_cache_dir
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == named
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir.startswith(f"{tmp_path}/jaxseg/compiled/")
    finally:
        jax.config.update("jax_compilation_cache_dir", named)


COUNTING = """
import json, sys
from collections import Counter
import jax
from jaxseg.config import command_line
from jaxseg import train

counts = Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: counts.update([event]))
try:
    command_line.run(train.main)
finally:
    print("counts:", json.dumps(counts))
"""
ASKED = "/jax/compilation_cache/compile_requests_use_cache"
FOUND = "/jax/compilation_cache/cache_hits"
WRITTEN = "/jax/compilation_cache/cache_misses"
LOADED = "/jax/core/compile/backend_compile_duration"  # a compilation or its place in the cache


@pytest.fixture
def counted(cache, tmp_path):
    """Run the program on the tiny config; returns what it said and how often jax compiled."""
    file, program = tmp_path / "tiny.py", tmp_path / "counting.py"
    file.write_text(CONFIG_FILE.format(tests=str(Path(__file__).parents[1]), cache=str(cache)))
    program.write_text(COUNTING)

    def run(workdir: Path, compiled: Path, *arguments: str) -> tuple[str, Counter]:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        environment["XDG_CACHE_HOME"] = str(compiled)
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        command = [sys.executable, program, "--config", file, "--workdir", workdir, *arguments]
        done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=590)
        text, _, counts = done.stdout.rpartition("counts: ")
        assert done.returncode == 0, done.stdout + done.stderr
        return text + done.stderr, Counter(json.loads(counts))

    return run


@pytest.mark.slow
def test_a_second_start_compiles_nothing(counted, tmp_path):
    short = "--config.train.num_steps=5"
    text, first = counted(tmp_path / "a", tmp_path, short, "--config.train.max_minutes=0.000001")
    assert f"train.max_minutes: saved in {tmp_path / 'a'}; the same command continues" in text
    text, rest = counted(tmp_path / "a", tmp_path, short)  # the limit may change
    assert "continuing at step" in text and "Training is complete" in text
    assert first[WRITTEN] > 1 and rest[WRITTEN] > 1  # the second also restores and evaluates
    assert first[FOUND] == 0 < rest[FOUND]
    _, second = counted(tmp_path / "b", tmp_path, short)
    assert second[WRITTEN] == 0
    assert second[ASKED] == second[FOUND] == second[LOADED] > first[WRITTEN]
    assert list((tmp_path / "jaxseg" / "compiled").glob("*/*train_step*"))


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_harmless(counted, tmp_path):
    (tmp_path / "jaxseg").write_text("a file where the cache's folder should be")
    text, counts = counted(tmp_path / "a", tmp_path, "--config.train.num_steps=5")
    assert "Training is complete" in text and "Traceback" not in text
    assert counts[LOADED] > 0 and counts[FOUND] == 0


@pytest.mark.parametrize(
    "reason, complete, said",
    [
        ("", True, ""),
        ("", False, ""),
        ("train.max_minutes", True, ""),  # the scores are due
        ("train.max_minutes", False, "train.max_minutes"),
        ("SIGTERM", True, "SIGTERM"),  # the scoring would be killed: the next start does it
        ("SIGINT", False, "SIGINT"),
    ],
)
def test_what_interrupts_a_run(reason, complete, said):
    assert loop.interruption(REASONS.index(reason), complete) == said
