"""Runs that predict together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.config import Config
from jaxseg.datasets.prepare import channel_names
from jaxseg.errors import UserError
from jaxseg.prediction import operating
from jaxseg.prediction.inference import Model, predict_volume
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.prediction.windows import predict_tiles
from jaxseg.runs import workdir


class Ensemble(NamedTuple):
    """Runs that predict together."""

    runs: tuple[Path, ...]
    configs: tuple[Config, ...]
    channels: tuple[str, ...]  # the same for all
    points: tuple[OperatingPoint, ...]

    def point(self) -> OperatingPoint:
        """Return the mean of the runs' thresholds and smallest lesions; 1 as temperature."""
        threshold = float(np.mean([p.threshold for p in self.points]))
        min_lesion = float(np.mean([p.min_lesion for p in self.points]))
        return OperatingPoint(threshold, min_lesion, self.points[0].unit)


def read_ensemble(runs: Sequence[Path]) -> Ensemble:
    """Return what the runs agree on, without their weights.

    Raises:
        UserError: a folder holds no run; they take other channels or measure lesions otherwise.
    """
    configs = tuple(workdir.load_config(run) for run in runs)
    channels = [
        channel_names(config.dataset, workdir.num_channels(run))
        for run, config in zip(runs, configs, strict=True)
    ]
    points = [operating.read(run, config) for run, config in zip(runs, configs, strict=True)]
    for run, names, point in zip(runs, channels, points, strict=True):
        if names != channels[0]:
            raise UserError(
                f"--workdir {run}: takes the channels {', '.join(names)}, but {runs[0]} takes "
                f"{', '.join(channels[0])}"
            )
        if point.unit != points[0].unit:
            raise UserError(
                f"--workdir {run}: its smallest lesion is in {point.unit}, that of {runs[0]} in "
                f"{points[0].unit}"
            )
    return Ensemble(tuple(runs), configs, channels[0], tuple(points))


def predict_probability(
    models: Sequence[Model], records: Sequence[dict[str, Any]], tile: bool
) -> np.ndarray:
    """Return the mean probability of the models, float32 [D, H, W] in 0..1, calibrated.

    Args:
        models: at least one.
        records: of the slices, from `inference.make_records`.
        tile: at the scan's own resolution, see `tiles`; else resized as in training.
    """
    predict = predict_tiles if tile else predict_volume
    return sum(predict(model, records)[..., 0] for model in models) / np.float32(len(models))
