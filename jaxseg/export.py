"""Ship a trained model: python -m jaxseg.export --workdir DIR --output model.jaxseg.

Writes one file that runs without jaxseg, with jax, flatbuffers and numpy only (the extra
`jaxseg[export]`), on CPU, CUDA and TPU. It takes all slices of a patient with raw intensities
[D, H, W, C] and returns probability and mask on the same pixels: normalisation, the cut around
the head, resizing, network, temperature, threshold and smallest lesion are inside, and so are a
description, the test scores and an example with its result, which is run before the program
ends.

  --workdir DIR     folder of the training run (required)
  --output FILE     where to write; default model.jaxseg, or model.onnx
  --format NAME     jaxseg (default), or onnx: network, normalisation and resizing; the
                    statistics of the volume are inputs. The converter is installed into a
                    Python environment of its own, in ~/.cache/jaxseg/onnx-env, by pip at its
                    first use
  --onnx_python P   onnx: this Python, which has jax2onnx and onnxruntime, instead
  --size H,W        rows and columns of the slices; default: those of the scans trained on
  --tta             average with the prediction of the mirrored slice
  --batch_size N    slices that the network takes at once (jaxseg format); default 8
  --compare N       test patients to predict with jaxseg and with the file; default 2, 0: none.
                    Reads the scans, as the default of --size does
  --verify FILE     run the example of an exported file and print the largest difference;
                    nothing else is needed

Exit code 0, 1 when the file does not give what jaxseg gives, or 2 with one line on what to
mend.
"""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from jaxseg import cli, export_about, export_file, onnx_convert, onnx_export
from jaxseg.compile_cache import keep_compiled_programs
from jaxseg.datasets import prepare, split_patients
from jaxseg.errors import UserError
from jaxseg.export_compare import (
    Trained,
    agreement,
    example_volume,
    load,
    make_example,
    min_lesion_voxels,
    native_size,
    same_size,
)
from jaxseg.intensity import head_box, volume_statistics
from jaxseg.model import UNet
from jaxseg.portable_volume import segment_volume
from jaxseg.settings import to_json
from jaxseg.steps import predict_probabilities

PLATFORMS = ("cpu", "cuda", "tpu")
_TOLERANCES = {"float32": (1e-4, 2e-2), "bfloat16": (5e-2, 5e-2)}  # on CPU, elsewhere


def program(trained: Trained, size: tuple[int, int], batch_size: int) -> bytes:
    """Return the serialised computation of slices of `size` (H, W)."""
    config, point = trained.config, trained.point
    network = functools.partial(
        predict_probabilities, trained.weights, model=UNet(config.model), flip=trained.flip
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
    return export_file.serialise(function, (None, *size, trained.num_channels), PLATFORMS)


def export_jaxseg(
    run: Path,
    trained: Trained,
    size: tuple[int, int] | None,
    compare: int,
    batch_size: int,
    output: Path,
):
    """Write the file.

    Args:
        run: workdir.
        trained: from `export_compare.load`.
        size: (H, W) of the slices; None: those of the scans, which are then compared on too.
        compare: number of test patients.
        batch_size: slices that the network takes at once.
        output: file to write.
    """
    export_file.check_extra()  # before minutes of work
    size, scans = (size, None) if size else find_scans(trained, compare)
    serialised = program(trained, size, batch_size)
    call = export_file.deserialise(serialised)
    tolerances = _TOLERANCES[trained.config.model.compute_dtype]
    smallest = min_lesion_voxels(trained.point, trained.config.dataset.spacing_mm)
    metadata = export_about.describe(run, trained, size)
    metadata["inside"] |= {"min_lesion_voxels": smallest, "batch_size": batch_size}
    metadata |= {
        "input": ["volume", "float32", ["slices", *size, trained.num_channels]],
        "outputs": [
            ["probability", "float32", ["slices", *size]],
            ["mask", "bool", ["slices", *size]],
        ],
        "platforms": PLATFORMS,
        "golden": dict(zip(("tolerance_cpu", "tolerance_elsewhere"), tolerances, strict=True)),
        "agreement": agreement(call, trained, *scans) if scans else None,
    }
    text = export_about.text(metadata)
    export_file.write(output, serialised, metadata, make_example(trained, size), text)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)\n\n{text}")


