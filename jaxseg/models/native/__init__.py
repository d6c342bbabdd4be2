"""Convolution, norm and pooling of jaxseg's own for the CPU: C++, compiled on first use.

Needs a C++20 compiler (g++ or clang++, as torch.compile does) and makes one small library in
the user's cache folder, whose functions XLA calls. Where that cannot be, or on other devices,
XLA's own operations serve: `available` and `takes` say which, `layers` chooses. All take
float32, and bfloat16 with sums in float32 where the CPU multiplies it (AVX512-BF16).
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from jaxseg.errors import UserError, one_line
from jaxseg.machine.start import folder_of_machine

_FOLDER = Path(__file__).parent
_HEADERS = ("common.h", "box.h", "kernels.h", "sums.h", "walk.h")
_SOURCES = ("conv3x3.cc", "kernel_gradient.cc", "norm.cc", "pool.cc", "upconv.cc")
# One unit, since most of the time goes into jax's header.
_UNIT = "".join(f'#include "{name}"\n' for name in _SOURCES)
_FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-shared", "-x", "c++", "-")
_SYMBOLS = {
    "jaxseg_convolve": "JaxsegConvolve",
    "jaxseg_image_gradient": "JaxsegImageGradient",
    "jaxseg_kernel_gradient": "JaxsegKernelGradient",
    "jaxseg_norm": "JaxsegNorm",
    "jaxseg_norm_gradient": "JaxsegNormGradient",
    "jaxseg_pool_gradient": "JaxsegPoolGradient",
    "jaxseg_upconv": "JaxsegUpconv",
    "jaxseg_upconv_image_gradient": "JaxsegUpconvImageGradient",
    "jaxseg_upconv_kernel_gradient": "JaxsegUpconvKernelGradient",
}
_BFLOAT16 = "_bfloat16"  # ends the targets that take it
_MULTIPLE = 8  # of the number of channels made: the smallest register of floats
_plain = False


def available() -> bool:
    """Return whether to use these operations: one CPU device, and the library loads."""
    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    return one_cpu and not _plain and not problem()


def takes(dtype: jnp.dtype) -> bool:
    """Return whether they take such numbers, where they are `available`; always float32."""
    return dtype == jnp.float32 or dtype == jnp.bfloat16 and _takes_bfloat16()


def fits(features: int) -> bool:
    """Return whether a result may have so many channels."""
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


def is_plain() -> bool:
    """Return whether `plain_operations` holds."""
    return _plain


@functools.cache
def problem() -> str:
    """Return why the library is not to be had; '' when it is loaded.

    The first call compiles it, some seconds; JAXSEG_NATIVE=0 in the environment forbids it.
    """
    if os.environ.get("JAXSEG_NATIVE") == "0":
        return "switched off by JAXSEG_NATIVE=0"
    try:
        _takes_bfloat16()
    except (OSError, subprocess.SubprocessError, UserError) as error:
        return one_line(error)[:200]
    return ""


@functools.cache
def _takes_bfloat16() -> bool:
    """Load the library; return whether this CPU's has the operations in bfloat16 too."""
    library, made = ctypes.CDLL(str(_built())), []
    for target, symbol in _SYMBOLS.items():
        made += [(target, symbol)]
        if both := hasattr(library, symbol + "Bfloat16"):
            made += [(target + _BFLOAT16, symbol + "Bfloat16")]
    for target, symbol in made:
        function = jax.ffi.pycapsule(getattr(library, symbol))
        jax.ffi.register_ffi_target(target, function, platform="cpu")
    return both


