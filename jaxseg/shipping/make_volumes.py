"""A run on volumes as one file: the programs, and what is checked before it is written."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.datasets import phantom_volume
from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.splits import split_patients
from jaxseg.errors import UserError
from jaxseg.imaging import windows
from jaxseg.imaging.intensity import darkest, normalise
from jaxseg.imaging.volumes import with_statistics
from jaxseg.models.apply import predict_probabilities
from jaxseg.models.unet import UNet
from jaxseg.prediction.inference import predict_volume
from jaxseg.prediction.operating import segment_regions
from jaxseg.prediction.predictor import Predictor, predict_part
from jaxseg.prediction.trained import Trained, predictor
from jaxseg.runs.scans import scans_of
from jaxseg.scans.regions import to_labels
from jaxseg.shipping import about_volumes, bundle, portable_scan, portable_volume, sliding_window
from jaxseg.shipping.agreement import differences, summary
from jaxseg.shipping.make import PLATFORMS, TOLERANCES

_EXAMPLE_SIDE = 48  # voxels of rows and columns, at most; the slices take two windows
_COARSER = 1.25  # the example's spacing, of the training grid's


def export_volumes(trained: Trained, flip: bool, compare: int, output: Path):
    """Write the file.

    Args:
        trained: on volumes, of any number of regions.
        flip: average with the mirrored patch.
        compare: number of test patients to predict with jaxseg and with the file.
        output: file to write.

    Raises:
        UserError: the extra is missing; there are no scans to compare on, or nothing can be
            written.
    """
    bundle.check_extra()  # before minutes of work
    scans = _test_scans(trained, compare) if compare else (None, ())
    programs = make_programs(trained, flip)
    members = {f"{name}.stablehlo": program for name, program in programs.items()}
    model, volume = predictor(trained, flip), example_scan(trained)
    metadata = about_volumes.metadata(trained, flip, tuple(programs)) | {
        "platforms": PLATFORMS,
        "golden": {
            **dict(
                zip(("tolerance_cpu", "tolerance_elsewhere"), _tolerances(trained), strict=True)
            ),
            "spacing_mm": list(volume.spacing_mm),
        },
    }
    calls = {name: bundle.deserialise(program) for name, program in programs.items()}
    metadata["agreement"] = agreement((metadata, calls), trained, model, *scans)
    text, network = about_volumes.text(metadata), members.pop("model.stablehlo")
    members["sliding_window.py"] = Path(sliding_window.__file__).read_bytes()
    bundle.write(output, network, metadata, make_example(trained, model, volume), text, members)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)\n\n{text}")


def make_programs(trained: Trained, flip: bool) -> dict[str, bytes]:
    """Return the serialised computations by name, see `about_volumes.PROGRAMS`."""
    config, channels = trained.config, trained.num_channels
    temperatures = np.array([point.temperature for point in trained.points], np.float32)
    network = functools.partial(
        predict_probabilities, trained.weights, model=UNet(config.model), flip=flip
    )

    def model(patch: jax.Array, stats: jax.Array) -> jax.Array:
        return network(portable_scan.normalise(patch, stats), temperature=temperatures)

    def lesions(mask: jax.Array) -> jax.Array:
        return portable_volume.component_sizes(mask)

    real, volume, grid = np.float32, (None, None, None), ((None, None, None), bool)
    stats = ((channels, 4), real)
    functions = {
        "scan": (portable_scan.scan, [((*volume, channels), real), ((), real)]),
        "model": (model, [((None, *config.input.image_size, channels), real), stats]),
        "lesions": (lesions, [grid]),
    }
    if config.input.spacing_mm:
        functions |= {
            "to_grid": (portable_scan.to_grid, [((*volume, channels), real), stats, grid]),
            "from_grid": (
                portable_scan.resample,
                [((*volume, len(trained.regions)), real), grid],
            ),
        }
    return {name: bundle.serialise(*both, PLATFORMS) for name, both in functions.items()}


def example_scan(trained: Trained) -> Any:
    """Return voxels of a volume of the phantom, which is no patient's, as a `Volume`.

    Its slices need two windows, or more where the training grid has a spacing; its rows and
    columns are few, so that the file stays small.
    """
    volume, size = (
        phantom_volume.make_volume(0, 0, trained.kind.regions),
        trained.config.input.image_size,
    )
    shape = (size[0] * 5 // 4, *(min(_EXAMPLE_SIDE, side * 5 // 4) for side in size[1:]))
    axes = zip(shape, volume.image.shape[:3], strict=True)
    index = np.ix_(*(np.arange(n) * whole // n for n, whole in axes))
    channels = np.arange(trained.num_channels) % volume.image.shape[-1]
    spacing = tuple(_COARSER * mm for mm in trained.config.input.spacing_mm)
    return volume._replace(
        image=volume.image[index][..., channels],
        spacing_mm=spacing or volume.spacing_mm,
        affine=None,
        mask=None,
    )


def make_example(trained: Trained, model: Predictor, volume: Any) -> dict[str, np.ndarray]:
    """Return a scan and a patch of it, and what jaxseg makes of them.

    Returns:
        volume [D, H, W, C], probability and mask [D, H, W, K], labels [D, H, W]; patch [1, *S, C]
        float32, stats [C, 4], patch_probability [1, *S, K].
    """
    probability, mask = _predicted(trained, model, volume)
    dark, size = with_statistics(volume, fitted=False), trained.config.input.image_size
    patch = windows.cut(dark.image, (0, 0, 0), size, darkest(dark.stats, dark.image.dtype))
    found = predict_part(model, [normalise(patch, dark.stats)])
    return {
        "volume": volume.image,
        "probability": probability,
        "mask": mask,
        "labels": _labels(trained, mask),
        "patch": patch[None].astype(np.float32),
        "stats": dark.stats,
        "patch_probability": np.asarray(jax.device_get(found))[:1],
    }


def agreement(
    exported: tuple[dict[str, Any], dict],
    trained: Trained,
    model: Predictor,
    prepared: Prepared | None,
    patients: Sequence[Patient],
) -> dict[str, Any] | None:
    """Return how far the driver's predictions are from those of jaxseg, as `agreement.agreement`.

    The copy of a scan is cut to its head and knows the statistics of the whole; here it is taken
    as a scan of its own, of which both compute them.

    Args:
        exported: metadata and programs, as `sliding_window.load` returns them.
        trained: the run they were made from.
        model: that predicts with it.
        prepared: the data set; None without patients.
        patients: whom to predict both ways.
    """
    rows = []
    for patient in patients:
        volume = prepared.volume(patient)._replace(stats=None, head_box=None, cropped=False)
        place = volume.spacing_mm, volume.voxel_mm3
        probability, masks, _ = sliding_window.segment(exported, volume.image, *place)
        rows.append(differences(_predicted(trained, model, volume), (probability, masks)))
    return summary(rows)


def _predicted(trained: Trained, model: Predictor, volume: Any) -> tuple[np.ndarray, np.ndarray]:
    probability = predict_volume(model, volume)
    place = volume.spacing_mm, volume.affine
    return probability, segment_regions(probability, trained.points, trained.kind.regions, *place)


def _labels(trained: Trained, mask: np.ndarray) -> np.ndarray:
    regions = trained.kind.regions
    return mask[..., 0].astype(np.uint8) if len(regions) == 1 else to_labels(mask, regions)


def _tolerances(trained: Trained) -> tuple[float, float]:
    return TOLERANCES[trained.config.model.compute_dtype]


def _test_scans(trained: Trained, count: int) -> tuple[Prepared, list[Patient]]:
    try:
        prepared = scans_of(trained.run, trained.config)
    except UserError as error:
        raise UserError(f"{error}\n(without the scans, give --compare=0)") from error
    return prepared, split_patients(prepared.patients, trained.config.split)["test"][:count]
