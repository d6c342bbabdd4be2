"""Checkpoints with orbax: the latest and the best, saved in the background, read with care.

Two items: `model` holds what a prediction needs (the weights and their average), `train`
all the rest of the train state. Programs that only predict read `model` alone. All processes
of a run save together; what was saved on one mesh is restored on any other.
"""

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from jaxseg.config import Config
from jaxseg.distributed import on_main
from jaxseg.errors import TrainingFailed, UserError
from jaxseg.sharding import make_mesh
from jaxseg.state import TrainState, Weights, abstract_state

logging.set_verbosity(logging.ERROR)  # orbax tells much

# What orbax raises for an emptied, truncated or incomplete checkpoint.
_DAMAGED = (ValueError, KeyError, FileNotFoundError, OSError)


def _rank(metrics: dict[str, float]) -> float:
    # orbax would rank NaN above every number and delete the true best.
    return metrics["monitor"] if math.isfinite(metrics["monitor"]) else -math.inf


def open_checkpoints(workdir: Path, keep_every_steps: int = 0) -> ocp.CheckpointManager:
    """Return the manager of `workdir/checkpoints`: a context manager that waits for saves.

    Keeps the latest two, the best, and those of every keep_every_steps-th step (0: no more).
    """
    folder = (workdir / "checkpoints").absolute()
    on_main(lambda: _set_aside(folder, _without_metrics(folder)))
    keep = [
        policy.LatestN(2),
        policy.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False),
    ]
    if keep_every_steps:
        keep.append(policy.EveryNSteps(keep_every_steps))
    return ocp.CheckpointManager(
        folder,
        item_names=("model", "train"),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(keep),
            best_fn=_rank,  # without it orbax does not write the metrics to disk
            best_mode="max",
            cleanup_tmp_directories=True,
        ),
    )


def read_checkpoints(workdir: Path) -> ocp.CheckpointManager:
    """Return a manager that only reads, also beside a training that goes on in the workdir.

    Each process reads by itself, without waiting for others.
    """
    folder = (workdir / "checkpoints").absolute()
    if not folder.is_dir():
        raise UserError(f"{folder}: no checkpoints here; train first")
    this = jax.process_index()
    options = ocp.CheckpointManagerOptions(
        best_fn=_rank,
        best_mode="max",
        read_only=True,
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"read_{this}"
        ),
    )
    return ocp.CheckpointManager(folder, item_names=("model", "train"), options=options)


def _without_metrics(folder: Path) -> list[int]:
    """Return the checkpoints whose metrics are no JSON: orbax would refuse the whole folder."""
    broken = []
    for metrics in folder.glob("[0-9]*/metrics/metrics"):
        try:
            json.loads(metrics.read_text())
        except ValueError:
            broken.append(metrics.parents[1].name)
    return [int(name) for name in broken if name.isdigit()]


def _set_aside(folder: Path, steps: Iterable[int]):
    """Rename damaged checkpoints, so that their steps can be saved again; delete nothing."""
    for step in steps:
        aside = folder / f"damaged_{step}"
        number = 1
        while aside.exists():
            number += 1
            aside = folder / f"damaged_{step}_{number}"
        (folder / str(step)).rename(aside)
        print(f"warning: checkpoint {step} cannot be read, now {aside}", file=sys.stderr)


def _split(state: TrainState) -> tuple[dict[str, Any], TrainState]:
    model = {"weights": state.weights, "average": state.average}
    return model, state._replace(weights=None, average=None)


def save(manager: ocp.CheckpointManager, step: int, state: TrainState, monitor: float | None):
    """Start saving; returns while the files are still being written.

    Args:
        manager: from `open_checkpoints`.
        step: number of updates, equal to `state.step`.
        state: the train state.
        monitor: validation value of this very state, larger is better; None when it was not
            evaluated (such a checkpoint is never the best).
    """
    model, train = _split(state)
    started = manager.save(
        step,
        args=ocp.args.Composite(
            model=ocp.args.StandardSave(model), train=ocp.args.StandardSave(train)
        ),
        metrics=None if monitor is None else {"monitor": float(monitor)},
    )
    if not started:
        raise TrainingFailed(f"{manager.directory}: holds a step beyond {step}; not saved")


