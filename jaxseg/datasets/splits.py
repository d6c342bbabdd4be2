"""Which patient is in train, validation and test: decided here and nowhere else.

The place of a patient depends on its id alone, so adding a patient moves no other. Of a person
with several scans, as time points, it depends on the person's name (`Patient.person`), so that
they never part.
"""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from jaxseg.config import Split
from jaxseg.datasets.checks import raise_problems
from jaxseg.datasets.index import Patient, find_copies, same_images

NAMES = ("train", "validation", "test")
_SALTS, _LEAST_FOLDS = range(100), 3


def split_patients(patients: Iterable[Patient], split: Split) -> dict[str, tuple[Patient, ...]]:
    """Return the patients of train, validation and test, each in the order given.

    Explicit lists of ids, or of persons for all of their scans, come first, then folds, then
    fractions. With lists, patients in none of them are left out.

    Raises:
        UserError: with one line for each: a patient in two lists, a person's scans in two
            splits, an unknown patient, a split without patients or without any tumour, identical
            images under two patients that are in different splits.
    """
    made, problems = check_split(patients, split)
    raise_problems("config.split", problems)
    return made


def check_split(
    patients: Iterable[Patient], split: Split
) -> tuple[dict[str, tuple[Patient, ...]], list[str]]:
    """Return the splits and what is wrong with them, instead of raising it."""
    patients = tuple(patients)
    made = place(patients, split)
    known = {p.id for p in patients} | {p.person for p in patients}
    problems = _check_lists(_listed(split), known) + _check_persons(made)
    problems += check_contents(made) and [*check_contents(made), *_suggest(patients, split)]
    return made, problems + _check_copies(made)


def place(patients: Iterable[Patient], split: Split) -> dict[str, tuple[Patient, ...]]:
    """Return the splits unchecked, each in the order given."""
    patients = tuple(patients)
    members = _listed(split) if split.train else _hashed(patients, split)
    return {
        name: tuple(p for p in patients if not members[name].isdisjoint((p.id, p.person)))
        for name in NAMES
    }


def _listed(split: Split) -> dict[str, set[str]]:
    return {name: set(getattr(split, name)) for name in NAMES}


def _hashed(patients: tuple[Patient, ...], split: Split) -> dict[str, set[str]]:
    members = defaultdict(set)
    for patient in patients:
        members[_place(patient.person, split)].add(patient.id)
    return members


def _place(person: str, split: Split) -> str:
    number = int(hashlib.sha256(f"{split.salt}:{person}".encode()).hexdigest(), 16)
    if split.num_folds:
        after_test = (number - split.fold) % split.num_folds
        return {0: "test", 1: "validation"}.get(after_test, "train")
    position = number / 2**256  # uniform in 0..1
    train, validation, _ = split.fractions
    if position < train:
        return "train"
    return "validation" if position < train + validation else "test"


def _check_lists(members: dict[str, set[str]], known: set[str]) -> list[str]:
    """Name patients in two lists and those that the data set does not have."""
    homes = defaultdict(list)
    for name in NAMES:
        for patient in sorted(members[name]):
            homes[patient].append(name)
    return [
        f"patient {patient}: in {' and '.join(names)}; keep it in one"
        for patient, names in homes.items()
        if len(names) > 1
    ] + [
        f"patient {patient}: in {' and '.join(names)}, but not in the data set"
        for patient, names in homes.items()
        if patient not in known
    ]


def _check_persons(made: dict[str, tuple[Patient, ...]]) -> list[str]:
    """Name the persons with scans in several splits, as lists of scans may have them."""
    homes = defaultdict(lambda: defaultdict(list))
    for name, patients in made.items():
        for patient in patients:
            if patient.person != patient.id:
                homes[patient.person][name].append(patient.id)
    problems = []
    for person, scans in homes.items():
        several = len({scan for ids in scans.values() for scan in ids}) > 1  # one: said already
        if len(scans) > 1 and several:
            where = " and ".join(f"{name} ({', '.join(ids)})" for name, ids in scans.items())
            problems.append(f"person {person}: scans in {where}; keep them in one split")
    return problems


def check_contents(made: dict[str, tuple[Patient, ...]]) -> list[str]:
    """Return a line for each split without patients or without tumour."""
    problems = []
    for name, patients in made.items():
        if not patients:
            problems.append(f"{name}: no patients; change the fractions, the salt or the lists")
        elif not any(any(p.tumour_pixels) for p in patients):
            problems.append(
                f"{name}: no tumour in any of its {len(patients)} patients; change the salt, "
                "the fold or the lists"
            )
    return problems


def _suggest(patients: tuple[Patient, ...], split: Split) -> list[str]:
    """Return a salt that fills every split; with few patients chance may leave one empty."""
    if split.train:
        return []
    if split.num_folds:
        return _suggest_folds(patients, split.num_folds)
    for salt in _SALTS:
        made = place(patients, dataclasses.replace(split, salt=salt))
        if not check_contents(made):
            sizes = "/".join(str(len(made[name])) for name in NAMES)
            return [f"by example --config.split.salt={salt} gives {sizes} patients"]
    return []


def _suggest_folds(patients: tuple[Patient, ...], num_folds: int) -> list[str]:
    """Return a salt for all folds alike, and fewer of them where there must be."""
    for number in range(num_folds, _LEAST_FOLDS - 1, -1):
        salt = salt_of_folds(patients, number)
        if salt is not None:
            fewer = f"--config.split.num_folds={number} " if number < num_folds else ""
            return [f"by example {fewer}--config.split.salt={salt} fills all {number} folds alike"]
    return []


def salt_of_folds(patients: Iterable[Patient], num_folds: int) -> int | None:
    """Return the lowest salt by which each fold can be trained and tested on; None: there is none.

    The folds of one cross-validation share it.
    """
    patients = tuple(patients)
    splits = (Split(num_folds=num_folds, salt=salt) for salt in _SALTS)
    return next((s.salt for s in splits if not any(_of_folds(patients, s))), None)


def _of_folds(patients: tuple[Patient, ...], split: Split) -> Iterator[list[str]]:
    """Yield what is wrong with the contents of each fold."""
    for fold in range(split.num_folds):
        yield check_contents(place(patients, dataclasses.replace(split, fold=fold)))


def check_folds(patients: Iterable[Patient], split: Split):
    """Raise UserError unless every fold can be trained and tested on, not the one at hand alone.

    Before the first of them is trained: another salt for one is another salt for all.
    """
    patients = tuple(patients)
    if split.train or not split.num_folds:
        return
    found = enumerate(_of_folds(patients, split))
    problems = [f"fold {fold}: {line}" for fold, lines in found for line in lines]
    problems += problems and _suggest(patients, split)
    raise_problems("config.split", problems)


def _check_copies(made: dict[str, tuple[Patient, ...]]) -> list[str]:
    """Name the pairs of patients in different splits that share images."""
    home = {patient.id: name for name, patients in made.items() for patient in patients}
    return [
        f"patients {a} ({home[a]}) and {b} ({home[b]}): {same_images(files)}; put both into one "
        "split or remove one"
        for (a, b), files in find_copies(made).items()
        if home[a] != home[b]
    ]
