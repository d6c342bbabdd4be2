"""One training step, compiled and timed in a process of its own: python -m benchmarks.gpu_step JSON

The settings, all of them optional, are the fields of `Settings`. Every number is written as soon
as it is known, as a JSON line, to the file that GPU_CHECK_RESULTS names and to stdout: what a
process that is killed had found remains.
"""

import time

_START = time.time()

import dataclasses  # noqa: E402 (the clock starts before the imports)
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from benchmarks import gpu_kernels, timing, workload  # noqa: E402
from benchmarks.gpu_results import emit  # noqa: E402

# All that is taken from jaxseg, here and in the worker.
from benchmarks.worker_jaxseg import (  # noqa: E402
    Model,
    common_batch,
    common_state,
    jit_train_step,
    make_config,
    make_mesh,
    new_state,
)
from jaxseg.config import Loss  # noqa: E402
from jaxseg.machine.compiler import network_options  # noqa: E402
from jaxseg.machine.start import start_computing  # noqa: E402
from jaxseg.models import gpu  # noqa: E402
from jaxseg.models.unet import UNet  # noqa: E402
from jaxseg.training.steps import supervised_loss  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured."""

    part: str = "step"  # name of the measurement in the results
    size: int = 256  # pixels or voxels a side
    batch: int = 32
    features: int = 32  # of the finest level
    levels: int = 5
    channels: int = 3  # of the images; more than 3: noughts added
    volume: bool = False  # [B, size, size, size, channels], instance norm, AdamW
    dtype: str = "bfloat16"
    deterministic: bool = False
    steps: int = 10  # in one timing
    rounds: int = 5  # timings
    cache: str = ""  # folder of compiled programs; '': none
    kernels: bool = False  # profile the step: a table by kind
    started: float = _START  # when the process was started, seconds since 1970


Step = Callable[[Any, Any], tuple[Any, Any]]


def slices(settings: Settings) -> tuple[Step, Any, Any]:
    """Return jaxseg's own training step on slices, its state and a batch."""
    mesh = make_mesh()
    config = make_config(dataclasses.asdict(settings))
    wide = workload.widths(settings.features)[: settings.levels]
    train = dataclasses.replace(config.train, deterministic=settings.deterministic)
    model = dataclasses.replace(config.model, widths=wide)
    config = dataclasses.replace(config, model=model, train=train)
    if settings.levels == workload.LEVELS and settings.channels == workload.CHANNELS:
        state = common_state(config, settings.features, mesh)
    else:
        state = new_state(config, settings.channels, mesh)
    batch = common_batch(dataclasses.asdict(settings), mesh)
    missing = settings.channels - workload.CHANNELS
    if missing:
        batch["image"] = jnp.pad(batch["image"], [(0, 0)] * 3 + [(0, missing)])
    return jit_train_step(config, state, mesh), state, batch


def volumes(settings: Settings) -> tuple[Step, Any, Any]:
    """Return a step on volumes: jaxseg's network with instance norm and its loss, AdamW."""
    wide = workload.widths(settings.features)[: settings.levels]
    model = UNet(Model(widths=wide, norm="instance", compute_dtype=settings.dtype))
    optimizer, shape = optax.adamw(1e-3), (settings.batch, *(settings.size,) * 3)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.standard_normal((*shape, settings.channels), np.float32))
    mask = jnp.asarray(rng.integers(0, 2, (*shape, 1)).astype(np.float32))

    def make(key: jax.Array) -> tuple[Any, Any]:
        one = jnp.zeros((1, *shape[1:], settings.channels))
        params = model.init(key, one, train=False)["params"]
        return params, optimizer.init(params)

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        def loss_fn(params: Any) -> jax.Array:
            logits = model.apply({"params": params}, batch["image"], train=True)
            return supervised_loss(logits, batch["mask"], Loss())

        loss, gradients = jax.value_and_grad(loss_fn)(state[0])
        updates, opt_state = optimizer.update(gradients, state[1], state[0])
        return (optax.apply_updates(state[0], updates), opt_state), {"train_loss": loss}

    state = jax.jit(make)(jax.random.key(0))
    options = network_options()
    return (
        jax.jit(step, donate_argnums=0, compiler_options=options),
        state,
        {"image": image, "mask": mask},
    )


