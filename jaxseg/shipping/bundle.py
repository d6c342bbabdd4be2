"""The file model.jaxseg: a zip with the computation, what is known about it, and an example.

model.stablehlo is what `jax.export` serialises, metadata.json says what it takes and gives,
golden.npz holds an input with the outputs that jaxseg itself gives, README.txt is for people.
Reading and running it needs jax, flatbuffers and numpy only.
"""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np

from jaxseg.errors import UserError, one_line
from jaxseg.machine.files import make_folder, replace_bytes
from jaxseg.models import native

_GOLDEN = ("volume", "probability", "mask")


class Exported(NamedTuple):
    """An opened file."""

    call: Callable  # volume [D, H, W, C] float32 -> probability, mask [D, H, W]
    metadata: dict[str, Any]
    golden: dict[str, np.ndarray]  # volume, and the probability and mask of jaxseg


class Difference(NamedTuple):
    """What a file gives on its golden volume, compared with what jaxseg gave."""

    probability: float  # largest absolute difference
    voxels: int  # whose mask differs
    holds: bool  # within the tolerance of this device


def serialise(function: Callable, shape: tuple, platforms: tuple[str, ...]) -> bytes:
    """Trace a function of one float32 array and return it as bytes.

    Args:
        function: to trace.
        shape: of its argument; a None is any size from 1.
        platforms: names of jax's backends to lower for.

    Raises:
        UserError: the package that serialisation needs is missing.
    """
    check_extra()
    names = ", ".join(f"d{i}" if size is None else str(size) for i, size in enumerate(shape))
    argument = jax.ShapeDtypeStruct(jax.export.symbolic_shape(names), np.float32)
    with native.plain_operations():  # not what this machine alone has
        exported = jax.export.export(jax.jit(function), platforms=platforms)(argument)
    return bytes(exported.serialize())


def check_extra():
    """Raise UserError unless what jax.export needs is installed."""
    try:
        import flatbuffers  # noqa: F401 (jax imports it when it serialises)
    except ImportError:
        raise UserError("export needs flatbuffers: pip install 'jaxseg[export]'") from None


def write(
    path: Path, program: bytes, metadata: dict[str, Any], golden: dict[str, np.ndarray], text: str
):
    """Write the file whole or not at all; UserError when it cannot be written."""
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **golden)
    members = {
        "README.txt": text.encode(),
        "metadata.json": json.dumps(metadata, indent=1, allow_nan=False).encode() + b"\n",
        "model.stablehlo": program,
        "golden.npz": arrays.getvalue(),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    make_folder(path.parent)
    replace_bytes(path, packed.getvalue())


def open_bundle(path: Path) -> Exported:
    """Open a file.

    Raises:
        UserError: no such file, another kind of file, a damaged one, or one that this version of
            jax cannot read.
    """
    check_extra()
    try:
        with zipfile.ZipFile(path) as file:
            metadata = json.loads(file.read("metadata.json"))
            program = file.read("model.stablehlo")
            arrays = io.BytesIO(file.read("golden.npz"))
        with np.load(arrays, allow_pickle=False) as stored:
            golden = {name: stored[name] for name in _GOLDEN}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a whole file of jaxseg.export ({error})") from error
    try:
        return Exported(deserialise(program), metadata, golden)
    except Exception as error:  # whatever jax raises over a newer or damaged program
        made_by = metadata.get("versions", {}).get("jax")
        cause = one_line(error)[:200]
        raise UserError(
            f"{path}: jax {jax.__version__} cannot read it ({cause}); it was made by jax "
            f"{made_by}, and older versions do not read what newer ones write"
        ) from error


def deserialise(program: bytes) -> Callable:
    """Return the function that `serialise` was given, compiled once for each shape."""
    return jax.jit(jax.export.deserialize(bytearray(program)).call)


def check(exported: Exported) -> Difference:
    """Run the golden volume and compare; voxels within the tolerance of the threshold may flip."""
    golden, metadata = exported.golden, exported.metadata
    probability, mask = map(np.asarray, exported.call(golden["volume"]))
    on_cpu = jax.default_backend() == "cpu"
    tolerance = metadata["golden"]["tolerance_cpu" if on_cpu else "tolerance_elsewhere"]
    largest = float(np.abs(probability - golden["probability"]).max())
    flipped = mask != golden["mask"]
    near = np.abs(golden["probability"] - metadata["inside"]["threshold"]) <= tolerance
    holds = largest <= tolerance and not (flipped & ~near).any()
    return Difference(largest, int(flipped.sum()), bool(holds))
