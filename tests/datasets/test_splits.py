"""Splits are by patient, stable, and refuse leaks and splits that cannot be scored."""

import dataclasses
import re

import hypothesis.strategies as st
import pytest
from fake_data import patient
from hypothesis import given, settings

from jaxseg.config import Split
from jaxseg.datasets.splits import NAMES, _place, check_folds, split_patients
from jaxseg.errors import UserError

LISTS = Split(train=("a", "b"), validation=("c",), test=("d",))


def problems(patients, split) -> list[str]:
    with pytest.raises(UserError) as caught:
        split_patients(patients, split)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.integers(0, 3))
def test_adding_patients_moves_none(names, salt):
    """150 patients fill every split; whatever is added, they stay where they were."""
    old = [patient(f"old_{n}") for n in range(150)]
    new = [patient(f"new_{name}") for name in names]
    for split in (Split(salt=salt), Split(salt=salt, num_folds=5)):
        before, after = split_patients(old, split), split_patients(new + old, split)
        for name in NAMES:
            assert [p for p in after[name] if p.id.startswith("old_")] == list(before[name])


def test_fractions_are_kept_over_many_patients():
    """2000 draws: the standard deviation of a share of 0.2 is 0.009; 4 of them are allowed."""
    split = Split(fractions=(0.5, 0.3, 0.2))
    made = split_patients([patient(str(n)) for n in range(2000)], split)
    assert [len(made[name]) / 2000 for name in NAMES] == pytest.approx(split.fractions, abs=0.045)
    assert sum(map(len, made.values())) == 2000


def test_places_are_those_of_earlier_releases():
    """A change here would reshuffle every user's test set.

    SHA-256 of '0:p0'... as fractions of 2^256: 0.781, 0.986, 0.055, 0.794, 0.335, 0.478; modulo
    5: 0, 0, 1, 0, 3, 4.
    """
    places = ["validation", "test", "train", "validation", "train", "train"]
    assert [_place(f"p{n}", Split()) for n in range(6)] == places
    folds = ["test", "test", "validation", "test", "train", "train"]
    assert [_place(f"p{n}", Split(num_folds=5)) for n in range(6)] == folds


def test_another_salt_is_another_split():
    everyone = [patient(str(n)) for n in range(100)]
    tests = {tuple(split_patients(everyone, Split(salt=s))["test"]) for s in range(4)}
    assert len(tests) == 4


def test_folds_partition_the_patients():
    everyone = [patient(str(n)) for n in range(60)]
    made = [split_patients(everyone, Split(num_folds=4, fold=i)) for i in range(4)]
    tests = [p.id for m in made for p in m["test"]]
    assert sorted(tests) == sorted(p.id for p in everyone)
    for i in range(4):
        assert made[i]["validation"] == made[(i + 1) % 4]["test"]
        assert sorted(p.id for name in NAMES for p in made[i][name]) == sorted(tests)


def test_explicit_lists_leave_the_others_out():
    made = split_patients([patient(name) for name in "abcde"], LISTS)
    assert {k: [p.id for p in v] for k, v in made.items()} == {
        "train": ["a", "b"],
        "validation": ["c"],
        "test": ["d"],
    }


def test_a_patient_in_two_lists_and_an_unknown_one_are_both_named():
    split = Split(train=("a", "b"), validation=("b", "c"), test=("d", "zoe"))
    assert problems([patient(name) for name in "abcd"], split) == [
        "patient b: in train and validation; keep it in one",
        "patient zoe: in test, but not in the data set",
    ]


def test_identical_images_in_different_splits_name_both_patients_and_files():
    everyone = [
        patient("a", ("same", "x", "also")),
        patient("b", ("y",)),
        patient("c", ("z", "same", "also")),
        patient("d", ("w",)),
    ]
    (line,) = problems(everyone, LISTS)
    assert line == (
        "patients a (train) and c (validation): 2 identical images: a/0.png = c/1.png, "
        "a/2.png = c/2.png; put both into one split or remove one"
    )


def test_an_image_in_all_three_splits_makes_three_pairs():
    everyone = [patient(name, ("same",)) for name in "abcd"]
    pairs = [
        re.match(r"patients (\w) .* and (\w) ", line).groups() for line in problems(everyone, LISTS)
    ]
    assert pairs == [("a", "c"), ("a", "d"), ("c", "d")]


def test_identical_images_within_a_split_or_blank_are_no_leak():
    everyone = [
        patient("a", ("same", "")),
        patient("b", ("same", "")),
        patient("c", ("", "x")),
        patient("d", ("", "y", "y")),
    ]
    assert len(split_patients(everyone, LISTS)["train"]) == 2


