"""A trained run, loaded: the one way from a workdir to something that predicts."""

from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from jaxseg.config import Config
from jaxseg.layouts.kinds import DataSet, kind_of
from jaxseg.models.apply import Weights
from jaxseg.prediction import operating
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.prediction.predictor import Predictor, make_predictor
from jaxseg.runs import checkpoint, workdir


class Trained(NamedTuple):
    """The best weights of a run, and how its probabilities become masks."""

    run: Path
    config: Config
    num_channels: int
    regions: tuple[str, ...]  # names, in order of the class axis
    step: int  # of the weights
    weights: Weights  # on the host
    points: tuple[OperatingPoint, ...]  # one for each region

    @property
    def kind(self) -> DataSet:
        """The data set that it was trained on."""
        return kind_of(self.config.dataset)


def load(run: Path) -> Trained:
    """Load a run; all of several processes must call it, and all get the same.

    Raises:
        UserError: no run there, or no checkpoint that can be read.
    """
    config, regions = workdir.load_config(run), workdir.region_names(run)
    num_channels = workdir.num_channels(run)
    step, weights = checkpoint.load_best(run, config, num_channels)
    points = operating.read(run, config, regions)
    return Trained(run, config, num_channels, regions, step, jax.device_get(weights), points)


def predictor(trained: Trained, flip: bool = False, mesh: Mesh | None = None) -> Predictor:
    """Return what predicts, calibrated; arguments as in `predictor.make_predictor`."""
    temperatures = [point.temperature for point in trained.points]
    return make_predictor(trained.config, trained.weights, temperatures, flip, mesh)
