"""jaxseg's U-Net and loss in PyTorch, with the names of its weights."""

import functools

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import workload

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}


class Block(nn.Module):
    """Twice convolution 3x3 or 3x3x3, batch or instance norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kind: workload.Kind):
        super().__init__()
        conv = functools.partial(_CONV[kind.rank], kernel_size=3, padding=1, bias=False)
        self.conv_1, self.conv_2 = conv(inputs, outputs), conv(outputs, outputs)
        self.norm_1, self.norm_2 = (make_norm(outputs, kind) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, *S] -> [B, outputs, *S]."""
        x = functional.relu(self.norm_1(self.conv_1(x)), inplace=True)
        return functional.relu(self.norm_2(self.conv_2(x)), inplace=True)


def make_norm(channels: int, kind: workload.Kind) -> nn.Module:
    """Return the norm that jaxseg has; instance norm with its epsilon."""
    if kind.norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm3d(channels, eps=1e-6, affine=True)


class UNet(nn.Module):
    """The classic U-Net."""

    def __init__(self, features: int, kind: workload.Kind = workload.IMAGES):
        super().__init__()
        self.pool = _POOL[kind.rank]
        wide, depth = workload.widths(features), workload.LEVELS - 1
        self.depth = depth
        for level in range(depth):
            inputs = kind.channels if level == 0 else wide[level - 1]
            self.add_module(f"down_{level}", Block(inputs, wide[level], kind))
            up = _TRANSPOSED[kind.rank](wide[level + 1], wide[level], 2, stride=2)
            self.add_module(f"grow_{level}", up)
            self.add_module(f"up_{level}", Block(2 * wide[level], wide[level], kind))
        self.bottleneck = Block(wide[-2], wide[-1], kind)
        self.logits_0 = _CONV[kind.rank](wide[0], kind.regions, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, channels, *S] -> logits [B, regions, *S]."""
        skips = []
        for level in range(self.depth):
            skips.append(getattr(self, f"down_{level}")(x))
            x = self.pool(skips[-1], 2)
        x = self.bottleneck(x)
        for level in reversed(range(self.depth)):
            x = getattr(self, f"grow_{level}")(x)
            x = getattr(self, f"up_{level}")(torch.cat([skips[level], x], dim=1))
        return self.logits_0(x)


def load_weights(model: UNet, weights: dict[str, np.ndarray]):
    """Give the model the weights of `workload.make_weights`."""
    state = {}
    for name, value in weights.items():
        if name.endswith("upconv/kernel"):  # flax keeps it mirrored
            value = np.moveaxis(np.flip(value, range(value.ndim - 2)), (-2, -1), (0, 1))
        elif name.endswith("/kernel"):
            value = np.moveaxis(value, (-1, -2), (0, 1))
        name = name.replace("/upconv", "").replace("/batch", "").replace("/instance", "")
        name = name.replace("/", ".")
        name = name.replace("kernel", "weight").replace("scale", "weight")
        state[name] = torch.from_numpy(value.copy())
    statistics = {k: v for k, v in model.state_dict().items() if k not in state}
    model.load_state_dict(state | statistics)


def loss_fn(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return BCE + Dice of each region, the sums of Dice taken over the whole batch."""
    logits = logits.float()
    bce = functional.binary_cross_entropy_with_logits(logits, mask)
    p, smooth = torch.sigmoid(logits), workload.DICE_SMOOTH
    axes = [axis for axis in range(mask.ndim) if axis != 1]
    overlap = (2 * (p * mask).sum(axes) + smooth) / (p.sum(axes) + mask.sum(axes) + smooth)
    return bce + 1 - overlap.mean()
