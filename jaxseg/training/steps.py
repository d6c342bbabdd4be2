"""One training step, one validation step: pure functions, jitted on a mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from jaxseg.config import Config
from jaxseg.machine.compiler import network_options
from jaxseg.machine.sharding import gather_before_use, replicated, shardings, split_images
from jaxseg.models.apply import Weights, jit_logits
from jaxseg.models.unet import UNet
from jaxseg.scoring import metrics
from jaxseg.training import losses
from jaxseg.training.control import (
    EarlyStopState,
    PlateauState,
    observe_early_stop,
    observe_plateau,
)
from jaxseg.training.counts import count
from jaxseg.training.optimizer import learning_rate_schedule, make_optimizer
from jaxseg.training.state import TrainState

Batch = dict[str, jax.Array]


class ValidationSums(NamedTuple):
    """Sums over the validation slices; parts add up."""

    counts: metrics.Counts  # int32 [num_patients, K]
    loss: jax.Array  # float32, weighted sum over slices
    slices: jax.Array  # float32, sum of the weights


def supervised_loss(logits: tuple[jax.Array, ...], mask: jax.Array, config: Any) -> jax.Array:
    """Return the mean loss over the batch; coarser outputs weigh 1/2, 1/4, ... of the first.

    Args:
        logits: ([B, *S, K], then those of coarser levels).
        mask: [B, *S, K] float32; thinned out for coarser outputs, to the first voxel of each of
            their windows.
        config: the `Loss` section.
    """
    total, weights = jnp.float32(0), 0.0
    for level, output in enumerate(logits):
        sizes = zip(mask.shape[1:-1], output.shape[1:-1], strict=True)
        thin = (slice(None), *(slice(None, None, fine // coarse) for fine, coarse in sizes))
        total += 0.5**level * jnp.mean(losses.combined(output, mask[thin], config))
        weights += 0.5**level
    return total / weights


def forward(
    weights: Weights, image: jax.Array, dropout_key: jax.Array, num_parts: int, *, model: UNet
) -> tuple[tuple[jax.Array, ...], Any]:
    """Run the network for training, on num_parts parts of the batch one after the other.

    The backward pass computes each part anew, so that only one part's activations are held at
    a time, while the loss still sees the whole batch: equal to the large batch up to rounding,
    also where Dice is taken over the batch, for the price of a second forward pass. Exceptions:
    batch norm normalises each part by itself, and dropout draws other numbers.

    Returns:
        The outputs of all levels, ([B, *S, K], ...), and the new batch_stats.
    """

    def apply(batch_stats: Any, part: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
        variables = {"params": weights.params, "batch_stats": batch_stats}
        options = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": part[1]}}
        logits, updated = model.apply(variables, part[0], **options)
        return updated.get("batch_stats", {}), logits

    if num_parts == 1:
        batch_stats, logits = apply(weights.batch_stats, (image, dropout_key))
        return logits, batch_stats
    # Every n-th sample to a part, so that each device keeps its own samples.
    parts = jnp.swapaxes(image.reshape(-1, num_parts, *image.shape[1:]), 0, 1)
    keys = jax.random.split(dropout_key, num_parts)
    batch_stats, logits = jax.lax.scan(jax.checkpoint(apply), weights.batch_stats, (parts, keys))
    joined = [jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]) for x in logits]
    return tuple(joined), batch_stats


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: UNet,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Config,
    gather: NamedSharding | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Take one step; an update with a non-finite loss or gradient is skipped and counted.

    Args:
        state: the train state; the keyword arguments are bound by `jit_train_step`.
        batch: image [B, *S, C] float32, mask [B, *S, K] of {0, 1}, stop [B] int32: each
            process's request to end the run, 0: none.

    Returns:
        The new state, and scalars: train_loss, train_dice (hard, pooled over the batch),
        learning_rate, gradient_norm, nonfinite_in_row, nonfinite_total, and stop, the largest
        request, which thus reaches all processes at the same step.
    """
    mask = batch["mask"].astype(jnp.float32)
    dropout_key = jax.random.fold_in(state.key, state.step)
    # Skipped updates do not count for the optimiser's schedule.
    learning_rate = schedule(state.step - state.nonfinite_total) * state.plateau.scale

    def loss_fn(params):
        weights = Weights(_gathered(params, gather), state.weights.batch_stats)
        parts = config.train.accumulate
        logits, batch_stats = forward(weights, batch["image"], dropout_key, parts, model=model)
        return supervised_loss(logits, mask, config.loss), (logits[0], batch_stats)

    with_gradient = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, batch_stats)), gradients = with_gradient(state.weights.params)
    norm = optax.tree.norm(gradients)
    updates, opt_state = tx.update(gradients, state.opt_state, state.weights.params)
    updates = jax.tree.map(lambda u: u * state.plateau.scale, updates)
    weights = Weights(optax.apply_updates(state.weights.params, updates), batch_stats)
    average = _moving_average(state, weights, config.optimizer.ema_decay)

    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
    state = state._replace(
        step=state.step + 1,
        weights=keep(weights, state.weights),
        average=keep(average, state.average),
        opt_state=keep(opt_state, state.opt_state),
        nonfinite_in_row=jnp.where(finite, 0, state.nonfinite_in_row + 1),
        nonfinite_total=state.nonfinite_total + ~finite,
    )
    return state, {
        "train_loss": loss,
        "train_dice": _pooled_dice(logits, mask),
        "learning_rate": learning_rate,
        "gradient_norm": norm,
        "nonfinite_in_row": state.nonfinite_in_row,
        "nonfinite_total": state.nonfinite_total,
        "stop": jnp.max(batch["stop"]),
    }


