"""What an exported file says about itself: inputs, outputs, data, licence, scores, limits."""

from pathlib import Path
from typing import Any

from jaxseg import RESEARCH_ONLY
from jaxseg.machine.files import read_json
from jaxseg.prediction.trained import Trained
from jaxseg.runs import workdir
from jaxseg.scoring.cohort import cohort, counted

FORMAT = 1  # of metadata.json
ONNX_NOTES = {
    "inputs": "image [B, H, W, C] float32: slices with raw intensities; stats [C, 4] float32: of "
    "each channel over the head of the whole volume the 1st and 99th percentile, and mean and "
    "standard deviation after clipping to them; box [4] int32, where it is an input: y0, x0, y1, "
    "x1, half-open, in pixels, of the head over all slices",
    "outputs": "probability [B, H, W] float32, mask [B, H, W] bool: probability >= threshold",
    "not_inside": "the statistics and the box (jaxseg.imaging.intensity computes them); dropping "
    "of small lesions",
}

_LOADER = """\
import json, zipfile
import numpy as np
from jax import export  # pip install jax flatbuffers

with zipfile.ZipFile("model.jaxseg") as file:
    about = json.loads(file.read("metadata.json"))
    model = export.deserialize(bytearray(file.read("model.stablehlo")))
volume = np.zeros((20, {h}, {w}, {c}), np.float32)  # slices, rows, columns, channels; as scanned
probability, mask = model.call(volume)  # [slices, rows, columns] float32 and bool
"""


def metadata(trained: Trained, flip: bool, native_size: tuple[int, int]) -> dict[str, Any]:
    """Return the part of the metadata that both formats share.

    Args:
        trained: what is exported; the scores of these weights on the test patients are taken
            along.
        flip: average with the mirrored slice.
        native_size: (H, W) of the slices, pixels.
    """
    config, point = trained.config, trained.points[0]
    return common(trained, flip) | {
        "native_size": list(native_size),
        "classes": list(trained.regions),
        "spacing_mm": list(config.dataset.spacing_mm) or None,
        "inside": {
            "image_size": list(config.input.image_size),
            "crop_to_head": config.input.crop_to_head,
            "flip_averaging": flip,
            "temperature": point.temperature,
            "threshold": point.threshold,
            "compute_dtype": config.model.compute_dtype,
        },
    }


def common(trained: Trained, flip: bool) -> dict[str, Any]:
    """Return what is said of slices and volumes alike; arguments as in `metadata`."""
    kind, data = trained.kind, read_json(trained.run / "data.json")
    return {
        "format": FORMAT,
        "use": RESEARCH_ONLY,
        "channels": list(kind.contrasts or kind.channel_names(trained.num_channels)),
        "data": {
            "name": kind.name,
            "licence": kind.licence,
            "patients": {split: len(ids) for split, ids in data["patients"].items()},
        },
        "step": trained.step,
        "scores": _scores(trained.run, trained.step, flip),
        "versions": workdir.versions(),
    }


def _scores(run: Path, step: int, flip: bool) -> dict[str, Any] | None:
    """Return the scores on the test patients; None when these weights have none."""
    path = run / "evaluation" / "test" / "scores.json"
    if not path.exists():
        return None
    found = read_json(path)
    if found["about"]["step"] != step:
        return None
    scans, persons = counted(found["patients"])
    return {
        "what": "Dice per patient, whole volumes on the pixel grid of the files, test patients"
        + ("; without the flip averaging that is in this file" if flip else ""),
        "patients": scans,
        "persons": persons,
        "dice": found["patients"]["dice"],
        "operating_point": found.get("operating_point"),
        "warnings": found["warnings"],
        **({"regions": _dice(found["regions"])} if "regions" in found else {}),
    }


def _dice(regions: dict[str, Any]) -> dict[str, Any]:
    return {name: part["patients"]["dice"] for name, part in regions.items()}


def text(metadata: dict[str, Any]) -> str:
    """Return README.txt of a file."""
    inside, agreement = metadata["inside"], metadata["agreement"]
    (height, width), scores = metadata["native_size"], metadata["scores"]
    lines = [
        "A tumour segmentation network, exported by jaxseg. " + RESEARCH_ONLY,
        "",
        _LOADER.format(h=height, w=width, c=len(metadata["channels"])),
        f"volume: all slices of one patient, {height} x {width} pixels, raw intensities; channels "
        + ", ".join(metadata["channels"])
        + ".",
        f"mask: probability >= {inside['threshold']:g}"
        + _lesions(inside["min_lesion_voxels"], metadata["spacing_mm"])
        + ".",
        f"Trained on {metadata['data']['name']}; licence of the data: "
        f"{metadata['data']['licence']}.",
    ]
    if scores:
        who = cohort(scores["patients"], scores["persons"])
        lines.append(f"Test: Dice {dice_text(scores['dice'])}, {who}.")
    return "\n".join([*lines, *agreement_text(agreement)]) + "\n"


def dice_text(dice: dict[str, Any]) -> str:
    """Return mean and interval."""
    low, high = dice["ci95"]
    interval = f" (95 % interval {low:.3f} to {high:.3f})" if low is not None else ""
    return f"{dice['mean']:.3f}{interval}"


def agreement_text(agreement: dict[str, Any] | None) -> list[str]:
    """Return the line that says how far the file is from jaxseg; none of no patients."""
    if not agreement:
        return []
    return [
        f"Compared with jaxseg's own prediction of {agreement['patients']} patients: "
        f"probabilities differ by at most {agreement['probability']:.1e}, the masks in "
        f"{agreement['voxels']} voxels."
    ]


def _lesions(min_voxels: int, spacing_mm: list[float] | None) -> str:
    if min_voxels <= 1:
        return ""
    size = f" of {' x '.join(f'{s:g}' for s in spacing_mm)} mm" if spacing_mm else ""
    return f"; parts of fewer than {min_voxels} voxels{size} are dropped"
