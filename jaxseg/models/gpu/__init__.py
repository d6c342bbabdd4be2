"""What a GPU computes in fewer passes through its memory, or in shapes that suit it.

Each was measured to be faster on an H100 (benchmarks/NOTES.md), and is equal to XLA's plain
operations up to rounding. On a GPU all are taken. The variable JAXSEG_GPU of the environment asks
for parts by name, by comma, on every device ("plain": for none), so that JAXSEG_NATIVE=0
JAXSEG_GPU=... traces on a CPU what a GPU would run. `uses` says which; `layers` and `resampling`
choose.

- norm: batch and instance norm with ReLU, `norm.py`;
- pool: max-pooling that keeps where the largest was, `pool.py`;
- fold: neighbours in a row as channels where there are few of these, `fold.py`;
- head: the last convolution, to a few regions, as sums over channels, `head.py`.
"""

import os

import jax

from jaxseg.errors import UserError
from jaxseg.models import native

VARIABLE = "JAXSEG_GPU"
PARTS = ("norm", "pool", "fold", "head")


def uses(part: str) -> bool:
    """Return whether to trace with a part; never within `native.plain_operations`.

    Raises:
        UserError: the environment asks for a part that there is not.
    """
    if native.is_plain():
        return False
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return jax.default_backend() == "gpu"
    names = [] if asked == "plain" else asked.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise UserError(f"{VARIABLE}={asked}: {unknown[0]!r} is none of plain, {', '.join(PARTS)}")
    return part in names
