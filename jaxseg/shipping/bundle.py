"""The file model.jaxseg: a zip with the computation, what is known about it, and an example.

model.stablehlo is what `jax.export` serialises, metadata.json says what it takes and gives,
golden.npz holds an input with the outputs that jaxseg itself gives, README.txt is for people.
Of a run on volumes model.stablehlo takes patches, and sliding_window.py runs it over a scan with
the other programs that metadata.json names. Reading and running it needs jax, flatbuffers and
numpy only.
"""

import io
import itertools
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np

from jaxseg.errors import UserError, one_line
from jaxseg.machine.files import make_folder, replace_bytes
from jaxseg.models import native
from jaxseg.shipping import sliding_window

_GOLDEN = ("volume", "probability", "mask")


class Exported(NamedTuple):
    """An opened file."""

    # Volume [D, H, W, C] float32 -> probability, mask [D, H, W], of volumes [D, H, W, K].
    call: Callable
    metadata: dict[str, Any]
    golden: dict[str, np.ndarray]  # volume, and the probability and mask of jaxseg


class Difference(NamedTuple):
    """What a file gives on its golden volume, compared with what jaxseg gave."""

    probability: float  # largest absolute difference
    voxels: int  # whose mask differs
    holds: bool  # within the tolerance of this device


def serialise(
    function: Callable, arguments: Sequence[tuple[tuple, type]], platforms: tuple[str, ...]
) -> bytes:
    """Trace a function of arrays and return it as bytes.

    Args:
        function: to trace.
        arguments: shape and type of each; a None is any size from 1.
        platforms: names of jax's backends to lower for.

    Raises:
        UserError: the package that serialisation needs is missing.
    """
    check_extra()
    number, scope, traced = itertools.count(), jax.export.SymbolicScope(), []
    for shape, kind in arguments:
        names = ", ".join(f"d{next(number)}" if size is None else str(size) for size in shape)
        symbolic = jax.export.symbolic_shape(names, scope=scope)
        traced.append(jax.ShapeDtypeStruct(symbolic, kind))
    with native.plain_operations():  # not what this machine alone has
        exported = jax.export.export(jax.jit(function), platforms=platforms)(*traced)
    return bytes(exported.serialize())


def check_extra():
    """Raise UserError unless what jax.export needs is installed."""
    try:
        import flatbuffers  # noqa: F401 (jax imports it when it serialises)
    except ImportError:
        raise UserError("export needs flatbuffers: pip install 'jaxseg[export]'") from None


def write(
    path: Path,
    program: bytes,
    metadata: dict[str, Any],
    golden: dict[str, np.ndarray],
    text: str,
    others: Mapping[str, bytes] | None = None,
):
    """Write the file whole or not at all; UserError when it cannot be written.

    Args:
        path: of the file.
        program: from `serialise`.
        metadata: what is known.
        golden: arrays by name.
        text: for people.
        others: members that only volumes have, by name.
    """
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **golden)
    members = {
        "README.txt": text.encode(),
        "metadata.json": json.dumps(metadata, indent=1, allow_nan=False).encode() + b"\n",
        "model.stablehlo": program,
        "golden.npz": arrays.getvalue(),
        **(others or {}),
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
        call = _over_windows(path, metadata) if "window" in metadata else deserialise(program)
        return Exported(call, metadata, golden)
    except Exception as error:  # whatever jax raises over a newer or damaged program
        made_by = metadata.get("versions", {}).get("jax")
        cause = one_line(error)[:200]
        raise UserError(
            f"{path}: jax {jax.__version__} cannot read it ({cause}); it was made by jax "
            f"{made_by}, and older versions do not read what newer ones write"
        ) from error


def _over_windows(path: Path, metadata: dict[str, Any]) -> Callable:
    """Return what segments the golden volume of a file of volumes, as its own driver does."""
    model, spacing_mm = sliding_window.load(path), metadata["golden"]["spacing_mm"]
    return lambda volume: sliding_window.segment(model, volume, spacing_mm)[:2]


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
    thresholds = [r["threshold"] for r in metadata.get("regions", [metadata["inside"]])]
    near = np.abs(golden["probability"] - np.array(thresholds)) <= tolerance
    holds = largest <= tolerance and not (flipped & ~near).any()
    return Difference(largest, int(flipped.sum()), bool(holds))
