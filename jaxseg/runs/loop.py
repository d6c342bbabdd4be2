"""The training loop, on one page."""

import math
from pathlib import Path

import jax
import numpy as np

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import training_batches
from jaxseg.machine.distributed import failing_together, gather
from jaxseg.machine.profiler import Profile
from jaxseg.machine.sharding import make_mesh
from jaxseg.machine.signals import REASONS, StopRequests
from jaxseg.runs import checkpoint
from jaxseg.runs.progress import Progress
from jaxseg.runs.validation import Validation
from jaxseg.training.ahead import compiled_ahead
from jaxseg.training.control import should_stop
from jaxseg.training.state import abstract_state, best_weights, new_state
from jaxseg.training.steps import jit_observe
from jaxseg.transforms.augment import make_feed, on_device

Splits = dict[str, tuple[Patient, ...]]


def train(config: Config, run: Path, prepared: Prepared, splits: Splits) -> str:
    """Train until the last step, an early stop or a request; continue what is in the folder.

    Args:
        config: all settings.
        run: the workdir, claimed.
        prepared, splits: the data set and its patients; train and validation are used.

    Returns:
        What interrupted the run, one of `signals.REASONS`; '' when it is complete.

    Raises:
        TrainingFailed: too many updates in a row had a non-finite loss or gradient.
    """
    mesh, num_steps = make_mesh(config.mesh), config.train.num_steps
    abstract = abstract_state(config, prepared.num_channels, mesh)
    train_step = compiled_ahead(config, abstract, prepared.num_channels, mesh)
    feed = make_feed(config, mesh)
    observe = jit_observe(config, abstract)
    validation = Validation(config, prepared, splits["validation"], mesh)
    with (
        checkpoint.open_checkpoints(run, config.train.keep_every_steps) as checkpoints,
        StopRequests(config.train.max_minutes) as requests,
        failing_together(),  # innermost: to close the checkpoints is to wait for the others
    ):
        state = checkpoint.restore_latest(checkpoints, abstract)
        state = state or new_state(config, prepared.num_channels, mesh)
        # The only reads of the state that wait for the device; from here the host counts.
        step, stopped = int(state.step), should_stop(state.early_stop, config.early_stop)
        raw, process = on_device(config), (jax.process_index(), jax.process_count())
        batches = training_batches(prepared, splits["train"], config, step, *process, raw)
        saved = step
        # Whenever we save, state.step == step == batches consumed, and plateau and early stop
        # have seen every evaluation up to it. Hence the order: step, evaluate, observe, save.
        with Progress(run, step, config.train) as progress, Profile(run, config.profile) as profile:
            while step < num_steps and not stopped and not progress.stop:
                profile.before(step + 1, state)
                batch = progress.next_batch(batches, requests.vote)
                with progress.compiling("training step"), trace(step + 1):
                    state, metrics = train_step(state, feed(batch))
                step += 1
                progress.step(step, metrics)
                if step % config.train.eval_every_steps and step != num_steps:
                    continue
                progress.catch_up(step)
                with progress.away("evaluation"):
                    result = validation.scores(best_weights(state))
                    state = observe(state, np.float32(monitored(result, config)))
                # On record first: killed in between, the run records it again.
                progress.evaluation(step, result, state)
                with progress.away("saving"):
                    checkpoint.save(checkpoints, step, state, monitored(result, config))
                saved, stopped = step, should_stop(state.early_stop, config.early_stop)
                if progress.wants_pictures:
                    progress.pictures(step, validation.pictures(best_weights(state)))
            progress.catch_up(step)
        if step > saved:
            checkpoint.save(checkpoints, step, state, None)
        stop = max(progress.stop, *gather(requests.vote))
    return interruption(stop, complete=stopped or step == num_steps)


def trace(step: int) -> jax.profiler.StepTraceAnnotation:
    """Return the mark of a step in a profile."""
    return jax.profiler.StepTraceAnnotation("train", step_num=step)


def interruption(stop: int, complete: bool) -> str:
    """Return the reason of a vote; a time limit does not keep a complete run from its scores."""
    time_limit = REASONS.index("train.max_minutes")
    return "" if complete and stop <= time_limit else REASONS[stop]


def monitored(result: dict[str, float], config: Config) -> float:
    """Return the watched validation value, larger is better; -inf when it is not finite."""
    dice = config.train.monitor == "dice"
    value = result["validation_dice"] if dice else -result["validation_loss"]
    return value if math.isfinite(value) else -math.inf
