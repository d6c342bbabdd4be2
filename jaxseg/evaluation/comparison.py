"""Two models compared on the same patients: differences of the means, with intervals."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.errors import UserError
from jaxseg.machine.files import read_json
from jaxseg.scoring import scorecard, scoretext
from jaxseg.scoring.cohort import cohort, counted
from jaxseg.scoring.cohort import unit as cohort_unit
from jaxseg.scoring.intervals import mean_interval

_SEEN = ("train", "validation", "all")  # splits with patients that took part in the training
MEANING = (
    "The 95 % interval says how far the mean difference of these models, as they are trained, may "
    "move with other patients like these; training again or another split may move it further."
)


class Scores(NamedTuple):
    """What an evaluation wrote."""

    folder: Path
    summary: dict[str, Any]  # scores.json
    patients: dict[str, dict[str, float | None]]  # patients.csv


class Measure(NamedTuple):
    """How a score is named and shown, and which way is better."""

    key: str
    label: str
    value: str  # format
    difference: str  # format
    better: int  # 1: higher is better; -1: lower
    factor: float = 1.0  # as shown


MEASURES = (
    Measure("dice", "Dice", ".3f", "+.3f", 1),
    Measure("iou", "IoU", ".3f", "+.3f", 1),
    Measure("sensitivity", "sensitivity", ".3f", "+.3f", 1),
    Measure("precision", "precision", ".3f", "+.3f", 1),
    Measure("hd95", "HD95, {unit} *", ".1f", "+.1f", -1),
    Measure("nsd", "NSD at 1 {one}", ".3f", "+.3f", 1),
    Measure("absolute_volume_error", "volume error, % *", ".1f", "+.1f", -1, 100.0),
    Measure("lesion_dice", "lesion Dice", ".3f", "+.3f", 1),
    Measure("brats_dice", "BraTS Dice", ".3f", "+.3f", 1),
    Measure("brats_hd95", "BraTS HD95, mm *", ".1f", "+.1f", -1),
    Measure("brats_nsd", "BraTS NSD", ".3f", "+.3f", 1),
)
_MAY_LACK = ("nsd", "lesion_dice", "brats_dice", "brats_hd95", "brats_nsd")


def read_scores(folder: Path, region: str | None = None) -> Scores:
    """Return what an evaluation wrote to the folder, or to the test scores of the run in it.

    Args:
        folder: of an evaluation or a run.
        region: whose scores; None: those of the only or the first one.

    Raises:
        UserError: nothing there, or it is damaged, or of an older version.
    """
    found = [f for f in (folder, folder / "evaluation" / "test") if (f / "scores.json").is_file()]
    if not found:
        raise UserError(
            f"{folder}: no scores.json here; score the run first: "
            "python -m jaxseg.evaluate --workdir DIR"
        )
    summary = read_json(found[0] / "scores.json")
    patients = scorecard.read_patients_csv(found[0] / "patients.csv", region)
    if not isinstance(summary, dict) or "scans" not in summary:
        raise UserError(f"{found[0]}: scored by another version; run jaxseg.evaluate again")
    names = regions_of(Scores(found[0], summary, patients))
    if region and region not in names:
        raise UserError(f"{found[0]}: no region {region}; it has {', '.join(names)}")
    summary |= summary.get("regions", {}).get(region, {})
    mean = np.mean([row["dice"] for row in patients.values()]) if patients else np.nan
    same = summary["scans"].keys() == patients.keys()
    if not (same and abs(mean - summary["patients"]["dice"]["mean"]) < 1e-5):
        raise UserError(
            f"{found[0]}: scores.json and patients.csv are not of one evaluation; "
            "run jaxseg.evaluate again"
        )
    return Scores(found[0], summary, patients)


def check_comparable(a: Scores, b: Scores):
    """Raise UserError unless both were scored on the same patients of the same split and data."""
    if a.folder.resolve() == b.folder.resolve():
        raise UserError(f"{a.folder}: given twice; a comparison needs two evaluations")
    splits = [s.summary["about"]["split"] for s in (a, b)]
    if splits[0] != splits[1]:
        raise UserError(
            f"not comparable: {a.folder} is scored on {splits[0]}, {b.folder} on {splits[1]}"
        )
    only_a, only_b = (sorted(x.patients.keys() - y.patients.keys()) for x, y in ((a, b), (b, a)))
    if only_a or only_b:
        parts = ((a, only_a), (b, only_b))
        told = "; ".join(f"only in {s.folder}: {_first(ids)}" for s, ids in parts if ids)
        raise UserError(f"not comparable: scored on different patients; {told}")
    other = [p for p in sorted(a.patients) if not _same_scan(a, b, p)]
    if other:
        raise UserError(
            f"not comparable: the same ids, but other images or masks: {_first(other)}; "
            "score both on the same data"
        )


def _same_scan(a: Scores, b: Scores, patient: str) -> bool:
    """Tell whether both were scored on the same images and, where both know it, masks."""
    truths = {s.summary.get("truths", {}).get(patient) for s in (a, b)} - {None, ""}
    return a.summary["scans"][patient] == b.summary["scans"][patient] and len(truths) < 2


def compare(a: Scores, b: Scores, num_samples: int, seed: int = 0) -> dict[str, Any]:
    """Compare patient by patient; see `check_comparable` for what may be compared.

    Args:
        a: scores of one model.
        b: scores of the other on the same patients; their order changes nothing.
        num_samples: bootstrap resamples of the patients.
        seed: of the resampling.

    Returns:
        The content of comparison.json: `a`, `b`, `n`, `n_persons`, `hd95_unit`, `measures`, `dice`,
        `meaning`, `warnings`. A difference is b minus a. Strict JSON; `ci95` of one person is
        [None, None].
    """
    patients = sorted(a.patients)
    n_persons = len({a.patients[p].get("group", p) for p in patients})
    warnings = scoretext.few_patients(len(patients), n_persons)
    left_out = () if _same_distances(a, b) else ("hd95", "nsd")
    if left_out:
        warnings.append("HD95 and NSD are left out: measured with different spacing_mm.")
    rules = _same_rules(a, b)
    measures = {}
    for measure in MEASURES:
        if measure.key in left_out or (measure.key.startswith("brats") and not rules):
            continue
        rows = {p: (_value(a, p, measure.key), _value(b, p, measure.key)) for p in patients}
        rows = {p: row for p, row in rows.items() if None not in row}
        if not rows and measure.key in _MAY_LACK:
            continue
        persons = [a.patients[p].get("group", p) for p in rows]
        pairs = np.array(list(rows.values())).reshape(-1, 2)
        measures[measure.key] = _difference(pairs, persons, measure.better, num_samples, seed)
    split = a.summary["about"]["split"]
    if split in _SEEN:
        warnings.append(
            f"these patients took part in the training ({split}): not an honest comparison."
        )
    return {
        "a": {"folder": str(a.folder), "about": a.summary["about"]},
        "b": {"folder": str(b.folder), "about": b.summary["about"]},
        "n": len(patients),
        "n_persons": n_persons,
        "region": a.summary.get("region", "tumour"),
        "hd95_unit": a.summary["definitions"]["hd95_unit"],
        "brats": rules,
        "measures": measures,
        "dice": {p: [a.patients[p]["dice"], b.patients[p]["dice"]] for p in patients},
        "meaning": MEANING,
        "warnings": warnings,
    }


def _value(scores: Scores, patient: str, key: str) -> float | None:
    row = scores.patients[patient]
    if key != "absolute_volume_error":
        return row.get(key)
    return None if row["volume_error"] is None else abs(row["volume_error"])


def _same_distances(a: Scores, b: Scores) -> bool:
    """Return whether HD95 is in one unit, by its value for a missed tumour."""
    units = {s.summary["definitions"]["hd95_unit"] for s in (a, b)}
    return len(units) == 1 and all(
        row["diagonal"] == b.patients[p]["diagonal"] for p, row in a.patients.items()
    )


def _same_rules(a: Scores, b: Scores) -> str:
    """Return the BraTS definition and challenge that both were scored by; '' of none."""
    texts = [
        "{definition} ({challenge})".format(**s.summary["brats"]) if "brats" in s.summary else ""
        for s in (a, b)
    ]
    return texts[0] if texts[0] == texts[1] else ""


def _difference(
    pairs: np.ndarray, persons: Sequence[str], better: int, num_samples: int, seed: int
) -> dict[str, Any]:
    """Return the comparison of one measure from its values [N, 2] of a and b."""
    gains = pairs[:, 1] - pairs[:, 0]
    n = len(gains)
    return {
        "n": n,
        "mean_a": float(pairs[:, 0].mean()) if n else None,
        "mean_b": float(pairs[:, 1].mean()) if n else None,
        "difference": float(gains.mean()) if n else None,
        "ci95": mean_interval(gains, num_samples, seed, persons),
        "median_difference": float(np.median(gains)) if n else None,
        "b_better": int((better * gains > 0).sum()),
        "a_better": int((better * gains < 0).sum()),
        "ties": int((gains == 0).sum()),
    }


def format_comparison(comparison: dict[str, Any]) -> str:
    """Return the comparison for the terminal, 80 columns wide but for paths, plain ASCII."""
    lines = [headline(comparison), "=" * len(headline(comparison)), "", *who(comparison), ""]
    lines += [*measures_table(comparison), "", *notes(comparison)]
    return "\n".join(text.rstrip() for text in lines) + "\n"


def who(comparison: dict[str, Any]) -> list[str]:
    """Return a line each for A and B."""
    return [
        f"{name.upper()}  {comparison[name]['folder']} ({comparison[name]['about']['split']})"
        for name in ("a", "b")
    ]


def measures_table(comparison: dict[str, Any]) -> list[str]:
    """Return the lines of the table of all measures."""
    line = "{:<18} {:>7} {:>7} {:>8}  {:^18} {:>4} {:>4} {:>5}".format
    lines, per = [f"{'':<65}better on"], f"PER {cohort_unit(*counted(comparison)).upper()}"
    lines.append(line(per, "A", "B", "B - A", "95 % interval", "A", "B", "equal"))
    lines.append("-" * 79)
    for measure in MEASURES:
        row = comparison["measures"].get(measure.key)
        if row is None:
            continue
        means = [_show(row[name], measure.factor, measure.value) for name in ("mean_a", "mean_b")]
        gains = [row["difference"], *row["ci95"]]
        gain, *ends = [_show(g, measure.factor, measure.difference) for g in gains]
        interval = "-" if "-" in ends else " to ".join(ends)
        unit = comparison["hd95_unit"]
        label = measure.label.format(unit=unit, one=unit.removesuffix("s"))
        counts = (row["a_better"], row["b_better"], row["ties"])
        lines.append(line(label, *means, gain, interval, *counts))
    return lines


def notes(comparison: dict[str, Any]) -> list[str]:
    """Return how to read the table, and the warnings; 80 columns wide."""
    texts = ["* Lower is better. Volume error: absolute, over patients with tumour."]
    if any(key.startswith("brats") for key in comparison["measures"]):
        texts.append(f"BraTS: as {comparison['brats']} defines it.")
    texts += [verdict(comparison), comparison["meaning"]]
    texts += [f"Warning: {w}" for w in comparison["warnings"]]
    return [textwrap.fill(text, 80, subsequent_indent="  ") for text in texts]


def _show(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(factor * value, form)


def headline(comparison: dict[str, Any]) -> str:
    """Return the one line to quote."""
    dice = comparison["measures"]["dice"]
    low, high = dice["ci95"]
    interval = "no interval" if low is None else f"95 % interval {low:+.3f} to {high:+.3f}"
    n, persons = counted(comparison)
    who = n if persons == n else cohort(n, persons)
    return f"Dice, B minus A: {dice['difference']:+.3f} ({interval}), n = {who}"


def verdict(comparison: dict[str, Any]) -> str:
    """Return what the interval of Dice allows to say, and no more."""
    low, high = comparison["measures"]["dice"]["ci95"]
    if low is None:
        return "One patient shows nothing about others."
    if low <= 0 <= high:
        return "The interval holds 0: these patients do not show which of the two is better."
    name = "B" if low > 0 else "A"
    return f"The interval lies on one side of 0: it speaks for {name} on patients like these."


def regions_of(scores: Scores) -> list[str]:
    """Return the names of the regions that an evaluation scored."""
    return [*scores.summary.get("regions", [scores.summary.get("region", "tumour")])]


def _first(ids: Sequence[str], most: int = 3) -> str:
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more