def _gathered(params: Any, where: NamedSharding | None) -> Any:
    return params if where is None else jax.lax.with_sharding_constraint(params, where)


def _pooled_dice(logits: jax.Array, mask: jax.Array) -> jax.Array:
    predicted, true = logits > 0, mask > 0.5
    return metrics.dice(metrics.Counts(*(jnp.sum(v) for v in (predicted & true, predicted, true))))


def _moving_average(state: TrainState, weights: Weights, decay: float) -> Weights | None:
    """Average the new weights in; early on over fewer steps, so that the start is forgotten."""
    if state.average is None:
        return None
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, state.average, weights)


def add_to_sums(
    logits: jax.Array, batch: Batch, sums: ValidationSums, *, config: Config
) -> ValidationSums:
    """Add one batch's counts and loss to the sums; samples of weight 0 add nothing.

    The loss takes Dice per slice, whatever the training does, so that it does not depend
    on how slices fall into batches.

    Args:
        logits: [B, *S, K] float32, of the batch's images.
        batch: mask [B, *S, K] of {0, 1}, weight [B] or [B, *S] float32, patient [B] int32.
        sums: so far.
        config: all settings.
    """
    mask, weight = batch["mask"].astype(jnp.float32), batch["weight"]
    counts = count(
        jax.nn.sigmoid(logits) >= config.evaluation.threshold,
        mask > 0.5,
        weight,
        batch["patient"],
        sums.counts.tp.shape[0],
    )
    per_slice = losses.combined(
        logits, mask, dataclasses.replace(config.loss, dice_over_batch=False)
    )
    weight = jnp.max(weight.reshape(len(weight), -1), axis=1)  # of a patch: does it count at all?
    loss = jnp.sum(jnp.where(weight > 0, per_slice, 0) * weight)
    return ValidationSums(sums.counts + counts, sums.loss + loss, sums.slices + jnp.sum(weight))


def empty_sums(num_patients: int, num_classes: int) -> ValidationSums:
    """Return the sums of no slices."""
    zeros, zero = np.zeros((num_patients, num_classes), np.int32), np.float32(0)
    return ValidationSums(metrics.Counts(zeros, zeros, zeros), zero, zero)


def observe(
    plateau: PlateauState, early_stop: EarlyStopState, value: jax.Array, *, config: Config
) -> tuple[PlateauState, EarlyStopState]:
    """Show an evaluation's value (larger is better) to plateau and early stop."""
    return (
        observe_plateau(plateau, value, config.plateau),
        observe_early_stop(early_stop, value, config.early_stop),
    )


def jit_train_step(config: Config, state: TrainState, mesh: Mesh) -> Callable:
    """Return the compiled `train_step` (state, batch) -> (state, metrics); state is donated.

    Args:
        config: all settings.
        state: arrays or shapes with the shardings that the new state is to have too.
        mesh: devices.
    """
    bound = functools.partial(
        train_step,
        model=UNet(config.model),
        tx=make_optimizer(config.optimizer, config.train.num_steps),
        schedule=learning_rate_schedule(config.optimizer, config.train.num_steps),
        config=config,
        gather=gather_before_use(mesh),
    )
    return jax.jit(
        bound,
        out_shardings=(shardings(state), replicated(mesh)),
        donate_argnums=0,
        compiler_options=network_options(config.train.deterministic),
    )


def jit_validation_step(config: Config, mesh: Mesh) -> Callable:
    """Return what validates a batch: (weights, batch, sums) -> sums, the same everywhere.

    The network is the program that predictions go through; `add_to_sums` is a small one.
    """
    logits = jit_logits(config.model, split_images(mesh))
    add = jax.jit(functools.partial(add_to_sums, config=config), out_shardings=replicated(mesh))

    def validation_step(weights: Weights, batch: Batch, sums: ValidationSums) -> ValidationSums:
        others = {name: value for name, value in batch.items() if name != "image"}
        return add(logits(weights, batch["image"]), others, sums)

    return validation_step


def jit_observe(config: Config, state: TrainState) -> Callable:
    """Return the compiled `observe` (state, value) -> state, sharded as the state given here."""
    controls = state.plateau, state.early_stop
    compiled = jax.jit(functools.partial(observe, config=config), out_shardings=shardings(controls))

    def observed(state: TrainState, value: jax.Array) -> TrainState:
        plateau, early_stop = compiled(state.plateau, state.early_stop, value)
        return state._replace(plateau=plateau, early_stop=early_stop)

    return observed
