"""What XLA is told for a GPU; on other devices nothing.

Measured on an H100 with jax 0.11.2. Autotuning runs every algorithm that cuDNN has for a
convolution: most of the time that a step takes to compile. XLA's flags in the environment do not
override these.
"""

from typing import Any

import jax

Options = dict[str, Any]


def network_options(deterministic: bool = False) -> Options | None:
    """Return the options of a program with a network in it, for `jax.jit`; None: XLA's own.

    Args:
        deterministic: algorithms that give the same bits every time, the first that cuDNN has.
    """
    if jax.default_backend() != "gpu":
        return None
    options = {
        # Volumes too with channels last: as XLA has them, all are turned round and back.
        "xla_gpu_force_conv_nhwc": True,
        # At 4 every algorithm's result is compared with another's: a quarter more time.
        "xla_gpu_autotune_level": 3,
    }
    if deterministic:
        options |= {
            "xla_gpu_exclude_nondeterministic_ops": True,
            "xla_gpu_enable_triton_gemm": False,  # it has no first choice for every product
        }
    return options


def small_options() -> Options | None:
    """Return the options of a program whose matrix products are small; None: XLA's own.

    Each product is not tried with all kernels that Triton could write for it: cuBLAS's own choice
    compiles in seconds, and runs faster than Triton's first.
    """
    if jax.default_backend() != "gpu":
        return None
    return {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}
