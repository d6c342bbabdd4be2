"""What is scored: runs, each on its patients, and the scores that come of it."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxseg.datasets.index import Patient
from jaxseg.prediction.predictor import Predictor
from jaxseg.prediction.trained import Trained
from jaxseg.scoring.patient_score import PatientScore

Scores = list[list[PatientScore]]  # [patients][regions]


class Part(NamedTuple):
    """A trained run and whom it is scored on; the folds of a cross-validation are several."""

    trained: Trained
    model: Predictor  # of the run
    patients: Sequence[Patient]
