"""The U-Net (Ronneberger et al., 2015) as a linen module, for images and volumes alike.

With settings of `config/networks.py` it is nnU-Net's plain network or its residual encoder
(Isensee et al., 2021 and 2024).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.config import Model
from jaxseg.models.initial import kernel_init
from jaxseg.models.layers import batch_norm, convolve, instance_norm, leaky_relu
from jaxseg.models.resampling import UpConv, max_pool, mean_pool, repeat

Conv = functools.partial(nn.Conv, conv_general_dilated=convolve, kernel_init=kernel_init)


class Norm(nn.Module):
    """Batch, group (at most 8 groups) or instance norm in float32, then ReLU where asked."""

    kind: str
    dtype: jnp.dtype
    relu: bool
    slope: float = 0.0  # of the ReLU below 0
    epsilon: float = 1e-6  # of group and instance norm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise [B, *S, C]; batch statistics are those of the global batch."""
        if self.kind == "batch":
            y = batch_norm(x, train, self.relu and not self.slope, self.dtype)
            return leaky_relu(y, self.slope) if self.relu and self.slope else y
        if self.kind == "instance":
            slope = self.slope if self.relu else 1.0
            return instance_norm(x, slope, self.dtype, self.epsilon)
        groups = max(g for g in range(1, 9) if x.shape[-1] % g == 0)
        # Two-pass variance, as with the batch.
        common = {"dtype": self.dtype, "use_fast_variance": False, "name": self.kind}
        y = nn.GroupNorm(num_groups=groups, epsilon=self.epsilon, **common)(x)
        return leaky_relu(y, self.slope) if self.relu else y


class Block(nn.Module):
    """So many times convolution, norm, ReLU; optionally with the input added before the last ReLU.

    The first convolution may take strides; the input that is added is then averaged over them.
    """

    features: int
    config: Model
    kernel: tuple[int, ...]  # odd, per axis
    strides: tuple[int, ...]  # of the first convolution, per axis
    convs: int = 2
    residual: bool = False
    drop: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, *S, C] -> [B, *(S / strides), features]."""
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        # The norm that follows a convolution has a bias of its own.
        conv = functools.partial(Conv, self.features, use_bias=False, dtype=dtype)
        norm = functools.partial(
            *(Norm, config.norm, dtype), slope=config.slope, epsilon=config.norm_epsilon
        )
        y = x
        for i in range(1, self.convs + 1):
            strided = {}
            if i == 1 and max(self.strides) > 1:
                # Not "SAME", which would look to one side of the first voxel of a window only.
                around = [(size // 2, size // 2) for size in self.kernel]
                strided = {"strides": self.strides, "padding": around}
            add = i == self.convs and self.residual
            y = conv(self.kernel, name=f"conv_{i}", **strided)(y)
            y = norm(relu=not add, name=f"norm_{i}")(y, train)
        if self.residual:
            x = mean_pool(x, self.strides) if max(self.strides) > 1 else x
            if x.shape[-1] != self.features:
                x = conv((1,) * len(self.kernel), name="skip")(x)
                x = norm(relu=False, name="skip_norm")(x, train) if config.blocks else x
            y = leaky_relu(y + x.astype(dtype), config.slope)
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
            x: [B, *S, C] float32, each of S a multiple of the product of its windows,
                `config.multiple`.
            train: use batch statistics and dropout, and return the coarser outputs too.

        Returns:
            Logits, float32: `([B, *S, K],)`, with deep supervision in training followed by those
            of the coarser levels, each smaller by the window before it.

        Raises:
            ValueError: a size is no such multiple.
        """
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        rank, depth = x.ndim - 2, len(config.widths) - 1
        for axis, (size, multiple) in enumerate(
            zip(x.shape[1:-1], config.multiple(rank), strict=True)
        ):
            if size % multiple:
                raise ValueError(f"axis {axis} of {size} must be a multiple of {multiple}")
        skips, logits = [], []
        for level in range(depth + 1):
            if level and config.downsample == "pool":
                x = max_pool(x, config.window(level - 1, rank))
            x = _encode(x, level, config, train)
            skips.append(x)
        x = skips.pop()
        for level in reversed(range(depth)):
            width, kernel = config.widths[level], config.kernel(level, rank)
            up = Up(width, config, config.window(level, rank), kernel, name=f"grow_{level}")
            x = up(skips[level], x)
            options = {"convs": config.decoder_convs, "residual": config.residual}
            options |= {"drop": level >= depth - 1, "name": f"up_{level}"}
            x = _block(config)(width, config, kernel, (1,) * rank, **options)(x, train)
            if level == 0 or (train or self.is_initializing()) and level <= config.deep_supervision:
                one = (1,) * rank
                head = Conv(config.num_classes, one, dtype=dtype, name=f"logits_{level}")
                logits.insert(0, head(x).astype(jnp.float32))
        return tuple(logits)


def _block(config: Model) -> type[nn.Module]:
    # Named blocks keep the parameters' names the same with and without remat.
    return nn.remat(Block, static_argnums=(2,)) if config.remat else Block


def _encode(x: jax.Array, level: int, config: Model, train: bool) -> jax.Array:
    """Run one level of the encoder, within the module that calls: [B, *S, C] -> [B, *S', width]."""
    rank, deepest = x.ndim - 2, len(config.widths) - 1
    name = "bottleneck" if level == deepest else f"down_{level}"
    one, kernel = (1,) * rank, config.kernel(level, rank)
    strided = level > 0 and config.downsample == "stride"
    strides = config.window(level - 1, rank) if strided else one
    block = functools.partial(
        *(_block(config), config.widths[level], config, kernel), drop=level >= deepest - 1
    )
    if not config.blocks:
        return block(strides, residual=config.residual, name=name)(x, train)
    if level == 0:
        x = block(one, convs=1, drop=False, name="stem")(x, train)
    for i in range(config.blocks[level]):
        x = block(strides if i == 0 else one, residual=True, name=f"{name}_{i}")(x, train)
    return x


class Up(nn.Module):
    """Enlarge by a window: transposed convolution, or nearest neighbour and a convolution.

    The result stands behind the skip of its level.
    """

    features: int
    config: Model
    window: tuple[int, ...]
    kernel: tuple[int, ...]

    @nn.compact
    def __call__(self, skip: jax.Array, x: jax.Array) -> jax.Array:
        """[B, *(S window), K], [B, *S, C] -> [B, *(S window), K + features]."""
        dtype = jnp.dtype(self.config.compute_dtype)
        if self.config.upsample == "transpose":
            return UpConv(self.features, self.window, dtype, name="upconv")(skip, x)
        conv = Conv(self.features, self.kernel, dtype=dtype, name="conv")
        return jnp.concatenate([skip, conv(repeat(x, self.window))], axis=-1)
