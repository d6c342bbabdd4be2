"""Ship a trained model: python -m jaxseg.export --workdir DIR --output model.jaxseg.

Writes one file that runs without jaxseg, with jax, flatbuffers and numpy only (the extra
`jaxseg[export]`), on CPU, CUDA and TPU. It takes all slices of a patient with raw intensities
[D, H, W, C] and returns probability and mask on the same pixels: normalisation, the cut around
the head, resizing, network, temperature, threshold and smallest lesion are inside, and so are a
description, the test scores and an example with its result, which is run before the program
ends. Of a run on volumes the file holds the program of a patch, those of what surrounds it, and
sliding_window.py, which segments scans with them and needs NumPy and jax only.

  --workdir DIR     folder of the training run (required)
  --output FILE     where to write; default model.jaxseg, or model.onnx
  --format NAME     jaxseg (default), or onnx: network, normalisation and resizing; the
                    statistics of the volume are inputs. The converter is installed into a
                    Python environment of its own, in ~/.cache/jaxseg/onnx-env, by pip at its
                    first use. Only of runs on slices
  --onnx-python P   onnx: this Python, which has jax2onnx and onnxruntime, instead
  --size H,W        of slices: rows and columns; default: those of the scans trained on
  --tta             average with the prediction of the mirrored slice
  --batch-size N    slices that the network takes at once (jaxseg format); default 8
  --compare N       test patients to predict with jaxseg and with the file; default 2, 0: none.
                    Reads the scans, as the default of --size does. Of volumes the prepared
                    copies, cut to the head, stand for the scans on both sides
  --verify FILE     run the example of an exported file and print the largest difference;
                    nothing else is needed

Exit code 0, 1 when the file does not give what jaxseg gives, or 2 with one line on what to
mend.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxseg.config import command_line
from jaxseg.errors import UserError
from jaxseg.machine.start import start_computing
from jaxseg.prediction.trained import load
from jaxseg.shipping import bundle
from jaxseg.shipping.make import check_one_region, export_jaxseg, export_onnx, find_scans
from jaxseg.shipping.make_volumes import export_volumes


def verify(path: Path):
    """Run the example of a file, print the largest difference; exit with 1 if it is too large."""
    found = bundle.check(bundle.open_bundle(path))
    print(
        f"{path}: on its example, probabilities differ by at most {found.probability:.1e} from "
        f"jaxseg's and the masks in {found.voxels} voxels"
    )
    if not found.holds:
        print(f"error: {path}: that is more than rounding; do not use it here", file=sys.stderr)
        sys.exit(1)


def parse_size(text: Sequence[str]) -> tuple[int, int]:
    """Return (H, W) of --size; UserError unless it is two positive numbers."""
    numbers = [int(x) if x.strip().isdecimal() else 0 for x in text]
    if len(numbers) != 2 or min(numbers) < 1:
        raise UserError(f"--size={','.join(text)}: give rows and columns, as in --size=256,256")
    return numbers[0], numbers[1]


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    options, rest = command_line.parse(
        argv,
        __doc__,
        text=("workdir", "output", "onnx-python", "size", "verify"),
        switch=("tta",),
        format=("jaxseg", "onnx"),
        batch_size=8,
        compare=2,
    )
    command_line.refuse_arguments(rest)
    if not options.batch_size:
        raise UserError("--batch-size=0: must be at least 1")
    form = options.format or "jaxseg"
    start_computing()
    if options.verify is not None:
        verify(Path(options.verify))
        return
    if options.workdir is None:
        raise UserError("which run? Give --workdir DIR, or --verify FILE (see --help)")
    run = Path(options.workdir).expanduser()
    output = Path(options.output or f"model.{form}").expanduser()
    size = parse_size(options.size.split(",")) if options.size else None
    trained = load(run)
    if len(trained.config.input.image_size) == 3:
        if form == "onnx" or size:
            what = "--format=onnx" if form == "onnx" else f"--size={options.size}"
            raise UserError(f"{what}: {run} was trained on volumes; leave it out")
        export_volumes(trained, options.tta, options.compare, output)
        verify(output)
        return
    check_one_region(trained)
    if form == "onnx":
        size = size or find_scans(trained, 0)[0]
        export_onnx(trained, options.tta, size, options.onnx_python, output)
    else:
        export_jaxseg(trained, options.tta, size, options.compare, options.batch_size, output)
        verify(output)


if __name__ == "__main__":
    command_line.run(main)
