"""AdamW with warm-up, optional cosine decay and clipping."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxseg.config import Optimizer


def learning_rate_schedule(config: Optimizer, num_steps: int) -> optax.Schedule:
    """Return step -> learning rate: linear from 0 over warm-up, then constant or cosine to 0."""
    if config.cosine:
        return optax.warmup_cosine_decay_schedule(
            0.0, config.learning_rate, config.warmup_steps, max(num_steps, config.warmup_steps + 1)
        )
    if config.warmup_steps == 0:
        return optax.constant_schedule(config.learning_rate)
    return optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)


def is_kernel(params: Any) -> Any:
    """Return a tree of bools: True for kernels (weight decay), False for biases and scales."""
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def make_optimizer(config: Optimizer, num_steps: int) -> optax.GradientTransformation:
    """Return clip by global norm, then AdamW (Loshchilov and Hutter, 2019)."""
    schedule = learning_rate_schedule(config, num_steps)
    adamw = optax.adamw(schedule, weight_decay=config.weight_decay, mask=is_kernel)
    if config.clip_norm == 0:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
