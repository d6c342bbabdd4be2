"""Export to ONNX, by a converter that lives in a Python environment of its own.

jax2onnx asks for an older orbax than training does, so the two are never installed together.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg.errors import UserError
from jaxseg.machine.files import cache_folder, make_folder, replace_bytes

PACKAGES = ("jax2onnx==0.17.1", "onnxruntime>=1.20")
TOLERANCE = 1e-4  # of probabilities, onnxruntime from JAX
_READY = "jaxseg.txt"  # in the environment: what was installed into it


def converter_python(given: str | None) -> Path:
    """Return the Python that has jax2onnx: the one given, or one made in the user's cache.

    Raises:
        UserError: there is no such file, or pip could not install the packages.
    """
    if given is not None:
        if not Path(given).is_file():
            raise UserError(f"--onnx-python {given}: no such file")
        return Path(given)
    folder = cache_folder() / "onnx-env"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = "\n".join([sys.version, *PACKAGES])
    if (folder / _READY).is_file() and (folder / _READY).read_text() == wanted:
        return python
    print(f"installing {', '.join(PACKAGES)} into {folder} (once; about 1 GB)", flush=True)
    try:
        venv.create(folder, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{folder}: no environment can be made here ({error})") from error
    run([python, "-m", "pip", "install", "--quiet", *PACKAGES], "pip")
    (folder / _READY).write_text(wanted)
    return python


def run(command: list[Any], what: str, **options) -> str:
    """Return the output of a command; UserError with the end of its messages when it fails."""
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        last = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise UserError(f"{what} failed with exit code {done.returncode}: {last}")
    return done.stdout


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of nested dicts by their paths, such as params/down_0/conv_1/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in leaves}


def convert(python: Path, job: dict[str, Any], arrays: dict[str, Any], output: Path) -> float:
    """Write an ONNX file, whole or not at all, when it agrees with JAX.

    Args:
        python: from `converter_python`.
        job: see `onnx_convert.make_function`; and metadata, str to str.
        arrays: params, batch_stats and example, nested dicts; example holds the inputs and the
            probability that JAX gives.
        output: ONNX file to write.

    Returns:
        The largest difference of the probabilities.

    Raises:
        UserError: the converter failed, the difference is above the tolerance, or the output
            cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The converter gets the source of this package alone, not the libraries beside it.
        shutil.copytree(Path(__file__).parents[1], Path(folder) / "jaxseg")
        environment = os.environ | {"PYTHONPATH": folder, "JAX_PLATFORMS": "cpu"}
        path, made = Path(folder) / "job.npz", Path(folder) / "model.onnx"
        np.savez(path, job=json.dumps(job), **flatten(arrays))
        command = [python, "-m", "jaxseg.shipping.onnx_convert", path, made]
        printed = run(command, "the conversion to ONNX", env=environment)
        difference = json.loads(printed.splitlines()[-1])["difference"]
        if not difference <= TOLERANCE:
            raise UserError(
                f"{output}: not written: onnxruntime differs from JAX by {difference:.1e}, more "
                f"than {TOLERANCE:.0e}"
            )
        make_folder(output.parent)
        replace_bytes(output, made.read_bytes())
    return difference
