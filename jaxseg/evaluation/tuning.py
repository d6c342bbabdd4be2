"""Choose the operating point on the validation patients, once the training has ended.

Temperature first (on the training grid, where the logits are, over the voxels in doubt), then
the threshold of the calibrated probability, then the smallest lesion kept (both on the native
grid, by the mean Dice over patients). The test patients have no part in it.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import evaluation_batches
from jaxseg.machine.distributed import gather, gather_shares, on_main
from jaxseg.prediction import operating
from jaxseg.prediction.inference import Model, predict_batch, predict_patients
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.scoring import calibration, metrics, scoretext

THRESHOLDS = tuple(i / 20 for i in range(1, 20))
MIN_LESIONS = (0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # mm3, or voxels
MIN_PATIENTS = 3  # below, nothing is left to see a gain on
MIN_GAIN = 0.001  # mean Dice; less does not show in the scores

# As float32, the probability of a logit above 17 is 1; divided by this, logits are seen to 130.
_SOFT = 8.0


def tuned_point(
    run: Path, model: Model, prepared: Prepared, patients: Sequence[Patient], step: int
) -> OperatingPoint:
    """Return the operating point of a run; choose and keep it where the run has none yet.

    All processes must call it, and all get the same.

    Args:
        run: workdir.
        model: its best weights.
        prepared: the data set.
        patients: of the validation split.
        step: of these weights; a point chosen for another step is chosen again.
    """
    found = on_main(lambda: operating.how_chosen(run).get("step"))
    if model.config.evaluation.tune and found != step:
        point, how = tune(model, prepared, patients)
        on_main(lambda: operating.write(run, point, {"step": step, **how}))
        print(textwrap.fill(scoretext.tuning_result(how), 80), end="\n\n", flush=True)
    return OperatingPoint(*on_main(lambda: operating.read(run, model.config)))


def tune(
    model: Model, prepared: Prepared, patients: Sequence[Patient]
) -> tuple[OperatingPoint, dict[str, Any]]:
    """Return the operating point and how it was chosen, as `operating.write` takes them.

    Each process predicts its share of the patients and holds one volume at a time.

    Args:
        model: to tune; its evaluation.threshold stays unless another is better.
        prepared: the data set.
        patients: of the validation split, at least one.
    """
    mine = patients[jax.process_index() :: jax.process_count()]
    parts = gather(logit_histogram(model, prepared, mine).tolist())
    histogram = calibration.in_doubt(np.sum(np.array(parts, np.int64), axis=0))
    temperature = calibration.fit_temperature(histogram)

    spacing_mm, usual = model.config.dataset.spacing_mm, model.config.evaluation.threshold
    unit = "mm3" if spacing_mm else "voxels"
    thresholds = sorted({*THRESHOLDS, usual})
    voxel = operating.voxel_volume(unit, spacing_mm)
    cases = predict_patients(model._replace(temperature=temperature), prepared, mine)
    tables = [
        dice_table(case.probability[..., 0], case.truth[..., 0], thresholds, voxel)
        for case in cases
    ]
    dice = np.array(gather_shares(tables))  # [patients, thresholds, lesion sizes]
    threshold = choose(dice[:, :, 0], thresholds.index(usual))
    min_lesion = choose(dice[:, threshold], 0)

    point = OperatingPoint(thresholds[threshold], float(MIN_LESIONS[min_lesion]), unit, temperature)
    mean = dice.mean(axis=0)
    return point, {
        "patients": [patient.id for patient in patients],
        "untuned_threshold": usual,
        "validation_dice": {
            "untuned": float(mean[thresholds.index(usual), 0]),
            "tuned": float(mean[threshold, min_lesion]),
        },
        "threshold_curve": {"threshold": thresholds, "dice": mean[:, 0].tolist()},
        "min_lesion_curve": {"min_lesion": MIN_LESIONS, "dice": mean[threshold].tolist()},
        "calibration": describe_calibration(histogram, temperature),
    }


def logit_histogram(model: Model, prepared: Prepared, patients: Sequence[Patient]) -> np.ndarray:
    """Return the `calibration.logit_histogram` of the patients' voxels on the training grid."""
    counts = calibration.logit_histogram(np.zeros(0), np.zeros(0, bool))
    if not patients:  # more processes than patients
        return counts
    soft = model._replace(temperature=_SOFT)
    for batch in evaluation_batches(prepared, patients, model.config):
        real = batch["weight"] > 0
        probability = jax.device_get(predict_batch(soft, batch["image"]))[real]
        with np.errstate(divide="ignore"):  # of 0 and 1 the logits are infinite
            odds = np.log(probability) - np.log1p(-probability)
        counts += calibration.logit_histogram(_SOFT * odds, batch["mask"][real] > 0)
    return counts


def dice_table(
    probability: np.ndarray, truth: np.ndarray, thresholds: Sequence[float], voxel: float
) -> list[list[float]]:
    """Return a patient's Dice for each threshold and each of `MIN_LESIONS`.

    Args:
        probability: [D, H, W] float32.
        truth: [D, H, W] bool.
        thresholds: ascending.
        voxel: size of a voxel in the unit of the smallest lesion.

    Returns:
        [thresholds][lesion sizes], what the masks of `operating.segment` score.
    """
    from scipy import ndimage  # takes time to import

    table, smallest = [], np.array(MIN_LESIONS)[:, None]
    box = ndimage.find_objects((probability >= np.float32(thresholds[0])).view(np.uint8))
    inside = box[0] if box else ...  # the rest need not be searched once for each threshold
    probability, truth_inside = probability[inside], truth[inside]
    for threshold in thresholds:
        components, sizes = operating.lesions(probability >= np.float32(threshold))
        overlaps = np.bincount(components[truth_inside], minlength=len(sizes) + 1)[1:]
        kept = sizes * voxel >= smallest  # [lesion sizes, components]
        counts = metrics.Counts((kept * overlaps).sum(1), (kept * sizes).sum(1), truth.sum())
        table.append(metrics.dice(counts).tolist())
    return table


def choose(dice: np.ndarray, simplest: int) -> int:
    """Return which option to take: the best on average, where its gain is more than luck.

    Each patient is scored with the option that is best for the others. The simplest stays unless
    that gains, over the patients, more than two standard errors and more than `MIN_GAIN`.

    Args:
        dice: [patients, options].
        simplest: the option that needs no reason.

    References:
        Hastie, Tibshirani and Friedman, "The elements of statistical learning", 2009, section
        7.10: leaving one out; parsimony where the gain is within the standard error.
    """
    n = len(dice)
    if n < MIN_PATIENTS:
        return simplest
    of_others = np.argmax(dice.sum(axis=0) - dice, axis=1)
    gains = dice[np.arange(n), of_others] - dice[:, simplest]
    error = gains.std(ddof=1) / np.sqrt(n)
    return (
        int(np.argmax(dice.mean(axis=0))) if gains.mean() > max(2 * error, MIN_GAIN) else simplest
    )


def describe_calibration(histogram: np.ndarray, temperature: float) -> dict[str, Any]:
    """Return likelihood, calibration error and reliability before and after, for the report."""
    made = {"voxels": int(histogram.sum())}
    for name, t in (("before", 1.0), ("after", temperature)):
        bins = calibration.reliability(histogram, t)
        made[name] = {
            "temperature": t,
            "expected_calibration_error": calibration.expected_calibration_error(bins),
            "reliability": {name: values.tolist() for name, values in bins._asdict().items()},
        }
    return made
