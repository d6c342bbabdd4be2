"""A polite end: the first SIGINT or SIGTERM asks the loop to save, the second ends at once."""

import signal
import sys


class StopSignals:
    """Context manager; `received` is the name of the signal that came, or None."""

    def __init__(self):
        self.received: str | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _):
        if self.received:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        print(f"\n{self.received}: stopping after this step", file=sys.stderr, flush=True)