def restore_latest(manager: ocp.CheckpointManager, abstract: TrainState) -> TrainState | None:
    """Return the newest usable checkpoint; None where there is none.

    Damaged ones that are newer are renamed, with a warning.

    Args:
        manager: from `open_checkpoints`.
        abstract: shapes and shardings to restore to, from `abstract_state`; the mesh may be
            another than the one it was saved on.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    # One process decides: what only some can read must not set them at odds.
    folder = Path(manager.directory)
    step = on_main(lambda: _newest_usable(folder, abstract))
    manager.reload()
    if step is None:
        return None
    model, train = _split(abstract)
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            model=ocp.args.StandardRestore(model), train=ocp.args.StandardRestore(train)
        ),
    )
    weights, average = restored["model"]["weights"], restored["model"]["average"]
    return restored["train"]._replace(weights=weights, average=average)


def _newest_usable(folder: Path, abstract: TrainState) -> int | None:
    """Return the newest step that can be read to the end; set damaged newer ones aside."""
    model, train = (_on_host(part) for part in _split(abstract))
    target = ocp.args.Composite(
        model=ocp.args.StandardRestore(model), train=ocp.args.StandardRestore(train)
    )
    damaged = []
    with read_checkpoints(folder.parent) as manager:
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                manager.restore(step, args=target)
            except _DAMAGED as error:
                _warn(step, error)
                damaged.append(step)
            else:
                _set_aside(folder, damaged)
                return step
    if damaged:
        raise UserError(
            f"{folder}: none of the checkpoints {damaged} can be read; "
            "move the folder away to start again"
        )
    return None


def restore_best(manager: ocp.CheckpointManager, abstract: TrainState) -> tuple[int, Weights]:
    """Return step and weights of the best checkpoint: the average where one is kept.

    One that cannot be read gives way, with a warning, to the next best.

    Args:
        manager: from `read_checkpoints`.
        abstract: shapes, from `abstract_state`.

    Returns:
        The step and the weights as numpy arrays.

    Raises:
        UserError: no evaluated checkpoint, or none that can be read.
    """
    model = _on_host(_split(abstract)[0])
    target = ocp.args.Composite(model=ocp.args.StandardRestore(model))
    ranks = {step: manager.metrics(step) for step in manager.all_steps()}
    ranks = {step: (_rank(metrics), step) for step, metrics in ranks.items() if metrics}
    for step in sorted(ranks, key=ranks.get, reverse=True):
        try:
            item = manager.restore(step, args=target)["model"]
        except _DAMAGED as error:
            _warn(step, error)
        else:
            return step, item["weights"] if item["average"] is None else item["average"]
    raise UserError(
        f"{manager.directory}: no evaluated checkpoint here that can be read; train first"
    )


def load_best(run: Path, config: Config, num_channels: int) -> tuple[int, Weights]:
    """Return step and weights of the best checkpoint of a run; see `restore_best`."""
    abstract = abstract_state(config, num_channels, make_mesh())
    with read_checkpoints(run) as checkpoints:
        return restore_best(checkpoints, abstract)


def _warn(step: int, error: Exception):
    reason = str(error).split("\n")[0][:200]
    print(f"warning: checkpoint {step} cannot be read: {reason}", file=sys.stderr)


def _on_host(tree: Any) -> Any:
    """Return numpy arrays as targets, which a process can restore without the others."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def target(x: jax.ShapeDtypeStruct) -> Any:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):  # there is none in numpy
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)
        return np.empty(x.shape, x.dtype)

    return jax.tree.map(target, tree)
