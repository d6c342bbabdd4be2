"""Checkpoints with orbax: the latest and the best, saved in the background, read with care.

Two items: `model` holds what a prediction needs (the weights and their average), `train`
all the rest of the train state. Programs that only predict read `model` alone.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from jaxseg.config import Config
from jaxseg.errors import TrainingFailed, UserError
from jaxseg.sharding import make_mesh
from jaxseg.state import TrainState, Weights, new_state

logging.set_verbosity(logging.ERROR)  # orbax tells much

# What orbax raises for an emptied, truncated or incomplete checkpoint.
_DAMAGED = (ValueError, KeyError, FileNotFoundError, OSError)


def _rank(metrics: dict[str, float]) -> float:
    # orbax would rank NaN above every number and delete the true best.
    return metrics["monitor"] if math.isfinite(metrics["monitor"]) else -math.inf


def open_checkpoints(workdir: Path) -> ocp.CheckpointManager:
    """Return the manager of `workdir/checkpoints`: a context manager that waits for saves."""
    folder = (workdir / "checkpoints").absolute()
    _set_aside(folder, _without_metrics(folder))
    keep_best = policy.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False)
    return ocp.CheckpointManager(
        folder,
        item_names=("model", "train"),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy([policy.LatestN(2), keep_best]),
            best_fn=_rank,  # without it orbax does not write the metrics to disk
            best_mode="max",
            cleanup_tmp_directories=True,
        ),
    )


def read_checkpoints(workdir: Path) -> ocp.CheckpointManager:
    """Return a manager that only reads, also beside a training that goes on in the workdir."""
    options = ocp.CheckpointManagerOptions(best_fn=_rank, best_mode="max", read_only=True)
    folder = (workdir / "checkpoints").absolute()
    if not folder.is_dir():
        raise UserError(f"{folder}: no checkpoints here; train first")
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


def restore_latest(manager: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """Return the newest usable checkpoint, or `state` where there is none.

    Args:
        manager: from `open_checkpoints`.
        state: a state of the right shapes and shardings, by example that of step 0.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    model, train = _split(state)
    target = ocp.args.Composite(
        model=ocp.args.StandardRestore(_abstract(model)),
        train=ocp.args.StandardRestore(_abstract(train)),
    )
    restored = _first_usable(manager, lambda step: manager.restore(step, args=target))
    if restored is None:
        return state
    weights, average = restored["model"]["weights"], restored["model"]["average"]
    return restored["train"]._replace(weights=weights, average=average)


def restore_best(manager: ocp.CheckpointManager, state: TrainState) -> tuple[int, Weights]:
    """Return step and weights of the best checkpoint: the average where one is kept.

    One that cannot be read gives way, with a warning, to the next best.

    Args:
        manager: from `open_checkpoints` or `read_checkpoints`.
        state: a state of the right shapes and shardings.

    Raises:
        UserError: no evaluated checkpoint, or none that can be read.
    """
    model = _abstract(_split(state)[0])
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
    with read_checkpoints(run) as checkpoints:
        return restore_best(checkpoints, new_state(config, num_channels, make_mesh()))


def _first_usable(manager: ocp.CheckpointManager, read: Callable[[int], Any]) -> Any:
    damaged = []
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            found = read(step)
        except _DAMAGED as error:
            _warn(step, error)
            damaged.append(step)
        else:
            _set_aside(Path(manager.directory), damaged)
            manager.reload()
            return found
    if damaged:
        raise UserError(
            f"{manager.directory}: none of the checkpoints {damaged} can be read; "
            "move the folder away to start again"
        )
    return None


def _warn(step: int, error: Exception):
    reason = str(error).split("\n")[0][:200]
    print(f"warning: checkpoint {step} cannot be read: {reason}", file=sys.stderr)


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
