"""The honest scorecard: scores per patient, their mean with an interval, trivial baselines beside.

A patient is scored as one volume on the pixel grid of the input files. The headline is the mean
Dice over patients. Whatever makes a number look better than that is reported under its own name.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError
from jaxseg.scoring import metrics, scoretext
from jaxseg.scoring.brats import Rules
from jaxseg.scoring.definitions import definitions
from jaxseg.scoring.intervals import mean, spread
from jaxseg.scoring.patient_score import (
    OVERLAPS,
    SCORES,
    PatientScore,
    overlaps,
    predict_nothing,
)

_LESION_SCORES = ("lesion_dice", "lesion_hd95")
_TEXTS = ("patient", "region", "group")
# Of later versions: older tables lack them. All of them may be undefined, too.
_LATER = PatientScore._fields[PatientScore._fields.index("region") + 1 :]


def summarise(
    scores: Sequence[PatientScore],
    bootstrap_samples: int,
    seed: int = 0,
    in_mm: bool = False,
    best_threshold: tuple[Any, Sequence[PatientScore]] | None = None,
    rules: Rules | None = None,
) -> dict[str, Any]:
    """Summarise the patients' scores of one region; the order of the patients changes nothing.

    Args:
        scores: one per patient.
        bootstrap_samples: resamples of the patients for the 95 % interval.
        seed: of the resampling.
        in_mm: whether `score_patient` knew the spacing; states the unit of HD95.
        best_threshold: the `baselines.ThresholdBaseline` and its scores on the same patients.
        rules: the BraTS definition that the scores are by, besides.

    Returns:
        The content of scores.json: `region`, `patients`, `with_truth` (the patients whose truth is
        not empty), `empty_truth`, `lesions`, `slices`, `pooled`, `baselines`, `definitions`,
        `warnings`, and `brats` where a definition is given. Strict JSON: what is undefined is
        None. `ci95` of one person is [None, None].

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
        with_truth = [s for s in members if s.truth_voxels]
        return {
            "patients": _over_patients(members, bootstrap_samples, seed),
            "with_truth": _over_patients(with_truth, bootstrap_samples, seed),
            "empty_truth": _over_empty(members),
            "lesions": _over_lesions(members),
            "slices": _over_slices(members),
            "pooled": _pooled(members),
        }

    summary = {"region": scores[0].region} | group(scores)
    summary["baselines"] = {"predict_nothing": group([predict_nothing(s) for s in scores])}
    if best_threshold is not None:
        baseline, members = best_threshold
        summary["baselines"]["best_threshold"] = baseline._asdict() | group(members)
    if rules:
        members = sorted(scores, key=lambda s: s.patient)
        summary["brats"] = _over_brats(members, rules, bootstrap_samples, seed)
    summary["definitions"] = definitions("mm" if in_mm else "pixels", rules)
    summary["warnings"] = scoretext.warnings(summary["patients"])
    return summary


def mean_over_regions(
    scores: Sequence[Sequence[PatientScore]],
    bootstrap_samples: int,
    seed: int = 0,
    best_threshold: Sequence[Sequence[PatientScore]] = (),
) -> dict[str, Any]:
    """Return what `summarise` gives as `patients`, of the mean over the regions of each patient.

    Args:
        scores: [patients][regions], of the same regions.
        bootstrap_samples: resamples for the 95 % interval.
        seed: of the resampling.
        best_threshold: the scores of that baseline, likewise.

    Returns:
        `patients` and `baselines`. A measure that a region lacks, as the volume error of an empty
        truth, is left out of that patient's mean.
    """

    def over(patients):
        patients = sorted(patients, key=lambda regions: regions[0].patient)
        rows = [[measures_of(score) for score in regions] for regions in patients]
        means = [{n: mean([r[n] for r in row if r[n] is not None]) for n in row[0]} for row in rows]
        persons = [regions[0].group for regions in patients]
        names = means[0]
        return {"n": len(patients)} | {
            n: spread([m[n] for m in means], persons, bootstrap_samples, seed) for n in names
        }

    nothing = [[predict_nothing(score) for score in regions] for regions in scores]
    beside = {"predict_nothing": {"patients": over(nothing)}}
    if best_threshold:
        beside["best_threshold"] = {"patients": over(best_threshold)}
    return {"patients": over(scores), "baselines": beside}


def measures_of(score: PatientScore) -> dict[str, float | None]:
    """Return all measures that have a mean over patients; None where undefined."""
    error = score.volume_error
    names = (*SCORES, *_LESION_SCORES, "brats_dice", "brats_hd95", "brats_nsd")
    found = {name: getattr(score, name) for name in names}
    return found | {
        "volume_error": error,
        "absolute_volume_error": None if error is None else abs(error),
    }


