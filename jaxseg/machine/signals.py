"""Requests to end a run politely: signals and the time limit."""

import contextlib
import signal
import sys
import time

# A process votes with the position of its reason; the largest vote of all processes counts.
REASONS = ("", "train.max_minutes", "SIGINT", "SIGTERM")
_STARTED = time.monotonic()  # of the program, when it imports this


class StopRequests:
    """Context manager that collects this process's reasons to stop.

    The first SIGINT or SIGTERM asks the loop to save, the second ends the process at once.
    """

    def __init__(self, max_minutes: float = 0.0):
        self._received = 0
        self._deadline = _STARTED + 60 * max_minutes if max_minutes else float("inf")

    def __enter__(self) -> "StopRequests":
        self._before = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def vote(self) -> int:
        """Position in `REASONS` of the reason to stop; 0: none."""
        return self._received or int(time.monotonic() >= self._deadline)

    def _receive(self, number: int, _):
        if self._received:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        self._received = REASONS.index(name)
        with contextlib.suppress(OSError):  # the log may lie on a full disk
            print(f"\n{name}: saving, then stopping", file=sys.stderr, flush=True)
