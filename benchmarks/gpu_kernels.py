"""What a profile of jax says: kernels of the device by kind."""

import collections
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.profile_step import places

__all__ = ["Kernel", "by_kind", "kernels", "kind", "largest", "places"]

# The first that matches a kernel's name or, where its own says nothing, XLA's operation.
_KINDS = (
    ("convolution, forward", r"fprop|conv.*forward|jaxseg_convolve"),
    ("convolution, image gradient", r"dgrad|backward_data|bw.input|jaxseg_image_gradient"),
    ("convolution, kernel gradient", r"wgrad|backward_filter|bw.filter|jaxseg_kernel_gradient"),
    ("layout and copies", r"nchw|nhwc|transpose|copy|memcpy|memset|convertTensor"),
    ("convolution, other", r"cudnn|conv(?!ert)|winograd|fft"),
    ("matrix products", r"gemm|nvjet|cublas|cutlass|\bdot|triton_softmax_dot"),
    ("reductions", r"reduce"),
    ("elementwise", r"fusion|wrapped|add|multiply|select|norm|compare|broadcast|pad|maximum"),
)


class Kernel(NamedTuple):
    """One run of something on the device."""

    name: str  # the kernel's own
    operation: str  # XLA's, as in the compiled program; '' where it is not known
    seconds: float


def kind(kernel: Kernel) -> str:
    """Return the kind of work."""
    for text in (kernel.name, kernel.operation):
        for name, pattern in _KINDS:
            if re.search(pattern, text, re.IGNORECASE):
                hidden = name == "elementwise" and "reduce" in kernel.operation
                return "reductions" if hidden else name
    return "other"


def _planes(folder: Path) -> Iterable[Any]:
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    return jax.profiler.ProfileData.from_file(str(newest)).planes


def kernels(folder: Path) -> Iterable[Kernel]:
    """Yield all that ran on the device's streams; on a CPU, what has an XLA operation."""
    planes = list(_planes(folder))
    devices = [p for p in planes if p.name.startswith("/device:GPU")]
    for plane in devices or planes:
        for line in plane.lines:
            if devices and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                operation = str(dict(event.stats).get("hlo_op", ""))
                if devices or operation:
                    yield Kernel(event.name, operation, event.duration_ns / 1e9)


def by_kind(spent: Iterable[Kernel], steps: int) -> dict[str, float]:
    """Return kind -> seconds of a step, the largest first; "all" is their sum."""
    seconds: dict[str, float] = collections.defaultdict(float)
    for kernel in spent:
        seconds[kind(kernel)] += kernel.seconds / steps
    ordered = dict(sorted(seconds.items(), key=lambda item: -item[1]))
    return ordered | {"all": sum(seconds.values())}


def largest(
    spent: Iterable[Kernel], where: Mapping[str, str], steps: int, count: int
) -> list[list[Any]]:
    """Return [ms a step, kind, kernel, operation, place in the model] of the `count` largest."""
    seconds: dict[tuple[str, str], float] = collections.defaultdict(float)
    for kernel in spent:
        seconds[kernel.name, kernel.operation] += kernel.seconds
    rows = []
    for (name, operation), total in sorted(seconds.items(), key=lambda item: -item[1])[:count]:
        place = where.get(operation) or where.get(name, "")
        what = kind(Kernel(name, operation, total))
        rows.append([round(1e3 * total / steps, 3), what, name[:90], operation, place])
    return rows
