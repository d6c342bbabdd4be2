"""The report: one HTML file with everything in it, to open anywhere and to keep."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from jaxseg import RESEARCH_ONLY
from jaxseg.scoring import scoretext
from jaxseg.scoring.patient_score import PatientScore

CAPTIONS = {
    "learning_curves": "Learning curves. Green line: the evaluation whose weights were kept. The "
    "validation loss takes Dice slice by slice, so its level differs from that of training.",
    "dice_per_patient": "Dice of each patient, best first, and over the size of the tumour.",
    "operating_point": "How the operating point was chosen on the validation patients. Left and "
    "middle: their mean Dice on the native grid over the threshold and over the smallest lesion "
    "kept; the simplest choice (grey) stays unless another is better beyond luck, patient by "
    "patient. Right: the share of tumour among voxels of the same predicted probability, before "
    "and after the logits are divided by the temperature T of least negative log likelihood; on "
    "the diagonal a probability means what it says. ECE: expected calibration error in 15 bins "
    "(Guo et al., 2017). Both over the voxels in doubt on the training grid: the most likely ones, "
    "twice as many as are tumour. Over all the background any network would look calibrated.",
    "best": "The best patient. Upper row: whole slices; lower row: the same, enlarged.",
    "median": "The patient in the middle of the ranking.",
    "worst": "The worst patient.",
}

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; border-bottom: 1px solid #ccc; }
.research { color: #8a2b00; margin-top: .2rem; }
.headline { font-size: 1.35rem; border-left: .4rem solid #0072b2; padding: .5rem 1rem;
  background: #f1f7fb; margin: 1.5rem 0; }
.warnings { border-left: .4rem solid #e69f00; background: #fff8e8; padding: .5rem 1rem; }
.warnings p { margin: .3rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
td { white-space: nowrap; }
th { vertical-align: bottom; font-weight: 600; border-bottom: 2px solid #888; }
th:first-child, td:first-child, .text { text-align: left; }
.beside { background: #f5f5f5; }
.first td { font-weight: 700; }
.wide { overflow-x: auto; font-size: .9rem; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #444; font-size: .95rem; }
dt { font-weight: 600; }
dd { margin: 0 0 .6rem 1.5rem; }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: .85rem; }
"""


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
        figures: name -> PNG, in the order shown; names with a caption are in `CAPTIONS`.
        config_text: the resolved config.
        versions: of Python and the libraries.
        notes: further sentences below the headline.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="research">{RESEARCH_ONLY}</p>',
        *(_headline(name, part) for name, part in scoretext.each_region(summary)),
        *(f"<p>{escape(note)}</p>" for note in notes),
        *(_region(name, part) for name, part in scoretext.each_region(summary)),
        "<h2>Figures</h2>",
        *(_figure(name, image) for name, image in figures.items()),
        "<h2>All patients, worst first</h2>",
        _patients_table(scores, summary["definitions"]["hd95_unit"]),
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
        f"<h2>Scores per patient{of_region}</h2>",
        _scores_table(summary),
        f"<h2>Numbers not to quote alone{of_region}</h2>",
        f"<p>{escape(scoretext.free_share(summary))}</p>",
        _distrust_table(summary),
        f"<p>{escape(scoretext.threshold_label(summary))}</p>",
    ]
    return "\n".join(part for part in parts if part)


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


def _patients_table(scores: Sequence[PatientScore], hd95_unit: str) -> str:
    regions = len({s.region for s in scores}) > 1
    header = [
        "patient",
        *(["region"] if regions else []),
        "Dice",
        "IoU",
        "sensitivity",
        "precision",
        f"HD95, {hd95_unit}",
    ]
    header += ["volume error", "voxels, truth", "voxels, predicted", "empty slices hit"]
    rows = []
    for s in sorted(scores, key=lambda s: (s.dice, s.patient)):
        overlaps = (f"{v:.3f}" for v in (s.dice, s.iou, s.sensitivity, s.precision))
        error = "-" if s.volume_error is None else f"{100 * s.volume_error:+.1f} %"
        hit = f"{s.false_positive_slices} of {s.empty_slices}"
        sizes = (f"{s.truth_voxels:,}", f"{s.predicted_voxels:,}")
        named = [s.patient, *([s.region] if regions else [])]
        rows.append([*named, *overlaps, f"{s.hd95:.1f}", error, *sizes, hit])
    return f'<div class="wide">{_table(header, rows, [""] * len(header))}</div>'


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    classes: Sequence[str],
    first: str = "",
) -> str:
    """Return a table; classes style the columns, `first` the first row."""

    def line(tag, cells, row_class):
        inside = "".join(
            f'<{tag} class="{c}">{escape(str(cell))}</{tag}>'
            for cell, c in zip(cells, classes, strict=True)
        )
        return f'<tr class="{row_class}">{inside}</tr>'

    body = [line("td", row, first if i == 0 else "") for i, row in enumerate(rows)]
    return "\n".join(
        ['<div class="wide"><table>', line("th", header, ""), *body, "</table></div>"]
    ).replace(' class=""', "")


def _figure(name: str, image: bytes) -> str:
    caption = escape(CAPTIONS.get(name, name.replace("_", " ")))
    data = base64.b64encode(image).decode("ascii")
    picture = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _definitions(definitions: dict[str, str]) -> str:
    lines = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(text)}</dd>"
        for name, text in definitions.items()
        if name != "hd95_unit"
    )
    return f"<dl>{lines}</dl>"
