"""The threshold baseline of a run: found on its training patients, kept beside its checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.errors import UserError
from jaxseg.imaging.intensity import normalise
from jaxseg.machine.files import read_json, write_json
from jaxseg.scoring import baselines


def find_baselines(run: Path, prepared: Prepared, patients: Sequence[Patient]):
    """Find each region's best global threshold on the training patients; keep baseline.json."""
    tables = []
    for volume in map(prepared.volume, patients):
        image, truth = normalise(volume.image, volume.stats), volume.mask > 0
        regions = range(len(prepared.regions))
        tables.append([baselines.dice_per_threshold(image, truth[..., k]) for k in regions])
    found = [baselines.choose(np.array(t))._asdict() for t in zip(*tables, strict=True)]
    others = {"regions": dict(zip(prepared.regions, found, strict=True))} if found[1:] else {}
    write_json(run / "baseline.json", found[0] | others)


def read_baselines(run: Path, regions: Sequence[str]) -> list[baselines.ThresholdBaseline]:
    """Return what `find_baselines` found, in order of the regions.

    Raises:
        UserError: the run has none yet.
    """
    path = run / "baseline.json"
    if not path.exists():
        raise UserError(f"{path}: missing; the training run writes it when it begins")
    found = read_json(path)
    others = found.pop("regions", {})
    return [baselines.ThresholdBaseline(**others.get(name, found)) for name in regions]
