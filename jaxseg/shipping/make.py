"""A trained model as one file: the computation, and what is checked before it is written."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.config.settings import to_json
from jaxseg.datasets.splits import split_patients
from jaxseg.errors import UserError
from jaxseg.imaging.intensity import head_box, volume_statistics
from jaxseg.models.apply import predict_probabilities
from jaxseg.models.unet import UNet
from jaxseg.prediction.trained import Trained
from jaxseg.runs.scans import scans_of
from jaxseg.shipping import about, bundle, onnx_convert, onnx_export
from jaxseg.shipping.agreement import (
    agreement,
    example_volume,
    make_example,
    min_lesion_voxels,
    native_size,
    same_size,
)
from jaxseg.shipping.portable_volume import segment_volume

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCES = {"float32": (1e-4, 2e-2), "bfloat16": (5e-2, 5e-2)}  # on CPU, elsewhere


def check_one_region(trained: Trained):
    """Raise UserError where these files cannot hold a run on slices yet: several regions."""
    if len(trained.regions) > 1:
        raise UserError(
            f"{trained.run}: has the regions {', '.join(trained.regions)}; of runs on slices only "
            "those of one region can be exported yet"
        )


def program(trained: Trained, flip: bool, size: tuple[int, int], batch_size: int) -> bytes:
    """Return the serialised computation of slices of `size` (H, W)."""
    config, point = trained.config, trained.points[0]
    network = functools.partial(
        predict_probabilities, trained.weights, model=UNet(config.model), flip=flip
    )
    function = functools.partial(
        segment_volume,
        predict=lambda image: network(image, temperature=np.float32(point.temperature)),
        image_size=config.input.image_size,
        crop_to_head=config.input.crop_to_head,
        batch_size=batch_size,
        threshold=point.threshold,
        min_lesion_voxels=min_lesion_voxels(point, config.dataset.spacing_mm),
    )
    return bundle.serialise(
        function, [((None, *size, trained.num_channels), np.float32)], PLATFORMS
    )


def export_jaxseg(
    trained: Trained,
    flip: bool,
    size: tuple[int, int] | None,
    compare: int,
    batch_size: int,
    output: Path,
):
    """Write the file.

    Args:
        trained: on slices, of one region.
        flip: average with the mirrored slice.
        size: (H, W) of the slices; None: those of the scans, which are then compared on too.
        compare: number of test patients.
        batch_size: slices that the network takes at once.
        output: file to write.
    """
    bundle.check_extra()  # before minutes of work
    size, scans = (size, None) if size else find_scans(trained, compare)
    serialised = program(trained, flip, size, batch_size)
    call = bundle.deserialise(serialised)
    tolerances = TOLERANCES[trained.config.model.compute_dtype]
    smallest = min_lesion_voxels(trained.points[0], trained.config.dataset.spacing_mm)
    metadata = about.metadata(trained, flip, size)
    metadata["inside"] |= {"min_lesion_voxels": smallest, "batch_size": batch_size}
    metadata |= {
        "input": ["volume", "float32", ["slices", *size, trained.num_channels]],
        "outputs": [
            ["probability", "float32", ["slices", *size]],
            ["mask", "bool", ["slices", *size]],
        ],
        "platforms": PLATFORMS,
        "golden": dict(zip(("tolerance_cpu", "tolerance_elsewhere"), tolerances, strict=True)),
        "agreement": agreement(call, trained, flip, *scans) if scans else None,
    }
    text = about.text(metadata)
    bundle.write(output, serialised, metadata, make_example(trained, size, flip), text)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)\n\n{text}")


def export_onnx(
    trained: Trained, flip: bool, size: tuple[int, int], python: str | None, output: Path
):
    """Write an ONNX file of `portable.segment_slices` and the threshold; see the top."""
    converter = onnx_export.converter_python(python)
    metadata = about.metadata(trained, flip, size) | about.ONNX_NOTES
    volume = example_volume(trained, size).image
    example = {"image": volume, "stats": volume_statistics(volume)}
    if trained.config.input.crop_to_head:
        example["box"] = head_box(volume)
    job = {
        "config": json.loads(to_json(trained.config)),
        "temperature": trained.points[0].temperature,
        "threshold": trained.points[0].threshold,
        "flip": flip,
        "native_size": size,
        "metadata": {name: json.dumps(value) for name, value in metadata.items()},
    }
    function = jax.jit(onnx_convert.make_function(job, trained.weights))
    example["probability"] = function(**example)[0]
    arrays = trained.weights._asdict() | {"example": example}
    difference = onnx_export.convert(converter, job, arrays, output)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
    print(f"onnxruntime differs from JAX by at most {difference:.1e} in the probabilities")


def find_scans(trained: Trained, count: int) -> tuple[tuple[int, int], Any]:
    """Return the size of the scans trained on, and the first test patients that have it.

    Raises:
        UserError: the scans are gone; says that --size needs none.
    """
    config = trained.config
    try:
        prepared = scans_of(trained.run, config)
    except UserError as error:
        raise UserError(f"{error}\n(without the scans, give their --size=ROWS,COLUMNS)") from error
    parts = split_patients(prepared.patients, config.split)
    size = native_size(prepared, parts["train"])
    return size, (prepared, same_size(prepared, parts["test"], size)[:count])
