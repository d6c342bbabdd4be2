"""What a run compiles: python -m benchmarks.compilations MODULE [ARGUMENTS]

    JAXSEG_NATIVE=0 python -m benchmarks.compilations jaxseg.train --config configs/unet.py

Runs the module as `python -m` would, then prints, and writes where GPU_CHECK_RESULTS says, how
many programs were compiled, how long each took to trace, lower and compile, and how many distinct
convolutions they hold: on a GPU each of those is tried out with every algorithm there is.
"""

import atexit
import re
import runpy
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from benchmarks.gpu_results import emit

_CONVOLUTION = re.compile(r"stablehlo\.convolution.*?(window = \{.*?\}).*?: (\(.*?\) -> \S+)")


def convolutions(text: str) -> list[str]:
    """Return window and types of every convolution in a program's StableHLO."""
    return [" ".join(found) for found in _CONVOLUTION.findall(text)]


def summary(
    events: Iterable[tuple[str, str, float, float]], programs: dict[str, str], seconds: float
) -> dict[str, Any]:
    """Return the numbers of a run.

    Args:
        events: (what, name of the function, seconds, when it ended).
        programs: file name -> StableHLO of each program compiled.
        seconds: the whole run took.
    """
    totals: dict[str, float] = {}
    slowest: list[list[Any]] = []
    count = 0
    for what, name, duration, end in events:
        totals[what] = totals.get(what, 0.0) + duration
        count += what == "backend_compile"
        if what == "backend_compile":
            slowest.append([round(duration, 2), name, round(end, 1)])
    found = {name: convolutions(text) for name, text in programs.items()}
    return {
        "programs": count,
        "seconds_of_run": round(seconds, 1),
        **{f"{what}_seconds": round(total, 2) for what, total in totals.items()},
        "slowest": sorted(slowest, reverse=True)[:12],
        "convolutions": sum(map(len, found.values())),
        "distinct_convolutions": len({c for some in found.values() for c in some}),
        "convolutions_by_program": {n: len(set(some)) for n, some in found.items() if some},
    }


def main(module: str, arguments: list[str]):
    """Run the module and write the summary when it ends, however it ends."""
    start, events, folder = time.perf_counter(), [], Path(tempfile.mkdtemp())
    jax.config.update("jax_dump_ir_to", str(folder))

    def add(event: str, duration: float, **about: Any):
        what = event.rsplit("/", 1)[-1].removesuffix("_duration")
        if what in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile"):
            name, end = str(about.get("fun_name", "")), time.perf_counter() - start
            events.append((what, name, duration, end))

    def finish():
        programs = {
            re.sub(r"^jax_ir|_compile\.mlir$", "", p.name): p.read_text()
            for p in sorted(folder.glob("*_compile.mlir"))
        }
        emit("compilations", **summary(events, programs, time.perf_counter() - start))

    jax.monitoring.register_event_duration_secs_listener(add)
    atexit.register(finish)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
