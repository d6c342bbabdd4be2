"""The figure of all regions beside each other: every patient, the mean, its interval."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxseg.scoring import colours
from jaxseg.scoring.figures import new_figure, plain, png, tidy
from jaxseg.scoring.patient_score import PatientScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 0.5  # of the band in which a region's points are spread
_DARK = "#222222"


def by_region(scores: Sequence[Sequence[PatientScore]], summary: dict[str, Any]) -> bytes:
    """Draw Dice, HD95 and NSD of every patient by region, in the regions' colours.

    Args:
        scores: [patients][regions].
        summary: of the same scores, by `scorecard.join_regions`.
    """
    names = list(summary["regions"])
    unit = summary["definitions"]["hd95_unit"]
    shown = {name: colours.as_hex(c) for name, c in colours.of_regions(names).items()}
    figure = new_figure(4.6)
    panels = figure.subplots(1, 3)
    for axes, key in zip(panels, ("dice", "hd95", "nsd"), strict=True):
        for k, name in enumerate(names):
            values = [getattr(patient[k], key) for patient in scores]
            spread = summary["regions"][name]["patients"][key]
            _draw_region(axes, k, values, spread, shown[name])
        axes.set_xticks(range(len(names)), [""] * len(names))
        axes.set_xlim(-0.6, len(names) - 0.4)
        tidy(axes)
    panels[0].set(ylabel="Dice", ylim=(-0.02, 1.02))
    panels[1].set_ylabel(f"HD95, {unit}: lower is better")
    panels[1].set_ylim(bottom=0)
    panels[2].set(ylabel=f"NSD at 1 {unit.removesuffix('s')}", ylim=(-0.02, 1.02))
    for name in names:
        panels[0].plot([], [], "o", color=shown[name], label=plain(name))
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4, frameon=False)
    return png(figure)


def _draw_region(
    axes: "Axes", place: int, values: Sequence[float], spread: dict[str, Any], colour: str
):
    """Draw the points side by side in the order of their values' ranks, so that none hides."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    steps = (ranks * 0.618034) % 1 - 0.5  # the golden ratio: neighbours in value lie far apart
    axes.plot(place + _WIDTH * steps, values, "o", color=colour, markersize=5, alpha=0.65)
    low, high = spread["ci95"]
    if low is not None:
        axes.plot([place] * 2, [low, high], color=_DARK, linewidth=2)
    ends = (place - _WIDTH / 2, place + _WIDTH / 2)
    axes.plot(ends, [spread["mean"]] * 2, color=_DARK, linewidth=2)
