"""Checkpoints with orbax: the latest and the best, saved in the background, read with care.

Two items: `model` holds what a prediction needs (the weights and their average), `train`
all the rest of the train state. Programs that only predict read `model` alone. All processes
of a run save together; what was saved on one mesh is restored on any other. A save that
fails, on a full disk by example, is told and tried again at the next one.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from jaxseg.config import Config
from jaxseg.errors import TrainingFailed, UserError
from jaxseg.machine.distributed import gather, is_main, on_main, together
from jaxseg.machine.sharding import make_mesh
from jaxseg.models.apply import Weights
from jaxseg.runs import checkpoint_files as files
from jaxseg.runs import orbax_noise
from jaxseg.training.state import TrainState, abstract_state

orbax_noise.silence()

# What orbax raises for an emptied, truncated or incomplete checkpoint.
_DAMAGED = (ValueError, KeyError, FileNotFoundError, OSError)
# What it raises when files cannot be written; ValueError is tensorstore's, JaxRuntimeError says
# that another process has not come to the end of its save.
_UNSAVED = (OSError, ValueError, jax.errors.JaxRuntimeError)
SAVING_SECONDS = 600  # for all processes to write their part


def _rank(metrics: dict[str, float]) -> float:
    # orbax would rank NaN above every number and delete the true best.
    return metrics["monitor"] if math.isfinite(metrics["monitor"]) else -math.inf


class Checkpoints:
    """The checkpoints of a training, from `open_checkpoints`; orbax's manager and its last save."""

    def __init__(self, open_manager: Callable[[], ocp.CheckpointManager]):
        self.open_manager = open_manager
        self.manager = open_manager()
        self.saving: int | None = None  # step of the save that `finish` has not seen yet
        self.problem: str | None = None  # that kept it from starting

    def latest_step(self) -> int | None:
        """Return the newest step that is saved or being saved; None: there is none."""
        return self.manager.latest_step()


@contextlib.contextmanager
def open_checkpoints(workdir: Path, keep_every_steps: int = 0) -> Iterator[Checkpoints]:
    """Open `workdir/checkpoints` for a training; at the end of the block wait for the last save.

    Keeps the latest two, the best, and those of every keep_every_steps-th step (0: no more).

    Raises:
        TrainingFailed: at the end of the block, when the last save has failed.
    """
    folder = (workdir / "checkpoints").absolute()
    on_main(lambda: files.set_aside(folder, files.without_metrics(folder)))
    checkpoints = Checkpoints(lambda: _open_manager(folder, keep_every_steps))
    try:
        yield checkpoints
        step = checkpoints.saving
        if not finish(checkpoints):
            last = checkpoints.latest_step()
            raise TrainingFailed(
                f"{folder}: the last save, of step {step}, failed; after making room the same "
                f"command continues from {'the start' if last is None else f'step {last}'}"
            )
    finally:
        _close(checkpoints.manager)


def _open_manager(folder: Path, keep_every_steps: int) -> ocp.CheckpointManager:
    on_main(lambda: files.remove_unfinished(folder))
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
            async_options=ocp.options.AsyncOptions(timeout_secs=SAVING_SECONDS),
        ),
    )


def _close(manager: ocp.CheckpointManager):
    """Wait for the threads of a manager and close it, whatever became of its last save."""
    for _ in range(5):  # each layer of orbax raises its error once
        with contextlib.suppress(*_UNSAVED):
            manager.close()
            return


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


def _split(state: TrainState) -> tuple[dict[str, Any], TrainState]:
    model = {"weights": state.weights, "average": state.average}
    return model, state._replace(weights=None, average=None)


def save(checkpoints: Checkpoints, step: int, state: TrainState, monitor: float | None):
    """Start saving; returns while the files are still being written.

    Waits for the save before and tells when that has failed. A failure of this one shows at the
    next, or at the end of `open_checkpoints`.

    Args:
        checkpoints: from `open_checkpoints`.
        step: number of updates, equal to `state.step`.
        state: the train state.
        monitor: validation value of this very state, larger is better; None when it was not
            evaluated (such a checkpoint is never the best).
    """
    finish(checkpoints)
    folder = Path(checkpoints.manager.directory)
    on_main(lambda: files.remove_unfinished(folder))  # late threads of a failed save write on
    model, train = _split(state)
    args = ocp.args.Composite(
        model=ocp.args.StandardSave(model), train=ocp.args.StandardSave(train)
    )
    metrics = None if monitor is None else {"monitor": float(monitor)}
    checkpoints.saving = step
    try:
        started = checkpoints.manager.save(step, args=args, metrics=metrics)
    except _UNSAVED as error:
        if jax.process_count() > 1:  # the others are in the midst of it and cannot be called back
            raise
        checkpoints.problem = files.why_not_written(error)
    else:
        if not started:
            raise TrainingFailed(f"{folder}: holds a step beyond {step}; not saved")


