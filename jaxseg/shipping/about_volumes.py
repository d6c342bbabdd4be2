"""What an exported file of volumes says about itself: regions, windows, programs, in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg import RESEARCH_ONLY
from jaxseg.prediction import windows
from jaxseg.prediction.trained import Trained
from jaxseg.scans.regions import is_within, own_labels, to_masks
from jaxseg.scoring.cohort import cohort
from jaxseg.shipping.about import agreement_text, common, dice_text

# D, H, W: slices, rows, columns of a scan; d, h, w: of its head on the training grid; C channels,
# K regions, B patches.
PROGRAMS = {
    "scan": "volume [D, H, W, C] float32, as scanned, and least [] float32, the least integer of "
    "its type, -inf for real numbers -> the volume with its background dark, stats [C, 4] "
    "float32, box [2, 3] int32 of the head",
    "model": "patches [B, *size, C] float32 of the dark volume, and stats -> calibrated "
    "probability [B, *size, K] float32; normalisation and temperature are inside",
    "lesions": "mask [D, H, W] bool -> the number of voxels of each one's component [D, H, W] "
    "int32, 0 outside; neighbours share a face, an edge or a corner",
    "to_grid": "image [D, H, W, C] float32, stats, and any bool [d, h, w] -> the image normalised "
    "and resampled to d, h, w, and its stats from now on",
    "from_grid": "probability [d, h, w, K] float32 and any bool [D, H, W] -> resampled to D, H, W",
}
_STEPS = {
    "volume": "[D, H, W, C]: slice 0 is the lowest, rows run from the front to the back, columns "
    "from the patient's right to the left",
    "statistics": "stats: of each channel over the head the 1st and 99th percentile, and mean and "
    "standard deviation after clipping to them. A voxel is head that in at least half of the "
    "channels is brighter than a tenth of the way from the 0.5th to the 99.5th percentile of all; "
    "a background amid the tissue is set darker first",
    "head": "only the head's box is predicted, with a margin of two voxels; outside the "
    "probability is 0",
    "windows": "they begin evenly spread from the first to the last possible place, so many that "
    "neighbours overlap by at least `overlap` of their size; where the box is smaller than a "
    "window it lies in its middle, surrounded by the lower percentile. A probability is the mean "
    "over its windows, each weighted by a Gaussian about its centre, of `sigma` of the size along "
    "each axis",
    "grid": "where window.spacing_mm is given and the scan's spacing is known, the box is "
    "normalised and resampled to it first, and the probabilities back",
    "masks": "probability >= threshold, within the masks of the regions `within`; components "
    "smaller than min_lesion (in `unit`) dropped; "
    "labels are written region by region, later ones over earlier ones, and masks read back from "
    "them",
}
_LOADER = """\
import sys
import numpy as np
sys.path.insert(0, "model.jaxseg")  # a zip: its sliding_window.py needs NumPy and jax only
import sliding_window  # pip install jax flatbuffers

model = sliding_window.load("model.jaxseg")
volume = np.zeros((155, 240, 240, {c}), np.int16)  # slices, rows, columns, channels; as scanned
probability, masks, labels = sliding_window.segment(model, volume, spacing_mm=(1, 1, 1))
"""


def metadata(trained: Trained, flip: bool, programs: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of a run on volumes, but for example, agreement and platforms.

    Args:
        trained: what is exported.
        flip: average with the mirrored patch.
        programs: names of those in the file.
    """
    config, regions = trained.config, trained.kind.regions
    labels = own_labels(regions) if len(regions) > 1 else (1,)
    return common(trained, flip) | {
        "regions": [
            {"name": r.name, "labels": list(r.labels), "label": label, **point._asdict()}
            | {"within": [j for j in range(k) if is_within(r, regions[j])]}
            for k, (r, label, point) in enumerate(zip(regions, labels, trained.points, strict=True))
        ],
        # Of a label written, which regions hold it.
        "masks_of_label": to_masks(np.arange(max(labels) + 1), regions).tolist(),
        "window": {
            "size": list(config.input.image_size),
            "overlap": windows.OVERLAP,
            "sigma": windows.SIGMA,
            "spacing_mm": list(config.input.spacing_mm) or None,
        },
        "inside": {"flip_averaging": flip, "compute_dtype": config.model.compute_dtype},
        "programs": {name: PROGRAMS[name] for name in programs},
        "steps": _STEPS,
    }


def text(metadata: dict[str, Any]) -> str:
    """Return README.txt of a file."""
    window, scores = metadata["window"], metadata["scores"]
    size, grid = " x ".join(map(str, window["size"])), window["spacing_mm"]
    spacing = f" of {' x '.join(f'{mm:g}' for mm in grid)} mm" if grid else ""
    lines = [
        "A tumour segmentation network for volumes, exported by jaxseg. " + RESEARCH_ONLY,
        "",
        _LOADER.format(c=len(metadata["channels"])),
        f"volume: axial slices from the lowest, rows from the front to the back, columns from the "
        f"patient's right to the left; channels {', '.join(metadata['channels'])}.",
        "probability, masks: [slices, rows, columns, regions]; labels: [slices, rows, columns].",
        *map(_region, metadata["regions"]),
        f"Windows of {size} voxels{spacing}; metadata.json says the rest.",
        f"Trained on {metadata['data']['name']}; licence of the data: "
        f"{metadata['data']['licence']}.",
    ]
    if scores:
        names = scores.get("regions", {metadata["regions"][0]["name"]: scores["dice"]})
        dice = "; ".join(f"{name} {dice_text(found)}" for name, found in names.items())
        lines.append(f"Test: Dice: {dice}, {cohort(scores['patients'], scores['persons'])}.")
    return "\n".join([*lines, *agreement_text(metadata["agreement"])]) + "\n"


def _region(region: dict[str, Any]) -> str:
    dropped = f", parts below {region['min_lesion']:g} {region['unit']} dropped"
    return (
        f"{region['name']}: probability >= {region['threshold']:g}"
        f"{dropped if region['min_lesion'] else ''}; label {region['label']}."
    )
