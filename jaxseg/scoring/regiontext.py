"""Several regions beside each other in words: a table of all measures, lesions, empty truths."""

from typing import Any, NamedTuple

from jaxseg.scoring.cohort import counted, unit

MEAN = "mean of regions"


class Column(NamedTuple):
    """A measure as it is shown; the factor is applied before the format."""

    label: str
    key: str
    form: str
    factor: float = 1.0


class Block(NamedTuple):
    """Columns that belong together, and cells by region: (name, value, interval of each)."""

    title: str
    labels: tuple[str, ...]
    rows: list[tuple[str, list[tuple[str, str]]]]


_COLUMNS = (
    Column("Dice", "dice", ".3f"),
    Column("HD95, {unit}", "hd95", ".1f"),
    Column("NSD at 1 {one}", "nsd", ".3f"),
    Column("IoU", "iou", ".3f"),
    Column("sensitivity", "sensitivity", ".3f"),
    Column("precision", "precision", ".3f"),
    Column("volume error, %", "volume_error", "+.1f", 100.0),
    Column("absolute, %", "absolute_volume_error", ".1f", 100.0),
    Column("lesion Dice", "lesion_dice", ".3f"),
)
_BRATS_COLUMNS = (
    Column("Dice", "dice", ".3f"),
    Column("HD95, mm", "hd95", ".1f"),
    Column("NSD", "nsd", ".3f"),
)


def region_blocks(summary: dict[str, Any]) -> list[Block]:
    """Return the measures of all regions and of their mean, three columns a block.

    Args:
        summary: by `scorecard.join_regions`; none of a summary of one region.
    """
    parts = summary.get("regions", {})
    if not parts:
        return []
    means = summary["mean_over_regions"]["patients"]
    rows = {name: part["patients"] for name, part in parts.items()} | {MEAN: means}
    unit = summary["definitions"]["hd95_unit"]
    blocks = []
    for start in range(0, len(_COLUMNS), 3):
        columns = [
            c._replace(label=c.label.format(unit=unit, one=unit.removesuffix("s")))
            for c in _COLUMNS[start : start + 3]
        ]
        blocks.append(_block("REGION", columns, rows))
    if "brats" in next(iter(parts.values())):
        rows = {name: part["brats"] for name, part in parts.items()}
        title = rows[next(iter(rows))]["definition"]
        rows[MEAN] = {c.key: means[f"brats_{c.key}"] for c in _BRATS_COLUMNS}
        known = (
            c for c in _BRATS_COLUMNS if any(r[c.key]["mean"] is not None for r in rows.values())
        )
        blocks.append(_block(title, tuple(known), rows))
    return blocks


def format_regions(summary: dict[str, Any]) -> str:
    """Return the table for the terminal, 80 columns wide; '' of one region."""
    line = "{:<16} {:<20} {:<20} {:<20}".format
    lines = []
    for block in region_blocks(summary):
        blank = [""] * (3 - len(block.labels))
        lines += [line(block.title[:16], *block.labels, *blank), "-" * 79]
        for name, cells in block.rows:
            shown = [f"{value} [{interval}]" if interval else value for value, interval in cells]
            lines.append(line(name[:16], *shown, *blank))
        lines.append("")
    if any("[" in text for text in lines):
        lines.append(f"In brackets 95 % intervals over {of_whom(summary)}.")
    return "".join(f"{text.rstrip()}\n" for text in lines)


def of_whom(summary: dict[str, Any]) -> str:
    """Return whom means and intervals are over, in words."""
    several = unit(*counted(summary["patients"])) == "scan"
    return "scans, persons drawn whole" if several else "patients"


def lesions_line(summary: dict[str, Any]) -> str:
    """Return how many lesions were found, missed and invented, in words."""
    return f"Lesions: {summary['lesions']['n']} in the truth, {_counted(summary['lesions'])}."


def empty_line(summary: dict[str, Any]) -> str:
    """Return what became of patients with an empty truth, in words; '' where there is none."""
    empty, others = summary["empty_truth"], summary["with_truth"]
    if not empty["n"]:
        return ""
    size = f"{empty['mean_false_positive_voxels']:,.0f} voxels"
    if empty["mean_false_positive_mm3"] is not None:
        size = f"{empty['mean_false_positive_mm3']:,.0f} mm^3"
    text = (
        f"Empty truth: {empty['n']} of {_all(summary)}, "
        f"{empty['n_predicted_empty']} of them predicted empty; falsely predicted there: {size} "
        "on average."
    )
    if not others["n"]:
        return text
    values = [_cell(others[c.key], c)[0] for c in _COLUMNS[:3]]
    unit = summary["definitions"]["hd95_unit"]
    dice, hd95, nsd = values
    return f"{text} Over the {others['n']} others: Dice {dice}, HD95 {hd95} {unit}, NSD {nsd}."


def brats_line(summary: dict[str, Any]) -> str:
    """Return the scores by the BraTS definition with its name, in words; '' without one."""
    found = summary.get("brats")
    if found is None:
        return ""
    parts = []
    for column in _BRATS_COLUMNS:
        value, interval = _cell(found[column.key], column)
        inside = f" (95 % interval {interval.replace(', ', ' to ')})" if interval else ""
        name, _, unit = column.label.partition(", ")
        parts += [f"{name} {value} {unit}".rstrip() + inside] if value != "-" else []
    parts += [f"lesions {_counted(found)}"] if found["found"] is not None else []
    if found["n_undefined"]:
        parts.append(f"undefined for {found['n_undefined']} of {_all(summary)}")
    return f"BraTS, {found['definition']} ({found['challenge']}): {'; '.join(parts)}."


def _all(summary: dict[str, Any]) -> str:
    scans, persons = counted(summary["patients"])
    return f"{scans} {unit(scans, persons)}s"


def _block(title: str, columns: tuple[Column, ...], rows: dict[str, dict[str, Any]]) -> Block:
    cells = [(name, [_cell(row[c.key], c) for c in columns]) for name, row in rows.items()]
    return Block(title, tuple(c.label for c in columns), cells)


def _cell(spread: dict[str, Any], column: Column) -> tuple[str, str]:
    if spread["mean"] is None:
        return "-", ""
    low, high = spread["ci95"]
    values = [
        format(column.factor * v, column.form) for v in (spread["mean"], low, high) if v is not None
    ]
    return values[0], ", ".join(values[1:])


def _counted(numbers: dict[str, int]) -> str:
    return f"{numbers['found']} found, {numbers['missed']} missed, {numbers['invented']} invented"
