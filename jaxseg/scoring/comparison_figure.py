"""The figure of a comparison: two models on the same patients."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxseg.scoring.figures import (
    BLUE,
    GREEN,
    GREY,
    MAX_NAMES,
    ORANGE,
    new_figure,
    plain,
    png,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def dice_of_pairs(comparison: dict[str, Any], title: str) -> bytes:
    """Draw the Dice of each patient under A and under B, and beside it the sorted differences.

    Args:
        comparison: by `compare.compare`.
        title: few lines, by example which models A and B are.
    """
    names, dice = list(comparison["dice"]), np.array(list(comparison["dice"].values()))
    gains = dice[:, 1] - dice[:, 0]
    order = np.argsort(-gains, kind="stable")
    names, dice, gains = [names[i] for i in order], dice[order], gains[order]
    colours = np.select([gains > 0, gains < 0], [BLUE, ORANGE], GREY)
    height = max(4.8, 2.5 + 0.2 * len(names)) if len(names) <= MAX_NAMES else 6.5
    figure = new_figure(height)
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    measure = comparison["measures"]["dice"]
    _draw_slopes(left, dice, colours, measure)
    _draw_gains(right, gains, colours, names, measure)
    tidy(left)
    tidy(right)
    figure.suptitle(plain(title), fontsize=10)
    _add_legend(figure, right, measure)
    return png(figure)


def _draw_slopes(axes: "Axes", dice: np.ndarray, colours: np.ndarray, measure: dict[str, Any]):
    alpha = 0.7 if len(dice) <= MAX_NAMES else 0.3
    for pair, colour in zip(dice, colours, strict=True):
        axes.plot((0, 1), pair, "o-", color=colour, markersize=4, linewidth=1.2, alpha=alpha)
    means = measure["mean_a"], measure["mean_b"]
    axes.plot((0, 1), means, "D-", color=GREEN, markersize=8, linewidth=3)
    labels = [f"{name}\nmean {mean:.3f}" for name, mean in zip("AB", means, strict=True)]
    axes.set_xticks((0, 1), labels, fontsize=11)
    lowest = np.floor(10 * dice.min()) / 10  # slopes, not bars: no need to start at 0
    axes.set(xlim=(-0.15, 1.15), ylim=(lowest - 0.02, 1.02), ylabel="Dice")


def _draw_gains(
    axes: "Axes",
    gains: np.ndarray,
    colours: np.ndarray,
    names: Sequence[str],
    measure: dict[str, Any],
):
    ranks, named = np.arange(1, len(gains) + 1), len(gains) <= MAX_NAMES
    axes.axvline(0, color=GREY, linewidth=1)
    axes.hlines(ranks, 0, gains, color=colours, linewidth=3 if named else 1, alpha=0.5)
    axes.scatter(gains, ranks, color=colours, s=36 if named else 9, zorder=3)
    low, high = measure["ci95"]
    if low is not None:
        label = f"95 % interval {low:+.3f} to {high:+.3f}"
        axes.axvspan(low, high, color=GREEN, alpha=0.2, linewidth=0, label=label)
    label = f"mean difference {measure['difference']:+.3f}"
    axes.axvline(measure["difference"], color=GREEN, linewidth=2, label=label)
    bound = 1.1 * max(np.abs(gains).max(), 0.01)
    axes.set(xlim=(-bound, bound), ylim=(len(gains) + 0.7, 0.3), xlabel="Dice of B minus Dice of A")
    if named:
        axes.set_yticks(ranks, [plain(name) for name in names], fontsize=9)
    else:
        axes.set_ylabel("patients, by difference")


def _add_legend(figure: "Figure", axes: "Axes", measure: dict[str, Any]):
    for text, count, colour in (
        ("B better", measure["b_better"], BLUE),
        ("A better", measure["a_better"], ORANGE),
        ("equal", measure["ties"], GREY),
    ):
        axes.plot([], [], "o-", color=colour, linewidth=3, label=f"{text}: {count}")
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, frameon=False)
