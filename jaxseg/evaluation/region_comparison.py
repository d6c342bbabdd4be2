"""Two models compared region by region, and by the mean over the regions."""

from collections.abc import Sequence
from typing import Any

from jaxseg.evaluation import comparison
from jaxseg.evaluation.comparison import Scores
from jaxseg.scoring.intervals import mean
from jaxseg.scoring.regiontext import MEAN

_OF_ALL = ("a", "b", "meaning")  # the same for every region


def compare_regions(
    a: Sequence[Scores], b: Sequence[Scores], num_samples: int, seed: int = 0
) -> dict[str, Any]:
    """Compare each region patient by patient, and the mean over the regions of each patient.

    Args:
        a: scores of one model, by region.
        b: those of the other, of the same regions and patients.
        num_samples: bootstrap resamples of the patients.
        seed: of the resampling.

    Returns:
        What `comparison.compare` gives for the first region, with `regions` (name -> the same of
        each) and `mean_over_regions`.
    """
    made = [comparison.compare(*pair, num_samples, seed) for pair in zip(a, b, strict=True)]
    means = comparison.compare(_mean_of(a), _mean_of(b), num_samples, seed)
    kept = [{k: v for k, v in one.items() if k not in _OF_ALL} for one in (*made, means)]
    regions = {one["region"]: one for one in kept[:-1]}
    return made[0] | {"regions": regions, "mean_over_regions": kept[-1] | {"region": MEAN}}


def format_regions(compared: dict[str, Any]) -> str:
    """Return the comparison for the terminal, 80 columns wide but for paths, plain ASCII."""
    parts = [*compared["regions"].values(), compared["mean_over_regions"]]
    titles = [f"{part['region']}: {comparison.headline(part)}" for part in parts]
    lines = [*titles, "=" * max(map(len, titles)), "", *comparison.who(compared), ""]
    for part in parts:
        lines += [f"REGION {part['region']}", *comparison.measures_table(part)]
        lines += [comparison.verdict(part), ""]
    lines += [n for n in comparison.notes(compared) if n != comparison.verdict(compared)]
    return "\n".join(text.rstrip() for text in lines) + "\n"


def _mean_of(regions: Sequence[Scores]) -> Scores:
    """Return scores whose rows are the means over the regions where these are defined."""
    rows = {}
    for patient, first in regions[0].patients.items():
        parts = [scores.patients[patient] for scores in regions]
        rows[patient] = {"group": first["group"], "diagonal": first["diagonal"]}
        for key in (m.key for m in comparison.MEASURES if m.key != "absolute_volume_error"):
            rows[patient][key] = _mean([part.get(key) for part in parts])
        # Errors of opposite sign must not cancel: what is compared is their absolute value.
        errors = [part["volume_error"] for part in parts]
        rows[patient]["volume_error"] = _mean([None if e is None else abs(e) for e in errors])
    return regions[0]._replace(patients=rows)


def _mean(values: Sequence[float | None]) -> float | None:
    return mean([v for v in values if v is not None])
