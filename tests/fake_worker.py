"""A worker for the tests of benchmarks/: does no work and answers what it is told to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import protocol


def make(settings):
    """Actions that take a made-up time, die, hang or fail."""
    if settings.get("broken"):
        raise ImportError("no module\nof that name")
    seconds = iter(settings.get("times", []))
    print("a library says hello")

    def step():
        if log := settings.get("order"):
            with Path(log).open("a") as file:
                file.write(f"{settings['name']} ")
        try:
            answer = {"seconds": next(seconds), "cpu_seconds": 0.25, "loss": 1.5, "mean": 0.5}
        except StopIteration:
            return die()
        print("a library says more")
        return answer

    def die():
        print("the reason why", file=sys.stderr, flush=True)
        os._exit(3)

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    def child():
        return {"pid": subprocess.Popen(["sleep", "60"]).pid}

    def wait():
        time.sleep(0.05)
        return {}

    actions = {"train": step, "forward": step, "die": die, "kill": kill, "child": child}
    memory = {"host_bytes": 2_000_000_000, "device_bytes": None}
    hello = {"parameters": 7, "import_seconds": 0.5, "versions": {}}
    return hello, actions | {"wait": wait, "memory": lambda: memory, "hang": lambda: time.sleep(60)}


if __name__ == "__main__":
    protocol.serve(make)
