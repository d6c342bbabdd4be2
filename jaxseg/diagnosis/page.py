"""The doctor's page for the terminal: sections of aligned lines."""

from collections.abc import Sequence
from typing import Any

from jaxseg.diagnosis import volume_page
from jaxseg.diagnosis.findings import SEVERITIES, Finding, shown
from jaxseg.diagnosis.leakage import TEST_SHARE
from jaxseg.diagnosis.lines import LABEL, WIDTH, counts, row, spread
from jaxseg.scoring.scoretext import channel_label

_MOST = 30  # findings of one severity; all are in --json


def format_page(report: dict[str, Any], findings: list[Finding]) -> str:
    """Return the page of the report, which lacks what could not be found out."""
    title = f"{report['source']}"
    lines = [title, "=" * min(len(title), WIDTH), *_source(report)]
    if facts := report.get("facts"):
        lines += [
            *_images(facts, report.get("channels", ())),
            *_tumour(facts),
            *_splits(report),
            *_leak(facts),
        ]
        lines += _baselines(report)
    if volumes := report.get("volumes"):
        lines += volume_page.sections(volumes)
        if "split" in report:
            lines += volume_page.splits(report["split"])
    if "suggested" in report:
        lines += _suggested(report)
    lines += _findings(findings)
    return "\n".join(line.rstrip() for line in lines)


def _source(report: dict[str, Any]) -> list[str]:
    lines = ["", "SOURCE", *row("layout", report["layout"] or "none that can be trained on")]
    lines += row("because", report["why"])
    if "patients_by" in report:
        lines += row("patients told by", report["patients_by"])
    return lines


def _images(facts: dict[str, Any], names: Sequence[str]) -> list[str]:
    per = facts["slices_per_patient"]
    lines = ["", "IMAGES"]
    lines += row("patients", f"{facts['patients']:,}")
    lines += row("slices", f"{facts['slices']:,}; per patient {spread(per)}")
    lines += row("size, pixels", counts(facts["sizes"], "patients"))
    lines += row("channels", counts(facts["forms"], "patients"))
    lines += row("head", f"its box takes {facts['head_share']:.0%} of the frame (median)")
    table = "{:<{label}} {:>15} {:>22} {:>31}".format
    head = ("intensities", "stored", "head, 1 % to 99 %", "head mean, low / median / high")
    lines.append("  " + table(*head, label=LABEL))
    for number, c in enumerate(facts["intensities"], 1):
        mean = c["head_mean"]
        values = (
            f"channel {number}" + "".join(f" ({n})" for n in names[number - 1 : number]),
            f"{c['lowest']} to {c['highest']}",
            f"{c['head_p1']:.0f} to {c['head_p99']:.0f}",
            f"{mean['low']:.0f} / {mean['median']:.0f} / {mean['high']:.0f}",
        )
        lines.append("  " + table(*values, label=LABEL))
    return lines


def _tumour(facts: dict[str, Any]) -> list[str]:
    empty, total = facts["empty_slices"], facts["slices"]
    lines = ["", "TUMOUR"]
    lines += row("empty slices", f"{empty:,} of {total:,} ({empty / total:.1%}) have no tumour")
    per = facts["tumour_slices_per_patient"]
    lines += row("slices with tumour", f"per patient {spread(per)}")
    if facts["tumour_voxels"]:
        lines += row("size, pixels", f"per patient {spread(facts['tumour_voxels'])}, all slices")
    if facts["patients_without_tumour"]:
        lines += row("patients without", f"{facts['patients_without_tumour']}")
    if facts["mask_values"]:
        lines += row("marked in masks by", counts(facts["mask_values"], "masks"))
    return lines


def _splits(report: dict[str, Any]) -> list[str]:
    lines = ["", "SPLIT BY PATIENT"]
    for name, part in report["split"].items():
        tumour = f"{part['tumour_slices']:,} with tumour"
        patients = "patient, " if part["patients"] == 1 else "patients,"
        text = f"{part['patients']:>5,} {patients} {part['slices']:>6,} slices, {tumour}"
        lines += row(name, text)
    return lines


def _leak(facts: dict[str, Any]) -> list[str]:
    leak, free = facts["slice_split"], facts["predict_nothing"]
    if leak["dice"] is None:
        return []
    lines = ["", f"WHAT A SPLIT BY SLICES WOULD LEAK ({TEST_SHARE:.0%} to test, at random)"]
    lines += row("on both sides", f"{leak['both_sides']:.1f} of {facts['patients']:,} patients")
    lines += row("neighbour in train", f"{leak['beside_train']:.1%} of the test slices")
    lines += row(
        "copying its mask",
        f"Dice per patient {leak['dice']:.3f}, over all slices {leak['slice_dice']:.3f}: the score "
        "of a program that has learnt nothing",
    )
    lines += row(
        "split by patient",
        f"there is nothing to copy: {free['dice']:.3f}, over all slices {free['slice_dice']:.3f}",
    )
    return lines


def _baselines(report: dict[str, Any]) -> list[str]:
    free, best = report["facts"]["predict_nothing"], report.get("best_threshold")
    lines = ["", "BEFORE ANY NETWORK"]
    lines += row(
        "predict nothing",
        f"Dice per patient {free['dice']:.3f}; over all slices {free['slice_dice']:.3f}, which is "
        "why that number should not be quoted",
    )
    if best:
        lines += row(
            "best threshold",
            f"Dice per patient {best['test_dice']:.3f} on test, {best['train_dice']:.3f} on train "
            f"where it was chosen: {channel_label(best)} >= {best['threshold']:.4g} "
            "normalised",
        )
    return lines


def _suggested(report: dict[str, Any]) -> list[str]:
    s, of_volumes = report["suggested"], "median_scan" in report
    head = "head cut out, " if s["input"]["crop_to_head"] else ""
    size = " x ".join(map(str, s["input"]["image_size"]))
    train, widths = s["train"], ", ".join(map(str, s["model"]["widths"]))
    given = volume_page.patch(report) if of_volumes else f"{head}{size} pixels"
    lines = ["", "SUGGESTED CONFIG", *row("input", given)]
    levels = volume_page.levels(s["model"]) if of_volumes else ""
    network = f"U-Net of widths {widths}{levels}; {s['model']['compute_dtype']}"
    lines += row("network", network)
    samples = "patches" if of_volumes else "slices"
    steps = f"{train['num_steps']:,} steps of {train['batch_size']} {samples}"
    lines += row("training", f"{steps}, evaluated every {train['eval_every_steps']}")
    if folds := report.get("folds"):
        lines += row("or cross-validation", folds)
    if cost := report.get("cost"):
        lines += row("time", cost["time"])
        lines += row("memory", cost["memory"])
        if of_volumes:
            lines += row("compiled steps", volume_page.tried(report))
        lines += row("how estimated", cost["how"])
    return lines


def _findings(findings: list[Finding]) -> list[str]:
    lines = ["", "FINDINGS"]
    if not findings:
        return [*lines, "  none"]
    for severity in SEVERITIES:
        chosen = [f for f in findings if f.severity == severity]
        for finding in chosen[:_MOST]:
            lines += row(severity, shown(finding))
        if len(chosen) > _MOST:
            lines += row("", f"and {len(chosen) - _MOST} more of this kind; --json FILE has all")
    return lines
