"""Training steps on a mesh, for comparing meshes: the same batches, gradients and SGD."""

import functools
from collections.abc import Callable

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxseg.config import Config, Input, Loss, Model, Optimizer, Train
from jaxseg.config import Mesh as MeshConfig
from jaxseg.machine.sharding import (
    gather_before_use,
    replicated,
    shardings,
    split_state,
    to_global,
)
from jaxseg.models.unet import UNet
from jaxseg.training import steps
from jaxseg.training.optimizer import learning_rate_schedule
from jaxseg.training.state import TrainState, new_state

BATCH, SIZE = 16, (32, 16)


def step_config(norm: str = "batch", accumulate: int = 1, dropout: float = 0.0, **mesh) -> Config:
    """Return settings of a small network; Dice over the batch, so that samples depend."""
    return Config(
        model=Model(widths=(4, 8), norm=norm, dropout=dropout),
        input=Input(image_size=SIZE),
        loss=Loss(bce=1.0, dice=1.0, dice_over_batch=True),
        optimizer=Optimizer(learning_rate=0.1, warmup_steps=0, ema_decay=0.5),
        train=Train(batch_size=BATCH, accumulate=accumulate),
        mesh=MeshConfig(fsdp_min_size=64, **mesh),
    )


def make_batch(seed: int) -> dict[str, np.ndarray]:
    """Return bright squares on noise; every sample has its own brightness."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(BATCH, *SIZE, 3)) + np.linspace(0, 2, BATCH)[:, None, None, None]
    mask = np.zeros((BATCH, *SIZE, 1), np.uint8)
    for i, (row, column) in enumerate(rng.integers(0, 10, (BATCH, 2))):
        mask[i, row : row + 3 + i, column : column + 5] = 1
    stop = np.zeros(BATCH, np.int32)
    return {"image": (image + 3 * mask).astype(np.float32), "mask": mask, "stop": stop}


def share(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return this process's part of a batch, as the loader takes it."""
    process, count = jax.process_index(), jax.process_count()
    return {k: np.split(x, count)[process] for k, x in batch.items()}


def sgd_steps(
    config: Config,
    mesh: Mesh,
    num_steps: int,
    make_batch=make_batch,
    after: Callable[[int, TrainState], None] = lambda step, state: None,
) -> tuple[TrainState, list[dict]]:
    """Take steps of plain gradient descent; Adam would blow rounding up to whole steps.

    Args:
        config, mesh, num_steps: what and how long.
        make_batch: gives the batch of a step from 0 on.
        after: is shown the state before the first step (0) and after each.

    Returns:
        The state and the metrics of every step, as arrays of the mesh.
    """
    tx = optax.sgd(config.optimizer.learning_rate)
    state = new_state(config, 3, mesh)
    opt_state = tx.init(state.weights.params)
    state = state._replace(opt_state=opt_state)
    where = split_state(state, mesh, config.mesh.fsdp_min_size)
    state = jax.device_put(state, where)
    bound = functools.partial(
        steps.train_step,
        model=UNet(config.model),
        tx=tx,
        schedule=learning_rate_schedule(config.optimizer, num_steps),
        config=config,
        gather=gather_before_use(mesh),
    )
    step = jax.jit(bound, out_shardings=(shardings(state), replicated(mesh)), donate_argnums=0)
    logs = []
    after(0, state)
    for seed in range(num_steps):
        state, log = step(state, to_global(share(make_batch(seed)), mesh))
        logs.append(log)
        after(seed + 1, state)
    return state, logs


def on_host(state: TrainState, mesh: Mesh) -> TrainState:
    """Return numpy copies of all arrays, also of those that other processes hold parts of."""
    numbers = state._replace(key=jax.random.key_data(state.key))
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(numbers)
    return jax.tree.map(np.asarray, whole)
