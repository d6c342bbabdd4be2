"""The report: one HTML file with everything in it, to open anywhere and to keep."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from jaxseg import RESEARCH_ONLY
from jaxseg.scoring import colours, regiontext, scoretext
from jaxseg.scoring.cohort import counted, unit
from jaxseg.scoring.patient_score import PatientScore
from jaxseg.scoring.report_style import STYLE, caption


def page(
    title: str,
    summary: dict[str, Any],
    scores: Sequence[PatientScore],
    figures: dict[str, bytes],
    config_text: str,
    versions: dict[str, str],
    notes: Sequence[str] = (),
) -> str:
    """Return the report as one HTML file without outside links or scripts.

    Args:
        title: heading, by example the data set and the split.
        summary: by `scorecard.join_regions`.
        scores: one per patient and region; the table lists the worst first.
        figures: name -> PNG, in the order shown; their captions: `report_style`.
        config_text: the resolved config.
        versions: of Python and the libraries.
        notes: further sentences below the headline.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="research">{RESEARCH_ONLY}</p>',
        *(_headline(name, part) for name, part in scoretext.each_region(summary)),
        *(f"<p>{escape(note)}</p>" for note in notes),
        _regions_table(summary),
        *(_region(name, part) for name, part in scoretext.each_region(summary)),
        "<h2>Figures</h2>",
        *(_figure(name, image) for name, image in figures.items()),
        _worst_table(scores, summary),
        f"<h2>All {unit(*counted(summary['patients']))}s, worst first</h2>",
        _patients_table(scores, summary["definitions"]["hd95_unit"], summary.get("brats", {})),
        "<h2>Definitions</h2>",
        _definitions(summary["definitions"]),
        "<h2>Config and versions</h2>",
        f"<details><summary>Config</summary><pre>{escape(config_text)}</pre></details>",
        f"<p>{escape(', '.join(f'{name} {version}' for name, version in versions.items()))}</p>",
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _headline(region: str, summary: dict[str, Any]) -> str:
    text = f"{region}: {scoretext.headline(summary)}" if region else scoretext.headline(summary)
    return f'<p class="headline">{escape(text)}</p>'


def _region(name: str, summary: dict[str, Any]) -> str:
    """Return warnings and tables of one region; its name is '' where there is only one."""
    of_region = f", {escape(name)}" if name else ""
    operating = scoretext.operating_label(summary)
    parts = [
        operating and f"<p>{escape(operating)}</p>",
        _warnings(summary["warnings"]),
        f"<h2>Scores per {unit(*counted(summary['patients']))}{of_region}</h2>",
        _scores_table(summary),
        *(f"<p>{escape(text)}</p>" for text in scoretext.apart(summary)),
        f"<h2>Numbers not to quote alone{of_region}</h2>",
        f"<p>{escape(scoretext.free_share(summary))}</p>",
        _distrust_table(summary),
        f"<p>{escape(scoretext.threshold_label(summary))}</p>",
    ]
    return "\n".join(part for part in parts if part)


def _regions_table(summary: dict[str, Any]) -> str:
    """Return the tables of all regions with their colours; '' of one region."""
    blocks = regiontext.region_blocks(summary)
    if not blocks:
        return ""
    tables = [_blocks_table(blocks[i : i + 2], summary) for i in range(0, len(blocks), 2)]
    below = f"<p>Mean over {regiontext.of_whom(summary)}, below it the 95 % interval.</p>"
    return "\n".join(["<h2>Regions</h2>", *tables, below])


def _blocks_table(blocks: Sequence[regiontext.Block], summary: dict[str, Any]) -> str:
    titles = [b.title if b.title != "REGION" else "" for b in blocks]
    pairs = zip(titles, blocks, strict=True)
    header = ["", *(f"{t} {c}".strip() for t, block in pairs for c in block.labels)]
    rows = []
    for lines in zip(*(block.rows for block in blocks), strict=True):
        cells = [cell for _, cells in lines for cell in cells]
        intervals = [interval.replace(", ", " to ") for _, interval in cells]
        shown = [f"{v}\n{i}".strip() for (v, _), i in zip(cells, intervals, strict=True)]
        rows.append([lines[0][0], *shown])
    return _table(header, rows, ["", *["lines"] * (len(header) - 1)], swatches=_swatches(summary))


