"""Settings of published networks, and of the levels that fit an image."""

import dataclasses
from collections.abc import Sequence

from jaxseg.config.training import Model, Optimizer
from jaxseg.errors import UserError

_LEAST_SIZE = 4  # voxels of an axis on the lowest level
_THICK = 2.0  # spacing, of the finest axis, from which an axis waits


def nnunet_plain(num_classes: int) -> Model:
    """Return nnU-Net's plain network of six levels, 31.2 M parameters for volumes.

    As nnU-Net v2 plans it for BraTS at 128^3 (Isensee et al., 2021): strided convolutions,
    instance norm, leaky ReLU, deep supervision but for the two lowest levels, whose outputs
    weigh .533, .267, .133 and .067. Its convolutions have a bias that the norm after them takes
    out again; ours have none, 0.02 % fewer parameters.

    Args:
        num_classes: regions, at least 1.
    """
    return Model(
        widths=(32, 64, 128, 256, 320, 320),
        num_classes=num_classes,
        downsample="stride",
        norm="instance",
        norm_epsilon=1e-5,
        activation="leaky_relu",
        deep_supervision=3,
    )


def residual_encoder_m(num_classes: int) -> Model:
    """Return nnU-Net's residual encoder M of six levels, 102 M parameters for volumes.

    Isensee et al., 2024 (arXiv:2404.09556): as `nnunet_plain`, but residual blocks in the encoder
    and one convolution per level of the decoder.

    Args:
        num_classes: regions, at least 1.
    """
    return dataclasses.replace(
        nnunet_plain(num_classes), blocks=(1, 3, 4, 6, 6, 6), decoder_convs=1
    )


def nnunet_optimizer() -> Optimizer:
    """Return nnU-Net's SGD: rate 0.01 with momentum, falling as a power; for batches of two."""
    return Optimizer(
        name="sgd", learning_rate=1e-2, warmup_steps=0, poly=True, weight_decay=3e-5, clip_norm=12.0
    )


def fit_levels(
    model: Model, image_size: tuple[int, ...], spacing_mm: tuple[float, ...] = ()
) -> Model:
    """Return the model with windows and kernels that suit the image, level by level.

    The rule is that of nnU-Net's planner (Isensee et al., 2021). An axis is halved while it is
    even, at least 4 voxels remain and its spacing is less than twice the finest of those that can
    be halved: thick axes wait. Convolutions span one voxel along an axis until its spacing is
    less than twice the finest, then three. Levels for which nothing is left to halve are dropped.

    Args:
        model: gives the largest number of levels.
        image_size: of a patch, voxels per axis.
        spacing_mm: of its voxels, per axis; (): the same along all.

    Raises:
        UserError: no axis can be halved even once.
    """
    size, spacing = list(image_size), list(spacing_mm or (1.0,) * len(image_size))
    windows, kernels, wide = [], [], [False] * len(size)
    while True:
        wide = [w or s < _THICK * min(spacing) for w, s in zip(wide, spacing, strict=True)]
        kernels.append(tuple(3 if w else 1 for w in wide))
        able = [n % 2 == 0 and n >= 2 * _LEAST_SIZE for n in size]
        if not any(able) or len(kernels) == len(model.widths):
            break
        finest = min(s for s, a in zip(spacing, able, strict=True) if a)
        window = [1 + (a and s < _THICK * finest) for s, a in zip(spacing, able, strict=True)]
        windows.append(tuple(window))
        size = [n // w for n, w in zip(size, window, strict=True)]
        spacing = [s * w for s, w in zip(spacing, window, strict=True)]
    if not windows:
        raise UserError(f"images of {image_size}: no axis is even and has at least 8 voxels")
    levels = len(kernels)
    dropped = len(model.widths) - levels
    return dataclasses.replace(
        model,
        widths=model.widths[:levels],
        blocks=model.blocks[:levels],
        windows=tuple(windows),
        kernels=tuple(kernels),
        deep_supervision=max(0, model.deep_supervision - dropped),
    )


def fit_patch(
    model: Model, shape: Sequence[int], spacing_mm: tuple[float, ...] = ()
) -> tuple[tuple[int, ...], Model]:
    """Return the patch nearest to a shape that can be halved often, and the model for it.

    An axis is rounded to a multiple of what its windows shrink it by, up or down; windows and
    kernels are those of `fit_levels`.

    Args:
        model: gives the largest number of levels.
        shape: wanted, voxels per axis.
        spacing_mm: of its voxels, per axis; (): the same along all.
    """
    able = 2 * _LEAST_SIZE
    shape = tuple(shape) if max(shape) >= able else (able,) * len(shape)
    often = [min(len(model.widths) - 1, max(n // _LEAST_SIZE, 1).bit_length() - 1) for n in shape]
    size = _nearest(shape, [1 << n for n in often])
    multiples = fit_levels(model, size, spacing_mm).multiple(len(shape))
    size = _nearest(shape, multiples)  # thick axes are halved less often
    return size, fit_levels(model, size, spacing_mm)


def _nearest(shape: Sequence[int], multiples: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(1, round(n / m)) * m for n, m in zip(shape, multiples, strict=True))
