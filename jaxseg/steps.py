"""One training step, one validation step, one prediction: pure functions, jitted on a mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxseg import losses, metrics
from jaxseg.config import Config
from jaxseg.control import observe_early_stop, observe_plateau
from jaxseg.model import UNet
from jaxseg.optimizer import learning_rate_schedule, make_optimizer
from jaxseg.sharding import replicated, split_batch
from jaxseg.state import TrainState, Weights

Batch = dict[str, jax.Array]


class ValidationSums(NamedTuple):
    """Sums over the validation slices; parts add up."""

    counts: metrics.Counts  # int32 [num_patients, K]
    loss: jax.Array  # float32, weighted sum over slices
    slices: jax.Array  # float32, sum of the weights


def supervised_loss(logits: tuple[jax.Array, ...], mask: jax.Array, config: Any) -> jax.Array:
    """Return the mean loss over the batch; coarser outputs weigh 1/2, 1/4, ... of the first.

    Args:
        logits: ([B, *S, K], [B, *S/2, K], ...).
        mask: [B, *S, K] float32; thinned out (every 2nd, 4th, ... voxel) for coarser outputs.
        config: the `Loss` section.
    """
    total, weights = jnp.float32(0), 0.0
    for level, output in enumerate(logits):
        thin = (slice(None), *(slice(None, None, 2**level),) * (mask.ndim - 2))
        total += 0.5**level * jnp.mean(losses.combined(output, mask[thin], config))
        weights += 0.5**level
    return total / weights


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: UNet,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Config,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Take one step; an update with a non-finite loss or gradient is skipped and counted.

    Args:
        state: the train state; the other arguments are bound by `jit_train_step`.
        batch: image [B, *S, C] float32 and mask [B, *S, K] of {0, 1}.

    Returns:
        The new state, and scalars: train_loss, train_dice (hard, pooled over the batch),
        learning_rate, gradient_norm, nonfinite_in_row, nonfinite_total.
    """
    mask = batch["mask"].astype(jnp.float32)
    dropout_key = jax.random.fold_in(state.key, state.step)
    # Skipped updates do not count for the optimiser's schedule.
    learning_rate = schedule(state.step - state.nonfinite_total) * state.plateau.scale

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.weights.batch_stats}
        options = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": dropout_key}}
        logits, updated = model.apply(variables, batch["image"], **options)
        logits_and_stats = logits[0], updated.get("batch_stats", {})
        return supervised_loss(logits, mask, config.loss), logits_and_stats

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
    }


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


def predict_logits(weights: Weights, image: jax.Array, *, model: UNet) -> jax.Array:
    """Return logits float32 [B, *S, K] of images float32 [B, *S, C]."""
    variables = {"params": weights.params, "batch_stats": weights.batch_stats}
    return model.apply(variables, image, train=False)[0]


def predict_probabilities(weights: Weights, image: jax.Array, *, model: UNet) -> jax.Array:
    """Return probabilities float32 [B, *S, K] in 0..1 of images float32 [B, *S, C]."""
    return jax.nn.sigmoid(predict_logits(weights, image, model=model))


def validation_step(
    weights: Weights, batch: Batch, sums: ValidationSums, *, model: UNet, config: Config
) -> ValidationSums:
    """Add one batch's counts and loss to the sums; samples of weight 0 add nothing.

    The loss takes Dice per slice, whatever the training does, so that it does not depend
    on how slices fall into batches.
    """
    logits = predict_logits(weights, batch["image"], model=model)
    mask, weight = batch["mask"].astype(jnp.float32), batch["weight"]
    counts = metrics.count(
        jax.nn.sigmoid(logits) >= config.evaluation.threshold,
        mask > 0.5,
        weight,
        batch["patient"],
        sums.counts.tp.shape[0],
    )
    per_slice = losses.combined(
        logits, mask, dataclasses.replace(config.loss, dice_over_batch=False)
    )
    loss = jnp.sum(jnp.where(weight > 0, per_slice, 0) * weight)
    return ValidationSums(sums.counts + counts, sums.loss + loss, sums.slices + jnp.sum(weight))


def empty_sums(num_patients: int, num_classes: int) -> ValidationSums:
    """Return the sums of no slices."""
    zeros = jnp.zeros((num_patients, num_classes), jnp.int32)
    return ValidationSums(metrics.Counts(zeros, zeros, zeros), jnp.float32(0), jnp.float32(0))


def observe(state: TrainState, value: jax.Array, *, config: Config) -> TrainState:
    """Show an evaluation's value (larger is better) to plateau and early stop."""
    return state._replace(
        plateau=observe_plateau(state.plateau, value, config.plateau),
        early_stop=observe_early_stop(state.early_stop, value, config.early_stop),
    )


def jit_train_step(config: Config, mesh: Mesh) -> Callable:
    """Return the compiled `train_step` (state, batch) -> (state, metrics); state is donated."""
    bound = functools.partial(
        train_step,
        model=UNet(config.model),
        tx=make_optimizer(config.optimizer, config.train.num_steps),
        schedule=learning_rate_schedule(config.optimizer, config.train.num_steps),
        config=config,
    )
    everywhere = replicated(mesh)
    return jax.jit(
        bound,
        in_shardings=(everywhere, split_batch(mesh)),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )


def jit_validation_step(config: Config, mesh: Mesh) -> Callable:
    """Return the compiled `validation_step` (weights, batch, sums) -> sums."""
    everywhere = replicated(mesh)
    return jax.jit(
        functools.partial(validation_step, model=UNet(config.model), config=config),
        in_shardings=(everywhere, split_batch(mesh), everywhere),
        out_shardings=everywhere,
    )


def jit_predict(config: Config, mesh: Mesh) -> Callable:
    """Return the compiled `predict_probabilities` (weights, image) -> probabilities."""
    return jax.jit(
        functools.partial(predict_probabilities, model=UNet(config.model)),
        in_shardings=(replicated(mesh), split_batch(mesh)),
        out_shardings=split_batch(mesh),
    )


def jit_observe(config: Config) -> Callable:
    """Return the compiled `observe` (state, value) -> state."""
    return jax.jit(functools.partial(observe, config=config))