def _worst_table(scores: Sequence[PatientScore], summary: dict[str, Any], most: int = 3) -> str:
    """Return the worst patients of each region; '' of one region."""
    names = list(summary.get("regions", ()))
    rows = []
    for name in names:
        ranked = sorted(
            (s for s in scores if s.region == name), key=lambda s: (s.dice, -s.hd95, s.patient)
        )
        for s in ranked[:most]:
            numbers = (f"{s.dice:.3f}", f"{s.hd95:.1f}", f"{s.nsd:.3f}")
            rows.append(
                [name, s.patient, *numbers, f"{s.truth_voxels:,}", f"{s.predicted_voxels:,}"]
            )
    if not rows:
        return ""
    unit = summary["definitions"]["hd95_unit"]
    header = ["region", "patient", "Dice", f"HD95, {unit}", "NSD", "voxels, truth", "predicted"]
    table = _table(header, rows, ["", "text", *[""] * 5], swatches=_swatches(summary))
    return f"<h2>Worst by region</h2>{table}"


def _swatches(summary: dict[str, Any]) -> dict[str, str]:
    """Return the colour of each region as CSS writes it."""
    found = colours.of_regions(list(summary.get("regions", ())))
    return {name: colours.as_hex(colour) for name, colour in found.items()}


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    lines = "".join(f"<p>Warning: {escape(w)}</p>" for w in warnings)
    return f'<div class="warnings">{lines}</div>'


def _scores_table(summary: dict[str, Any]) -> str:
    header = ["", "mean", "95 % interval", "median", "predict nothing", "best threshold", ""]
    rows = [
        [r.label, r.value, r.interval, r.median, *r.baselines, r.why]
        for r in scoretext.rows_per_patient(summary)
    ]
    classes = ["", "", "", "", "beside", "beside", "text"]
    return _table(header, rows, classes, first="first")


def _distrust_table(summary: dict[str, Any]) -> str:
    header = ["", "value", "predict nothing", "best threshold", "why"]
    rows = [[r.label, r.value, *r.baselines, r.why] for r in scoretext.rows_to_distrust(summary)]
    return _table(header, rows, ["", "", "beside", "beside", "text"])


def _patients_table(scores: Sequence[PatientScore], hd95_unit: str, brats: dict[str, Any]) -> str:
    regions = len({s.region for s in scores}) > 1
    header = [
        "patient",
        *(["region"] if regions else []),
        "Dice",
        "IoU",
        "sensitivity",
        "precision",
        f"HD95, {hd95_unit}",
        "NSD",
    ]
    header += ["lesions found", "invented"]
    header += [f"{brats['definition']} {name}" for name in ("Dice", "HD95")] if brats else []
    header += ["volume error", "voxels, truth", "voxels, predicted", "empty slices hit"]
    rows = []
    for s in sorted(scores, key=lambda s: (s.dice, s.patient)):
        overlaps = (f"{v:.3f}" for v in (s.dice, s.iou, s.sensitivity, s.precision))
        error = "-" if s.volume_error is None else f"{100 * s.volume_error:+.1f} %"
        hit = f"{s.false_positive_slices} of {s.empty_slices}"
        sizes = (f"{s.truth_voxels:,}", f"{s.predicted_voxels:,}")
        named = [s.patient, *([s.region] if regions else [])]
        lesions = (f"{s.found_lesions} of {s.lesions}", str(s.invented_lesions))
        forms = ((s.brats_dice, ".3f"), (s.brats_hd95, ".1f")) if brats else ()
        others = ("-" if value is None else format(value, form) for value, form in forms)
        shown = [*overlaps, f"{s.hd95:.1f}", f"{s.nsd:.3f}", *lesions, *others]
        rows.append([*named, *shown, error, *sizes, hit])
    return f'<div class="wide">{_table(header, rows, [""] * len(header))}</div>'


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    classes: Sequence[str],
    first: str = "",
    swatches: dict[str, str] | None = None,
) -> str:
    """Return a table; classes style the columns, `first` the first row.

    The colours of `swatches` stand before the cells of these names in the first column.
    """
    colour = swatches or {}

    def mark(cell):
        style = f"background: {colour[cell]}" if cell in colour else ""
        return f'<span class="swatch" style="{style}"></span>' if style else ""

    def line(tag, cells, row_class):
        inside = "".join(
            f'<{tag} class="{c}">{mark(cell) if not i else ""}{escape(str(cell))}</{tag}>'
            for i, (cell, c) in enumerate(zip(cells, classes, strict=True))
        )
        return f'<tr class="{row_class}">{inside}</tr>'

    body = [line("td", row, first if i == 0 else "") for i, row in enumerate(rows)]
    return "\n".join(
        ['<div class="wide"><table>', line("th", header, ""), *body, "</table></div>"]
    ).replace(' class=""', "")


def _figure(name: str, image: bytes) -> str:
    text = escape(caption(name))
    data = base64.b64encode(image).decode("ascii")
    picture = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def _definitions(definitions: dict[str, str]) -> str:
    lines = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(text)}</dd>"
        for name, text in definitions.items()
        if name != "hd95_unit"
    )
    return f"<dl>{lines}</dl>"
