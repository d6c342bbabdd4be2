"""The scorecard in words: headline, rows, definitions, warnings, the table for the terminal."""

import textwrap
from typing import Any, NamedTuple

from jaxseg.scoring import regiontext
from jaxseg.scoring.cohort import cohort, counted, unit

FEW_PATIENTS = 50  # below, the bootstrap interval of a mean is itself uncertain
VERY_FEW_PATIENTS = 8  # below, it rests on little more than the patients themselves


class ScoreRow(NamedTuple):
    """One line of the printed scorecard, ready to print; '-' where undefined."""

    label: str
    value: str
    interval: str
    median: str
    baselines: tuple[str, str]  # predict nothing, best threshold
    why: str  # how to read the number


def rows_per_patient(summary: dict[str, Any]) -> list[ScoreRow]:
    """Return the rows of the scores that take the patient as unit; Dice, the headline, first."""
    unit = summary["definitions"]["hd95_unit"]
    rows = []
    for label, key, show, why in (
        ("Dice", "dice", _score, "the headline"),
        ("IoU", "iou", _score, ""),
        ("sensitivity", "sensitivity", _score, ""),
        ("precision", "precision", _score, ""),
        (f"HD95, {unit}", "hd95", "{:.1f}".format, "lower is better"),
        (f"NSD at 1 {unit.removesuffix('s')}", "nsd", _score, "surface Dice"),
        ("volume error", "volume_error", _signed_percent, "above 0: predicted too large"),
        ("volume error, absolute", "absolute_volume_error", _percent, "lower is better"),
        ("lesion Dice", "lesion_dice", _score, "missed = 0; invented not seen"),
        (f"lesion HD95, {unit}", "lesion_hd95", "{:.1f}".format, "missed = the diagonal"),
    ):
        ours = summary["patients"][key]
        low, high = (_show(v, show) for v in ours["ci95"])
        interval = "-" if low == "-" else f"{low} to {high}"
        beside = _beside(summary, lambda s, key=key: s["patients"][key]["mean"], show)
        rows.append(
            ScoreRow(
                label, _show(ours["mean"], show), interval, _show(ours["median"], show), beside, why
            )
        )
    return rows


def rows_to_distrust(summary: dict[str, Any]) -> list[ScoreRow]:
    """Return the rows of the numbers that flatter or show a part only, each with the reason."""
    rows = []
    for label, group, key, show, why in (
        ("Dice, all slices", "slices", "all_dice", _score, "inflated: empty = 1"),
        ("Dice, tumour slices only", "slices", "tumour_only_dice", _score, "false alarms not seen"),
        ("Dice, pooled voxels", "pooled", "dice", _score, "large tumours dominate"),
        ("empty slices hit", "slices", "false_positive_rate", _percent, "false alarms"),
    ):
        beside = _beside(summary, lambda s, group=group, key=key: s[group][key], show)
        rows.append(ScoreRow(label, _show(summary[group][key], show), "", "", beside, why))
    return rows


def headline(summary: dict[str, Any]) -> str:
    """Return the one line to quote."""
    dice, (n, persons) = summary["patients"]["dice"], counted(summary["patients"])
    low, high = dice["ci95"]
    interval = "no interval" if low is None else f"95 % interval {low:.3f} to {high:.3f}"
    who = n if persons == n else cohort(n, persons)
    return (
        f"Dice per {unit(n, persons)} {dice['mean']:.3f} ({interval}), "
        f"median {dice['median']:.3f}, n = {who}"
    )


def threshold_label(summary: dict[str, Any]) -> str:
    """Return what the best threshold is, in words; '' without that baseline."""
    best = summary["baselines"].get("best_threshold")
    if best is None:
        return ""
    if "folds" in best:
        each = ", ".join(f"{channel_label(f)} >= {f['threshold']:.4g}" for f in best["folds"])
        return f"Best threshold, of each fold, chosen on its train (normalised): {each}."
    return (
        f"Best threshold: {channel_label(best)} >= {best['threshold']:.4g} (normalised), "
        f"chosen on train (Dice there {best['train_dice']:.3f})."
    )


def channel_label(threshold: dict[str, Any]) -> str:
    """Return which channel a threshold is of: from 1 in words, and by name where it has one."""
    name = threshold.get("channel_name")
    return f"channel {threshold['channel'] + 1}" + (f" ({name})" if name else "")


def operating_label(summary: dict[str, Any]) -> str:
    """Return how probabilities became masks, in words; '' without an operating point."""
    point = summary.get("operating_point")
    if point is None:
        return ""
    unit = {"voxels": "voxels", "mm3": "mm^3"}[point["unit"]]
    parts = f"parts under {point['min_lesion']:g} {unit} dropped" if point["min_lesion"] else ""
    temperature = f"temperature {point['temperature']:.3g}" if point["tuned"] else ""
    chosen = "chosen on validation" if point["tuned"] else "of the config"
    rules = [f"probability >= {point['threshold']:g}", parts, temperature, chosen]
    return f"Operating point: {', '.join(r for r in rules if r)}."


