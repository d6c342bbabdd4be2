"""Segment scans with a model.jaxseg of volumes by NumPy and jax alone. For research use only."""

import json
import zipfile

import numpy as np
from jax import export, jit


def load(path):
    """Return the metadata, which describe the programs in the file, and the programs by name."""
    with zipfile.ZipFile(path) as file:
        about = json.loads(file.read("metadata.json"))
        read = {name: bytearray(file.read(f"{name}.stablehlo")) for name in about["programs"]}
    return about, {name: jit(export.deserialize(read[name]).call) for name in read}


def segment(model, volume, spacing_mm=(), voxel_mm3=None):
    """Return probability and masks [D, H, W, K], labels [D, H, W] of a scan [D, H, W, C]."""
    (about, run), kind, grid_mm = model, volume.dtype, model[0]["window"]["spacing_mm"]
    sizes = {"voxels": 1, "mm3": voxel_mm3 or (len(spacing_mm) and np.prod(spacing_mm))}
    if not all(sizes[region["unit"]] for region in about["regions"] if region["min_lesion"]):
        raise ValueError("the smallest lesion kept is in mm3: give spacing_mm, or voxel_mm3")
    least = np.float32(np.iinfo(kind).min if kind.kind in "iu" else -np.inf)
    image, stats, box = map(np.asarray, run["scan"](volume.astype(np.float32), least))
    head = tuple(map(slice, *box))  # nothing is predicted outside
    image, native = image[head], image[head].shape[:3]
    if grid_mm and len(spacing_mm):
        grid = np.maximum(np.rint(np.multiply(native, spacing_mm) / grid_mm).astype(int), 1)
        image, stats = map(np.asarray, run["to_grid"](image, stats, np.empty(grid, bool)))
    found = slide(image, stats, run["model"], len(about["regions"]), **about["window"])
    found = found if found.shape[:3] == native else run["from_grid"](found, np.empty(native, bool))
    probability = np.zeros((*volume.shape[:3], found.shape[3]), np.float32)
    probability[head] = found
    masks, labels = np.zeros(probability.shape, bool), np.zeros(volume.shape[:3], np.uint8)
    for k, region in enumerate(about["regions"]):  # the inner lie in the outer, and over them
        mask = masks[..., region["within"]].all(-1)
        mask &= probability[..., k] >= np.float32(region["threshold"])
        if region["min_lesion"]:
            mask &= np.asarray(run["lesions"](mask)) * sizes[region["unit"]] >= region["min_lesion"]
        masks[..., k], labels[mask] = mask, region["label"]
    return probability, np.array(about["masks_of_label"], bool)[labels], labels


def slide(image, stats, predict, classes, size, overlap, sigma, **_):
    """Return the mean over windows, weighted by a Gaussian; around a small scan it is darkest."""
    shape = np.array(image.shape[:3])
    low, room = np.maximum(size - shape + 1, 0) // 2, np.maximum(shape - size, 0)
    inside = (*map(slice, low, low + shape),)
    padded = np.full((*(room + size), len(stats)), stats[:, 0])
    padded[inside] = image
    counts = np.ceil(room / size / (1 - overlap)).astype(int) + 1
    starts = (np.rint(np.linspace(0, *axis)).astype(int) for axis in zip(room, counts, strict=True))
    z, y, x = (np.exp(-0.5 * ((np.arange(t) - (t - 1) / 2) / (sigma * t)) ** 2) for t in size)
    weight = (np.float32(z)[:, None, None] * np.float32(y)[:, None] * np.float32(x))[..., None]
    total = np.zeros((*padded.shape[:3], classes + 1), np.float32)  # the last: of the weights
    for place in np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3):
        here = (*map(slice, place, place + size),)
        total[here] += weight * np.insert(predict(padded[here][None], stats)[0], classes, 1, -1)
    return (total[..., :-1] / total[..., -1:])[inside]
