"""One implementation, one process: it is asked for an action by a line and answers by a line.

The program that measures starts a worker in the worker's own environment, reads a first line
once everything is made, and from then on writes the name of an action and reads a JSON object
with the seconds it took. Whatever libraries print goes to the worker's log instead. This file
needs the standard library alone.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
Actions = Mapping[str, Callable[[], dict[str, Any]]]


class WorkerFailed(Exception):  # noqa: N818 (reads as what happened)
    """A worker said what is wrong, died, or did not answer in time."""


class Worker:
    """A running worker; `hello` is its first answer, `startup_seconds` how long that took."""

    def __init__(
        self,
        command: Sequence[str | Path],
        settings: Mapping[str, Any],
        log: Path,
        environment: Mapping[str, str] | None = None,
        timeout: float = 600,
    ):
        self.log, self.timeout = log, timeout
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*map(str, command), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=os.environ | (environment or {}),
                start_new_session=True,  # its loader processes end with it
            )
        try:
            self.hello = self._read()
        except BaseException:
            self.close()
            raise
        self.startup_seconds = time.perf_counter() - start

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_):
        self.close()

    def ask(self, action: str) -> dict[str, Any]:
        """Let the worker do something and return its answer, which holds "seconds".

        Raises:
            WorkerFailed: the worker says so, has died or does not answer in time.
        """
        try:
            self.process.stdin.write(action + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self._death()) from None
        return self._read()

    def close(self):
        """End the worker and all that it has started."""
        with contextlib.suppress(BrokenPipeError):  # it has died with a question unread
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self._kill()
        self.process.wait()
        self.process.stdout.close()

    def _kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _read(self) -> dict[str, Any]:
        late = threading.Event()
        timer = threading.Timer(self.timeout, lambda: (late.set(), self._kill()))
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if late.is_set():
            raise WorkerFailed(f"no answer within {self.timeout:g} s")
        if not line:
            raise WorkerFailed(self._death())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def _death(self) -> str:
        code = self.process.wait()
        how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
        last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        return ": ".join([f"the worker died, {how}", *last])


def serve(make: Callable[[dict[str, Any]], tuple[dict[str, Any], Actions]]):
    """Run as a worker: make everything, then do what stdin asks for until it ends.

    Args:
        make: takes the settings, returns the first answer and the actions by name. An action
            returns once its work is done; its answer gets "seconds" and the "cpu_seconds" of all
            its threads unless it has its own.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]):
        print(json.dumps(answer), file=answers, flush=True)

    try:
        hello, actions = make(json.loads(sys.argv[1]))
        say(hello)
        for line in sys.stdin:
            start, cpu = time.perf_counter(), time.process_time()
            answer = actions[line.strip()]()
            spent = {"seconds": time.perf_counter() - start}
            say(spent | {"cpu_seconds": time.process_time() - cpu} | answer)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        raise


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    # Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def session_memory_bytes() -> int:
    """Return the memory of this worker and all it has started; shared pages count once."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == os.getsid(0):
                total += int((process / "smaps_rollup").read_text().split("Pss:")[1].split()[0])
        except OSError:  # it has ended
            continue
    return 1024 * total
