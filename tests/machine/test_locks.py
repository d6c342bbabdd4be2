"""Who may use a workdir or prepare a copy: one process at a time, and the dead do not count."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from jaxseg.config import Dataset
from jaxseg.datasets import builder
from jaxseg.datasets.prepare import prepare
from jaxseg.errors import UserError
from jaxseg.machine import locks

HERE = socket.gethostname()
WHAT = "--workdir runs/a"


def run_python(code: str, *arguments) -> subprocess.Popen:
    """Start a process with jaxseg on its path; a line `ready` on stdout says that it waits."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


HOLD = """
import sys
from pathlib import Path
from jaxseg.machine import locks
with getattr(locks, sys.argv[2])(Path(sys.argv[1]), "a run"):
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    process = run_python(HOLD, tmp_path / "lock", "hold")
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def leave(path: Path, host: str, pid: int, seconds_ago: float):
    """Write the lock that a run leaves when it is killed, its last sign of life so long ago."""
    path.write_text(json.dumps({"host": host, "pid": pid, "started": "2026-01-02 03:04:05+00:00"}))
    then = time.time() - seconds_ago
    os.utime(path, (then, then))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def assert_free(path: Path):
    with locks.hold(path, WHAT):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert path.read_text() == ""


def without_flock(monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_second_process_is_refused_with_the_name_of_the_first(holder, tmp_path, capsys):
    before = (tmp_path / "lock").read_text()
    who = rf"in use by process {holder.pid} on {HERE} \(since 20.*\); wait for its end"
    with pytest.raises(UserError, match=f"^{WHAT}: {who}"), locks.hold(tmp_path / "lock", WHAT):
        pass
    assert (tmp_path / "lock").read_text() == before  # the refused one has changed nothing
    holder.communicate("go\n")
    assert_free(tmp_path / "lock")
    assert capsys.readouterr().err == ""  # it ended in order: nothing to report


def test_the_lock_of_a_killed_process_is_taken_over(holder, tmp_path, capsys):
    holder.kill()
    holder.wait()
    assert_free(tmp_path / "lock")
    who = f"{WHAT}: taken over from process {holder.pid} on {HERE} (since "
    assert capsys.readouterr().err.startswith(who)
    assert_free(tmp_path / "lock")
    assert capsys.readouterr().err == ""


def test_a_number_given_to_another_process_does_not_bar_the_way(tmp_path):
    leave(tmp_path / "lock", HERE, os.getppid(), seconds_ago=10)  # alive, but it holds no flock
    assert_free(tmp_path / "lock")


def test_an_error_inside_frees_the_lock_and_passes(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), locks.hold(tmp_path / "lock", WHAT):
        raise RuntimeError("mine")
    assert_free(tmp_path / "lock")


def test_the_lock_of_another_host_is_watched_for_signs_of_life(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(locks, "STALE_SECONDS", 4)
    path = tmp_path / "lock"
    leave(path, "far", 7, seconds_ago=2)
    sign = threading.Timer(0.5, os.utime, (path,))
    sign.start()
    with pytest.raises(UserError) as error, locks.hold(path, WHAT):
        pass
    sign.join()
    assert "in use by process 7 on far (since 2026-01-02 03:04:05+00:00)" in str(error.value)
    assert "may be at work; waiting 2 s for a sign of life" in capsys.readouterr().err
    leave(path, "far", 7, seconds_ago=3)
    assert_free(path)  # it waits for what is missing, and takes over
    assert "taken over from process 7 on far" in capsys.readouterr().err
    leave(path, "far", 7, seconds_ago=5)
    assert_free(path)
    assert "waiting" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]  # the clock's file is gone


def test_a_lock_held_without_signs_of_life_tells_what_to_delete(tmp_path):
    """As an NFS server does that has not noticed that a machine is gone."""
    path = tmp_path / "lock"
    with locks.hold(path, WHAT):
        os.utime(path, (0, 0))
        with (
            pytest.raises(UserError, match=f"if it is dead, delete {path}"),
            locks.hold(path, WHAT),
        ):
            pass


def test_the_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LIFE_SIGN_SECONDS", 0.01)
    before = threading.active_count()
    with locks.hold(tmp_path / "lock", WHAT):
        os.utime(tmp_path / "lock", (0, 0))
        deadline = time.monotonic() + 20
        while not (tmp_path / "lock").stat().st_mtime:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert threading.active_count() == before  # none after its end


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"host": 1}', '{"pid": "x", "host": "h"}'])
def test_a_lock_without_a_name_is_free(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    assert_free(tmp_path / "lock")


def test_without_flock_the_living_are_asked(tmp_path, monkeypatch, capsys):
    without_flock(monkeypatch)
    leave(tmp_path / "lock", HERE, os.getppid(), seconds_ago=10)
    with pytest.raises(UserError, match=f"in use by process {os.getppid()} on"):
        assert_free(tmp_path / "lock")
    leave(tmp_path / "lock", HERE, os.getppid(), seconds_ago=301)  # the number was given anew
    assert_free(tmp_path / "lock")
    leave(tmp_path / "lock", HERE, dead_pid(), seconds_ago=10)
    assert_free(tmp_path / "lock")
    leave(tmp_path / "lock", HERE, os.getpid(), seconds_ago=10)  # as in a container, always 1
    assert_free(tmp_path / "lock")
    assert capsys.readouterr().err.count("taken over") == 3


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=f"^{WHAT}: cannot be written .*file/lock: Not a directory"),
        locks.hold(tmp_path / "file" / "lock", WHAT),
    ):
        pass


FULL = """
import resource, sys
from pathlib import Path
from jaxseg.machine import locks
from jaxseg.errors import UserError
_, highest = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, highest))  # as a full disk
try:
    with locks.hold(Path(sys.argv[1]), sys.argv[2]):
        pass