def listen() -> Mapping[str, float]:
    """Return the seconds of tracing, lowering and compiling so far; they go on being added up."""
    seconds: dict[str, float] = {}

    def add(event: str, duration: float, **_: Any):
        name = event.rsplit("/", 1)[-1].removesuffix("_duration")
        seconds[name] = seconds.get(name, 0.0) + duration

    jax.monitoring.register_event_duration_secs_listener(add)
    return seconds


def files(folder: str) -> dict[str, int]:
    """Return how many files lie in each folder of the cache, and the size of all."""
    found = [p for p in Path(folder).rglob("*") if p.is_file()]
    counts = {"bytes": sum(p.stat().st_size for p in found)}
    for path in found:
        place = str(path.parent.relative_to(folder))
        counts[place] = counts.get(place, 0) + 1
    return counts


def compiled(step: Any, state: Any, batch: Any, settings: Settings) -> Step:
    """Return the compiled step; writes the seconds of tracing and lowering, and of compiling."""
    begin = time.perf_counter()
    lowered = step.lower(state, batch)
    traced = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - traced
    lower = round(traced - begin, 2)
    emit(settings.part, lower_seconds=lower, compile_seconds=round(seconds, 2))
    return program


def profile(step: Step, state: Any, batch: Any, settings: Settings) -> Any:
    """Write what the kernels of a step take, by kind and one by one; returns the state."""
    folder, count = Path(tempfile.mkdtemp()), 3
    with jax.profiler.trace(str(folder)):
        for _ in range(count):
            state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
    spent = list(gpu_kernels.kernels(folder))
    table = gpu_kernels.by_kind(spent, count)
    emit(settings.part, kernels_ms={k: round(1e3 * s, 3) for k, s in table.items()})
    place = gpu_kernels.places(step.as_text())
    rows = gpu_kernels.largest(spent, place, count, 50)
    emit(settings.part, kernels=rows)
    return state


def main(settings: Settings):
    """Run it."""
    part = settings.part
    switches = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", gpu.VARIABLE)}
    emit(part, settings=dataclasses.asdict(settings), flags=switches)
    start_computing()  # as a training does
    seconds = listen()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_enable_compilation_cache", bool(settings.cache))
    if settings.cache:
        jax.config.update("jax_compilation_cache_dir", settings.cache)
        emit(part, cache_before=files(settings.cache))
    imported = time.time()
    device = jax.devices()[0]
    ready = time.time()
    step, state, batch = (volumes if settings.volume else slices)(settings)
    jax.block_until_ready((state, batch))
    emit(
        part,
        device=device.device_kind,
        import_seconds=round(imported - settings.started, 2),
        device_seconds=round(ready - imported, 2),
        state_seconds=round(time.time() - ready, 2),
        compile_of_state_seconds=round(seconds.get("backend_compile", 0.0), 2),
    )
    program = compiled(step, state, batch, settings)
    state, metrics = program(state, batch)
    loss = float(metrics["train_loss"])
    emit(part, first_loss=loss, first_loss_seconds=round(time.time() - settings.started, 2))
    losses = []
    for _ in range(3):
        state, metrics = program(state, batch)
        losses.append(float(metrics["train_loss"]))
    emit(part, losses_after=losses)
    times = []
    for number in range(settings.rounds + 1):  # the first warms up
        start = time.perf_counter()
        for _ in range(settings.steps if number else 2):
            state, metrics = program(state, batch)
        jax.block_until_ready(metrics)
        times.append((time.perf_counter() - start) / settings.steps)
    found = timing.spread(times[1:])
    result = {
        "last_loss": float(metrics["train_loss"]),
        "ms": round(1e3 * found.median, 3),
        "quartiles_ms": [round(1e3 * x, 3) for x in found[1:]],
        "samples_per_second": round(settings.batch / found.median, 1),
        "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
    }
    if not settings.volume and settings.levels == workload.LEVELS:
        flops = settings.batch * workload.flops(settings.features, settings.size)[1]
        result["tflops_per_second"] = round(flops / found.median / 1e12, 2)
    emit(part, **result)
    if settings.cache:
        emit(part, cache_after=files(settings.cache))
    if settings.kernels:
        profile(program, state, batch, settings)


if __name__ == "__main__":
    main(Settings(**json.loads(sys.argv[1])))
