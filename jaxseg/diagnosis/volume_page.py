"""The sections of the doctor's page that are about volumes."""

import math
from collections.abc import Sequence
from typing import Any

from jaxseg.diagnosis.lines import LABEL, counts, row

_MOST = 5  # persons with several scans, by name


def sections(facts: dict[str, Any]) -> list[str]:
    """Return the lines on what `volume_facts.sum_up` found."""
    return [*_volumes(facts), *_intensities(facts), *_regions(facts)]


def _volumes(facts: dict[str, Any]) -> list[str]:
    scans, persons, several = facts["scans"], facts["persons"], facts["time_points"]
    lines = ["", "VOLUMES"]
    same = "each of a person of its own" if scans == persons else f"of {persons:,} persons"
    lines += row("scans", f"{scans:,}, {same}")
    if several:
        named = [f"{who} ({len(ids)})" for who, ids in list(several.items())[:_MOST]]
        more = ", ..." if len(several) > _MOST else ""
        lines += row("several time points", f"{len(several):,} persons: {', '.join(named)}{more}")
    lines += row("size, voxels", counts(facts["sizes"], "scans") + " (slices, rows, columns)")
    lines += row("spacing, mm", counts(facts["spacings_mm"], "scans"))
    turned = "; all are read as axial slices" if len(facts["orientations"]) > 1 else ""
    lines += row("axes in the files", counts(facts["orientations"], "scans") + turned)
    names = ", ".join(channel["name"] for channel in facts["channels"])
    lines += row("channels", f"{names}; stored as {counts(facts['types'], 'scans')}")
    lines += row("head", f"its box takes {facts['head_share']:.0%} of the volume (median)")
    copies = f"{_bytes(facts['copy_bytes'])} as a copy cropped to the head"
    largest = f"the largest scan {_bytes(facts['largest_bytes'])}"
    lines += row("bytes", f"{_bytes(facts['source_bytes'])} of files; about {copies}, {largest}")
    return lines


def _intensities(facts: dict[str, Any]) -> list[str]:
    table = "{:<{label}} {:>22} {:>20} {:>32}".format
    lines = ["", "  " + table(*_HEADS, label=LABEL)]
    for c in facts["channels"]:
        mean = c["head_mean"]
        values = (
            c["name"][:LABEL],
            f"{c['lowest']:.6g} to {c['highest']:.6g}",
            f"{c['head_p1']:.4g} to {c['head_p99']:.4g}",
            f"{mean['low']:.4g} / {mean['median']:.4g} / {mean['high']:.4g}",
        )
        lines.append("  " + table(*values, label=LABEL))
    return lines


_HEADS = ("intensities", "stored", "head, 1 % to 99 %", "head mean, low / median / high")


def _regions(facts: dict[str, Any]) -> list[str]:
    values = ", ".join(f"{v} in {n:,}" for v, n in facts["label_values"].items()) or "none but 0"
    lines = ["", "REGIONS", *row("values of labels", f"{values} of {facts['scans']:,} files")]
    table = "{:<{label}} {:>12} {:>7} {:>31} {:>22}".format
    head = ("region", "labels", "scans", "ml, low / median / high", "lesions, the same")
    lines.append("  " + table(*head, label=LABEL))
    for region in facts["regions"]:
        ml, lesions = region["ml"], region["lesions"]
        values = (
            region["name"][:LABEL],
            ", ".join(map(str, region["labels"])) or "all but 0",
            f"{region['scans']:,}",
            f"{ml['low']:.3g} / {ml['median']:.3g} / {ml['high']:.3g}" if ml else "-",
            f"{lesions['low']} / {lesions['median']:.3g} / {lesions['high']}" if lesions else "-",
        )
        lines.append("  " + table(*values, label=LABEL))
    return [*lines, *row("", "(sizes and lesions of the scans that have the region)")]


def _bytes(number: int) -> str:
    if number < 1e6:
        return f"{number / 1e3:.1f} kB"
    return f"{number / 1e6:,.0f} MB" if number < 1e9 else f"{number / 1e9:,.1f} GB"


def splits(parts: dict[str, Any]) -> list[str]:
    """Return the lines on who is in which part."""
    lines = ["", "SPLIT BY PERSON"]
    for name, part in parts.items():
        scans, persons = part["scans"], part["persons"]
        whose = f" of {persons:,} persons" if persons < scans else ""
        having = ", ".join(f"{region} {count:,}" for region, count in part["regions"].items())
        lines += row(name, f"{scans:>5,} scans{whose}, with {having}")
    return lines


def patch(report: dict[str, Any]) -> str:
    """Return the patch in words: voxels, spacing, and what it covers of the median scan."""
    given, median = report["suggested"]["input"], report["median_scan"]
    size, pairs = given["image_size"], zip(given["image_size"], median["size"], strict=True)
    share = math.prod(min(n / whole, 1) for n, whole in pairs)
    spacing = " x ".join(f"{mm:.3g}" for mm in median["spacing_mm"])
    how = f"resampled to {spacing} mm" if given["spacing_mm"] else f"as scanned, {spacing} mm"
    whole = f"the median head of {_times(median['size'])}"
    return f"patches of {_times(size)} voxels, {how}; {share:.0%} of {whole}"


def levels(model: dict[str, Any]) -> str:
    """Return the windows of the levels in words where thick axes wait; else nothing."""
    if all(len({*window}) == 1 for window in model["windows"]):
        return ""
    return f", halved by {', '.join(map(_times, model['windows']))}"


def tried(report: dict[str, Any]) -> str:
    """Return what XLA says that the steps which were compiled take, and what they may."""
    each = (f"{_times(t['image_size'])} {_bytes(t['bytes'])}" for t in report["tried"])
    budget = _bytes(report["budget_bytes"])
    return f"{', then '.join(each)} on each device, by XLA's own analysis; may take {budget}"


def _times(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))
