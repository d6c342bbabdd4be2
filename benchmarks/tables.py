"""Results as text."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.timing import Spread, ratios, spread

_TITLES = {
    "matmul": "Large matrix product, 10 times",
    "train": "Training step",
    "volumes": "Training step on volumes, instance norm, 3 regions",
    "forward": "Forward",
    "evaluate": "Evaluation of 1000 slices (jaxseg with reading, scores and HD95; PyTorch forward)",
    "input": "Input: a batch read, normalised, flipped and moved",
    "save": "Checkpoint save",
    "start": "Start: from the command to the end of the first training step",
}
One = Mapping[str, Any]  # the numbers of one implementation


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
    """Return the table of one piece of work, fastest first.

    Args:
        result: from `measure.measure`.
        reference: the implementation that ratios are taken to; where it has no result, the
            first that has one and is not jaxseg.
    """
    found = result["implementations"]
    others = [name for name in found if not name.startswith("jaxseg")]
    reference = reference if reference in found else (others or [""])[0]
    lines = [heading(result, reference)]
    if found:
        lines += columns(_rows(result, reference))
    lines += [f"{name}: no result: {why}" for name, why in result["failed"].items()]
    return "\n".join(lines + result["notes"])


def heading(result: Mapping[str, Any], reference: str) -> str:
    """Return what was measured, in a line."""
    work = result["work"]
    how = "one after the other" if result["alone"] else "in turn"
    parts = [f"{_TITLES[work['task']]}"]
    if work["task"] != "matmul":
        shape = (work["size"],) * (3 if work["task"] == "volumes" else 2)
        channels = 4 if work["task"] == "volumes" else 3
        parts.append(f"{'x'.join(map(str, (*shape, channels)))}, batch {work['batch']}")
    if work["task"] == "input":
        parts.append(f"loaders: {work['workers']}")
    elif work["task"] != "matmul":
        parts.append(f"{work['features']} features, {work['dtype']}")
    parts.append(f"{result['rounds']} rounds {how}")
    if reference:
        parts.append(f"ratios of times to {reference}")
    return "; ".join(parts)


def _rows(result: Mapping[str, Any], reference: str) -> list[list[str]]:
    """Return the header and a row per implementation."""
    found, extra = result["implementations"], _EXTRA[result["work"]["task"]]
    base = found.get(reference)
    rows = [["", "seconds", "quartiles", "ratio", "quartiles", *(title for title, _ in extra)]]
    for name, one in sorted(found.items(), key=lambda item: spread(item[1]["seconds"]).median):
        seconds = spread(one["seconds"])
        ratio = ratios(one["seconds"], base["seconds"]) if base else None
        row = [name, f"{seconds.median:.4g}", _quartiles(seconds, "{:.4g}")]
        row += [f"{ratio.median:.2f}", _quartiles(ratio, "{:.2f}")] if ratio else ["", ""]
        rows.append(row + [value(one, result) for _, value in extra])
    return rows


def _quartiles(values: Spread, number: str) -> str:
    return f"{number.format(values.low)} to {number.format(values.high)}"


def _median_of(answers: str, key: str, text: str) -> Callable[[One, Mapping[str, Any]], str]:
    """Return a column: the median over all rounds of one number in the answers."""

    def value(one: One, _: Mapping[str, Any]) -> str:
        numbers = [a[key] for a in one[answers] if key in a]
        return text.format(statistics.median(numbers)) if numbers else ""

    return value


def _gigabytes(key: str) -> Callable[[One, Mapping[str, Any]], str]:
    return lambda one, _: f"{one[key] / 1e9:.2f} GB" if one.get(key) else ""


def _per_second(amount: float, one: One) -> float:
    return amount / spread(one["seconds"]).median


def _images(one: One, result: Mapping[str, Any]) -> str:
    rate = _per_second(result["work"]["batch"], one)
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _share(one: One, result: Mapping[str, Any]) -> str:
    """Return the operations per second against those of a large matrix product."""
    if not result.get("matmul_flops_per_second"):
        return ""
    share = _per_second(result["work"]["flops"], one) / result["matmul_flops_per_second"]
    return f"{100 * share:.0f} %"


def _compile(one: One, _: Mapping[str, Any]) -> str:
    return f"{max(one['first']['seconds'] - sum(one['seconds'][:1]), 0):.1f} s"


def _cpu_seconds(one: One, result: Mapping[str, Any]) -> float:
    """Return the median of a step, all threads together: fair where other programs run too."""
    return statistics.median(a["cpu_seconds"] for a in one["answers"]) / result["work"]["steps"]


_STEP = (
    ("images/s", _images),
    ("GFLOP/s", lambda one, r: f"{_per_second(r['work']['flops'], one) / 1e9:.3g}"),
    ("of matmul", _share),
    ("peak memory", _gigabytes("host_bytes")),
    ("on device", _gigabytes("device_bytes")),
    ("CPU s", lambda one, r: f"{_cpu_seconds(one, r):.4g}"),
    ("compile", _compile),
    ("parameters", lambda one, _: f"{one['parameters']:,}"),
)
# Further columns of each table.
_EXTRA: dict[str, tuple[tuple[str, Callable[[One, Mapping[str, Any]], str]], ...]] = {
    "matmul": (("GFLOP/s", lambda one, _: f"{flops_per_second(one) / 1e9:.0f}"),),
    "train": (*_STEP, ("first loss", lambda one, _: f"{one['first']['loss']:.5f}")),
    "volumes": (*_STEP, ("first loss", lambda one, _: f"{one['first']['loss']:.5f}")),
    "forward": (*_STEP, ("mean", lambda one, _: f"{one['first']['mean']:.5f}")),
    "evaluate": (("mean Dice", _median_of("answers", "dice", "{:.3f}")),),
    "input": (
        ("images/s", _images),
        ("first batch", _median_of("answers", "first_batch_seconds", "{:.2f} s")),
        ("memory", lambda one, _: f"{max(a['loader_bytes'] for a in one['answers']) / 1e9:.2f} GB"),
    ),
    "save": (("training waits", _median_of("answers", "blocking_seconds", "{:.3f} s")),),
    "start": (
        ("warm start", _median_of("warm", "seconds", "{:.1f} s")),
        ("import", _median_of("warm", "import_seconds", "{:.1f} s")),
        ("compile", _median_of("cold", "compile_seconds", "{:.1f} s")),
        ("compile, warm", _median_of("warm", "compile_seconds", "{:.1f} s")),
    ),
}


def flops_per_second(one: One) -> float:
    """Return the rate of the large matrix product."""
    return statistics.median(a["flops_per_second"] for a in one["answers"])


def columns(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Return the rows in columns, without those that are empty below the header.

    Args:
        rows: the header first; all of one length.
        left: the columns that are aligned to the left.
    """
    texts = []
    for i, column in enumerate(zip(*rows, strict=True)):
        if any(column[1:]):
            width = max(map(len, column))
            texts.append([x.ljust(width) if i in left else x.rjust(width) for x in column])
    return ["  ".join(row).rstrip() for row in zip(*texts, strict=True)]
