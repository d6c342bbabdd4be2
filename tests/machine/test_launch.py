"""The scripts that start processes on this machine, against stand-ins for python."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fake_launch import (
    AWKWARD,
    LAUNCH,
    SCRIPTS,
    TPU,
    TRAIN,
    Stage,
    is_alive,
    shell_words,
)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


# All scripts


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    command = ["shellcheck", *SCRIPTS]
    checked = subprocess.run(command, cwd=LAUNCH, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_the_header(stage: Stage, script: str, flag: str):
    output, _ = stage.run(script, flag)
    assert f"launch/{script} " in output and "DRY_RUN=1" in output
    assert "SBATCH" not in output and "set -euo" not in output
    assert not stage.notes


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_strict_and_end_in_the_same_command(script: str):
    text = (LAUNCH / script).read_text()
    assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text
    assert '-m jaxseg.train "$@"' in text


@pytest.mark.parametrize(
    ("command", "environment", "said"),
    [
        (["multiprocess.sh"], {}, "number of processes, got ''"),
        (["multiprocess.sh", "0"], {}, "number of processes, got '0'"),
        (["multiprocess.sh", "--config"], {}, "number of processes, got '--config'"),
        (["multiprocess.sh", "2"], {"DEVICES_PER_PROCESS": "x"}, "DEVICES_PER_PROCESS must be"),
        (["multiprocess.sh", "2"], {"GRACE": "1m"}, "GRACE must be a number of seconds"),
        (["multiprocess.sh", "2"], {"PYTHON": "nowhere/python"}, "no nowhere/python here"),
        (["slurm.sbatch", "--config", "x"], {}, "sbatch launch/slurm.sbatch"),
        (
            ["slurm.sbatch"],
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "4"},
            "--ntasks-per-node=1 but 4 GPUs",
        ),
        (["tpu_vm.sh"], TPU, "'' is none of create"),
        (["tpu_vm.sh", "creat"], TPU, "'creat' is none of create"),
        (["tpu_vm.sh", "status"], {"ZONE": "z"}, "TPU_NAME is not set"),
        (["tpu_vm.sh", "status"], {"TPU_NAME": "n"}, "ZONE is not set"),
        (["tpu_vm.sh", "create"], TPU, "ACCELERATOR_TYPE is not set"),
        (["tpu_vm.sh", "create"], TPU | {"ACCELERATOR_TYPE": "v"}, "RUNTIME_VERSION is not set"),
        (["tpu_vm.sh", "each"], TPU, "each: give one quoted command"),
        (["tpu_vm.sh", "fetch"], TPU, "fetch: give the remote folder"),
        (["tpu_vm.sh", "run", "--config", "x"], TPU, "run: give --workdir /PATH"),
        (["tpu_vm.sh", "run", "--workdir", "runs/x"], TPU, "run: give --workdir /PATH"),
    ],
)
def test_wrong_usage_is_one_line_and_2(stage: Stage, command, environment, said):
    output, errors = stage.run(*command, code=2, **environment)
    assert errors.count("\n") == 1 and errors.startswith(f"{command[0]}: ") and said in errors
    assert not output and not stage.notes


# local.sh


def test_local_makes_an_environment_and_trains(stage: Stage, tmp_path: Path):
    (tmp_path / "checkout" / "launch").mkdir(parents=True)
    script = shutil.copy(LAUNCH / "local.sh", tmp_path / "checkout" / "launch")
    output, _ = stage.run(script, *AWKWARD, DRY_RUN="1", EXTRA="cuda")
    first, second, third = map(shell_words, output.splitlines())
    assert first == ["python3", "-m", "venv", ".venv"]
    assert second == [".venv/bin/pip", "install", "--quiet", ".[cuda]"]
    assert third == ["exec", ".venv/bin/python", *TRAIN]
    python = tmp_path / "checkout" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy(stage.bin / "python", python)
    output, _ = stage.run(script, *AWKWARD)
    imported, trained = stage.notes
    assert imported["arguments"] == ["-c", "import jaxseg"] and trained["arguments"] == TRAIN
    assert trained["pid"] != imported["pid"] and output.count("\n") == 1


# multiprocess.sh


def test_processes_get_ranks_and_one_coordinator(stage: Stage):
    stage.run("multiprocess.sh", 3, *AWKWARD)
    notes = sorted(stage.notes, key=lambda n: n["environment"]["JAX_PROCESS_ID"])
    assert [n["arguments"] for n in notes] == [TRAIN] * 3
    environments = [n["environment"] for n in notes]
    assert [e["JAX_PROCESS_ID"] for e in environments] == ["0", "1", "2"]
    assert [e["JAX_LOCAL_DEVICE_IDS"] for e in environments] == ["0", "1", "2"]
    assert {e["JAX_NUM_PROCESSES"] for e in environments} == {"3"}
    (address,) = {e["JAX_COORDINATOR_ADDRESS"] for e in environments}
    assert re.fullmatch(r"localhost:2\d{4}", address)
    assert not any("XLA_FLAGS" in e or "JAX_PLATFORMS" in e for e in environments)


def test_simulated_devices_keep_flags_already_there(stage: Stage):
    stage.run("multiprocess.sh", 2, DEVICES_PER_PROCESS="4", XLA_FLAGS="--xla_a=1 --xla_b")
    flags = "--xla_a=1 --xla_b --xla_force_host_platform_device_count=4"
    for note in stage.notes:
        assert note["environment"]["XLA_FLAGS"] == flags
        assert note["environment"]["JAX_PLATFORMS"] == "cpu"
        assert "JAX_LOCAL_DEVICE_IDS" not in note["environment"]
    assert len(stage.notes) == 2


def test_dry_run_of_multiprocess_prints_one_line_a_process(stage: Stage):
    dry = {"DRY_RUN": "1", "DEVICES_PER_PROCESS": "2"}
    output, _ = stage.run("multiprocess.sh", 2, *AWKWARD, **dry)
    lines = [shell_words(line) for line in output.splitlines()]
    assert [line[-len(TRAIN) - 1 :] for line in lines] == [["python", *TRAIN]] * 2
    for rank, line in enumerate(lines):
        assert {"JAX_NUM_PROCESSES=2", f"JAX_PROCESS_ID={rank}", "JAX_PLATFORMS=cpu"} <= set(line)
    assert not stage.notes


@pytest.mark.parametrize(
    ("name", "arrives", "code"), [("TERM", "15", 0), ("INT", "2", 0), ("HUP", "15", 3)]
)
def test_signals_reach_every_process_once(stage: Stage, name: str, arrives: str, code: int):
    script = LAUNCH / "multiprocess.sh"
    with stage.start([script, 3], FAKE="save 0", FAKE_1=f"save {code}") as process:
        notes = stage.wait_for(3)
        process.send_signal(getattr(signal, f"SIG{name}"))
        _, errors = process.communicate(timeout=20)
    assert process.returncode == code, errors
    assert stage.signals == [arrives] * 3
    assert not any(is_alive(n["pid"]) for n in notes)


def test_ctrl_c_of_a_terminal_reaches_every_process_once(stage: Stage):
    keyboard, terminal = os.openpty()
    # The first terminal that a new session opens becomes its own, and sends it the Ctrl-C.
    script = f"exec <>{os.ttyname(terminal)} && exec {LAUNCH}/multiprocess.sh 2"
    with subprocess.Popen(
        ["bash", "-c", script],
        env=stage.environment | {"FAKE": "save 0"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        stage.wait_for(2)
        os.write(keyboard, b"\x03")
        _, errors = process.communicate(timeout=20)
    os.close(keyboard)
    os.close(terminal)
    assert process.returncode == 0, errors
    assert stage.signals == ["2", "2"]


def test_no_worker_of_an_ended_process_is_left(stage: Stage):
    stage.run("multiprocess.sh", 2, FAKE="leave")
    assert len(stage.notes) == 2 and not any(is_alive(n["pid"]) for n in stage.notes)


def test_the_exit_code_is_the_worst(stage: Stage):
    codes = {"FAKE_0": "exit 2", "FAKE_1": "exit 0", "FAKE_2": "exit 1"}
    stage.run("multiprocess.sh", 3, code=2, **codes)
    assert len(stage.notes) == 3


def test_after_a_failure_the_rest_is_killed_in_time(stage: Stage):
    fakes = {"FAKE_0": "hang", "FAKE_1": "exit 1", "FAKE_2": "hang"}
    started = time.monotonic()
    _, errors = stage.run("multiprocess.sh", 3, code=137, GRACE="1", **fakes)
    assert time.monotonic() - started < 15  # the stand-ins themselves hang for 30 s
    assert "process 1 ended with exit code 1; others have 1 s" in errors
    assert errors.count("did not end in 1 s; killed") == 2
    assert not any(is_alive(n["pid"]) for n in stage.notes)


def test_after_a_signal_who_stays_behind_is_killed(stage: Stage):
    fakes = {"FAKE_0": "save 0", "FAKE_1": "hang", "GRACE": "1"}
    with stage.start([LAUNCH / "multiprocess.sh", 2], **fakes) as process:
        stage.wait_for(2)
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 137 and "process 1 did not end in 1 s; killed" in errors
    assert not any(is_alive(n["pid"]) for n in stage.notes)


def test_a_slow_end_without_failure_is_no_reason_to_kill(stage: Stage):
    with stage.start([LAUNCH / "multiprocess.sh", 2], FAKE_0="save 0", GRACE="0") as process:
        first = next(n for n in stage.wait_for(2) if n["environment"]["JAX_PROCESS_ID"] == "0")
        time.sleep(1)  # process 1 has ended with 0 long ago
        assert process.poll() is None and is_alive(first["pid"])
        os.kill(first["pid"], signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and not errors
