"""The loader: every batch is a function of (seed, step) alone."""

import dataclasses
import itertools

import numpy as np
import pytest
from fake_config import tiny_config

from jaxseg.config import Config, Input
from jaxseg.datasets import samples
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.prepared import Prepared


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    return tiny_config(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def prepared(config) -> Prepared:
    return prepare(config.dataset)


def batches(config, prepared, n, start=0, **parts):
    iterator = samples.training_batches(prepared, prepared.patients, config, start, **parts)
    return list(itertools.islice(iterator, n))


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def with_input(config, **changes):
    return dataclasses.replace(config, input=dataclasses.replace(config.input, **changes))


def test_batches_have_the_documented_form(config, prepared):
    (batch,) = batches(config, prepared, 1)
    assert batch["image"].shape == (8, 32, 32, 3)
    assert batch["image"].dtype == np.float32
    assert batch["mask"].shape == (8, 32, 32, 1)
    assert set(np.unique(batch["mask"])) <= {0, 1}


@pytest.mark.parametrize("workers, threads", [(0, 0), (0, 4), (1, 1), (4, 1)])
def test_workers_and_threads_change_nothing(config, prepared, workers, threads):
    other = with_input(config, num_workers=workers, num_threads=threads)
    assert_same(batches(config, prepared, 6), batches(other, prepared, 6))


def test_a_resumed_order_is_the_same(config, prepared):
    whole = batches(config, prepared, 30)
    assert_same(whole[17:], batches(config, prepared, 13, start=17))
    assert_same(whole[17:21], batches(with_input(config, num_workers=2), prepared, 4, start=17))


def test_a_batch_of_one_is_a_row_of_the_larger(config, prepared):
    """As each of eight processes has it."""
    whole = batches(config, prepared, 2)
    single = batches(config, prepared, 2, process=5, num_processes=8)
    assert_same([{name: value[5:6] for name, value in b.items()} for b in whole], single)


def test_another_seed_is_another_order(config, prepared):
    other = dataclasses.replace(config, seed=1)
    left, right = batches(config, prepared, 1)[0], batches(other, prepared, 1)[0]
    assert not np.array_equal(left["image"], right["image"])


def test_epochs_differ(config, prepared):
    order = samples.sample_order(prepared.patients, 0.0, seed=3)
    num_slices = len(samples.all_samples(prepared.patients))
    epochs = [[order(e * num_slices + i) for i in range(num_slices)] for e in range(2)]
    assert epochs[0] != epochs[1]
    everything = samples.all_samples(prepared.patients)
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything
    records = [prepared.patients[s.patient].first + s.first for s in everything]
    assert records == list(range(num_slices)) and {s.depth for s in everything} == {1}


def test_the_parts_of_the_processes_make_up_the_batch(config, prepared):
    """In the rows where the process stands: dropout, for one, goes by row."""
    whole = batches(config, prepared, 3)
    for process in range(4):
        parts = batches(config, prepared, 3, process=process, num_processes=4)
        for part, batch in zip(parts, whole, strict=True):
            expected = batch["image"][2 * process : 2 * process + 2]
            np.testing.assert_array_equal(part["image"], expected)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_tumour_slices_are_drawn_as_often_as_asked(prepared, fraction):
    order = samples.sample_order(prepared.patients, fraction, seed=0)
    tumour = set(samples.tumour_samples(prepared.patients))
    drawn = [order(i) in tumour for i in range(4000)]
    share = len(tumour) / len(samples.all_samples(prepared.patients))
    expected = fraction + (1 - fraction) * share
    assert np.mean(drawn) == pytest.approx(expected, abs=0.03)


def test_tumour_indices_are_the_slices_with_tumour(prepared):
    source = prepared.source()
    found = [i for i in range(len(source)) if source[i]["mask"].any()]
    drawn = samples.tumour_samples(prepared.patients)
    assert [prepared.patients[s.patient].first + s.first for s in drawn] == found


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_evaluation_sees_every_slice_exactly_once(config, prepared, num_processes):
    patients = prepared.patients[1:4]
    seen = []
    counts = set()
    for process in range(num_processes):
        parts = list(samples.evaluation_batches(prepared, patients, config, process, num_processes))
        counts.add(len(parts))
        assert {len(b["weight"]) for b in parts} == {8 // num_processes}
        for batch in parts:
            assert set(batch["weight"].tolist()) <= {0.0, 1.0}
            real = batch["weight"] > 0
            seen += list(
                zip(batch["patient"][real], batch["image"][real].sum((1, 2, 3)), strict=True)
            )
    assert len(counts) == 1  # a process with fewer batches would leave the others waiting
    assert len(seen) == len(set(seen)) == sum(p.num_slices for p in patients)
    per_patient = np.bincount([patient for patient, _ in seen], minlength=3)
    assert per_patient.tolist() == [p.num_slices for p in patients]


def test_evaluation_is_in_order_and_not_augmented(config, prepared):
    everything = Input(image_size=(128, 128), num_threads=1)  # the phantom's own grid
    config = dataclasses.replace(config, input=everything)
    patients = prepared.patients[:1]
    loaded = list(samples.evaluation_batches(prepared, patients, config))
    masks = np.concatenate([b["mask"][b["weight"] > 0] for b in loaded])
    source = prepared.source()
    truth = np.stack([source[i]["mask"] for i in range(patients[0].num_slices)])
    np.testing.assert_array_equal(masks, truth)
