"""When processes are joined, and what a single process makes of it; real ones: test_processes."""

import dataclasses
import os
import threading

import jax
import pytest
from fake_config import tiny_config

from jaxseg.datasets.index import fingerprint
from jaxseg.datasets.prepare import prepare
from jaxseg.errors import TrainingFailed, UserError
from jaxseg.machine import distributed
from jaxseg.runs import workdir

VARIABLES = {
    "JAX_COORDINATOR_ADDRESS": "host:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "2",
}


@pytest.fixture
def joined(monkeypatch):
    """What jax.distributed.initialize is called with: positional and named arguments."""
    for name in os.environ:
        if name.startswith(("JAX_COORD", "JAX_NUM", "JAX_PROC", "JAXSEG", "SLURM_", "OMPI_")):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *args, **options: calls.append((args, options))
    )
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    return calls


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"JAXSEG_DISTRIBUTED": "0"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},  # a batch script that calls python itself
        {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    ],
)
def test_alone_where_nothing_is_asked_for(joined, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    distributed.join()
    assert joined == []


@pytest.mark.parametrize(
    "variables, known, detection",
    [
        (VARIABLES, ("host:1234", 4, 2), "deactivate"),
        (VARIABLES | {"SLURM_STEP_NUM_TASKS": "8"}, ("host:1234", 4, 2), "deactivate"),
        ({"JAXSEG_DISTRIBUTED": "1"}, (None, None, None), None),
        ({"SLURM_STEP_NUM_TASKS": "8"}, (None, None, None), None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, (None, None, None), None),
    ],
)
def test_joined_where_asked_for_or_detected(joined, monkeypatch, variables, known, detection):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    distributed.join()
    ((arguments, options),) = joined
    assert arguments == known
    assert options["cluster_detection_method"] == detection


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"JAX_COORDINATOR_ADDRESS": "host:1"}, "JAX_NUM_PROCESSES and JAX_PROCESS_ID are needed"),
        (VARIABLES | {"JAX_PROCESS_ID": "two"}, "JAX_PROCESS_ID='two': must be a whole number"),
        ({"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS='many': must be a whole number"),
    ],
)
def test_wrong_variables_are_refused(joined, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        distributed.join()
    assert joined == []


def test_a_failure_to_join_is_one_line(joined, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out.\nMore lines")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="cannot join the other .*: DEADLINE_EXCEEDED: .* More"):
        distributed.join()


def test_one_process_agrees_with_itself():
    assert distributed.is_main()
    assert distributed.gather({"a": [1.5, None]}) == [{"a": [1.5, None]}]
    assert distributed.on_main(lambda: 3) == 3
    distributed.check_same("settings", "text")

    def fail():
        raise UserError("no such file")

    with pytest.raises(UserError, match="^no such file$"):
        distributed.together(fail)


@pytest.mark.parametrize("error", [UserError("a"), TrainingFailed("b"), OSError("gloo")])
def test_one_process_fails_as_ever(error):
    with pytest.raises(type(error)), distributed.failing_together():
        raise error


def test_a_workdir_that_is_not_shared_is_refused(tmp_path):
    lock = tmp_path / "lock"
    with pytest.raises(UserError, match="not the folder that the first process sees"):
        workdir.check_shared(lock, "holder", seconds=0.0)
    lock.write_text("another")
    with pytest.raises(UserError, match="all hosts must share it"):
        workdir.check_shared(lock, "holder", seconds=0.0)
    writing = threading.Timer(0.3, lock.write_text, ("holder",))  # a slow file server
    writing.start()
    workdir.check_shared(lock, "holder", seconds=20.0)
    writing.join()


def test_other_scans_on_another_host_are_noticed(tmp_path):
    patients = prepare(tiny_config(tmp_path).dataset).patients
    same = fingerprint(patients)
    assert same == fingerprint(list(patients))
    assert same != fingerprint(patients[1:])
    changed = dataclasses.replace(patients[0], digests=("x", *patients[0].digests[1:]))
    assert same != fingerprint([changed, *patients[1:]])
    redrawn = dataclasses.replace(patients[0], mask_digests=("x", *patients[0].mask_digests[1:]))
    assert same != fingerprint([redrawn, *patients[1:]])
