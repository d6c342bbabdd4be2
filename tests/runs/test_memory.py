"""Memory stays flat: over the steps and evaluations of a run, and over the patients scored.

`pytest -m slow tests/test_memory.py`; minutes.
"""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import psutil
import pytest
from fake_config import tiny_config

from jaxseg.config import Dataset
from jaxseg.datasets.prepare import prepare
from jaxseg.evaluation.score import score_cases
from jaxseg.machine.sharding import make_mesh
from jaxseg.prediction.inference import predict_patients
from jaxseg.prediction.operating import OperatingPoint
from jaxseg.prediction.predictor import make_predictor
from jaxseg.runs import workdir
from jaxseg.scans.regions import TUMOUR
from jaxseg.scoring.baselines import ThresholdBaseline
from jaxseg.training.state import best_weights, new_state

pytestmark = pytest.mark.slow

NUM_STEPS, EVAL_EVERY, WARM_UP = 2000, 100, 400
MIB = 2**20
# Measured without a leak: 2 to 8 MiB. The evaluations raise the high-water mark of malloc slowly
# up to a limit (over 6,000 steps and 60 evaluations by 2 MiB after step 2,000), and now and then
# it gives memory back. A leak of the batches, 106 KiB a step, shows as about 90 MiB.
TOLERANCE_MIB = 20

PROGRAM = """
import dataclasses, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from fake_config import tiny_config
from jaxseg.runs.progress import Progress

kept, next_batch = [], Progress.next_batch

def keeping(*arguments):
    kept.append(next_batch(*arguments))
    return kept[-1]

if {leak}:
    Progress.next_batch = keeping

def get_config():
    config = tiny_config(Path({cache!r}))
    changed = dict(num_steps={steps}, eval_every_steps={every}, log_every_steps=50)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changed))
"""


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory of a process and all its descendants."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total


def watch(folder: Path, workers: int, leak: bool) -> list[tuple[int, int]]:
    """Train and return (last logged step, resident bytes) twice a second."""
    text = PROGRAM.format(
        tests=str(Path(__file__).parents[1]),
        cache=str(folder / "cache"),
        leak=leak,
        steps=NUM_STEPS,
        every=EVAL_EVERY,
    )
    (folder / "tiny.py").write_text(text)
    command = [sys.executable, "-m", "jaxseg.train", "--config", str(folder / "tiny.py")]
    command += ["--workdir", str(folder / "run"), f"--config.input.num_workers={workers}"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}
    samples, deadline = [], time.monotonic() + 1200
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        # The scoring of the test patients after the last step is another program's matter.
        while not samples or samples[-1][0] < NUM_STEPS - 50:
            assert process.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < deadline
            records = workdir.read_metrics(folder / "run")
            step = records[-1]["step"] if records else 0
            samples.append((step, resident_bytes(psutil.Process(process.pid))))
            time.sleep(0.5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return samples


def growth_mib(samples: list[tuple[int, int]]) -> float:
    """The median of the second half of the steps after warm-up less that of the first, MiB."""
    steps, sizes = np.array(samples).T
    middle = (WARM_UP + NUM_STEPS) // 2
    early = np.median(sizes[(steps >= WARM_UP) & (steps < middle)])
    late = np.median(sizes[steps >= middle])
    return float(late - early) / MIB


@pytest.mark.parametrize("workers", [0, 2])
def test_resident_memory_is_flat_over_2000_steps_and_20_evaluations(tmp_path, workers):
    assert growth_mib(watch(tmp_path, workers, leak=False)) < TOLERANCE_MIB


def test_a_leak_of_the_batches_is_seen(tmp_path):
    assert growth_mib(watch(tmp_path, 0, leak=True)) > 3 * TOLERANCE_MIB


def peak_bytes(chosen, config, prepared, hoard: bool) -> int:
    """Peak of Python's and numpy's memory while patients are predicted and scored."""
    weights = best_weights(new_state(config, prepared.num_channels, make_mesh()))
    model = make_predictor(config, weights)
    baseline = ThresholdBaseline(1, 1.0, 0.0)

    def score(patients):
        cases = predict_patients(model, prepared, patients)
        score_cases(list(cases) if hoard else cases, TUMOUR, [OperatingPoint()], [baseline])

    score(chosen[:1])  # compiles
    gc.collect()
    tracemalloc.start()
    score(chosen)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_scoring_needs_no_more_memory_for_more_patients(tmp_path):
    config = tiny_config(tmp_path, dataset=Dataset(phantom_patients=12, cache_dir=str(tmp_path)))
    prepared = prepare(config.dataset)
    # Patients differ in their number of slices; the largest sets the peak, so it is in both.
    patients = sorted(prepared.patients, key=lambda p: -p.num_slices)
    few = peak_bytes(patients[:3], config, prepared, hoard=False)
    many = peak_bytes(patients, config, prepared, hoard=False)
    # Measured: equal to 0.02 %. Each patient kept would add about 10 %: nine of them double it.
    assert many < 1.05 * few
    assert peak_bytes(patients, config, prepared, hoard=True) > 1.5 * few  # it would be seen
