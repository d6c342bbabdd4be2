"""The scans of a run are found where they have moved, and only if they are the same."""

import dataclasses
import shutil

import numpy as np
import pytest
from fake_config import tiny_config
from fake_data import write_folders, write_image

from jaxseg.config import Dataset, Split
from jaxseg.datasets.prepare import prepare
from jaxseg.datasets.splits import split_patients
from jaxseg.errors import UserError
from jaxseg.runs import scans, workdir


def test_scans_that_have_moved_are_told_once(tmp_path):
    old, new, run = (tmp_path / name for name in ("old", "new", "run"))
    write_folders(old, patients=8)
    dataset = Dataset("image_folder", str(old), str(tmp_path / "cache"))
    split = Split(train=("p0", "p1"), validation=("p2",), test=("p3",))
    config = dataclasses.replace(tiny_config(tmp_path), dataset=dataset, split=split)
    prepared = prepare(dataset)
    workdir.claim(run, config, prepared, split_patients(prepared.patients, config.split))
    old.rename(new)
    with pytest.raises(UserError, match=r"evaluate --workdir .*/run --config.dataset.source=PATH"):
        scans.scans_of(run, config)
    shutil.copytree(new, old)
    write_image(old / "p1/s1_mask.png", np.zeros((12, 16, 1), np.uint8))
    with pytest.raises(UserError, match="masks of 1 patients .p1. have changed"):
        scans.move(run, str(old), None)
    assert workdir.load_config(run) == config
    scans.move(run, str(new), str(tmp_path / "other"))
    moved = workdir.load_config(run)
    assert moved.dataset.source == str(new) and moved.dataset.cache_dir == str(tmp_path / "other")
    assert scans.scans_of(run, moved).patients == prepared.patients
