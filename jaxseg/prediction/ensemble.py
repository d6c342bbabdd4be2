"""Runs that predict together."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.config import Config
from jaxseg.errors import UserError
from jaxseg.imaging.volumes import with_statistics
from jaxseg.layouts.kinds import DataSet, kind_of
from jaxseg.prediction import operating
from jaxseg.prediction.inference import predict_volume
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.prediction.predictor import Predictor
from jaxseg.prediction.windows import predict_tiles
from jaxseg.runs import workdir
from jaxseg.scans.volume import Volume


class Ensemble(NamedTuple):
    """What the runs agree on, without their weights."""

    runs: tuple[Path, ...]
    config: Config  # of the first
    channels: tuple[str, ...]  # the same for all
    kind: DataSet  # of the first; its regions are those of all
    points: tuple[tuple[OperatingPoint, ...], ...]  # [runs][regions]

    @property
    def of_volumes(self) -> bool:
        """Whether they were trained on patches of volumes, not on slices."""
        return len(self.config.input.image_size) == 3

    def mean_points(self) -> list[OperatingPoint]:
        """Return for each region the mean threshold and smallest lesion; 1 as temperature."""
        return [
            OperatingPoint(
                float(np.mean([p.threshold for p in points])),
                float(np.mean([p.min_lesion for p in points])),
                points[0].unit,
            )
            for points in zip(*self.points, strict=True)
        ]


def read_ensemble(runs: Sequence[Path]) -> Ensemble:
    """Return the runs as one.

    Raises:
        UserError: a folder holds no run; they take other channels, have other regions or measure
            lesions otherwise.
    """
    members = [_read_member(run) for run in runs]
    first_channels, first_regions, first_points = members[0][1:]
    for run, (_, channels, regions, points) in zip(runs, members, strict=True):
        for what, own, first in (
            ("takes the channels", channels, first_channels),
            ("has the regions", regions, first_regions),
        ):
            if own != first:
                raise UserError(
                    f"--workdir {run}: {what} {', '.join(own)}, but {runs[0]} {what.split()[0]} "
                    f"{', '.join(first)}"
                )
        if points[0].unit != first_points[0].unit:
            raise UserError(
                f"--workdir {run}: its smallest lesion is in {points[0].unit}, that of {runs[0]} "
                f"in {first_points[0].unit}"
            )
    config = members[0][0]
    for run, (own, *_) in zip(runs, members, strict=True):
        if len(own.input.image_size) != len(config.input.image_size):
            raise UserError(f"--workdir {run} and {runs[0]}: one of them is of slices, not volumes")
    points = tuple(member[3] for member in members)
    return Ensemble(tuple(runs), config, first_channels, kind_of(config.dataset), points)


def _read_member(run: Path) -> tuple:
    """Return config, names of channels, names of regions and operating points of a run."""
    config, regions = workdir.load_config(run), workdir.region_names(run)
    channels = kind_of(config.dataset).channel_names(workdir.num_channels(run))
    return config, channels, regions, operating.read(run, config, regions)


def predict_probability(models: Sequence[Predictor], volume: Volume, tile: bool) -> np.ndarray:
    """Return the mean probability of the models, float32 [D, H, W, K] in 0..1, calibrated.

    Args:
        models: at least one.
        volume: with the channels trained on.
        tile: slices at the scan's own resolution, see `windows`; else as in training.
    """
    predict = predict_tiles if tile else predict_volume
    volume = with_statistics(volume, fitted=len(models[0].config.input.image_size) == 2)
    mean = predict(models[0], volume)
    for model in models[1:]:
        mean += predict(model, volume)
    mean /= np.float32(len(models))
    return mean
