"""How each number of the scorecard is defined, in words."""

from jaxseg.scoring.brats import Rules

_LEGACY = (
    "BraTS, definition to 2022: the region as a whole. HD95: 95th percentile by area of surface "
    "elements, the larger direction. Both masks empty: Dice 1, HD95 0; one empty: 0 and 374 mm."
)
_LESIONWISE_2023 = (
    "BraTS, lesion-wise definition of 2023 to 2025, rules of {challenge}: truth lesions whose "
    "dilations touch are one; Dice and HD95 of each with all parts of the prediction that touch "
    "its dilation; small truth lesions left out; a missed lesion, and a part of the prediction "
    "without a lesion, count as Dice 0 and HD95 374 mm. Nothing at all: 1 and 0."
)
_BRATS_2026 = (
    "BraTS, definition of 2026 (brats-evaluation 0.0.10), rules of {challenge}: lesions paired one "
    "to one; mean of Dice, HD95 and NSD (tolerance: the finest spacing) over the pairs, so missed "
    "and invented lesions are in the counts only (MET: over lesions from 20 mm^3, missed and "
    "invented ones count as 0, 373 mm and 0). No pair: 0, 373 mm and 0. Both masks empty: "
    "undefined, left out of the mean."
)
_BRATS = {"legacy": _LEGACY, "lesionwise_2023": _LESIONWISE_2023, "brats_2026": _BRATS_2026}


def definitions(unit: str, rules: Rules | None = None) -> dict[str, str]:
    """Return how each number is defined, empty cases included.

    Args:
        unit: of distances, "mm" or "pixels".
        rules: the BraTS definition that is shown, too.
    """
    step = (
        "Distances in mm, with the voxel size of the config."
        if unit == "mm"
        else "Distances in pixels: every step counts one, in the plane and between slices."
    )
    found = {
        "hd95_unit": unit,
        "patients": "All slices of a patient are one volume on the pixel grid of the input files. "
        "Means and medians are over patients, each counting the same.",
        "empty": "Truth and prediction both empty: Dice, IoU, sensitivity and precision 1, HD95 0. "
        "One of them empty: 0, and HD95 the diagonal of the volume. No patient is dropped.",
        "empty_truth": "Patients with an empty truth are told apart besides.",
        "regions": "Mean over regions: of each patient's regions, then over patients.",
        "hd95": "95th percentile of the distances from each surface voxel of one mask to the "
        "surface of the other, the larger of the two directions. " + step,
        "nsd": f"Normalised surface Dice at {'1 mm' if unit == 'mm' else '1 pixel'}: the share of "
        "both surfaces' area that lies no farther from the other one. Surface elements between "
        "eight voxels with the areas of marching cubes, as in the package surface-distance "
        "(Nikolov et al., 2021). Both masks empty: 1; one: 0.",
        "volume_error": "(predicted - true) / true volume, signed, so that errors of opposite "
        "sign cancel in its mean; the absolute one does not. Over patients with tumour only.",
        "lesions": "A lesion is a part connected by 26 neighbours, over the slices too. Found: at "
        "least one voxel of it is predicted. Invented: a part of the prediction without a voxel of "
        "truth. Lesion Dice and HD95: of each lesion of the truth with all parts of the prediction "
        "that overlap it (missed: 0, and the diagonal), mean over a patient's lesions, then over "
        "patients with any.",
        "operating_point": "A voxel is tumour where its calibrated probability reaches the "
        "threshold, unless its part (26 neighbours, over the slices too) is smaller than the "
        "smallest lesion kept. All of it is chosen on the validation patients, never on test.",
        "ci95": "95 % percentile bootstrap interval of the mean over patients; none for one "
        "patient.",
        "persons": "Where a person has several time points, the bootstrap draws whole persons.",
        "slices": "Dice of single slices. Tumour only: slices with tumour in the truth, so false "
        "alarms elsewhere are not seen. All: a slice empty in both counts as 1, so a predictor "
        "of nothing scores the share of empty slices. False-positive rate: the share of slices "
        "without tumour on which at least one pixel is predicted.",
        "pooled": "Voxels of all patients in one pot: large tumours dominate.",
        "baselines": "predict_nothing: an empty mask. best_threshold: the channel and the global "
        "threshold on the normalised image with the best mean Dice per patient on train.",
    }
    if rules:
        text = _BRATS[rules.definition].format(challenge=rules.challenge)
        found["brats"] = f"{rules.definition}: {text}"
    return found
