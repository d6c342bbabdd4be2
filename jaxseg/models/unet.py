"""The U-Net (Ronneberger et al., 2015) as a linen module, for images and volumes alike."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.config import Model
from jaxseg.models.layers import UpConv, batch_norm, convolve, instance_norm, max_pool, repeat

Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)


class Norm(nn.Module):
    """Batch, group (at most 8 groups) or instance norm in float32, then ReLU where asked."""

    kind: str
    dtype: jnp.dtype
    relu: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise [B, *S, C]; batch statistics are those of the global batch."""
        if self.kind == "batch":
            return batch_norm(x, train, self.relu, self.dtype)
        if self.kind == "instance":
            return instance_norm(x, 0.0 if self.relu else 1.0, self.dtype)
        groups = max(g for g in range(1, 9) if x.shape[-1] % g == 0)
        # Two-pass variance, as with the batch.
        common = {"dtype": self.dtype, "use_fast_variance": False, "name": self.kind}
        y = nn.GroupNorm(num_groups=groups, **common)(x)
        return nn.relu(y) if self.relu else y


class Block(nn.Module):
    """Twice convolution 3x3, norm, ReLU; optionally with the input added before the last ReLU."""

    features: int
    config: Model
    drop: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, *S, C] -> [B, *S, features]."""
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        window = (3,) * (x.ndim - 2)
        y = x
        for i in (1, 2):
            # The norm that follows has a bias of its own.
            conv = Conv(self.features, window, use_bias=False, dtype=dtype, name=f"conv_{i}")
            add = i == 2 and config.residual
            y = Norm(config.norm, dtype, not add, name=f"norm_{i}")(conv(y), train)
            if add:
                if x.shape[-1] != self.features:
                    one = (1,) * (x.ndim - 2)
                    x = Conv(self.features, one, use_bias=False, dtype=dtype, name="skip")(x)
                y = nn.relu(y + x.astype(dtype))
        if self.drop and config.dropout:
            y = nn.Dropout(config.dropout, deterministic=not train, name="dropout")(y)
        return y


class UNet(nn.Module):
    """Encoder and decoder with skip concatenations; `config.widths` gives the depth."""

    config: Model

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Segment a batch.

        Args:
            x: [B, *S, C] float32, each of S a multiple of 2^(levels - 1).
            train: use batch statistics and dropout, and return the coarser outputs too.

        Returns:
            Logits, float32: `([B, *S, K],)`, with deep supervision in training followed by
            `[B, *S/2, K]`, `[B, *S/4, K]`, ...

        Raises:
            ValueError: a size is no such multiple.
        """
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        depth = len(config.widths) - 1
        if any(size % 2**depth for size in x.shape[1:-1]):
            raise ValueError(f"size {x.shape[1:-1]}: every size must be a multiple of {2**depth}")
        # Named blocks keep the parameters' names the same with and without remat.
        block = nn.remat(Block, static_argnums=(2,)) if config.remat else Block
        skips, logits = [], []
        for level, width in enumerate(config.widths[:-1]):
            x = block(width, config, level >= depth - 1, name=f"down_{level}")(x, train)
            skips.append(x)
            x = max_pool(x)
        x = block(config.widths[-1], config, True, name="bottleneck")(x, train)
        for level in reversed(range(depth)):
            width = config.widths[level]
            x = Up(width, config, name=f"grow_{level}")(x)
            x = jnp.concatenate([skips[level], x], axis=-1)
            x = block(width, config, level >= depth - 1, name=f"up_{level}")(x, train)
            if level == 0 or (train or self.is_initializing()) and level <= config.deep_supervision:
                one = (1,) * (x.ndim - 2)
                head = Conv(config.num_classes, one, dtype=dtype, name=f"logits_{level}")
                logits.insert(0, head(x).astype(jnp.float32))
        return tuple(logits)


class Up(nn.Module):
    """Enlarge by 2: transposed convolution, or nearest neighbour and a 3x3 convolution."""

    features: int
    config: Model

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, *S, C] -> [B, *2S, features]."""
        dtype = jnp.dtype(self.config.compute_dtype)
        if self.config.upsample == "transpose":
            return UpConv(self.features, dtype, name="upconv")(x)
        window = (3,) * (x.ndim - 2)
        return Conv(self.features, window, dtype=dtype, name="conv")(repeat(x))