def tuning_result(how: dict[str, Any], num_patients: int, num_persons: int) -> str:
    """Return what tuning has brought on the validation patients, in words."""
    dice, calibration = how["validation_dice"], how["calibration"]
    before, after = (
        _show(calibration[name]["expected_calibration_error"], _score)
        for name in ("before", "after")
    )
    return (
        f"Operating point chosen on {cohort(num_patients, num_persons, 'validation')}: their Dice "
        f"{dice['tuned']:.3f} (untuned {dice['untuned']:.3f}), expected calibration error {after} "
        f"(uncalibrated {before})."
    )


def free_share(summary: dict[str, Any]) -> str:
    """Return how much of the all-slices Dice needs no network, in words."""
    free = summary["baselines"]["predict_nothing"]["slices"]["all_dice"]
    return f"Predicting nothing scores {free:.3f} on all slices: that much of it is free."


def apart(summary: dict[str, Any]) -> list[str]:
    """Return sentences: lesions, empty truths, the scores by a BraTS definition."""
    lines = (regiontext.lesions_line, regiontext.empty_line, regiontext.brats_line)
    return [text for line in lines if (text := line(summary))]


def each_region(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return name and summary of each region; the name is '' where there is only one."""
    parts = summary.get("regions", {"": {}})
    return [(name, summary | part) for name, part in parts.items()]


def format_scorecard(summary: dict[str, Any]) -> str:
    """Return the scorecard for the terminal, at most 80 columns wide, plain ASCII."""
    parts = [(f"REGION {name}\n" if name else "", s) for name, s in each_region(summary)]
    texts = [regiontext.format_regions(summary), *(t + _format_region(part) for t, part in parts)]
    return "\n".join(text for text in texts if text)


def _format_region(summary: dict[str, Any]) -> str:
    row = "{:<24} {:>8}  {:^17} {:>8} | {:>7} {:>8}".format
    per = f"PER {unit(*counted(summary['patients'])).upper()}"
    rule = "-" * 62 + "+" + "-" * 17
    lines = [headline(summary), "=" * len(headline(summary)), ""]
    lines.append(row("", "", "", "", "predict", "best"))
    lines.append(row(per, "mean", "95 % interval", "median", "nothing", "thresh."))
    lines.append(rule)
    lines += [
        row(r.label, r.value, r.interval, r.median, *r.baselines) for r in rows_per_patient(summary)
    ]
    lines += ["", row("DO NOT QUOTE ALONE", "value", "", "", "", ""), rule]
    for r in rows_to_distrust(summary):
        start = f"{r.label:<24} {r.value:>8}  {r.why}"
        lines.append(f"{start:<62}| {r.baselines[0]:>7} {r.baselines[1]:>8}")
    notes = [operating_label(summary), *apart(summary)]
    notes += [free_share(summary), threshold_label(summary)]
    notes += [f"Warning: {w}" for w in summary["warnings"]]
    lines += ["", *(textwrap.fill(n, 80, subsequent_indent="  ") for n in notes if n)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def warnings(patients: dict[str, Any]) -> list[str]:
    """Return what a reader must know of the summary over patients before trusting it."""
    both, one = patients["n_both_empty"], patients["n_one_empty"]
    n, persons = counted(patients)
    found, which = few_patients(n, persons), f"{n} {unit(n, persons)}s"
    if both:
        found.append(f"{both} of {which}: truth and prediction both empty; they count as Dice 1.")
    if one:
        found.append(
            f"{one} of {which}: tumour missed altogether or predicted where there is none; "
            "they count as Dice 0, and the volume's diagonal as HD95 pulls its mean up."
        )
    return found


def few_patients(n: int, persons: int) -> list[str]:
    """Return the warning that so few persons, whose n scans are, call for; none from
    `FEW_PATIENTS` on."""
    if persons == 1:
        who = "one patient" if n == 1 else cohort(n, persons)
        return [f"{who} only: a mean over patients and its interval say nothing."]
    if persons < VERY_FEW_PATIENTS:
        return [
            f"{cohort(n, persons)} are few, far too few: the 95 % interval says next to nothing "
            "about other patients."
        ]
    if persons < FEW_PATIENTS:
        return [
            f"{cohort(n, persons)} are few (under {FEW_PATIENTS}): the 95 % interval is itself "
            "uncertain, rather too narrow than too wide."
        ]
    return []


def _score(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.{0 if abs(value) >= 1 else 1}f} %"


def _signed_percent(value: float) -> str:
    return _percent(value, "+")


def _show(value: float | None, show) -> str:
    return "-" if value is None else show(value)


def _beside(summary: dict[str, Any], read, show) -> tuple[str, str]:
    found = [summary["baselines"].get(name) for name in ("predict_nothing", "best_threshold")]
    return tuple("-" if s is None else _show(read(s), show) for s in found)
