"""The figure of the operating point: the curves it was chosen from, and the calibration."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxseg.scoring.figures import BLUE, GREEN, GREY, ORANGE, new_figure, png, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(tuned: dict[str, Any]) -> bytes:
    """Draw Dice over threshold and over the smallest lesion, and the reliability diagram.

    Args:
        tuned: content of operating_point.json, by `tuning.tune`.
    """
    figure = new_figure(4)
    thresholds, lesions, reliability = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    point, curve = tuned["point"], tuned["threshold_curve"]
    chosen = curve["threshold"].index(point["threshold"])
    usual = curve["threshold"].index(tuned["untuned_threshold"])
    _draw_choice(thresholds, curve["threshold"], curve["dice"], chosen, usual)
    thresholds.set(xlabel="threshold of the probability", ylabel="mean Dice, validation")
    _draw_lesions(lesions, tuned["min_lesion_curve"], point)
    _draw_reliability(reliability, tuned["calibration"])
    for axes, place in (
        (thresholds, "lower center"),
        (lesions, "lower center"),
        (reliability, "upper left"),
    ):
        tidy(axes)
        axes.legend(loc=place, fontsize=8)
    return png(figure)


def _draw_choice(axes: "Axes", x: Any, dice: list[float], chosen: int, usual: int):
    axes.plot(x, dice, "o-", color=BLUE, markersize=3)
    if usual != chosen:
        label = f"simplest: {dice[usual]:.3f}"
        axes.plot(x[usual], dice[usual], "o", color=GREY, markersize=9, label=label)
    axes.plot(x[chosen], dice[chosen], "o", color=GREEN, markersize=9, label=_chosen(dice[chosen]))
    # A flat curve looks flat, and what lies far below the best does not hide the rest.
    span = np.clip(max(dice) - min(dice), 0.02, 0.1)
    axes.set_ylim(max(dice) - 1.1 * span, max(dice) + 0.1 * span)


def _chosen(dice: float) -> str:
    return f"chosen: {dice:.3f}"


def _draw_lesions(axes: "Axes", curve: dict[str, Any], point: dict[str, Any]):
    sizes, places = curve["min_lesion"], np.arange(len(curve["min_lesion"]))
    _draw_choice(axes, places, curve["dice"], sizes.index(point["min_lesion"]), 0)
    labels = ["none", *(f"{size:,}" for size in sizes[1:])]
    axes.set_xticks(places, labels, rotation=60, fontsize=8)
    unit = {"voxels": "voxels", "mm3": "mm³"}[point["unit"]]
    axes.set(xlabel=f"smallest lesion kept, {unit}")


def _draw_reliability(axes: "Axes", calibration: dict[str, Any]):
    axes.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle="--")
    for name, colour in (("before", ORANGE), ("after", BLUE)):
        found = calibration[name]
        bins, error = found["reliability"], found["expected_calibration_error"]
        label = f"{name}: T = {found['temperature']:.3g}"
        label += "" if error is None else f", ECE {error:.3f}"
        axes.plot(bins["probability"], bins["tumour"], "o-", color=colour, ms=4, label=label)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xlabel="predicted probability of tumour", ylabel="share of tumour")