def _built() -> Path:
    """Return the compiled library; it is written whole or not at all."""
    source = b"".join((_FOLDER / name).read_bytes() for name in _HEADERS + _SOURCES)
    key = hashlib.sha256(source + repr((_FLAGS, jaxlib.__version__)).encode()).hexdigest()[:16]
    folder = folder_of_machine("native")
    path = folder / f"operations-{key}.so"
    if path.exists():
        return path
    named = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((found for name in named if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise OSError("no C++ compiler (install g++)")
    folder.mkdir(parents=True, exist_ok=True)
    told = "compiling jaxseg's convolutions, once on this machine ..."
    print(told, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / path.name
        include = f"-I{jax.ffi.include_dir()}", f"-I{_FOLDER}"
        command = [compiler, *_FLAGS, *include, "-o", str(made)]
        done = subprocess.run(command, input=_UNIT, capture_output=True, text=True, timeout=300)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            raise OSError(f"{compiler} failed: {(errors or ['no message'])[0]}")
        made.rename(path)
    return path


def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve with a kernel of 3x3, 1x3x3 or 3x3x3 pixels, zeros outside the image.

    Args:
        image: [B, H, W, C] or [B, D, H, W, C], float32 or bfloat16.
        kernel: [3, 3, C, O], or [1 or 3, 3, 3, C, O], of the same, `fits(O)`.

    Returns:
        [B, (D,) H, W, O] of the same; sums are taken in float32.
    """
    shape = (*image.shape[:-1], kernel.shape[-1])
    return _call("jaxseg_convolve", [shape], image, kernel)[0]


def image_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the gradient of the image, [B, *S, C], `fits(C)`; gradient [B, *S, O]."""
    shape = (*gradient.shape[:-1], kernel.shape[-2])
    return _call("jaxseg_image_gradient", [shape], gradient, kernel)[0]


def kernel_gradient(image: jax.Array, gradient: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Return the gradient of the kernel, [*window, C, O], `fits(O)`; gradient [B, *S, O]."""
    shape = (*window, image.shape[-1], gradient.shape[-1])
    return _call("jaxseg_kernel_gradient", [shape], image, gradient)[0]


def norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, slope: float, by_sample: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise each channel by its own mean and variance.

    Args:
        x: [B, ..., C], float32 or bfloat16, `fits(C)`, one number or more per channel (and sample).
        scale, bias: [C] float32.
        epsilon: added to the variance.
        slope: what is negative in the end is multiplied with it; 0: ReLU, 1: left as it is.
        by_sample: instance norm; otherwise all of the batch together.

    Returns:
        [B, ..., C] like x, mean and biased variance, float32, [B, C] by sample, otherwise [C];
        sums are taken in float64.
    """
    statistics = (x.shape[0], *scale.shape) if by_sample else scale.shape
    shapes = x.shape, statistics, statistics
    return _call("jaxseg_norm", shapes, x, scale, bias, epsilon=epsilon, slope=slope)


def norm_gradient(
    dy: jax.Array,
    x: jax.Array,
    statistics: tuple[jax.Array, jax.Array],
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    slope: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the gradients of x, scale and bias; dy is that of the first result of `norm`.

    The arguments after dy are those of `norm` and the mean and variance it returned.
    """
    shapes = x.shape, scale.shape, scale.shape
    arrays = dy, x, *statistics, scale, bias
    return _call("jaxseg_norm_gradient", shapes, *arrays, epsilon=epsilon, slope=slope)


def pool_gradient(x: jax.Array, y: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the gradient of max-pooling: dy for the first largest element of each window, else 0.

    Args:
        x: [B, *(S w), C] of two or three spatial axes, float32 or bfloat16, `fits(C)`.
        y, dy: [B, *S, C], what was pooled and its gradient; the windows follow from the shapes.

    Returns:
        [B, *(S w), C].
    """
    return _call("jaxseg_pool_gradient", [x.shape], x, y, dy)[0]


def upconv(skip: jax.Array, image: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Enlarge an image by a transposed convolution whose stride is its window, behind a skip.

    Args:
        skip: [B, *(S w), K] of two or three spatial axes, float32 or bfloat16, `fits(K)`.
        image: [B, *S, C] of the same, `fits(C)`.
        kernel: [*w, C, O] of the same, `fits(O)`; not mirrored.
        bias: [O] float32.

    Returns:
        [B, *(S w), K + O] of the same; sums are taken in float32.
    """
    shape = (*skip.shape[:-1], skip.shape[-1] + kernel.shape[-1])
    return _call("jaxseg_upconv", [shape], skip, image, kernel, bias)[0]


def upconv_image_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the gradient of the image of `upconv`, [B, *S, C]; gradient: of its result."""
    window = kernel.shape[:-2]
    size = (n // w for n, w in zip(gradient.shape[1:-1], window, strict=True))
    shape = (gradient.shape[0], *size, kernel.shape[-2])
    return _call("jaxseg_upconv_image_gradient", [shape], gradient, kernel)[0]


def upconv_kernel_gradient(
    image: jax.Array, gradient: jax.Array, features: int
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of kernel and bias of `upconv`, [*w, C, O] and [O] float32.

    Args:
        image: [B, *S, C].
        gradient: of its result.
        features: O.
    """
    sizes = zip(gradient.shape[1:-1], image.shape[1:-1], strict=True)
    shape = (*(n // s for n, s in sizes), image.shape[-1], features)
    shapes = shape, (features,)
    return tuple(_call("jaxseg_upconv_kernel_gradient", shapes, image, gradient))


def _call(target: str, shapes: Sequence[tuple[int, ...]], *arrays: jax.Array, **options):
    """The first result has the numbers of the first array, others are float32."""
    dtype = jnp.dtype(arrays[0].dtype)
    dtypes = dtype, *(jnp.float32 for _ in shapes[1:])
    results = [jax.ShapeDtypeStruct(*result) for result in zip(shapes, dtypes, strict=True)]
    given = {k: np.float32(v) if isinstance(v, float) else v for k, v in options.items()}
    kind = _BFLOAT16 if dtype == jnp.bfloat16 else ""
    return jax.ffi.ffi_call(target + kind, results)(*arrays, **given)
