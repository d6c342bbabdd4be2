"""The results file of the GPU check: one JSON line per result, written as soon as it is known."""

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "GPU_CHECK_RESULTS"  # the environment's name of the file


def emit(part: str, **values: Any):
    """Print one result, and append it to the file where there is one."""
    line = json.dumps({"part": part} | values)
    print(line, flush=True)
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as file:
            file.write(line + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return all results; a line that a killed process left half written is passed over."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def merged(results: list[dict[str, Any]], part: str) -> dict[str, Any]:
    """Return all that is known of a part, the last word on each thing."""
    known: dict[str, Any] = {}
    for result in results:
        if result.get("part") == part:
            known |= result
    return known


def summary(results: list[dict[str, Any]]) -> str:
    """Return the results as text: a table of the steps, then the rest a line each."""
    names = list(dict.fromkeys(r["part"] for r in results if "part" in r))
    lines = [
        f"{'':22}{'ms':>9}{'/s':>9}{'TFLOP/s':>9}{'compile s':>11}{'first loss s':>14}"
        f"{'GB':>7}{'loss':>9}  how it ended"
    ]
    for name in names:
        r = merged(results, name)
        if not {"compile_seconds", "ms"} & r.keys() or name == "layers":
            continue
        memory = r.get("peak_bytes") and f"{r['peak_bytes'] / 1e9:.1f}"
        cells = [
            (r.get("ms"), 9), (r.get("samples_per_second"), 9), (r.get("tflops_per_second"), 9),
            (r.get("compile_seconds"), 11), (r.get("first_loss_seconds"), 14), (memory, 7),
            (r.get("first_loss") and f"{r['first_loss']:.5f}", 9),
        ]  # fmt: skip
        row = "".join(f"{'' if value is None else value:>{width}}" for value, width in cells)
        lines.append(f"{name:22}{row}  {r.get('status', '')} {r.get('seconds', '')} s")
    for r in results:
        if "layer" in r and "ms" in r:
            lines.append(
                f"{r['layer']:46}{r['ms']:>10} ms {r['passes']:>8} passes (least {r['least']})"
                f"{r['compile_seconds']:>8} s to compile"
            )
    shown = (
        "kernels_ms",
        "passes",
        "test_dice",
        "validation",
        "time_shares",
        "distinct_convolutions",
    )
    shown += ("last_loss", "text", "nvidia_smi", "versions", "device", "matmul_tflops_per_second")
    shown += ("copy_gigabytes_per_second", "programs", "slowest", "cache_before", "cache_after")
    for r in results:
        for key in shown:
            if key in r and "layer" not in r and (key != "device" or r["part"] == "facts"):
                value = "\n  ".join(["", *r[key]]) if key == "text" else r[key]
                lines.append(f"{r['part']} {key}: {value}")
        if r.get("status") in ("failed", "late", "left out") or "error" in r:
            why = r.get("last_lines") or r.get("error", "")
            lines.append(f"{r['part']}: {r.get('status', 'error')} {why}")
        for row in r.get("kernels", [])[:14]:
            lines.append(f"{r['part']} kernel: {row}")
    return "\n".join(lines)
