"""A run of seconds for the tests: few small phantom patients or volumes, a tiny network."""

import dataclasses
from pathlib import Path

from jaxseg.config import (
    Config,
    Dataset,
    EarlyStop,
    Evaluation,
    Input,
    Model,
    Optimizer,
    Plateau,
    Split,
    Train,
)


def tiny_config(cache: Path, **changes) -> Config:
    """Return the config; `changes` replace whole sections or the seed."""
    config = Config(
        dataset=Dataset(phantom_patients=6, cache_dir=str(cache)),
        split=Split(
            train=("phantom_000", "phantom_001", "phantom_002", "phantom_003"),
            validation=("phantom_004",),
            test=("phantom_005",),
        ),
        input=Input(image_size=(32, 32), num_threads=1),
        model=Model(widths=(2, 4)),
        optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2, ema_decay=0.9),
        plateau=Plateau(patience=1, cooldown=0, min_delta=1.0),  # never enough: reduces each time
        early_stop=EarlyStop(patience=0, min_delta=1.0),
        train=Train(num_steps=6, batch_size=8, eval_every_steps=1, log_every_steps=1),
        evaluation=Evaluation(batch_size=8, bootstrap_samples=100),
    )
    return dataclasses.replace(config, **changes)


def tiny_volume_config(folder: Path, **changes) -> Config:
    """Return the config of the volumes that `write_gliomas` wrote to folder/set; see above."""
    config = tiny_config(
        folder,
        dataset=Dataset("brats", str(folder / "set"), str(folder / "cache")),
        split=Split(
            train=tuple(f"BraTS-GLI-{n:05d}" for n in (1, 2, 3)),
            validation=("BraTS-GLI-00004",),
            test=("BraTS-GLI-00005", "BraTS-GLI-00006"),
        ),
        input=Input(image_size=(8, 8, 8), num_threads=1),
        model=Model(widths=(2, 4), num_classes=3, norm="instance", dropout=0.1),
    )
    return dataclasses.replace(config, **changes)
