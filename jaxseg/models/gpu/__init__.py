"""Norm, pooling and the first convolution with fewer passes through a GPU's memory.

Exact as XLA's plain operations are, but not yet shown to be faster on a card: what
benchmarks/gpu_check finds faster (norm_32, pool_32, all_parts_32 and so on, beside plain_32) goes
into `DEFAULT`, the rest goes. The variable JAXSEG_GPU of the environment asks for parts by name, by
comma, on every device ("plain": for none), so that JAXSEG_NATIVE=0 JAXSEG_GPU=... traces on a CPU
what a GPU would run. `uses` says which; `layers` and `resampling` choose.

- norm: batch and instance norm with ReLU, `norm.py`, statistics in one pass;
- sums: their sums as kernels of our own, `sums.py`, on one device;
- pool: max-pooling that keeps where the largest was, `pool.py`;
- channels: the scans' padded to 8, so that the first convolution has tensor cores, `channels.py`.
"""

import os

import jax

from jaxseg.errors import UserError
from jaxseg.models import native

VARIABLE = "JAXSEG_GPU"
PARTS = ("norm", "sums", "pool", "channels")
DEFAULT: tuple[str, ...] = ()  # what a GPU takes unasked: what was measured to be faster


def uses(part: str) -> bool:
    """Return whether to trace with a part; never within `native.plain_operations`.

    A kernel of our own is not split over devices: "sums" is for one alone.

    Raises:
        UserError: the environment asks for a part that there is not.
    """
    if native.is_plain() or (part == "sums" and jax.device_count() > 1):
        return False
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return part in DEFAULT and jax.default_backend() == "gpu"
    names = [] if asked == "plain" else asked.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise UserError(f"{VARIABLE}={asked}: {unknown[0]!r} is none of plain, {', '.join(PARTS)}")
    return part in names
