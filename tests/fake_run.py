"""A workdir as training leaves it, without training: random weights, tuned operating point."""

from pathlib import Path

import jax
import numpy as np

from jaxseg.config import Config
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.splits import split_patients
from jaxseg.machine.sharding import make_mesh
from jaxseg.prediction import operating
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.runs import checkpoint, workdir
from jaxseg.training.state import new_state

NOTHING = Prepared(Path(), 3, ("tumour",), (), ())  # of three channels, without patients


def write_run(run: Path, config: Config, point: OperatingPoint) -> Path:
    """Write config, patients, one checkpoint with random weights, and the operating point."""
    prepared = prepare(config.dataset, config.split)
    splits = split_patients(prepared.patients, config.split)
    workdir.claim(run, config, prepared, splits)
    state = new_state(config, prepared.num_channels, make_mesh())
    rng = np.random.default_rng(0)
    noise = lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32)  # noqa: E731
    state = state._replace(step=state.step + 1, weights=jax.tree.map(noise, state.weights))
    with checkpoint.open_checkpoints(run) as checkpoints:
        checkpoint.save(checkpoints, 1, state, 0.5)
    operating.write(run, prepared.regions, [{"point": point._asdict()}] * len(prepared.regions))
    return run