def test_no_tumour_in_a_split():
    everyone = [patient("a"), patient("b", tumour=0), patient("c", tumour=0), patient("d")]
    (line,) = problems(everyone, LISTS)
    assert line.startswith("validation: no tumour in any of its 1 patients")


def test_all_problems_are_told_at_once():
    everyone = [patient("a", ("s",)), patient("b"), patient("d", ("s",), tumour=0)]
    lines = problems(everyone, LISTS)
    for start in ("patient c: in validation, but", "validation: no patients", "test: no tumour"):
        assert sum(line.startswith(start) for line in lines) == 1
    assert sum("1 identical image:" in line for line in lines) == 1
    assert len(lines) == 4


def test_an_empty_split_of_fractions():
    lines = problems([patient(str(n)) for n in range(50)], Split(fractions=(0.8, 0.2, 0.0)))
    assert lines == ["test: no patients; change the fractions, the salt or the lists"]


def test_an_empty_split_comes_with_a_salt_that_fills_all():
    few = [patient(f"p{n}") for n in range(6)]
    *_, hint = problems(few, Split(salt=0, fractions=(0.9, 0.05, 0.05)))
    form = r"by example --config.split.salt=(\d+) gives (\S+) patients"
    salt, sizes = re.fullmatch(form, hint).groups()
    made = split_patients(few, Split(salt=int(salt), fractions=(0.9, 0.05, 0.05)))
    assert "/".join(str(len(made[name])) for name in NAMES) == sizes
    assert all(made.values())


def test_one_salt_is_told_for_all_folds():
    few = [patient(f"p{n}") for n in range(7)]
    form = r"by example --config.split.salt=(\d+) fills all 5 folds alike"
    with pytest.raises(UserError) as caught:  # some fold is empty: all are told, before training
        check_folds(few, Split(num_folds=5))
    *found, hint = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert all(re.match(r"fold \d: (train|validation|test): no patients", line) for line in found)
    salts = {int(re.fullmatch(form, hint)[1])}
    for fold in range(5):
        try:
            split_patients(few, Split(num_folds=5, fold=fold))
        except UserError as error:
            salts.add(int(re.search(form, str(error))[1]))
    (salt,) = salts
    check_folds(few, Split(num_folds=5, salt=salt))
    for fold in range(5):
        assert all(split_patients(few, Split(num_folds=5, fold=fold, salt=salt)).values())


def test_more_folds_than_patients_are_told_how_many_there_can_be():
    few = [patient(f"p{n}") for n in range(7)]
    *_, hint = problems(few, Split(num_folds=10, fold=9))
    number, salt = map(
        int, re.search(r"folds=(\d+) --config.split.salt=(\d+) fills", hint).groups()
    )
    assert 3 <= number <= 7
    check_folds(few, Split(num_folds=number, salt=salt))
    check_folds(few, Split())


def scans(*names: str) -> list:
    """Return a scan for each name; what comes before '/' is the person."""
    return [dataclasses.replace(patient(name), group=name.split("/")[0]) for name in names]


def test_a_person_keeps_the_place_of_its_name_with_all_scans():
    """50 persons of three scans each lie where scans of the persons' names would lie."""
    several = scans(*(f"p{n}/{time}" for n in range(50) for time in range(3)))
    for split in (Split(), *(Split(num_folds=5, fold=i) for i in range(5))):
        single = split_patients([patient(f"p{n}") for n in range(50)], split)
        made = split_patients(several, split)
        for name in NAMES:
            expected = [f"{p.id}/{time}" for p in single[name] for time in range(3)]
            assert [p.id for p in made[name]] == expected


def test_lists_name_scans_or_persons():
    everyone = scans("a/0", "a/1", "b/0", "c/0", "c/1", "d/0")
    made = split_patients(everyone, Split(train=("a", "b/0"), validation=("c",), test=("d/0",)))
    assert [[p.id for p in made[n]] for n in NAMES] == [
        ["a/0", "a/1", "b/0"],
        ["c/0", "c/1"],
        ["d/0"],
    ]


def test_a_list_that_parts_a_person_is_refused():
    everyone = scans("a/0", "a/1", "b/0", "c/0", "d/0")
    split = Split(train=("a/0", "b"), validation=("c",), test=("d", "a/1"))
    assert problems(everyone, split) == [
        "person a: scans in train (a/0) and test (a/1); keep them in one split"
    ]
    assert problems(everyone, dataclasses.replace(split, test=("d", "a"))) == [
        "person a: scans in train (a/0) and test (a/0, a/1); keep them in one split"
    ]
    left_out = dataclasses.replace(split, test=("d",))
    assert [p.id for p in split_patients(everyone, left_out)["train"]] == ["a/0", "b/0"]
