"""The work itself: images or volumes, masks and first weights, the same for every implementation.

Needs NumPy alone, so that each implementation makes them in its own environment.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Kind(NamedTuple):
    """What the network sees, and how it normalises it."""

    rank: int
    channels: int
    regions: int  # one within the other
    norm: str


IMAGES = Kind(2, 3, 1, "batch")
VOLUMES = Kind(3, 4, 3, "instance")
CHANNELS = IMAGES.channels


def kind_of(settings: Mapping[str, Any]) -> Kind:
    """Return what a worker's settings ask for."""
    return VOLUMES if settings.get("task") == "volumes" else IMAGES


LEVELS = 5  # of the classic U-Net: 4 poolings
LEARNING_RATE = 1e-3
DICE_SMOOTH = 1.0  # pixels
SLICES = 1024  # that the input pipelines read again and again
ROTATION_DEGREES = 15.0  # drawn from +-this
EVALUATED_SLICES = 1000


def widths(features: int) -> tuple[int, ...]:
    """Return the features of each level, from the finest on."""
    return tuple(features * 2**level for level in range(LEVELS))


def make_batch(batch: int, size: int, kind: Kind = IMAGES) -> tuple[np.ndarray, np.ndarray]:
    """Return noise with a bright square or cube in three of four samples, and that as the mask.

    Returns:
        image [batch, size, ..., channels] float32 and mask [batch, size, ..., regions] float32
        {0, 1}; each further region is an eighth of the side within the one before.
    """
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch, *(size,) * kind.rank, kind.channels), np.float32)
    mask = np.zeros((*image.shape[:-1], kind.regions), np.float32)
    side = size // 4
    for i, place in enumerate(rng.integers(0, size - side, (batch, kind.rank))):
        for region in range(kind.regions if i % 4 != 3 else 0):
            inset = region * side // 8
            mask[i, *(slice(at + inset, at + side - inset) for at in place), region] = 1
    return image + 2 * mask[..., :1], mask


def make_slices(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slices as a scanner stores them: a bright disc on black, a square lesion in half.

    Returns:
        image [count, size, size, 3] uint8 and mask [count, size, size, 1] uint8 {0, 1}.
    """
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:size, :size] / size - 0.5
    head = (np.hypot(x, y) < 0.4).astype(np.float32)[..., None]
    image = np.empty((count, size, size, CHANNELS), np.uint8)
    mask = np.zeros((count, size, size, 1), np.uint8)
    side = size // 8
    for i, (row, column) in enumerate(rng.integers(size // 4, size // 2, (count, 2))):
        if i % 2:
            mask[i, row : row + side, column : column + side] = 1
        noise = rng.normal(100, 20, (size, size, CHANNELS)).astype(np.float32)
        image[i] = np.clip((noise + 60 * mask[i]) * head, 0, 255)
    return image, mask


def make_weights(features: int, kind: Kind = IMAGES) -> dict[str, np.ndarray]:
    """Return the first weights by the names and shapes that jaxseg gives them.

    Kernels [3, ..., 3, in, out] of convolutions, [2, ..., 2, in, out] of transposed ones (as
    `flax.linen.ConvTranspose` keeps them: mirrored) and [1, ..., 1, in, out] of the logits, with
    variance 1 / inputs; biases 0, scales 1.
    """
    rng = np.random.default_rng(1)
    weights = {}
    three, two, one = ((n,) * kind.rank for n in (3, 2, 1))

    def kernel(name: str, *shape: int):
        std = np.float32(np.prod(shape[:-1])) ** -0.5
        weights[f"{name}/kernel"] = std * rng.standard_normal(shape, np.float32)

    def block(name: str, inputs: int, outputs: int):
        for i in (1, 2):
            kernel(f"{name}/conv_{i}", *three, inputs if i == 1 else outputs, outputs)
            weights[f"{name}/norm_{i}/{kind.norm}/scale"] = np.ones(outputs, np.float32)
            weights[f"{name}/norm_{i}/{kind.norm}/bias"] = np.zeros(outputs, np.float32)

    wide = widths(features)
    for level in range(LEVELS - 1):
        block(f"down_{level}", kind.channels if level == 0 else wide[level - 1], wide[level])
    block("bottleneck", wide[-2], wide[-1])
    for level in reversed(range(LEVELS - 1)):
        kernel(f"grow_{level}/upconv", *two, wide[level + 1], wide[level])
        weights[f"grow_{level}/upconv/bias"] = np.zeros(wide[level], np.float32)
        block(f"up_{level}", 2 * wide[level], wide[level])
    kernel("logits_0", *one, wide[0], kind.regions)
    weights["logits_0/bias"] = np.zeros(kind.regions, np.float32)
    return weights


def flops(features: int, size: int, kind: Kind = IMAGES) -> tuple[float, float]:
    """Return the operations of the convolutions on one sample: forward, and in a training step.

    Two per multiply-add; the training step has forward, gradient of the kernels and gradient of
    the inputs, except of the image itself.
    """
    forward = image_gradient = 0.0
    for name, kernel in make_weights(features, kind).items():
        if not name.endswith("/kernel"):
            continue
        block = name.split("/")[0]
        level = LEVELS - 1 if block == "bottleneck" else int(block[-1])
        # A transposed convolution multiplies each pixel of the coarser level by all windows of 2.
        pixels = (size // 2 ** (level + block.startswith("grow"))) ** kind.rank
        forward += 2.0 * kernel.size * pixels
        if name == "down_0/conv_1/kernel":
            image_gradient = 2.0 * kernel.size * pixels
    return forward, 3 * forward - image_gradient
