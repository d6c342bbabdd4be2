"""Measure jaxseg against its peers on this machine: python -m benchmarks.run [--only TASKS] ...

Every implementation does the same work in a process and an environment of its own, on all cores
(or the GPU), one at a time and in turn: a step of the first, a step of the second, and so on.
The environments are made on first use. Prints tables and writes everything to a JSON file.
"""

import argparse
import itertools
import json
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import environments, machine, measure, peers, tables
from benchmarks.measure import Work

TASKS = ("matmul", "train", "volumes", "forward", "evaluate", "input", "save", "start")

EVALUATION_BATCH, INPUT_BATCHES = 32, 24


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__.split(": ", 1)[0] + ".",
        epilog="Machines are noisy: believe the ratios and their spread, not single times.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    names = {i.name for i in peers.IMPLEMENTATIONS} | set(peers.PEERS) - {"jaxseg"}
    add = parser.add_argument
    add("--only", type=_list_of(TASKS), default=list(TASKS), help=f"of {', '.join(TASKS)}")
    add("--peers", type=_list_of(names), default=list(peers.PEERS), help="'' for jaxseg alone")
    add("--sizes", type=_numbers, default=[256, 128], help="pixels; features are an eighth")
    add("--batch", type=_numbers, default=[4], help="of the training step")
    add("--volume-sizes", type=_numbers, default=[64, 96], help="voxels a side of volumes")
    add("--volume-features", type=_numbers, default=[16, 32], help="of volumes' finest level")
    add("--volume-batch", type=_numbers, default=[1, 2], help="of the training step on volumes")
    add("--forward-batch", type=_numbers, default=[1, 8], help="of the prediction")
    add(
        "--workers",
        type=lambda text: _numbers(text, least=0),
        default=[1, 2],
        help="loader processes (or threads) of the input",
    )
    add("--dtypes", type=_list_of(("float32", "bfloat16")), default=["float32"], help="computed in")
    add("--rounds", type=_number, default=10, help="timings of each implementation")
    add("--steps", type=_number, default=1, help="steps per timing; on a GPU 20 or so")
    add("--alone", action="store_true", help="one process at a time, where memory is short")
    add(
        "--reference",
        default="pytorch_channels_last",
        help="implementation that ratios are taken to",
    )
    add("--environments", type=Path, default=environments.default_folder(), help="folder of venvs")
    add("--output", type=Path, default=Path("benchmarks.json"), help="JSON file to write")
    options = parser.parse_args(argv)
    if any(size % 16 for size in (*options.sizes, *options.volume_sizes)):
        parser.error("sizes must be multiples of 16, since the network pools 4 times")
    try:  # now, not after an hour
        part = _part(options.output)
        part.touch()
        part.unlink()
    except OSError as error:
        parser.error(f"--output {options.output}: cannot be written ({error.strerror})")
    return options


def _list_of(names: Iterable[str]):
    def parse(text: str) -> list[str]:
        values = [v for v in text.split(",") if v]
        if unknown := set(values) - set(names):
            some = ", ".join(sorted(names))
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose of {some}")
        return values

    return parse


def _numbers(text: str, least: int = 1) -> list[int]:
    try:
        values = [int(v) for v in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < least:
        rule = f"give whole numbers from {least} on, as in 4,16"
        raise argparse.ArgumentTypeError(f"{text!r}: {rule}")
    return values


def _number(text: str) -> int:
    return _numbers(text)[0]


def works(options: argparse.Namespace) -> list[Work]:
    """Return everything to measure, in order."""
    made = [Work("matmul", min(options.sizes), 1)]
    for size in options.sizes:
        for dtype in options.dtypes:
            made += [Work("train", size, n, dtype, options.steps) for n in options.batch]
            made += [Work("forward", size, n, dtype, options.steps) for n in options.forward_batch]
    volumes = itertools.product(
        options.volume_sizes, options.volume_features, options.volume_batch, options.dtypes
    )
    for size, width, batch, dtype in volumes:
        made.append(Work("volumes", size, batch, dtype, options.steps, width=width))
    made.append(Work("evaluate", 128, EVALUATION_BATCH))
    for size in options.sizes:
        made += [Work("input", size, 16, steps=INPUT_BATCHES, workers=n) for n in options.workers]
        made += [Work(task, size, options.batch[0]) for task in ("save", "start")]
    return [work for work in made if work.task in options.only]


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    options = parse(argv)
    measure_all(options)
    print(f"\nwritten to {options.output}")


def measure_all(options: argparse.Namespace):
    """Measure everything, print each table when it is ready and write what there is so far."""
    report: dict[str, Any] = {"machine": machine.describe(), "options": vars(options)}
    print(tables.machine_text(report["machine"]), flush=True)
    pythons, report["not_installed"] = install(options.only, options.peers, options.environments)
    for name, why in report["not_installed"].items():
        print(f"{name}: not installed: {why}", flush=True)
    report |= {"matmul_flops_per_second": None, "results": []}
    with tempfile.TemporaryDirectory(prefix="benchmarks.") as scratch:
        for number, work in enumerate(works(options)):
            chosen = [i for i in peers.select(work.task, options.peers) if i.name in pythons]
            folder = Path(scratch) / str(number)
            result = measure.measure(work, chosen, pythons, options, folder, say_progress)
            if work.task == "matmul":
                rates = map(tables.flops_per_second, result["implementations"].values())
                report["matmul_flops_per_second"] = max(rates, default=None)
            result["matmul_flops_per_second"] = report["matmul_flops_per_second"]
            report["results"].append(result)
            say_progress("")
            print("\n" + tables.result_text(result, options.reference), flush=True)
            write(options.output, report)


def install(
    tasks: Sequence[str], wanted: Sequence[str], folder: Path
) -> tuple[Mapping[str, Path], dict[str, str]]:
    """Make the environments of the chosen implementations.

    Returns:
        Implementation -> its Python, and why the others have none.
    """
    pythons, missing = {}, {}
    for one in peers.IMPLEMENTATIONS:
        if not any(one in peers.select(task, wanted) for task in tasks):
            continue
        try:
            ready = one.environment == ""
            where = folder / one.environment
            pythons[one.name] = (
                Path(sys.executable) if ready else environments.ensure(where, one.requirements)
            )
        except environments.NotInstalled as error:
            missing[one.name] = str(error)
    return pythons, missing


def say_progress(text: str):
    """Show what is being done in the last line of a terminal; the empty text clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def write(path: Path, report: Mapping[str, Any]):
    """Write the report, whole or not at all."""
    part = _part(path)
    part.write_text(json.dumps(report, indent=1, default=str) + "\n")
    part.replace(path)


def _part(path: Path) -> Path:
    """Return the file to write before it takes its place; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(path.name + ".part")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends the workers too
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        say_progress("")
        print("interrupted; the file holds the tables that were printed", file=sys.stderr)
        sys.exit(130)
