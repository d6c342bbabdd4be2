"""Segmentation losses from logits.

One contract: logits and mask `[B, ..., K]` float32 give one loss per sample `[B]`; the
mean over the batch is taken once, by the caller. The mask holds 0 or 1 (or a probability).
Dice and Tversky take `over_batch`: their sums then run over the whole (global) batch and
every sample gets the same value, which is steadier where many samples are empty.
All are finite with finite gradients for |logit| up to 1e4.
"""

import jax
import jax.numpy as jnp

from jaxseg.config import Loss


def _check_same_shape(logits: jax.Array, mask: jax.Array):
    if logits.shape != mask.shape:
        raise ValueError(f"logits {logits.shape} and mask {mask.shape} differ in shape")


def _spatial_mean(values: jax.Array) -> jax.Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def bce(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the binary cross-entropy, mean over voxels and classes.

    Args:
        logits: [B, ..., K] float32.
        mask: [B, ..., K] float32 in 0..1.

    Returns:
        [B] float32, at least 0.

    Raises:
        ValueError: the shapes differ.
    """
    _check_same_shape(logits, mask)
    # Not max(x, 0) - x m + log1p(exp(-|x|)), whose automatic gradient is wrong at x = 0.
    loss = -mask * jax.nn.log_sigmoid(logits) - (1 - mask) * jax.nn.log_sigmoid(-logits)
    return _spatial_mean(loss)


def focal(logits: jax.Array, mask: jax.Array, gamma: float) -> jax.Array:
    """Return the focal loss (Lin et al., 2017), mean over voxels and classes.

    Args:
        logits: [B, ..., K] float32.
        mask: [B, ..., K] float32 in {0, 1}.
        gamma: at least 0; 0 gives `bce`.

    Returns:
        [B] float32, at least 0.

    Raises:
        ValueError: the shapes differ.
    """
    _check_same_shape(logits, mask)
    log_p = jax.nn.log_sigmoid(jnp.where(mask > 0.5, logits, -logits))  # of the true class
    if gamma == 0:
        return _spatial_mean(-log_p)
    # (1 - p)^gamma as exp(gamma log(1 - p)) keeps the gradient finite where p rounds to 1.
    log_miss = jax.nn.log_sigmoid(jnp.where(mask > 0.5, -logits, logits))
    return _spatial_mean(-jnp.exp(gamma * log_miss) * log_p)


def soft_tversky(
    logits: jax.Array,
    mask: jax.Array,
    alpha: float,
    beta: float,
    smooth: float,
    over_batch: bool,
) -> jax.Array:
    """Return 1 - (tp + s) / (tp + alpha fp + beta fn + s), mean over classes (Salehi et al., 2017).

    Args:
        logits: [B, ..., K] float32.
        mask: [B, ..., K] float32 in 0..1.
        alpha: weight of false positives, at least 0.
        beta: weight of false negatives, at least 0.
        smooth: s, voxels added above and below; makes an empty mask with an empty
            prediction cost 0.
        over_batch: sum over the batch too; every sample then has the same loss.

    Returns:
        [B] float32 in 0..1.

    Raises:
        ValueError: the shapes differ.
    """
    _check_same_shape(logits, mask)
    axes = tuple(range(0 if over_batch else 1, logits.ndim - 1))
    p = jax.nn.sigmoid(logits)
    tp = jnp.sum(p * mask, axis=axes)
    fp = jnp.sum(p * (1 - mask), axis=axes)
    fn = jnp.sum((1 - p) * mask, axis=axes)
    loss = jnp.mean(1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth), axis=-1)
    return jnp.broadcast_to(loss, logits.shape[:1])


def soft_dice(
    logits: jax.Array, mask: jax.Array, smooth: float = 1.0, over_batch: bool = False
) -> jax.Array:
    """Return 1 - (2 tp + s) / (pred + true + s), mean over classes (Milletari et al., 2016).

    Args, returns and errors as in `soft_tversky`, of which it is the case alpha = beta = 1/2.
    """
    return soft_tversky(logits, mask, 0.5, 0.5, smooth / 2, over_batch)


def combined(logits: jax.Array, mask: jax.Array, config: Loss) -> jax.Array:
    """Return the weighted sum of the configured terms: [B, ..., K] twice -> [B] float32."""
    total = jnp.zeros(logits.shape[:1], jnp.float32)
    smooth, over_batch = config.dice_smooth, config.dice_over_batch
    if config.bce:
        total += config.bce * bce(logits, mask)
    if config.dice:
        total += config.dice * soft_dice(logits, mask, smooth, over_batch)
    if config.focal:
        total += config.focal * focal(logits, mask, config.focal_gamma)
    if config.tversky:
        alpha, beta = config.tversky_alpha, config.tversky_beta
        total += config.tversky * soft_tversky(logits, mask, alpha, beta, smooth, over_batch)
    return total
