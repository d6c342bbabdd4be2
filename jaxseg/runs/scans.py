"""The scans of a run, found again: where they were, or where they have moved."""

import dataclasses
from pathlib import Path

from jaxseg.config import Config
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.prepared import Prepared
from jaxseg.datasets.splits import split_patients
from jaxseg.errors import UserError
from jaxseg.runs import workdir

MOVED = ("config.dataset.source", "config.dataset.cache_dir")  # what may be said anew of a run


def scans_of(run: Path, config: Config) -> Prepared:
    """Return the data set of a run; UserError says what to do where it is not to be had."""
    try:
        return prepare(config.dataset)
    except UserError as error:
        raise UserError(
            f"{error}\n(if the scans have moved, tell the run: python -m jaxseg.evaluate "
            f"--workdir {run} --{MOVED[0]}=PATH)"
        ) from error


def move(run: Path, source: str | None, cache_dir: str | None):
    """Keep in the run where its scans are now; None: as before.

    Raises:
        UserError: they are not the same patients with the same images and masks.
    """
    config = workdir.load_config(run)
    told = {"source": source, "cache_dir": cache_dir}
    places = {name: str(Path(p).expanduser().absolute()) for name, p in told.items() if p}
    config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, **places))
    prepared = prepare(config.dataset)
    workdir.claim(run, config, prepared, split_patients(prepared.patients, config.split))
