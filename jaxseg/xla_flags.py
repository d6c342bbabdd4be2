"""XLA flags for the CPU, set before jax is imported."""

import importlib.metadata
import importlib.util
import os

# Compiles faster at the same step time; known to every jaxlib we support.
_ALWAYS = ("--xla_backend_optimization_level=1",)
# Keeps convolutions out of a fusion that makes their kernel gradient slow; an unknown flag
# aborts the process, so it is named only for the versions it was tried on.
_BY_VERSION = {"0.10": ("--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",)}
_ACCELERATORS = ("jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin", "libtpu")


def set_cpu_flags():
    """Add the flags to XLA_FLAGS where only a CPU can be used; a flag the user set stays."""
    cpu_asked_for = os.environ.get("JAX_PLATFORMS", "").lower() == "cpu"
    if not cpu_asked_for and any(importlib.util.find_spec(name) for name in _ACCELERATORS):
        return
    release = ".".join(importlib.metadata.version("jaxlib").split(".")[:2])
    given = os.environ.get("XLA_FLAGS", "")
    missing = [f for f in _ALWAYS + _BY_VERSION.get(release, ()) if f.split("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join(filter(None, [given, *missing]))
