"""Settings, their checks, and the command line.

In: a recipe (a Python file with get_config()) and `--config.SECTION.NAME=VALUE`. Out: a frozen,
checked `Config`. Imports nothing of jaxseg but its errors. Begin with `run.py`, whose sections
stand in `data.py` and `training.py`; every setting has its default, unit and range there, and
nowhere else. `networks.py` has the settings of published networks. `from jaxseg import config as
c` gives a recipe all of them.
"""

from jaxseg.config.data import STRONG_AUGMENT, Augment, Dataset, Input, Split
from jaxseg.config.networks import (
    fit_levels,
    fit_patch,
    nnunet_optimizer,
    nnunet_plain,
    residual_encoder_m,
)
from jaxseg.config.run import Config, Evaluation
from jaxseg.config.training import EarlyStop, Loss, Mesh, Model, Optimizer, Plateau, Train

__all__ = [
    "STRONG_AUGMENT",
    "Augment",
    "Config",
    "Dataset",
    "EarlyStop",
    "Evaluation",
    "Input",
    "Loss",
    "Mesh",
    "Model",
    "Optimizer",
    "Plateau",
    "Split",
    "Train",
    "fit_levels",
    "fit_patch",
    "nnunet_optimizer",
    "nnunet_plain",
    "residual_encoder_m",
]
