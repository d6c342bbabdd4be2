"""What jaxseg's training step spends its time on: python -m benchmarks.profile_step [--size N] ...

Runs some steps under jax's profiler and prints the operations that cost most, with the place in
the model that each belongs to (a fusion belongs to its last operation). The profile itself stays
in --output, for TensorBoard or Perfetto. On a CPU operations run side by side on several cores:
their times add up to more than the step.
"""

import argparse
import collections
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import tables
from benchmarks.worker_jaxseg import common_batch, common_state, make_config
from jaxseg.machine.sharding import make_mesh
from jaxseg.training.steps import jit_train_step


def places(hlo: str) -> dict[str, str]:
    """Return instruction -> name of the operation in the program, from a compiled text."""
    found = re.findall(r"%?([\w.\-]+) = [^\n]*metadata=\{[^\n}]*op_name=\"([^\"]*)\"", hlo)
    return {name: place.split("/", 1)[-1] for name, place in found}


def operations(profile: Path) -> Iterable[tuple[str, float]]:
    """Yield instruction and seconds of everything that ran compiled code."""
    newest = max(profile.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name:
                    yield str(name), event.duration_ns / 1e9


def largest(
    spent: Iterable[tuple[str, float]], where: Mapping[str, str], steps: int, count: int
) -> list[list[str]]:
    """Return a header and the `count` most expensive operations, in milliseconds per step."""
    seconds: dict[str, float] = collections.defaultdict(float)
    for name, duration in spent:
        seconds[name] += duration
    total = sum(seconds.values())
    rows = [["operation", "ms per step", "share", "place"]]
    for name in sorted(seconds, key=seconds.get, reverse=True)[:count]:
        share = f"{100 * seconds[name] / total:.1f} %"
        rows.append([name, f"{1e3 * seconds[name] / steps:.2f}", share, where.get(name, "")])
    return rows


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile_step",
        description=__doc__.split(": ", 1)[0] + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--size", type=int, default=256, help="pixels; features are an eighth")
    add("--batch", type=int, default=4, help="images")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="computed in")
    add("--steps", type=int, default=3, help="profiled")
    add("--top", type=int, default=20, help="operations shown")
    add("--output", type=Path, default=Path("profile"), help="folder of the profile")
    options = parser.parse_args(argv)
    settings: dict[str, Any] = vars(options) | {"features": options.size // 8}

    config, mesh = make_config(settings), make_mesh()
    state = common_state(config, settings["features"], mesh)
    batch = common_batch(settings, mesh)
    step = jit_train_step(config, state, mesh).lower(state, batch).compile()
    for _ in range(2):
        state, _ = jax.block_until_ready(step(state, batch))
    with jax.profiler.trace(options.output):
        start = time.perf_counter()
        for _ in range(options.steps):
            state, _ = step(state, batch)
        jax.block_until_ready(state)
        seconds = (time.perf_counter() - start) / options.steps

    device = jax.devices()[0].device_kind
    print(f"{1e3 * seconds:.1f} ms per step on {device}; the profile is in {options.output}")
    spent = operations(options.output)
    rows = largest(spent, places(step.as_text()), options.steps, options.top)
    print("\n".join(tables.columns(rows, left=(0, 3))))


if __name__ == "__main__":
    main(sys.argv[1:])