def finish(checkpoints: Checkpoints) -> bool:
    """Wait for the save under way; when it has failed on any process, tell so and clean up.

    Returns:
        Whether it was saved; True when there was none. The same on all processes.
    """
    step, problem = checkpoints.saving, checkpoints.problem
    checkpoints.saving = checkpoints.problem = None
    if step is None:
        return True
    try:
        checkpoints.manager.wait_until_finished()
    except _UNSAVED as error:
        problem = problem or files.why_not_written(error)
    problems = [text for text in gather(problem) if text]
    if not problems:
        return True
    # A manager remembers failures and forgets checkpoints it has not deleted: a new one.
    _close(checkpoints.manager)
    checkpoints.manager = checkpoints.open_manager()
    if step in checkpoints.manager.all_steps():
        return True
    if is_main():
        files.warn_unsaved(step, problems[0])
    return False


def restore_latest(checkpoints: Checkpoints, abstract: TrainState) -> TrainState | None:
    """Return the newest usable checkpoint; None where there is none.

    Damaged ones that are newer are renamed, with a warning.

    Args:
        checkpoints: from `open_checkpoints`.
        abstract: shapes and shardings to restore to, from `abstract_state`; the mesh may be
            another than the one it was saved on.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    # One process decides: what only some can read must not set them at odds.
    manager = checkpoints.manager
    step = on_main(lambda: _newest_usable(Path(manager.directory), abstract))
    manager.reload()
    if step is None:
        return None
    restored = manager.restore(step, args=_target(*_split(abstract)))
    weights, average = restored["model"]["weights"], restored["model"]["average"]
    return restored["train"]._replace(weights=weights, average=average)


def _target(model: Any, train: Any) -> ocp.args.Composite:
    restore = ocp.args.StandardRestore
    return ocp.args.Composite(model=restore(model), train=restore(train))


def _newest_usable(folder: Path, abstract: TrainState) -> int | None:
    """Return the newest step that can be read to the end; set damaged newer ones aside."""
    target = _target(*map(_on_host, _split(abstract)))
    damaged = []
    with read_checkpoints(folder.parent) as manager:
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                manager.restore(step, args=target)
            except _DAMAGED as error:
                files.warn_unreadable(step, error)
                damaged.append(step)
            else:
                files.set_aside(folder, damaged)
                return step
    if damaged:
        raise UserError(
            f"{folder}: none of the checkpoints {damaged} can be read; "
            "move the folder away to start again"
        )
    return None


def restore_weights(manager: ocp.CheckpointManager, abstract: TrainState, step: int) -> Weights:
    """Return the weights of a checkpoint as numpy arrays: the average where one is kept."""
    model = _on_host(_split(abstract)[0])
    target = ocp.args.Composite(model=ocp.args.StandardRestore(model))
    item = manager.restore(step, args=target)["model"]
    return item["weights"] if item["average"] is None else item["average"]


def best_usable(manager: ocp.CheckpointManager, abstract: TrainState) -> int:
    """Return the step of the best checkpoint.

    One that cannot be read gives way, with a warning, to the next best.

    Args:
        manager: from `read_checkpoints`.
        abstract: shapes, from `abstract_state`.

    Raises:
        UserError: no evaluated checkpoint, or none that can be read.
    """
    found = {step: manager.metrics(step) for step in manager.all_steps()}
    ranks = {step: (_rank(metrics), step) for step, metrics in found.items() if metrics}
    for step in sorted(ranks, key=ranks.get, reverse=True):
        try:
            restore_weights(manager, abstract, step)
        except _DAMAGED as error:
            files.warn_unreadable(step, error)
        else:
            return step
    problem = "no evaluated checkpoint here that can be read; train first"
    raise UserError(f"{manager.directory}: {problem}")


def load_best(run: Path, config: Config, num_channels: int) -> tuple[int, Weights]:
    """Return step and weights of the best checkpoint of a run; see `best_usable`.

    The first process chooses, so that all have the same.
    """
    abstract = abstract_state(config, num_channels, make_mesh())
    with together(lambda: read_checkpoints(run)) as checkpoints:
        step = on_main(lambda: best_usable(checkpoints, abstract))
        return step, restore_weights(checkpoints, abstract, step)


def _on_host(tree: Any) -> Any:
    """Return numpy arrays as targets, which a process can restore without the others."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def target(x: jax.ShapeDtypeStruct) -> Any:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):  # there is none in numpy
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)
        return np.empty(x.shape, x.dtype)

    return jax.tree.map(target, tree)
