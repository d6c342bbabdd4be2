"""jaxseg's U-Net and loss in PyTorch, with the names of its weights."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import workload


class Block(nn.Module):
    """Twice convolution 3x3, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(outputs)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]."""
        x = functional.relu(self.norm_1(self.conv_1(x)), inplace=True)
        return functional.relu(self.norm_2(self.conv_2(x)), inplace=True)


class UNet(nn.Module):
    """The classic U-Net."""

    def __init__(self, features: int):
        super().__init__()
        wide, depth = workload.widths(features), workload.LEVELS - 1
        self.depth = depth
        for level in range(depth):
            inputs = workload.CHANNELS if level == 0 else wide[level - 1]
            self.add_module(f"down_{level}", Block(inputs, wide[level]))
            up = nn.ConvTranspose2d(wide[level + 1], wide[level], 2, stride=2)
            self.add_module(f"grow_{level}", up)
            self.add_module(f"up_{level}", Block(2 * wide[level], wide[level]))
        self.bottleneck = Block(wide[-2], wide[-1])
        self.logits_0 = nn.Conv2d(wide[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> logits [B, 1, H, W]."""
        skips = []
        for level in range(self.depth):
            skips.append(getattr(self, f"down_{level}")(x))
            x = functional.max_pool2d(skips[-1], 2)
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
            value = value[::-1, ::-1].transpose(2, 3, 0, 1)
        elif name.endswith("/kernel"):
            value = value.transpose(3, 2, 0, 1)
        name = name.replace("/upconv", "").replace("/batch", "").replace("/", ".")
        name = name.replace("kernel", "weight").replace("scale", "weight")
        state[name] = torch.from_numpy(value.copy())
    statistics = {k: v for k, v in model.state_dict().items() if k not in state}
    model.load_state_dict(state | statistics)


def loss_fn(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return BCE + Dice, the sums of Dice taken over the whole batch."""
    logits = logits.float()
    bce = functional.binary_cross_entropy_with_logits(logits, mask)
    p, smooth = torch.sigmoid(logits), workload.DICE_SMOOTH
    overlap = (2 * (p * mask).sum() + smooth) / (p.sum() + mask.sum() + smooth)
    return bce + 1 - overlap
