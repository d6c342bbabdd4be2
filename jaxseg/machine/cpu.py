"""What is set before jax computes: XLA flags for the CPU, and memory that is kept."""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os

from jaxseg.machine.heap import give_back_holes

# Compiles faster at the same step time; known to every jaxlib we support.
_ALWAYS = ("--xla_backend_optimization_level=1",)
# Keeps convolutions out of a fusion that makes their kernel gradient slow; an unknown flag
# aborts the process, so it is named only for the versions it was tried on.
_BY_VERSION = {"0.10": ("--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",)}
_ACCELERATORS = ("jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin", "libtpu")


# glibc's mallopt parameters (malloc.h): one heap for all threads, no blocks of its own for large
# arrays, and what is freed is kept (-1; with 2 GiB, the largest number it takes, a batch of 16 at
# 256x256 was given back in every step).
_MALLOPT = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}


def set_up_cpu():
    """Set both where only a CPU can be used; what is in the environment stays.

    Beside an accelerator the host allocates from many threads at once, which would wait for the one
    heap: those that compile for it, a hundred kernels at a time, and those that write checkpoints.
    """
    cpu_asked_for = os.environ.get("JAX_PLATFORMS", "").lower() == "cpu"
    if not cpu_asked_for and any(importlib.util.find_spec(name) for name in _ACCELERATORS):
        return
    _keep_memory()
    set_xla_flags()


def set_xla_flags():
    """Add the XLA flags that are not in the environment yet."""
    release = ".".join(importlib.metadata.version("jaxlib").split(".")[:2])
    given = os.environ.get("XLA_FLAGS", "")
    missing = [f for f in _ALWAYS + _BY_VERSION.get(release, ()) if f.split("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [given, *missing]))


def _keep_memory():
    """Keep freed memory for the next step.

    XLA asks for all its arrays anew in every step, and the loader for those of every slice;
    given back each time, the kernel clears gigabytes of pages a second.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL("libc.so.6")
        for parameter, value in _MALLOPT.values():
            library.mallopt(parameter, value)
        give_back_holes()
