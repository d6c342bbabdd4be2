"""Results as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.timing import Spread, ratios, spread

_TITLES = {
    "train": "Training step",
    "forward": "Forward",
    "save": "Checkpoint save",
    "start": "Start: from the command to the end of the first training step",
    "matmul": "Large matrix product",
}


def machine_text(machine: Mapping[str, Any]) -> str:
    """Return what the machine is, in a few lines."""
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores ({' '.join(machine['flags'])}), "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB",
        *machine["gpus"],
        f"{machine['system']}, Python {machine['python']}; commit {machine['commit']}, "
        f"{machine['date']}",
    ]
    if machine["load"] > 0.5:
        lines.append(f"warning: other programs are running (load {machine['load']:.1f})")
    return "\n".join(lines)


def result_text(result: Mapping[str, Any], reference: str) -> str:
    """Return the table of one piece of work, fastest first."""
    found = result["implementations"]
    rows = _step_rows(result, reference)
    lines = [heading(result), *columns(rows)]
    lines += [f"{name}: no result: {why}" for name, why in result["failed"].items()]
    if found:
        lines += result["notes"]
    return "\n".join(lines)


def heading(result: Mapping[str, Any]) -> str:
    """Return what was measured, in a line."""
    work = result["work"]
    size, how = work["size"], "one after the other" if result["alone"] else "in turn"
    return (
        f"{_TITLES[work['task']]}: {size}x{size}x3, {size // 8} features, batch {work['batch']}, "
        f"{work['dtype']}; {result['rounds']} rounds {how}"
    )


def _step_rows(result: Mapping[str, Any], reference: str) -> list[list[str]]:
    found, work = result["implementations"], result["work"]
    base = found.get(reference)
    rows = [["", "s/step", "quartiles", f"to {reference}", "quartiles", "images/s", "GFLOP/s"]]
    rows[0] += ["peak memory", "compile", "parameters", "first loss"]
    for name, one in sorted(found.items(), key=lambda item: spread(item[1]["seconds"]).median):
        seconds = spread(one["seconds"])
        ratio = ratios(one["seconds"], base["seconds"]) if base else None
        peak = one.get("device_bytes") or one.get("host_bytes")
        loss = one.get("first_loss")
        rows.append(
            [
                name,
                f"{seconds.median:.4g}",
                _quartiles(seconds, "{:.4g}"),
                f"{ratio.median:.2f}" if ratio else "",
                _quartiles(ratio, "{:.2f}") if ratio else "",
                f"{work['batch'] / seconds.median:.3g}",
                f"{work['flops'] / seconds.median / 1e9:.0f}",
                f"{peak / 1e9:.2f} GB" if peak else "",
                f"{one['first_seconds'] - seconds.median:.1f} s",
                f"{one['parameters']:,}",
                f"{loss:.5f}" if loss is not None else "",
            ]
        )
    return rows


def _quartiles(values: Spread, number: str) -> str:
    return f"{number.format(values.low)} to {number.format(values.high)}"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    used = [i for i, column in enumerate(zip(*rows, strict=True)) if any(column[1:])]
    return [
        "  ".join(
            row[i].ljust(widths[i]) if i == 0 else row[i].rjust(widths[i]) for i in used
        ).rstrip()
        for row in rows
    ]
