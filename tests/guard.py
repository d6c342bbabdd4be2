"""No test ends the test process unseen: a plugin of pytest, which conftest.py loads.

A call that would end the process fails the test instead, and so does a test that takes too long.
What cannot be refused (a crash of a library, a kill from outside, a hang in C) is told on the real
stderr by a small process that watches this one: in which test it ended, and what the test had
written to stderr, which pytest would have shown later.
"""

import contextlib
import faulthandler
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import psutil
import pytest

# For one of set-up, call and tear-down of a test; @pytest.mark.time_limit(seconds) sets another.
# For hangs only: a test of 15 s took minutes on a machine that was busy with others.
QUICK_SECONDS, SLOW_SECONDS = 600, 3600
HANG_SECONDS = 60  # from then on, for Python code to notice

WATCH = """
import os, sys, time
pid, caught = map(int, sys.argv[1:])
now, since = "before the first test", time.monotonic()
for line in sys.stdin:
    now, since = line.strip(), time.monotonic()
    if not now:
        sys.exit()
seconds = time.monotonic() - since
print(f"\\n\\nERROR: the test process {pid} ended without a summary: {now}, after {seconds:.0f} s")
with open(caught, "rb") if caught >= 0 else open(os.devnull, "rb") as file:
    words = os.pread(file.fileno(), 100_000, 0).decode(errors="replace")
if words:
    print(f"What it had written to stderr:\\n{words}")
"""


class Guard:
    """The guard of one test process, from its set-up to its summary."""

    def __init__(self, config: pytest.Config):
        self._pid, self._replaced, self._faults = os.getpid(), [], []
        self._family = {1, 0, -1, self._pid, *(p.pid for p in psutil.Process().parents())}
        self._stderr = os.dup(2)  # pytest catches what comes after its set-up
        caught = _caught_stderr(config)
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", WATCH, str(self._pid), str(caught)],
            stdin=subprocess.PIPE,
            stdout=self._stderr,
            stderr=self._stderr,
            pass_fds=[caught] if caught >= 0 else [],
            start_new_session=True,  # no signal to the group of the tests ends it
        )
        self._replace(os, "_exit", lambda *_: True)
        self._replace(os, "abort", lambda *_: True)
        for name in ("execv", "execve"):
            self._replace(os, name, lambda *_: True)
        self._replace(os, "kill", self._hits_family)
        self._replace(os, "killpg", lambda group, number: self._hits_family(-group, number))
        self._replace(signal, "raise_signal", _is_deadly)
        self._replace(signal, "pthread_kill", lambda _, number: _is_deadly(number))
        self._dump_later = faulthandler.dump_traceback_later
        self._replace(
            faulthandler, "dump_traceback_later", lambda *args, **names: names.get("exit", args[3:])
        )

    def _hits_family(self, pid: int, number: int) -> bool:
        if not number:
            return False
        if pid == self._pid:
            return _is_deadly(number)
        return pid in self._family or -pid == os.getpgrp()

    def _replace(self, module: ModuleType, name: str, would_end: Callable[..., bool]):
        """Have a function fail the test where it would end this process; children are free to."""
        original = getattr(module, name)

        @functools.wraps(original)
        def guarded(*args, **names):
            if os.getpid() == self._pid and would_end(*args, **names):
                self._fail(f"{module.__name__}.{name}{args} would have ended the test process")
            return original(*args, **names)

        self._replaced.append((module, name, original))
        setattr(module, name, guarded)

    def _fail(self, fault: str):
        self._faults.append(fault)
        raise pytest.fail.Exception(fault)

    def _tell_watcher(self, text: str):
        with contextlib.suppress(BrokenPipeError):
            os.write(self._watcher.stdin.fileno(), text.encode(errors="backslashreplace") + b"\n")

    @contextlib.contextmanager
    def _watched(self, item: pytest.Item, phase: str) -> Iterator[None]:
        """Fail a phase of a test that takes too long or tries to end the process."""
        marker = item.get_closest_marker("time_limit")
        seconds = SLOW_SECONDS if item.get_closest_marker("slow") else QUICK_SECONDS
        seconds = marker.args[0] if marker else seconds

        def stop(*_):
            self._fail(f"hangs: {phase} has taken {seconds} s")

        self._tell_watcher(f"{phase} of {item.nodeid}")
        self._faults.clear()
        before = signal.signal(signal.SIGALRM, stop)
        # Again and again, should the first one be lost in code that swallows everything.
        signal.setitimer(signal.ITIMER_REAL, seconds, HANG_SECONDS / 3)
        self._dump_later(seconds + HANG_SECONDS, file=self._stderr, exit=True)
        try:
            yield
        finally:
            _stop_clocks()
            signal.signal(signal.SIGALRM, before)
        if self._faults:  # but nothing was raised: in a thread, or all exceptions were caught
            raise pytest.fail.Exception("\n".join(dict.fromkeys(self._faults)))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item):
        """Watch the set-up."""
        with self._watched(item, "set-up"):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item):
        """Watch the test itself."""
        with self._watched(item, "call"):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item):
        """Watch the tear-down."""
        with self._watched(item, "tear-down"):
            return (yield)

    def pytest_enter_pdb(self):
        """Leave all time to whoever debugs."""
        _stop_clocks()

    def pytest_unconfigure(self):
        """Let the watcher go: the summary has been written."""
        for module, name, original in self._replaced:
            setattr(module, name, original)
        self._tell_watcher("")
        self._watcher.stdin.close()
        self._watcher.wait()
        os.close(self._stderr)


def _is_deadly(number: int) -> bool:
    """Return whether a signal, sent to itself, ends this process or the run."""
    handler = signal.getsignal(number)
    return handler in (None, signal.SIG_DFL, signal.default_int_handler)


def _stop_clocks():
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()


def _caught_stderr(config: pytest.Config) -> int:
    """Return the file into which pytest catches stderr, -1 where it does not."""
    with contextlib.suppress(AttributeError):  # no public name leads to it
        return config.pluginmanager.getplugin(
            "capturemanager"
        )._global_capturing.err.tmpfile.fileno()
    return -1


def pytest_configure(config):
    """Begin to watch."""
    config.addinivalue_line("markers", "time_limit(seconds): for set-up, call and tear-down each")
    config.pluginmanager.register(Guard(config), "guard of the test process")
