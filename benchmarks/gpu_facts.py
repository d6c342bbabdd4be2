"""What there is: device, versions, and the rates of a large matrix product and of a large copy."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time

import jax
import jax.numpy as jnp

from benchmarks.gpu_results import emit

_PACKAGES = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint", "grain", "torch"),
    *("triton", "numpy", "opencv-python-headless", "nvidia-cudnn-cu13", "nvidia-cublas"),
)


def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def rate(function, *arguments: jax.Array) -> float:
    """Return seconds of one run, the best of five timings of ten."""
    program = jax.jit(function)
    jax.block_until_ready(program(*arguments))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(10):
            y = program(*arguments)
        jax.block_until_ready(y)
        times.append((time.perf_counter() - start) / 10)
    return min(times)


def main():
    """Write them."""
    cores = len(os.sched_getaffinity(0))
    emit("facts", python=platform.python_version(), cores=cores, versions=versions())
    if tool := shutil.which("nvidia-smi"):
        asked = "--query-gpu=name,driver_version,memory.total,clocks.sm,power.limit"
        answer = subprocess.run(
            [tool, asked, "--format=csv,noheader"], capture_output=True, text=True
        )
        emit("facts", nvidia_smi=answer.stdout.strip())
    start = time.perf_counter()
    device = jax.devices()[0]
    kind, backend = device.device_kind, jax.default_backend()
    emit("facts", device=kind, backend=backend, start=round(time.perf_counter() - start, 2))
    n = 512 if backend == "cpu" else 8192
    a, b = jax.random.normal(jax.random.key(0), (2, n, n), jnp.bfloat16)
    seconds = rate(jnp.matmul, a, b)
    emit("facts", matmul_tflops_per_second=round(2e-12 * n**3 / seconds, 1))
    x = jnp.ones((n, 8 * n), jnp.bfloat16)
    seconds = rate(lambda x: x + 1, x)
    emit("facts", copy_gigabytes_per_second=round(2e-9 * x.nbytes / seconds))


if __name__ == "__main__":
    main()