def export_onnx(
    run: Path, trained: Trained, size: tuple[int, int], python: str | None, output: Path
):
    """Write an ONNX file of `portable.segment_slices` and the threshold; see the top."""
    converter = onnx_export.converter_python(python)
    metadata = export_about.describe(run, trained, size) | export_about.ONNX_NOTES
    volume = example_volume(trained.num_channels, size)
    example = {"image": volume, "stats": volume_statistics(volume)}
    if trained.config.input.crop_to_head:
        example["box"] = head_box(volume)
    job = {
        "config": json.loads(to_json(trained.config)),
        "temperature": trained.point.temperature,
        "threshold": trained.point.threshold,
        "flip": trained.flip,
        "native_size": size,
        "metadata": {name: json.dumps(value) for name, value in metadata.items()},
    }
    function = jax.jit(onnx_convert.make_function(job, trained.weights))
    example["probability"] = function(**example)[0]
    arrays = trained.weights._asdict() | {"example": example}
    difference = onnx_export.convert(converter, job, arrays, output)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
    print(f"onnxruntime differs from JAX by at most {difference:.1e} in the probabilities")


def verify(path: Path):
    """Run the example of a file, print the largest difference; exit with 1 if it is too large."""
    found = export_file.check(export_file.read(path))
    print(
        f"{path}: on its example, probabilities differ by at most {found.probability:.1e} from "
        f"jaxseg's and the masks in {found.voxels} voxels"
    )
    if not found.holds:
        print(f"error: {path}: that is more than rounding; do not use it here", file=sys.stderr)
        sys.exit(1)


def find_scans(trained: Trained, count: int) -> tuple[tuple[int, int], Any]:
    """Return the size of the scans trained on, and the first test patients that have it.

    Raises:
        UserError: the scans are gone; says that --size needs none.
    """
    config = trained.config
    try:
        prepared = prepare(config.dataset)
    except UserError as error:
        raise UserError(f"{error}\n(without the scans, give their --size=ROWS,COLUMNS)") from error
    parts = split_patients(prepared.patients, config.split)
    size = native_size(prepared, parts["train"])
    return size, (prepared, same_size(prepared, parts["test"], size)[:count])


def parse_size(text: Sequence[str]) -> tuple[int, int]:
    """Return (H, W) of --size; UserError unless it is two positive numbers."""
    numbers = [int(x) if x.strip().isdecimal() else 0 for x in text]
    if len(numbers) != 2 or min(numbers) < 1:
        raise UserError(f"--size={','.join(text)}: give rows and columns, as in --size=256,256")
    return numbers[0], numbers[1]


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    flags.DEFINE_string("workdir", None, "folder of the training run")
    flags.DEFINE_string("output", None, "where to write")
    flags.DEFINE_enum("format", "jaxseg", ["jaxseg", "onnx"], "of the file")
    flags.DEFINE_string("onnx_python", None, "a Python that has jax2onnx and onnxruntime")
    flags.DEFINE_list("size", None, "rows,columns of the slices")
    flags.DEFINE_bool("tta", False, "average with the mirrored slice")
    flags.DEFINE_integer("batch_size", 8, "slices at once", lower_bound=1)
    flags.DEFINE_integer("compare", 2, "test patients to compare on", lower_bound=0)
    flags.DEFINE_string("verify", None, "an exported file to check")
    cli.parse_flags(argv, __doc__)
    options = flags.FLAGS
    keep_compiled_programs()
    if options.verify is not None:
        verify(Path(options.verify))
        return
    if options.workdir is None:
        raise UserError("which run? Give --workdir DIR, or --verify FILE (see --help)")
    run = Path(options.workdir).expanduser()
    output = Path(options.output or f"model.{options.format}").expanduser()
    size = parse_size(options.size) if options.size else None
    trained = load(run, options.tta)
    if options.format == "onnx":
        size = size or find_scans(trained, 0)[0]
        export_onnx(run, trained, size, options.onnx_python, output)
    else:
        export_jaxseg(run, trained, size, options.compare, options.batch_size, output)
        verify(output)


if __name__ == "__main__":
    cli.run(main)
