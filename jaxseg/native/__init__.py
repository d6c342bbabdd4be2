"""Convolutions of jaxseg's own for the CPU: C++, compiled on first use and called by XLA.

Needs a C++20 compiler (g++ or clang++, as torch.compile does) and makes one small library in
the user's cache folder. Where that cannot be, or on other devices, XLA's convolutions serve:
`available` says which, `layers.convolve` chooses.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib

from jaxseg.compile_cache import folder_of_machine
from jaxseg.errors import one_line

_SOURCE = Path(__file__).parent / "conv3x3.cc"
_FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-shared")
_SYMBOLS = {
    "jaxseg_convolve": "JaxsegConvolve",
    "jaxseg_image_gradient": "JaxsegImageGradient",
    "jaxseg_kernel_gradient": "JaxsegKernelGradient",
}
_MULTIPLE = 8  # of the number of outputs: the smallest register of floats
_plain = False


def available() -> bool:
    """Return whether to use these convolutions: one CPU device, and the library loads."""
    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    return one_cpu and not _plain and not problem()


def fits(features: int) -> bool:
    """Return whether a convolution may have so many output channels."""
    return features % _MULTIPLE == 0


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Trace with XLA's operations alone, for programs that are to run elsewhere."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


@functools.cache
def problem() -> str:
    """Return why the library is not to be had; '' when it is loaded.

    The first call compiles it, some seconds; JAXSEG_NATIVE=0 in the environment forbids it.
    """
    if os.environ.get("JAXSEG_NATIVE") == "0":
        return "switched off by JAXSEG_NATIVE=0"
    try:
        library = ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        return one_line(error)[:200]
    for target, symbol in _SYMBOLS.items():
        function = jax.ffi.pycapsule(getattr(library, symbol))
        jax.ffi.register_ffi_target(target, function, platform="cpu")
    return ""


def _built() -> Path:
    """Return the compiled library; it is written whole or not at all."""
    source = _SOURCE.read_bytes()
    key = hashlib.sha256(source + repr((_FLAGS, jaxlib.__version__)).encode()).hexdigest()[:16]
    folder = folder_of_machine("native")
    path = folder / f"conv3x3-{key}.so"
    if path.exists():
        return path
    named = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((found for name in named if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise OSError("no C++ compiler (install g++)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / path.name
        command = [compiler, *_FLAGS, f"-I{jax.ffi.include_dir()}", str(_SOURCE), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            raise OSError(f"{compiler} failed: {(errors or ['no message'])[0]}")
        made.rename(path)
    return path


def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve with a 3x3 kernel, zeros outside the image.

    Args:
        image: [B, H, W, C] float32.
        kernel: [3, 3, C, O] float32, `fits(O)`.

    Returns:
        [B, H, W, O] float32.
    """
    return _call("jaxseg_convolve", (*image.shape[:3], kernel.shape[3]), image, kernel)


def image_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the gradient of the image, [B, H, W, C], `fits(C)`; gradient [B, H, W, O]."""
    shape = (*gradient.shape[:3], kernel.shape[2])
    return _call("jaxseg_image_gradient", shape, gradient, kernel)


def kernel_gradient(image: jax.Array, gradient: jax.Array) -> jax.Array:
    """Return the gradient of the kernel, [3, 3, C, O], `fits(O)`; gradient [B, H, W, O]."""
    shape = (3, 3, image.shape[3], gradient.shape[3])
    return _call("jaxseg_kernel_gradient", shape, image, gradient)


def _call(target: str, shape: tuple[int, ...], *arrays: jax.Array) -> jax.Array:
    return jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(shape, arrays[0].dtype))(*arrays)
