"""The honest scorecard: scores per patient, their mean with an interval, trivial baselines beside.

A patient is scored as one volume on the pixel grid of the input files. The headline is the mean
Dice over patients. Whatever makes a number look better than that is reported under its own name.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.errors import UserError
from jaxseg.scoring import metrics, scoretext, surface

SCORES = ("dice", "iou", "sensitivity", "precision", "hd95")


class PatientScore(NamedTuple):
    """All that a summary needs of one patient; no volumes."""

    patient: str
    dice: float
    iou: float
    sensitivity: float
    precision: float
    hd95: float  # mm where the spacing is known, else pixels
    volume_error: float | None  # (predicted - truth) / truth; None when the truth is empty
    truth_voxels: int
    predicted_voxels: int
    overlap_voxels: int
    num_slices: int
    empty_slices: int  # without tumour in the truth
    false_positive_slices: int  # empty slices with predicted tumour
    tumour_slice_dice: tuple[float, ...]  # one per slice with tumour in the truth
    diagonal: float  # of the volume, units of hd95: the hd95 of a missed tumour
    region: str = "tumour"


def score_patient(
    patient: str,
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing_mm: tuple[float, ...] = (),
    region: str = "tumour",
) -> PatientScore:
    """Score one region of one patient's volume.

    Both masks empty: all scores 1, HD95 0. One empty: all scores 0, HD95 the volume's diagonal.

    Args:
        patient: id.
        prediction: [D, H, W] bool, on the pixel grid of the input files.
        truth: [D, H, W] bool.
        spacing_mm: (slice distance, row, column), or () when unknown: HD95 in pixels.
        region: name of what the masks show.

    Raises:
        ValueError: the masks differ in shape or are not bool [D, H, W].
    """
    spacing = spacing_mm or (1.0, 1.0, 1.0)
    distance = surface.hd95(prediction, truth, spacing)
    in_plane = (1, 2)
    slices = metrics.Counts(
        (prediction & truth).sum(in_plane), prediction.sum(in_plane), truth.sum(in_plane)
    )
    volume = metrics.Counts(*(int(c.sum()) for c in slices))
    tumour = slices.true > 0
    return PatientScore(
        patient,
        *_overlaps(volume),
        distance,
        (volume.pred - volume.true) / volume.true if volume.true else None,
        truth_voxels=volume.true,
        predicted_voxels=volume.pred,
        overlap_voxels=volume.tp,
        num_slices=len(truth),
        empty_slices=int((~tumour).sum()),
        false_positive_slices=int((~tumour & (slices.pred > 0)).sum()),
        tumour_slice_dice=tuple(metrics.dice(slices)[tumour].tolist()),
        diagonal=surface.diagonal(truth.shape, spacing),
        region=region,
    )


def predict_nothing(score: PatientScore) -> PatientScore:
    """Return the score that an empty prediction gets on the same patient."""
    if score.truth_voxels == 0:
        overlaps, distance, volume_error = [1.0] * 4, 0.0, None
    else:
        overlaps, distance, volume_error = [0.0] * 4, score.diagonal, -1.0
    return score._replace(
        **dict(zip(SCORES, [*overlaps, distance], strict=True)),
        volume_error=volume_error,
        predicted_voxels=0,
        overlap_voxels=0,
        false_positive_slices=0,
        tumour_slice_dice=(0.0,) * len(score.tumour_slice_dice),
    )


def summarise(
    scores: Sequence[PatientScore],
    bootstrap_samples: int,
    seed: int = 0,
    in_mm: bool = False,
    best_threshold: tuple[Any, Sequence[PatientScore]] | None = None,
) -> dict[str, Any]:
    """Summarise the patients' scores of one region; the order of the patients changes nothing.

    Args:
        scores: one per patient.
        bootstrap_samples: resamples of the patients for the 95 % interval.
        seed: of the resampling.
        in_mm: whether `score_patient` knew the spacing; states the unit of HD95.
        best_threshold: the `baselines.ThresholdBaseline` and its scores on the same patients.

    Returns:
        The content of scores.json: `region`, `patients`, `slices`, `pooled`, `baselines`,
        `definitions`, `warnings`. Strict JSON: what is undefined is None. `ci95` of one patient
        is [None, None].

    Raises:
        UserError: no patients.
        ValueError: a patient scored twice, or a baseline scored on other patients.
    """
    if not scores:
        raise UserError("no patients to score: the split is empty; give it patients")
    patients = sorted(s.patient for s in scores)
    if len(set(patients)) < len(patients):
        raise ValueError(f"a patient was scored twice: {patients}")

    def group(members):
        members = sorted(members, key=lambda s: s.patient)
        if [s.patient for s in members] != patients:
            raise ValueError("a baseline must be scored on the same patients")
        return {
            "patients": _over_patients(members, bootstrap_samples, seed),
            "slices": _over_slices(members),
            "pooled": _pooled(members),
        }

    summary = {"region": scores[0].region} | group(scores)
    summary["baselines"] = {"predict_nothing": group([predict_nothing(s) for s in scores])}
    if best_threshold is not None:
        baseline, members = best_threshold
        summary["baselines"]["best_threshold"] = baseline._asdict() | group(members)
    summary["definitions"] = scoretext.definitions("mm" if in_mm else "pixels")
    summary["warnings"] = scoretext.warnings(summary["patients"])
    return summary


def mean_interval(values: Sequence[float], num_samples: int, seed: int) -> list[float | None]:
    """Return the 95 % percentile bootstrap interval of the mean, [low, high].

    Fewer than two values have no interval: [None, None].

    References:
        Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return [None, None]
    rng = np.random.default_rng(seed)
    num_chunks = 1 + num_samples * len(values) // 1_000_000  # bounds the memory
    chunks = np.array_split(np.arange(num_samples), num_chunks)
    sizes = [(len(chunk), len(values)) for chunk in chunks]
    means = [values[rng.integers(len(values), size=size)].mean(axis=1) for size in sizes]
    return np.percentile(np.concatenate(means), [2.5, 97.5]).tolist()


