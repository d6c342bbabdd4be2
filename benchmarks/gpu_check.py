"""Everything a GPU can tell in ten minutes, the most important first; see benchmarks/gpu_check.sh.

Each part is a process with a limit of its own; what it finds is in results.jsonl at once. Parts
that are done are not run again, so that a second call goes on where the first had to end.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import gpu_results
from benchmarks.gpu_plan import RESULTS, SMALL, Check, Part, parts
from benchmarks.gpu_results import summary

ROOT = Path(__file__).parents[1]
LOG, SUMMARY = "log.txt", "summary.txt"
_KEPT = 200_000  # bytes of a part's log, of the beginning and of the end
_SPARE = 8  # seconds at the end


def execute(part: Part, check: Check) -> str:
    """Run a part; return how it ended: done, failed or late."""
    limit = min(part.limit, check.end - time.monotonic() - _SPARE)
    log = check.work / "logs" / f"{part.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    run = part.run(check)
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *run.command],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | run.environment,
            start_new_session=True,
        )
        try:
            code = process.wait(max(limit, 1))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            process.wait()
    status = "late" if code is None else "done" if code == 0 else "failed"
    content = log.read_bytes()
    said = content.decode(errors="replace")
    about: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - started, 1)}
    if status != "done":
        about["last_lines"] = said.strip().splitlines()[-4:]
    gpu_results.emit(part.name, **about)
    if len(content) > 2 * _KEPT:
        content = content[:_KEPT] + b"\n[...]\n" + content[-_KEPT:]
    with (check.output / LOG).open("ab") as file:
        file.write(f"\n==== {part.name}: {about}\n".encode() + content)
    if part.after:
        try:
            part.after(check, said)
        except Exception as error:  # the other parts are still worth their time
            gpu_results.emit(part.name, error=f"{type(error).__name__}: {error}")
    return status


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu_check.sh", description=__doc__)
    add = parser.add_argument
    add("--output", type=Path, default=Path("gpu_check"), help="folder of the results")
    work = Path(tempfile.gettempdir()) / "jaxseg_gpu_check"
    add("--work", type=Path, default=work, help="folder of the rest")
    add("--scans", type=Path, help="the LGG scans: folder, or the file benchmarks.gpu_scans packed")
    add("--minutes", type=float, default=9.5, help="all parts together")
    add("--parts", default="", help="these alone, by comma, in this order, also if done before")
    add("--small", action="store_true", help="everything tiny: a rehearsal without a GPU")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the parts; 0 unless one failed (late or left out is no failure)."""
    options = parse(argv)
    end = time.monotonic() + 60 * options.minutes
    output, work = options.output.absolute(), options.work.absolute()
    output.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    scans = options.scans and options.scans.absolute()
    check = Check(output, work, options.small, scans, end)
    kept = work / RESULTS
    if kept.exists() and not (output / RESULTS).exists():
        shutil.copy(kept, output / RESULTS)  # a call before this one
    os.environ[gpu_results.VARIABLE] = str(output / RESULTS)
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    known = {part.name: part for part in parts()}
    wanted = options.parts.split(",") if options.parts else list(SMALL if check.small else known)
    begun = {r["part"] for r in check.results() if "status" in r and r["status"] != "left out"}
    failed = False
    for name in wanted:
        if name in begun and not options.parts:
            continue
        if check.end - time.monotonic() - _SPARE < known[name].needs * (not check.small):
            gpu_results.emit(name, status="left out")
            continue
        status = execute(known[name], check)
        failed |= status == "failed" and not name.startswith("torch")
        shutil.copy(output / RESULTS, kept)
        (output / SUMMARY).write_text(summary(check.results()) + "\n")
    print(summary(check.results()))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
