"""Worker: jaxseg's evaluation, from prepared slices to scores per patient with HD95.

Against PyTorch's forward pass alone over as many slices, which reads and scores nothing. The
network is trained for some steps first: scoring the noise of a fresh one would take longer.
"""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from benchmarks import workload
from benchmarks.protocol import Actions, serve
from benchmarks.worker_jaxseg import common_state, make_config
from jaxseg.config import Config, Dataset, Evaluation, Optimizer
from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.samples import training_batches
from jaxseg.evaluation.score import score_cases
from jaxseg.machine.sharding import make_mesh, to_global
from jaxseg.machine.start import start_computing
from jaxseg.models.apply import Weights
from jaxseg.prediction.inference import predict_patients
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.prediction.predictor import make_predictor
from jaxseg.runs.workdir import versions
from jaxseg.scoring.baselines import ThresholdBaseline
from jaxseg.training.steps import jit_train_step

TRAINING_STEPS = 40


def make(settings: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Prepare phantoms and train; see `protocol.serve`."""
    start_computing()
    config = dataclasses.replace(
        make_config(settings | {"batch": 16}),
        dataset=Dataset(cache_dir=settings["folder"]),
        optimizer=Optimizer(learning_rate=3e-3, warmup_steps=5),
        evaluation=Evaluation(batch_size=settings["batch"]),
    )
    prepared = prepare(config.dataset)
    patients = first_slices(prepared, workload.EVALUATED_SLICES)
    model = make_predictor(config, trained_weights(config, prepared, settings["features"]))
    point, baseline = OperatingPoint(), ThresholdBaseline(1, 1.75, 0.0)

    def evaluate() -> dict[str, Any]:
        start = time.perf_counter()
        cases = predict_patients(model, prepared, patients)
        scores, _ = score_cases(cases, ["tumour"], [point], [baseline])
        seconds = time.perf_counter() - start
        slices = sum(p.num_slices for p in patients)
        return {
            "seconds": seconds * workload.EVALUATED_SLICES / slices,
            "dice": float(np.mean([s.dice for (s,) in scores])),
        }

    return {"versions": versions()}, {"evaluate": evaluate}


def first_slices(prepared: Prepared, count: int) -> tuple[Patient, ...]:
    """Return the first patients, as many as have so many slices."""
    slices = np.cumsum([p.num_slices for p in prepared.patients])
    return prepared.patients[: int(np.searchsorted(slices, count)) + 1]


def trained_weights(config: Config, prepared: Prepared, features: int) -> Weights:
    """Return weights that find most tumours."""
    mesh = make_mesh()
    state = common_state(config, features, mesh)
    step = jit_train_step(config, state, mesh)
    batches = training_batches(prepared, prepared.patients, config, 0)
    for _ in range(TRAINING_STEPS):
        batch = next(batches) | {"stop": np.zeros(config.train.batch_size, np.int32)}
        state, _ = step(state, to_global(batch, mesh))
    batches.close()
    return jax.device_get(state.weights)


if __name__ == "__main__":
    serve(make)