except UserError as error:
    print(error)
"""


def test_a_lock_that_cannot_be_written_is_named(tmp_path):
    said, errors = run_python(FULL, tmp_path / "lock", WHAT).communicate(timeout=60)
    assert said.startswith(f"{WHAT}: cannot be written ({tmp_path / 'lock'}: File too")
    assert errors == ""


def test_children_do_not_inherit_the_lock(tmp_path):
    with locks.hold(tmp_path / "lock", WHAT):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        opened = {file.path for file in psutil.Process(child.pid).open_files()}
    assert str(tmp_path / "lock") not in opened
    assert_free(tmp_path / "lock")
    child.communicate(b"\n")


def test_a_signal_ends_the_waiting(tmp_path):
    first = run_python(HOLD, tmp_path / "lock", "wait_for")
    assert first.stdout.readline() == "ready\n"
    second = run_python(HOLD, tmp_path / "lock", "wait_for")
    assert second.stderr.readline() == "waiting for another process that a run\n"
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=60)
    third = run_python(HOLD, tmp_path / "lock", "wait_for")
    assert third.stderr.readline().startswith("waiting")
    time.sleep(0.5)  # for a second message, were there one
    first.kill()  # the dead do not keep anyone waiting
    assert third.stdout.readline() == "ready\n"
    _, errors = third.communicate("go\n", timeout=60)
    assert (third.returncode, errors) == (0, "")  # told once
    first.communicate()


def test_a_process_does_not_wait_for_itself(tmp_path):
    again = "    with locks.wait_for(Path(sys.argv[1]), ''):\n        print"
    nested = HOLD.replace("    print", again)
    process = run_python(nested, tmp_path / "lock", "wait_for")
    _, errors = process.communicate("go\n", timeout=60)
    assert (process.returncode, errors) == (0, "")


PREPARE = """
import sys, time
from pathlib import Path
from jaxseg.datasets.prepare import prepare
from jaxseg.config import Dataset
from jaxseg.datasets import builder
build, cache = builder.build, sys.argv[1]
def slow(made):
    with open(Path(cache) / "prepared", "a") as file:
        file.write("once\\n")
    time.sleep(3)
    return build(made)
builder.build = slow
config = Dataset(phantom_patients=3, cache_dir=cache)
print(len(prepare(config).source()))
"""


def test_processes_that_need_one_copy_prepare_it_once(tmp_path):
    processes = [run_python(PREPARE, tmp_path) for _ in range(3)]
    outputs = [p.communicate(timeout=120) for p in processes]
    assert len({out for out, _ in outputs}) == 1 and int(outputs[0][0])
    assert (tmp_path / "prepared").read_text() == "once\n"
    waited = "waiting for another process that prepares brain_phantom\n"
    assert sorted(err for _, err in outputs) == ["", waited, waited]


@pytest.mark.parametrize("break_lock", ["no flock", "read-only folder"])
def test_without_locks_a_prepared_copy_is_found_all_the_same(tmp_path, monkeypatch, break_lock):
    config = Dataset(phantom_patients=3, cache_dir=str(tmp_path))
    if break_lock == "no flock":
        without_flock(monkeypatch)
    first = prepare(config)
    if break_lock == "read-only folder":
        lock = first.path.with_name(f"{first.path.name}.lock")
        lock.unlink()
        lock.mkdir()  # refuses to be opened, to root as well
    monkeypatch.setattr(builder, "build", None)  # nothing is prepared again
    assert len(prepare(config).source()) == len(first.source())
