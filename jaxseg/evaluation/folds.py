"""The runs on the folds of one recipe, to be scored together.

Each patient of the data set is a test patient of one fold: the model of that fold has not seen
it. So the folds together give one score over all patients.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from jaxseg.config import Config
from jaxseg.datasets.index import Patient
from jaxseg.errors import UserError
from jaxseg.machine.files import read_json
from jaxseg.runs import workdir
from jaxseg.scoring.cohort import cohort


class Digests(NamedTuple):
    """What tells whether a patient's slices are the same."""

    images: tuple[str, ...]
    masks: tuple[str, ...] | None  # None: of an older run, which did not keep them

    def differ(self, other: "Digests") -> bool:
        """Return whether images or masks, where both are known, are others."""
        masks_known = None not in (self.masks, other.masks)
        return self.images != other.images or (masks_known and self.masks != other.masks)


class Fold(NamedTuple):
    """A run on one fold."""

    run: Path
    config: Config
    scans: dict[str, Digests]  # of each patient; all splits
    persons: dict[str, str]  # of each patient
    test: tuple[str, ...]  # ids

    def cohort(self, ids: Sequence[str]) -> str:
        """Return how many patients these are, in words."""
        return cohort(len(ids), len({self.persons[patient] for patient in ids}))


def read_folds(runs: Sequence[Path]) -> list[Fold]:
    """Return the runs in order of their folds.

    Raises:
        UserError: a run is not on a fold, two differ in a setting besides the fold or in their
            data, or two tested the same patient.
    """
    folds = sorted(map(_read, runs), key=lambda f: f.config.split.fold)
    first = folds[0]
    for other in folds[1:]:
        changed = workdir.changed_settings(first.config, other.config)
        changed.pop("split.fold", None)
        if changed:
            key, (a, b) = next(iter(changed.items()))
            raise UserError(
                f"not folds of one recipe: config.{key} is {a!r} in {first.run} and {b!r} in "
                f"{other.run}"
            )
        _check_same_scans(first.scans, other.scans, f"{first.run} and {other.run}")
    for one, other in combinations(folds, 2):
        both = sorted(set(one.test) & set(other.test))
        if both:
            raise UserError(
                f"{one.run} and {other.run} have the same test patients ({len(both)}, by example "
                f"{', '.join(both[:3])}); give each fold once"
            )
    return folds


def check_unchanged(folds: Sequence[Fold], patients: Sequence[Patient]):
    """Raise UserError unless images and masks are those that the runs were made with."""
    scans = {p.id: Digests(p.digests, p.mask_digests) for p in patients}
    _check_same_scans(folds[0].scans, scans, f"{folds[0].run} and the scans as they are now")


def sentences(folds: Sequence[Fold]) -> list[str]:
    """Return sentences: what the pooled score is, what to beware of."""
    num_folds, everybody = folds[0].config.split.num_folds, folds[0].scans
    scored = [patient for f in folds for patient in f.test]
    notes = [
        f"Pooled over {len(folds)} of {num_folds} folds, {len(scored)} of "
        f"{folds[0].cohort([*everybody])}: "
        "each is scored by the model that has not seen it. A score of the recipe, not of one "
        "model; that the models share training patients is not in the interval."
    ]
    notes += [
        f"Fold {f.config.split.fold}: {f.cohort(f.test)}, best weights and operating point of "
        f"{f.run}." + ("" if workdir.is_finished(f.run) else " Warning: this run has not finished.")
        for f in folds
    ]
    missing = sorted(set(range(num_folds)) - {f.config.split.fold for f in folds})
    if missing:
        lost = folds[0].cohort([*{*everybody} - {*scored}])
        which = f"fold {missing[0]} is" if len(missing) == 1 else f"folds {missing} are"
        notes.append(f"Warning: {which} missing; {lost} are not scored.")
    return notes


def _read(run: Path) -> Fold:
    config = workdir.load_config(run)
    if not config.split.num_folds:
        raise UserError(
            f"{run}: not trained on one of several folds; train each with "
            "--config.split.num_folds=5 --config.split.fold=0, 1, ..."
        )
    data = read_json(run / "data.json")
    scans, persons = {}, {}
    for name, members in data["patients"].items():
        persons |= zip(members, data.get("persons", data["patients"])[name], strict=True)
        masks = data.get("mask_digests", {}).get(name) or [None] * len(members)
        for patient, image, mask in zip(members, data["digests"][name], masks, strict=True):
            scans[patient] = Digests(tuple(image), None if mask is None else tuple(mask))
    return Fold(run, config, scans, persons, tuple(data["patients"]["test"]))


def _check_same_scans(one: dict[str, Digests], other: dict[str, Digests], names: str):
    differ = sorted(one.keys() ^ other.keys())
    differ += sorted(p for p in one.keys() & other.keys() if one[p].differ(other[p]))
    if differ:
        raise UserError(
            f"{names} differ in their images or masks: {len(differ)} patients, by example "
            f"{', '.join(differ[:3])}"
        )
