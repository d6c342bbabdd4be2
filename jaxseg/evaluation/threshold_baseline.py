"""The threshold baseline of a run: found on its training patients, kept beside its checkpoints."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.errors import UserError
from jaxseg.imaging.intensity import normalise
from jaxseg.machine.files import read_json, write_json
from jaxseg.prediction.inference import read_patient
from jaxseg.scoring import baselines


def find(run: Path, prepared: Prepared, patients: Sequence[Patient]):
    """Find the best global threshold on the training patients and keep it in baseline.json."""

    def volumes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for patient in patients:
            records = read_patient(prepared, patient)
            volume = np.stack([r["image"] for r in records])
            truth = np.stack([r["mask"][..., 0] for r in records]) > 0
            yield normalise(volume, records[0]["stats"]), truth

    baseline = baselines.best_threshold(volumes())
    write_json(run / "baseline.json", baseline._asdict())


def read(run: Path) -> baselines.ThresholdBaseline:
    """Return the baseline found by `find`.

    Raises:
        UserError: the run has none yet.
    """
    path = run / "baseline.json"
    if not path.exists():
        raise UserError(f"{path}: missing; the training run writes it when it begins")
    return baselines.ThresholdBaseline(**read_json(path))
