"""That no test ends the test process unseen, whatever it does: each way, in a pytest of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import contextlib, ctypes, faulthandler, os, signal, subprocess, sys, threading, time
import psutil, pytest
C = ctypes.CDLL(None)

def test_exit(): os._exit(0)
def test_abort(): os.abort()
def test_exec(): os.execv(sys.executable, [sys.executable, "-c", ""])
def test_kill(): os.kill(os.getpid(), signal.SIGKILL)
def test_kill_by_psutil(): psutil.Process().kill()
def test_interrupt(): os.kill(os.getpid(), signal.SIGINT)
def test_parent(): os.kill(os.getppid(), signal.SIGTERM)
def test_own_group(): os.killpg(os.getpgrp(), signal.SIGTERM)
def test_everyone(): os.kill(0, signal.SIGTERM)
def test_raise(): signal.raise_signal(signal.SIGTERM)
def test_thread_kill(): signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
def test_dump(): faulthandler.dump_traceback_later(1, exit=True)

def test_in_a_thread():
    thread = threading.Thread(target=os._exit, args=(1,))
    thread.start()
    thread.join()

def test_swallowed():
    with contextlib.suppress(BaseException):
        os._exit(1)

@pytest.fixture
def exits():
    yield
    os._exit(1)

def test_in_a_fixture(exits): pass

@pytest.fixture
def waits():
    yield
    threading.Event().wait()

@pytest.mark.time_limit(0.3)
def test_waits_in_a_fixture(waits): pass

@pytest.mark.time_limit(0.3)
def test_waits_for_ever(): threading.Event().wait()

@pytest.mark.time_limit(0.3)
def test_swallows_the_alarm():
    for _ in range(2):
        with contextlib.suppress(BaseException):
            time.sleep(60)

def test_good():
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    os.kill(child.pid, 0)
    os.killpg(child.pid, signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM
    received = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert received
    if not (forked := os.fork()):
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 3

@pytest.mark.last
def test_ends_in_c():
    os.write(2, b"a library's last words")
    C._exit(0)

@pytest.mark.last
def test_killed_from_outside(): C.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.last
@pytest.mark.time_limit(0.3)
def test_hangs_in_c():
    mutex = bytes(64)
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)
"""


CONFTEST = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
pytest_plugins = ["guard"]
def pytest_configure(): sys.modules["guard"].HANG_SECONDS = 0.6
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run pytest with the guard on the tests above, under a parent and in a group of its own."""
    (folder / "test_bad.py").write_text(TESTS)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = last\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", *command],
        cwd=folder,
        env=os.environ | {"COLUMNS": "500"},  # for lines to be whole
        capture_output=True,
        text=True,
        timeout=300,
        start_new_session=True,
    )


def test_what_would_end_the_test_process_fails_the_test(tmp_path):
    done = run(tmp_path, "-m", "not last", "-rA", "-W", "error")
    assert (done.returncode, done.stderr) == (1, "")
    told = re.findall(r"^(FAILED|ERROR|PASSED) test_bad.py::(\w+)(?: - (.*))?", done.stdout, re.M)
    passed = [name for result, name, _ in told if result == "PASSED"]
    assert passed == ["test_in_a_fixture", "test_waits_in_a_fixture", "test_good"], done.stdout
    bad = {name: text for result, name, text in told if result != "PASSED"}
    every = set(re.findall(r"^def (test_\w+)", TESTS.partition("@pytest.mark.last")[0], re.M))
    assert bad.keys() == every - {"test_good"}
    hang = {"test_waits_for_ever": "call", "test_swallows_the_alarm": "call"}
    hang |= {"test_waits_in_a_fixture": "tear-down"}
    for name, text in bad.items():
        phase = hang.get(name)
        said = f"hangs: {phase} has taken 0.3 s" if phase else "would have ended the test process"
        assert said in text or name == "test_in_a_thread", (name, text)


def test_the_end_of_the_test_process_is_told(tmp_path):
    ended = run(tmp_path, "-k", "test_good or test_ends_in_c")
    assert "passed" not in ended.stdout
    assert re.search(
        r"ERROR: the test process \d+ ended without a summary: call of "
        r"test_bad.py::test_ends_in_c, after \d+ s\n"
        r"What it had written to stderr:\na library's last words\n$",
        ended.stderr,
    ), ended.stderr
    killed = run(tmp_path, "-s", "-k", "test_killed_from_outside")
    assert killed.returncode == 128 + 9
    assert "without a summary: call of test_bad.py::test_killed_from_outside," in killed.stderr


def test_a_hang_in_c_ends_with_all_that_is_known(tmp_path):
    ended = run(tmp_path, "-k", "test_hangs_in_c")
    assert ended.returncode == 1
    assert re.search(r"Timeout \(.*\)!\n(.*\n)+.*line \d+ in test_hangs_in_c\n", ended.stderr)
    assert "without a summary: call of test_bad.py::test_hangs_in_c," in ended.stderr


@pytest.mark.slow  # xdist waits ten seconds for each worker that has gone
def test_the_end_of_a_worker_is_told_and_the_other_tests_go_on(tmp_path):
    chosen = "test_good or test_exit or test_ends_in_c or test_killed_from_outside"
    done = run(tmp_path, "-n", "2", "-rA", "-k", chosen)
    assert done.returncode == 1
    for name in ("test_ends_in_c", "test_killed_from_outside"):
        assert f"without a summary: call of test_bad.py::{name}, after" in done.stderr
        assert re.search(rf"^FAILED test_bad.py::{name}\b", done.stdout, re.M), done.stdout
        assert re.search(rf"worker 'gw\d' crashed while running 'test_bad.py::{name}'", done.stdout)
    assert "a library's last words" in done.stderr
    assert "PASSED test_bad.py::test_good" in done.stdout
    assert re.search(r"^FAILED test_bad.py::test_exit - .*would have ended the", done.stdout, re.M)
    assert done.stderr.count("ended without a summary") == 2
