"""AdamW or SGD with warm-up, optional decay to 0 and clipping."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxseg.config import Optimizer

_POLY_POWER = 0.9  # of Chen et al., 2018 (DeepLab), and nnU-Net


def learning_rate_schedule(config: Optimizer, num_steps: int) -> optax.Schedule:
    """Return step -> learning rate: linear from 0 over warm-up, then constant, cosine or poly.

    Cosine and poly reach 0 at num_steps; poly is the 0.9th power of the share of steps left.
    """
    rate, warmup = config.learning_rate, config.warmup_steps
    last = max(num_steps, warmup + 1)
    if config.cosine:
        return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, last)
    after = optax.constant_schedule(rate)
    if config.poly:
        after = optax.polynomial_schedule(rate, 0.0, _POLY_POWER, last - warmup)
    if warmup == 0:
        return after
    rise = optax.linear_schedule(0.0, rate, warmup)
    return optax.join_schedules([rise, after], [warmup]) if config.poly else rise


def is_kernel(params: Any) -> Any:
    """Return a tree of bools: True for kernels (weight decay), False for biases and scales."""
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def make_optimizer(config: Optimizer, num_steps: int) -> optax.GradientTransformation:
    """Return clip by global norm, then AdamW or SGD, with weight decay of the kernels.

    AdamW is that of Loshchilov and Hutter (2019); SGD has Nesterov's momentum, and the decay is
    added to the gradient, as in PyTorch and nnU-Net.
    """
    schedule = learning_rate_schedule(config, num_steps)
    if config.name == "adamw":
        rule = optax.adamw(schedule, weight_decay=config.weight_decay, mask=is_kernel)
    else:
        decay = optax.add_decayed_weights(config.weight_decay, mask=is_kernel)
        rule = optax.chain(decay, optax.sgd(schedule, config.momentum, nesterov=True))
    if config.clip_norm == 0:
        return rule
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)
