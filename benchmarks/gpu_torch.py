"""The same step in PyTorch: python -m benchmarks.gpu_torch PART SIZE BATCH [eager] [float32]

torch.compile, automatic mixed precision in bfloat16 (or float32 with TF32), channels last, fused
Adam.
"""

import sys
import time
from collections.abc import Sequence

import torch

from benchmarks import timing, worker_torch, workload
from benchmarks.gpu_results import emit


def main(argv: Sequence[str]):
    """Run it; results as in `gpu_step`."""
    part, size, batch = argv[0], int(argv[1]), int(argv[2])
    settings = {
        **{"size": size, "batch": batch, "features": size // 8},
        "dtype": "float32" if "float32" in argv else "bfloat16",
        **{"channels_last": True, "compile": "eager" not in argv, "steps": 1},
    }
    torch.set_float32_matmul_precision("high")  # TF32, as XLA's default on a card
    hello, actions = worker_torch.make(settings)
    emit(part, settings=settings, device=hello["device"], versions=hello["versions"])
    start = time.perf_counter()
    loss = actions["train"]()["loss"]
    emit(part, first_loss=loss, compile_seconds=round(time.perf_counter() - start, 2))
    actions["train"]()
    settings["steps"] = 2 if hello["device"] == "cpu" else 10
    times = []
    for _ in range(6):
        start = time.perf_counter()
        actions["train"]()
        times.append((time.perf_counter() - start) / settings["steps"])
    found = timing.spread(times[1:])
    flops = batch * workload.flops(settings["features"], size)[1]
    emit(
        part,
        ms=round(1e3 * found.median, 3),
        quartiles_ms=[round(1e3 * x, 3) for x in found[1:]],
        samples_per_second=round(batch / found.median, 1),
        tflops_per_second=round(flops / found.median / 1e12, 2),
        peak_bytes=actions["memory"]()["device_bytes"],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