def join_regions(
    summaries: Sequence[dict[str, Any]], means: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the summary of all regions: the first one's, and where there are more, `regions`.

    Args:
        summaries: one per region, by `summarise`.
        means: by `mean_over_regions`; stands beside `regions`, needed where there are several.
    """
    if len(summaries) == 1:
        return summaries[0]
    parts = {s["region"]: {k: v for k, v in s.items() if k != "definitions"} for s in summaries}
    return summaries[0] | {"regions": parts, "mean_over_regions": means}


def patients_csv(scores: Sequence[PatientScore]) -> str:
    """Return a table, one row per patient and region, sorted by id.

    tumour_slice_dice is the mean over the slices.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(PatientScore._fields)
    for score in sorted(scores, key=lambda s: s.patient):
        row = score._replace(tumour_slice_dice=mean(score.tumour_slice_dice))
        writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in row)
    return table.getvalue()


def read_patients_csv(path: Path, region: str | None = None) -> dict[str, dict[str, Any]]:
    """Return patient -> field -> value as `patients_csv` has them, to 6 digits.

    None where undefined, by example `volume_error` of an empty truth, and where the table is of
    an older version without the field; `group` is then the patient.

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
                if None in row.values():
                    raise ValueError("a row is cut off")
                own = row.get("region", "tumour")  # older tables have one region only
                region = region or own
                if own != region:
                    continue
                patient = row["patient"]
                if patient in read:
                    raise ValueError(f"{patient} stands twice")
                names = [n for n in PatientScore._fields if n not in _TEXTS]
                read[patient] = {n: _number(n, row) for n in names}
                read[patient]["group"] = row.get("group", patient)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as scores per patient ({error})") from error
    return read


def _number(name: str, row: dict[str, str]) -> float | None:
    text = row.get(name, "") if name in _LATER else row[name]
    may_lack = name in ("volume_error", "tumour_slice_dice", *_LATER)
    return None if may_lack and text == "" else float(text)


def _over_patients(scores: Sequence[PatientScore], num_samples: int, seed: int) -> dict[str, Any]:
    rows, persons = [measures_of(s) for s in scores], [s.group for s in scores]
    empty = [(s.truth_voxels == 0) + (s.predicted_voxels == 0) for s in scores]
    names = (*SCORES, "volume_error", "absolute_volume_error", *_LESION_SCORES)
    return {
        "n": len(scores),
        "n_persons": len(set(persons)),
        "n_both_empty": empty.count(2),
        "n_one_empty": empty.count(1),
        "n_volume_error": sum(r["volume_error"] is not None for r in rows),
    } | {n: spread([r[n] for r in rows], persons, num_samples, seed) for n in names}


def _over_empty(scores: Sequence[PatientScore]) -> dict[str, Any]:
    empty = [s for s in scores if not s.truth_voxels]
    voxels = [s.predicted_voxels for s in empty]
    known = None not in [s.voxel_mm3 for s in empty]
    mm3 = [s.predicted_voxels * s.voxel_mm3 for s in empty] if known else []
    return {
        "n": len(empty),
        "n_predicted_empty": voxels.count(0),
        "mean_false_positive_voxels": mean(voxels),
        "mean_false_positive_mm3": mean(mm3),
    }


def _over_lesions(scores: Sequence[PatientScore]) -> dict[str, int]:
    number, found = sum(s.lesions for s in scores), sum(s.found_lesions for s in scores)
    invented = sum(s.invented_lesions for s in scores)
    return {"n": number, "found": found, "missed": number - found, "invented": invented}


def _over_brats(
    scores: Sequence[PatientScore], rules: Rules, num_samples: int, seed: int
) -> dict[str, Any]:
    persons, numbers = [s.group for s in scores], {}
    for name in ("found", "missed", "invented"):
        known = [v for s in scores if (v := getattr(s, f"brats_{name}")) is not None]
        numbers[name] = sum(known) if known else None
    for name in ("dice", "hd95", "nsd"):
        values = [getattr(s, f"brats_{name}") for s in scores]
        numbers[name] = spread(values, persons, num_samples, seed)
    undefined = sum(s.brats_dice is None for s in scores)
    return rules._asdict() | {"n": len(scores), "n_undefined": undefined} | numbers


def _over_slices(scores: Sequence[PatientScore]) -> dict[str, Any]:
    tumour = [d for s in scores for d in s.tumour_slice_dice]
    num_empty = sum(s.empty_slices for s in scores)
    num_false = sum(s.false_positive_slices for s in scores)
    return {
        "tumour_only_dice": mean(tumour),
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
    return dict(zip(OVERLAPS, overlaps(counts), strict=True))