def join_regions(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the summary of all regions: the first one's, and where there are more, `regions`."""
    if len(summaries) == 1:
        return summaries[0]
    parts = {s["region"]: {k: v for k, v in s.items() if k != "definitions"} for s in summaries}
    return summaries[0] | {"regions": parts}


def patients_csv(scores: Sequence[PatientScore]) -> str:
    """Return a table, one row per patient and region, sorted by id.

    tumour_slice_dice is the mean over the slices.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(PatientScore._fields)
    for score in sorted(scores, key=lambda s: s.patient):
        row = score._replace(tumour_slice_dice=_mean(score.tumour_slice_dice))
        writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in row)
    return table.getvalue()


def read_patients_csv(path: Path, region: str | None = None) -> dict[str, dict[str, Any]]:
    """Return patient -> field -> value as `patients_csv` has them, to 6 digits.

    None where undefined: `volume_error` and `tumour_slice_dice` of an empty truth.

    Args:
        path: of the table.
        region: whose scores; None: of the region that the table begins with.

    Raises:
        UserError: the file is missing, cut off or of another kind, or a patient stands twice.
    """
    read = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                own = row.get("region", "tumour")  # older tables have one region only
                if own is None:
                    raise ValueError("a row is cut off")
                region = region or own
                if own != region:
                    continue
                if row["patient"] in read:
                    raise ValueError(f"{row['patient']} stands twice")
                read[row["patient"]] = {n: _number(n, row[n]) for n in PatientScore._fields[1:-1]}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as scores per patient ({error})") from error
    return read


def _number(name: str, text: str) -> float | None:
    may_lack = name in ("volume_error", "tumour_slice_dice")
    return None if may_lack and text == "" else float(text)


def _overlaps(counts: metrics.Counts) -> list[float]:
    functions = (metrics.dice, metrics.iou, metrics.sensitivity, metrics.precision)
    return [float(f(counts)) for f in functions]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _spread(values: Sequence[float], num_samples: int, seed: int) -> dict[str, Any]:
    return {
        "mean": _mean(values),
        "median": float(np.median(values)) if len(values) else None,
        "ci95": mean_interval(values, num_samples, seed),
    }


def _over_patients(scores: Sequence[PatientScore], num_samples: int, seed: int) -> dict[str, Any]:
    errors = [s.volume_error for s in scores if s.volume_error is not None]
    values = {name: [getattr(s, name) for s in scores] for name in SCORES}
    values |= {"volume_error": errors, "absolute_volume_error": [abs(e) for e in errors]}
    empty = [(s.truth_voxels == 0) + (s.predicted_voxels == 0) for s in scores]
    return {
        "n": len(scores),
        "n_both_empty": empty.count(2),
        "n_one_empty": empty.count(1),
        "n_volume_error": len(errors),
    } | {name: _spread(v, num_samples, seed) for name, v in values.items()}


def _over_slices(scores: Sequence[PatientScore]) -> dict[str, Any]:
    tumour = [d for s in scores for d in s.tumour_slice_dice]
    num_empty = sum(s.empty_slices for s in scores)
    num_false = sum(s.false_positive_slices for s in scores)
    return {
        "tumour_only_dice": _mean(tumour),
        "all_dice": (sum(tumour) + num_empty - num_false) / (len(tumour) + num_empty),
        "false_positive_rate": num_false / num_empty if num_empty else None,
        "n": len(tumour) + num_empty,
        "n_tumour": len(tumour),
        "n_empty": num_empty,
        "n_false_positive": num_false,
    }


def _pooled(scores: Sequence[PatientScore]) -> dict[str, float]:
    names = ("overlap_voxels", "predicted_voxels", "truth_voxels")
    counts = metrics.Counts(*(sum(getattr(s, name) for s in scores) for name in names))
    return dict(zip(SCORES[:4], _overlaps(counts), strict=True))
