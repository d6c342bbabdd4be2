"""Scalars and pictures for TensorBoard, where the extra `[tensorboard]` is installed."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


class TensorBoard:
    """Writes to folder with tensorboardX; does nothing when that is not installed."""

    def __init__(self, folder: Path, first_step: int):
        self.active = importlib.util.find_spec("tensorboardX") is not None
        if self.active:
            from tensorboardX import SummaryWriter  # slow to import and optional

            self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]):
        """Write each value under its name."""
        if self.active:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def images(self, step: int, pictures: Sequence[np.ndarray]):
        """Write pictures, [H, W, 3] uint8 each."""
        if self.active:
            for i, picture in enumerate(pictures):
                self._writer.add_image(f"validation/{i}", picture, step, dataformats="HWC")

    def close(self):
        """Finish writing."""
        if self.active:
            self._writer.close()
