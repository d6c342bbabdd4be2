"""The suggested config fits the data, fills the splits, survives its file and trains."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from fake_data import patient, write_folders

from jaxseg import doctor
from jaxseg.config import Config, Dataset, Split
from jaxseg.config.recipes import load_recipe
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.samples import training_batches
from jaxseg.datasets.splits import check_contents, place, split_patients
from jaxseg.diagnosis import noise, step_time
from jaxseg.diagnosis.suggest import suggest_config, suggest_folds, suggest_split, to_python
from jaxseg.machine.sharding import check_fits, make_mesh, to_global
from jaxseg.training.state import new_state
from jaxseg.training.steps import jit_train_step


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> doctor.Examination:
    source = tmp_path_factory.mktemp("source")
    write_folders(source, patients=6)
    return doctor.examine(str(source), Dataset(), None)


def test_the_written_file_gives_the_config_and_trains(found, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(to_python(found.config))
    config = load_recipe(str(file))
    assert config == found.config
    dataset = dataclasses.replace(config.dataset, cache_dir=str(tmp_path / "cache"))
    prepared, mesh = prepare(dataset, config.split), make_mesh(config.mesh)
    check_fits(config, mesh)
    train = split_patients(prepared.patients, config.split)["train"]
    state = new_state(config, prepared.num_channels, mesh)
    step, losses = jit_train_step(config, state, mesh), []
    batches = training_batches(prepared, train, config, 0)
    for _ in range(40):
        stop = {"stop": np.zeros(config.train.batch_size, np.int32)}
        state, metrics = step(state, to_global(next(batches) | stop, mesh))
        losses.append(float(metrics["train_loss"]))
    batches.close()
    assert np.isfinite(losses).all() and int(state.nonfinite_total) == 0
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_hostile_values_survive_the_file(tmp_path):
    dataset = Dataset("image_folder", '/a\'b"""\\n\n{x}', patient_regex=r"('\d+)\"_")
    config = Config(
        seed=3, dataset=dataset, split=Split(train=("a",), validation=("b",), test=("c",))
    )
    file = tmp_path / "c.py"
    file.write_text(to_python(config))
    assert load_recipe(str(file)) == config


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("size, side, levels", [(16, 16, 2), (100, 112, 4), (240, None, 5)])
def test_the_network_fits_the_images(found, accelerator, size, side, levels):
    box = np.array([0, 0, size, size])
    facts = [f._replace(size=(size, size), head_box=box) for f in found.facts]
    config = suggest_config(found.config.dataset, facts, Split(), accelerator, 6)
    side = side or (240 if accelerator else 128)
    assert config.input.image_size == (side, side) and not config.input.crop_to_head
    assert len(config.model.widths) == levels
    assert config.train.batch_size % 6 == 0 and config.evaluation.batch_size % 6 == 0
    facts = [f._replace(head_box=box // 2) for f in facts]
    assert suggest_config(found.config.dataset, facts, Split(), accelerator, 6).input.crop_to_head


@pytest.mark.parametrize("accelerator, name", [(False, "lgg_cpu"), (True, "lgg")])
def test_the_recipe_is_that_of_the_config_file(found, accelerator, name):
    recipe = load_recipe(str(Path(__file__).parents[2] / f"configs/{name}.py"))
    side = 240 if accelerator else 128
    facts = [
        f._replace(size=(side, side), head_box=np.array([0, 0, side, side])) for f in found.facts
    ]
    config = suggest_config(found.config.dataset, facts, Split(), accelerator, 1)
    for section in ("augment", "model", "optimizer", "plateau", "early_stop", "evaluation"):
        assert getattr(config, section) == getattr(recipe, section), section
    assert config.train.batch_size == recipe.train.batch_size


@pytest.mark.parametrize("number", [3, 5, 12, 39, 60])
def test_the_split_fills_every_part(number):
    salts = set()
    for name in "abcdef":
        patients = [patient(f"{name}{n}") for n in range(number)]
        split = suggest_split(patients)
        salts.add(split.salt)
        made = place(patients, split)
        assert not check_contents(made)
        for fraction, part in zip(split.fractions, made.values(), strict=True):
            assert len(part) >= max(1, fraction * number / 2)
    assert number > 12 or max(salts) > 0  # with few patients it had to look for one


def test_a_part_counts_its_patients_with_tumour():
    patients = [patient(f"p{n}", tumour=5 * (n < 3)) for n in range(30)]
    made = place(patients, suggest_split(patients))
    assert [sum(any(p.tumour_pixels) for p in part) for part in made.values()] == [1, 1, 1]


def test_folds_can_all_be_tested_on():
    patients = [patient(f"p{n}") for n in range(9)]
    folds = suggest_folds(patients)
    for fold in range(folds.num_folds):
        assert not check_contents(place(patients, dataclasses.replace(folds, fold=fold)))
    assert suggest_folds(patients[:2]) is None


def test_a_step_is_measured(found):
    times = step_time.measure_step(found.config, noise.slices(found.config, found.facts), 3)
    assert 1 <= times.num_steps <= 5 and times.device == f"{jax.device_count()} x cpu"
    assert 0 < times.step_seconds < 60 and 0 < times.sample_seconds < 10
    # On each device at least the batch and the parameters, far below a gigabyte.
    assert 2 * 16 * 16 * 3 * 4 < times.memory_bytes < 1 << 30
