"""Worker: jaxseg's own compiled steps and checkpoints on the common work."""

import time

_START = time.perf_counter()

import functools  # noqa: E402 (the clock starts before the imports)
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jaxseg.train  # noqa: E402, F401 (what a training imports)
from benchmarks import workload  # noqa: E402
from benchmarks.protocol import Actions, peak_memory_bytes, serve  # noqa: E402
from jaxseg.config import Config, Input, Model, Optimizer, Train  # noqa: E402
from jaxseg.machine.sharding import make_mesh, shardings, split_batch, to_global  # noqa: E402
from jaxseg.machine.start import start_computing  # noqa: E402
from jaxseg.models.apply import jit_predict  # noqa: E402
from jaxseg.runs import checkpoint  # noqa: E402
from jaxseg.runs.workdir import versions  # noqa: E402
from jaxseg.training.state import TrainState, best_weights, new_state  # noqa: E402
from jaxseg.training.steps import jit_train_step  # noqa: E402

_IMPORTED = time.perf_counter()

import flax.traverse_util  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402


def make_config(settings: dict[str, Any]) -> Config:
    """Return the common settings: plain Adam, BCE + Dice over the batch."""
    kind = workload.kind_of(settings)
    return Config(
        input=Input(image_size=(settings["size"],) * kind.rank),
        model=Model(
            widths=workload.widths(settings["features"]),
            num_classes=kind.regions,
            norm=kind.norm,
            compute_dtype=settings["dtype"],
        ),
        optimizer=Optimizer(
            learning_rate=workload.LEARNING_RATE, warmup_steps=0, weight_decay=0.0, clip_norm=0.0
        ),
        train=Train(batch_size=settings["batch"]),
    )


def common_state(
    config: Config,
    features: int,
    mesh: jax.sharding.Mesh,
    kind: workload.Kind = workload.IMAGES,
) -> TrainState:
    """Return the state of step 0 with the common weights."""
    state = new_state(config, kind.channels, mesh)
    params = flax.traverse_util.unflatten_dict(workload.make_weights(features, kind), sep="/")
    params = jax.tree.map(
        lambda old, new, where: jax.device_put(jnp.asarray(new).reshape(old.shape), where),
        state.weights.params,
        params,
        shardings(state.weights.params),
    )
    return state._replace(weights=state.weights._replace(params=params))


def common_batch(settings: dict[str, Any], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Return the common images and masks as a batch on the device."""
    kind = workload.kind_of(settings)
    image, mask = workload.make_batch(settings["batch"], settings["size"], kind)
    stop = np.zeros(len(image), np.int32)
    return to_global({"image": image, "mask": mask.astype(np.uint8), "stop": stop}, mesh)


def make(settings: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Make state, batch and steps; see `protocol.serve`."""
    start_computing()
    config, mesh = make_config(settings), make_mesh()
    state = common_state(config, settings["features"], mesh, workload.kind_of(settings))
    batch = common_batch(settings, mesh)
    parameters = sum(x.size for x in jax.tree.leaves(state.weights.params))
    train_step = jit_train_step(config, state, mesh)
    predict = jit_predict(config, split_batch(mesh))

    def train() -> dict[str, Any]:
        nonlocal state
        for _ in range(settings["steps"]):
            state, metrics = train_step(state, batch)
        return {"loss": float(jax.block_until_ready(metrics)["train_loss"])}

    def forward() -> dict[str, Any]:
        weights = best_weights(state)
        for _ in range(settings["steps"]):
            probability = predict(weights, batch["image"], np.float32(1))
        return {"mean": float(jnp.mean(jax.block_until_ready(probability)))}

    hello = {
        "import_seconds": _IMPORTED - _START,
        "parameters": parameters,
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
    }
    actions = {"train": train, "volumes": train, "forward": forward}
    actions |= {"memory": memory, "matmul": matmul}
    if "folder" in settings:
        actions["save"] = functools.partial(save, Path(settings["folder"]), state)
    return hello, actions


def save(folder: Path, state: TrainState) -> dict[str, Any]:
    """Save a checkpoint to a new folder; "blocking_seconds" is what the training waits for."""
    start = time.perf_counter()
    number = len(list(folder.glob("*"))) if folder.exists() else 0
    with checkpoint.open_checkpoints(folder / str(number)) as checkpoints:
        opened = time.perf_counter()
        checkpoint.save(checkpoints, 0, state, None)
        called = time.perf_counter()
        checkpoint.finish(checkpoints)
        done = time.perf_counter()
    return {
        "seconds": done - opened,
        "blocking_seconds": called - opened,
        "open_seconds": opened - start,
    }


def memory() -> dict[str, Any]:
    """Return the peak memory of this process, and of the device where it counts it."""
    device = jax.devices()[0].memory_stats() or {}
    return {"host_bytes": peak_memory_bytes(), "device_bytes": device.get("peak_bytes_in_use")}


def matmul() -> dict[str, Any]:
    """Return the operations per second of a large square product."""
    on_cpu = jax.default_backend() == "cpu"
    n, dtype = (2048, jnp.float32) if on_cpu else (8192, jnp.bfloat16)
    a = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    start = time.perf_counter()
    for _ in range(10):
        c = product(a, a)
    c.block_until_ready()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "flops_per_second": 20.0 * n**3 / seconds}


if __name__ == "__main__":
    serve(make)
