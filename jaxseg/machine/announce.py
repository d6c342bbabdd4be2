"""What is being compiled and for how long, said while it takes: nobody shall think it hangs.

jax tells its listeners when the compilation of a program begins and when it has ended, whoever
asked for it; so no program is forgotten.
"""

import contextlib
import functools
import sys
import threading
import time
from typing import Any

import jax
from tqdm import tqdm

PATIENCE_SECONDS = 1.5  # what takes less is not worth a line
AGAIN_SECONDS = 20.0
COMPILATION = "/jax/core/compile/backend_compile_duration"


class Announcer:
    """Says that a program is being compiled, again from time to time, and how long it took."""

    def __init__(self, name: str):
        self.name, self._start = name.removeprefix("jit(").removesuffix(")"), time.monotonic()
        self._said = False
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        wait = PATIENCE_SECONDS
        while not self._ended.wait(wait):
            so_far = f" for {time.monotonic() - self._start:.0f} s" if self._said else ""
            self._said, wait = True, AGAIN_SECONDS
            say(f"compiling {self.name}{so_far} ...")

    def end(self, seconds: float):
        """Say how long it took, where it was worth a line."""
        self._ended.set()
        if self._said:
            say(f"compiled {self.name} in {seconds:.0f} s")


@functools.cache  # once in a process
def announce_compilations():
    """Say from now on what jax compiles, where that takes; the first process of several says it."""
    running: dict[int, Announcer] = {}  # a thread compiles one program at a time

    def begin(event: str, value: float, **about: Any):
        if event == COMPILATION:
            running[threading.get_ident()] = Announcer(str(about.get("fun_name", "a program")))

    def end(event: str, seconds: float, **_: Any):
        if event == COMPILATION and (announcer := running.pop(threading.get_ident(), None)):
            announcer.end(seconds)

    jax.monitoring.register_scalar_listener(begin)
    jax.monitoring.register_event_duration_secs_listener(end)


def say(text: str):
    """Print a line, above the progress bars where there are any."""
    if jax.process_index() == 0:
        with contextlib.suppress(OSError, ValueError):  # a full disk, a stream that is closed
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
