"""Choose the operating point on the validation patients, once the training has ended.

Temperature first (on the training grid, where the logits are, over the voxels in doubt), then
the threshold of the calibrated probability, then the smallest lesion kept (both on the native
grid, by the mean Dice over patients). The test patients have no part in it.

Each region is tuned by itself, without the cut by the regions around it that
`operating.segment_regions` makes: what it would be cut by is known only when all patients have been
predicted for the outer region, so that each level of nesting (three in BraTS) would predict all of
them once more. Where an inner region's mask lies in the outer one's, as the labels it is trained
on do, the cut changes nothing, and the point is the same; elsewhere the Dice that tuning tells may
differ from that of the scores, which are always of the masks with the cut. The file says so too.
"""

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import evaluation_batches
from jaxseg.machine.distributed import gather, gather_shares, on_main
from jaxseg.prediction import operating
from jaxseg.prediction.inference import predict_patients
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.prediction.predictor import Predictor, batch_logits
from jaxseg.prediction.trained import Trained
from jaxseg.scans.regions import Region, is_within
from jaxseg.scoring import calibration, metrics, scoretext

THRESHOLDS = tuple(i / 20 for i in range(1, 20))
MIN_LESIONS = (0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # mm3, or voxels
MIN_PATIENTS = 3  # below, nothing is left to see a gain on
MIN_GAIN = 0.001  # mean Dice; less does not show in the scores


def tuned(
    run: Trained, model: Predictor, prepared: Prepared, patients: Sequence[Patient]
) -> Trained:
    """Return the run with its operating points; choose and keep them where it has none yet.

    All processes must call it, and all get the same.

    Args:
        run: just trained.
        model: of the run; its temperatures do not matter.
        prepared: the data set.
        patients: of the validation split; a point chosen for another step is chosen again.
    """
    found = on_main(lambda: operating.how_chosen(run.run).get("step"))
    if run.config.evaluation.tune and found != run.step:
        chosen = tune(run, model, prepared, patients)
        about = {"step": run.step, "patients": [patient.id for patient in patients]}
        about |= about_nesting(run.kind.regions)
        on_main(lambda: operating.write(run.run, run.regions, chosen, **about))
        for name, how in zip(run.regions, chosen, strict=True):
            text = scoretext.tuning_result(how, len(patients), len({p.person for p in patients}))
            named = f"{name}: {text}" if len(run.regions) > 1 else text
            print(textwrap.fill(named, 80), end="\n\n", flush=True)
    return run._replace(points=operating.read(run.run, run.config, run.regions))


def about_nesting(regions: Sequence[Region]) -> dict[str, str]:
    """Return what operating_point.json says where regions lie in others; nothing else."""
    pairs = itertools.combinations(regions, 2)
    if not any(is_within(inner, outer) for outer, inner in pairs):
        return {}
    return {
        "nesting": "each region was chosen by itself; scores and predictions cut off what sticks "
        "out of the regions around it, so their Dice may differ from validation_dice"
    }


def tune(
    run: Trained, model: Predictor, prepared: Prepared, patients: Sequence[Patient]
) -> list[dict[str, Any]]:
    """Choose the operating point of each region; returns what `operating.write` takes.

    Each process predicts its share of the patients and holds one volume at a time.

    Args:
        run: to tune; its evaluation.threshold stays unless another is better.
        model: of the run.
        prepared: the data set.
        patients: of the validation split, at least one.
    """
    mine = patients[jax.process_index() :: jax.process_count()]
    parts = gather(logit_histograms(model, prepared, mine, len(run.regions)).tolist())
    histograms = [calibration.in_doubt(h) for h in np.sum(np.array(parts, np.int64), axis=0)]
    temperatures = tuple(calibration.fit_temperature(h) for h in histograms)
    usual = run.config.evaluation.threshold
    thresholds = sorted({*THRESHOLDS, usual})
    unit = "mm3" if all(p.spacing_mm for p in patients) else "voxels"
    tables = []
    for case in predict_patients(model._replace(temperatures=temperatures), prepared, mine):
        voxel = operating.voxel_volume(unit, case.volume.spacing_mm, case.volume.affine)
        pairs = [(case.probability[..., k], case.truth[..., k]) for k in range(len(run.regions))]
        tables.append([dice_table(p, t, thresholds, voxel) for p, t in pairs])
    dice = np.array(gather_shares(tables))  # [patients, regions, thresholds, lesion sizes]
    return [
        choose_point(dice[:, k], thresholds, usual, unit, temperatures[k])
        | {"calibration": describe_calibration(histograms[k], temperatures[k])}
        for k in range(len(run.regions))
    ]


def choose_point(
    dice: np.ndarray, thresholds: Sequence[float], usual: float, unit: str, temperature: float
) -> dict[str, Any]:
    """Return the operating point of a region and the curves that it was chosen from.

    Args:
        dice: [patients, thresholds, lesion sizes].
        thresholds: ascending.
        usual: the one that needs no reason.
        unit: of the lesion sizes.
        temperature: of the probabilities.
    """
    threshold = choose(dice[:, :, 0], thresholds.index(usual))
    min_lesion = choose(dice[:, threshold], 0)
    size = float(MIN_LESIONS[min_lesion])
    mean = dice.mean(axis=0)
    return {
        "point": OperatingPoint(thresholds[threshold], size, unit, temperature)._asdict(),
        "untuned_threshold": usual,
        "validation_dice": {
            "untuned": float(mean[thresholds.index(usual), 0]),
            "tuned": float(mean[threshold, min_lesion]),
        },
        "threshold_curve": {"threshold": thresholds, "dice": mean[:, 0].tolist()},
        "min_lesion_curve": {"min_lesion": MIN_LESIONS, "dice": mean[threshold].tolist()},
    }


def logit_histograms(
    model: Predictor, prepared: Prepared, patients: Sequence[Patient], num_regions: int
) -> np.ndarray:
    """Return the `calibration.logit_histogram` of each region, [K, 2, N], on the training grid."""
    nothing = calibration.logit_histogram(np.zeros(0), np.zeros(0, bool))
    counts = np.stack([nothing] * num_regions)
    if not patients:  # more processes than patients
        return counts
    for batch in evaluation_batches(prepared, patients, model.config, batch_size=model.batch_size):
        real = batch["weight"] > 0
        logits = jax.device_get(batch_logits(model, batch["image"]))
        for k, (x, truth) in enumerate(
            zip(_regions_first(logits), _regions_first(batch["mask"]), strict=True)
        ):
            counts[k] += calibration.logit_histogram(x[real], truth[real] > 0)
    return counts


def _regions_first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, 0)


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
