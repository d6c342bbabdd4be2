"""The figures of the report as PNG, the same bytes for the same data.

Colours are from the palette of Okabe and Ito, told apart with any colour vision.
"""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxseg.scoring.patient_score import PatientScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"
WIDTH_INCHES, DPI = 10, 110
MAX_NAMES = 40  # patients named on the axis; above, the names would not be readable


def learning_curves(records: Sequence[dict[str, Any]], monitor: str = "dice") -> bytes:
    """Draw loss, Dice and learning rate over the steps.

    The best evaluation and every reduction of the learning rate are marked. The training loss is
    taken over batches and the validation loss over slices, so each has an axis of its own.

    Args:
        records: lines of metrics.jsonl: dicts with `step` and any of `train_loss`, `train_dice`,
            `learning_rate`, `validation_loss`, `validation_dice`. Of two for one step the later
            counts, as after a resume.
        monitor: which validation value says what is best, `dice` (highest) or `loss` (lowest).
    """
    figure = new_figure(7)
    loss, dice, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.6))
    per_slice = loss.twinx()
    for both, name in (((loss, per_slice), "loss"), ((dice, dice), "dice")):
        parts = ("train", BLUE, ""), ("validation", ORANGE, "o")
        for axes, (part, colour, marker) in zip(both, parts, strict=True):
            steps, values = _series(records, f"{part}_{name}")
            if len(steps):
                axes.plot(steps, values, color=colour, marker=marker, markersize=4, label=part)
    steps, rates = _series(records, "learning_rate")
    rate.plot(steps, rates, color=GREY, drawstyle="steps-post")
    loss.set_ylabel("training loss, per batch", color=BLUE)
    per_slice.set_ylabel("validation loss, per sample", color=ORANGE)
    per_slice.spines["top"].set_visible(False)
    dice.set(ylabel="Dice", ylim=(-0.02, 1.02))
    rate.set(ylabel="learning rate", xlabel="step (updates of the weights)")
    if np.any(rates > 0):
        rate.set_yscale("log", nonpositive="mask")
    best = _best_evaluation(records, monitor)
    for axes in (loss, dice, rate):
        for index, step in enumerate(_reductions(steps, rates)):
            label = "learning rate reduced" if index == 0 else None
            axes.axvline(step, color=GREY, linestyle=":", linewidth=1.2, label=label)
        if best is not None:
            axes.axvline(best[0], color=GREEN, linewidth=1.5, label=best[1])
        tidy(axes)
    if _all_handles(loss, dice)[0]:
        figure.legend(*_all_handles(loss, dice), loc="outside upper center", ncols=5, frameon=False)
    return png(figure)


def dice_per_patient(scores: Sequence[PatientScore], summary: dict[str, Any]) -> bytes:
    """Draw each patient's Dice, sorted, with mean, interval and median, and beside it over size.

    Args:
        scores: one per patient.
        summary: of the same scores, by `scorecard.summarise`.
    """
    ranked = sorted(scores, key=lambda s: (-s.dice, s.patient))
    named = len(ranked) <= MAX_NAMES
    height = max(4.0, 1.6 + 0.2 * len(ranked)) if named else 6
    figure = new_figure(height)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    dice, ranks = [s.dice for s in ranked], np.arange(1, len(ranked) + 1)
    left.hlines(ranks, 0, dice, color=BLUE, alpha=0.25, linewidth=3 if named else 1)
    left.plot(dice, ranks, "o", color=BLUE, markersize=6 if named else 3)
    _mark_means(left, summary["patients"]["dice"])
    left.set(xlim=(-0.02, 1.02), ylim=(len(ranked) + 0.7, 0.3), xlabel="Dice")
    if named:
        left.set_yticks(ranks, [plain(s.patient) for s in ranked], fontsize=9)
    else:
        left.set_ylabel("patients, best first")
    handles = left.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    sized = [s for s in ranked if s.truth_voxels]
    right.plot([s.truth_voxels for s in sized], [s.dice for s in sized], "o", color=BLUE, alpha=0.7)
    right.set(ylim=(-0.02, 1.02), xlabel="tumour size (voxels of the truth)", ylabel="Dice")
    if sized:
        exponents = np.log10([s.truth_voxels for s in sized])
        limits = 10.0 ** np.array([np.floor(exponents.min()), np.floor(exponents.max()) + 1])
        right.set(xscale="log", xlim=limits)  # whole decades: few labels, all readable
    for axes in (left, right):
        tidy(axes)
    return png(figure)


def new_figure(height_inches: float) -> "Figure":
    """Return an empty figure of the report's width."""
    from matplotlib.figure import Figure  # takes a second, which only who draws should wait

    return Figure((WIDTH_INCHES, height_inches), dpi=DPI, layout="constrained")


def _series(records: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps, sorted, and finite values of one field, both [N]."""
    found = {r["step"]: r[name] for r in records if r.get(name) is not None}
    steps = [step for step in sorted(found) if np.isfinite(found[step])]
    return np.array(steps), np.array([found[step] for step in steps], np.float64)


def _best_evaluation(records: Sequence[dict[str, Any]], monitor: str) -> tuple[int, str] | None:
    steps, values = _series(records, f"validation_{monitor}")
    if not len(steps):
        return None
    # Of equals the last: its weights are the ones kept.
    sign = {"dice": 1, "loss": -1}[monitor]
    index = len(values) - 1 - np.argmax(sign * values[::-1])
    return steps[index], f"best: validation {monitor} {values[index]:.3f}, step {steps[index]}"


def _reductions(steps: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Return the steps at which the rate dropped far more than just before and just after.

    So warm-up and the smooth fall of a cosine have none; nor has the last record, which has no
    after.
    """
    ratio = np.minimum(rates[1:] / np.maximum(rates[:-1], 1e-30), 1)
    before, after = np.concatenate([[1], ratio[:-1]]), np.concatenate([ratio[1:], [0]])
    return steps[1:][ratio < 0.85 * np.minimum(before, after)]


def _mark_means(axes: "Axes", dice: dict[str, Any]):
    low, high = dice["ci95"]
    if low is not None:
        label = f"95 % interval {low:.3f} to {high:.3f}"
        axes.axvspan(low, high, color=ORANGE, alpha=0.2, linewidth=0, label=label)
    axes.axvline(dice["mean"], color=ORANGE, linewidth=2, label=f"mean {dice['mean']:.3f}")
    label = f"median {dice['median']:.3f}"
    axes.axvline(dice["median"], color=GREEN, linewidth=2, linestyle="--", label=label)


def plain(text: str) -> str:
    """Return the text so that it is drawn as it stands."""
    return text.replace("$", r"\$")  # between two dollars matplotlib would read a formula


def _all_handles(*axes: "Axes") -> tuple[list, list]:
    found = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def tidy(axes: "Axes"):
    """Give the axes a light grid behind what is drawn, and no frame at top and right."""
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: "Figure") -> bytes:
    """Return the figure as PNG, the same bytes for the same figure.

    Signs that the font lacks, as in names in Chinese, are boxes; nobody need be told of each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # as late as `new_figure`'s

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        # Figure.savefig would draw everything twice, the first time for the layout.
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()
