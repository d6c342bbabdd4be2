"""Bad volume sets through the program: a line that names file and remedy, before any training."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_volume_sets import (
    AFFINE,
    GLIOMA_CASES,
    GLIOMA_SHAPE,
    glioma,
    write_gliomas,
)
from fake_volumes import write_nifti

from jaxseg import train
from jaxseg.errors import UserError
from jaxseg.runs import loop

pytest.importorskip("nibabel")

FIRST = GLIOMA_CASES[0]
IMAGE, LABEL = glioma(0)[0][..., 0], glioma(0)[1]


def file(root: Path, suffix: str) -> Path:
    return root / FIRST / f"{FIRST}{suffix}.nii.gz"


def with_voxel(array, value, dtype):
    array = array.astype(dtype)
    array[7, 8, 6] = value
    return array


def given(suffix, voxels, affine=AFFINE):
    return lambda root: write_nifti(file(root, suffix), voxels, affine)


def arguments(folder: Path, *options: str) -> list[str]:
    config = folder / "config.py"
    config.write_text(
        "from pathlib import Path\n"
        "from fake_config import tiny_volume_config\n\n"
        f"def get_config():\n    return tiny_volume_config(Path({str(folder)!r}))\n"
    )
    return ["--config", str(config), "--workdir", str(folder / "run"), *options]


@pytest.fixture
def program(monkeypatch):
    """Run the program in this process; it must not come to training."""
    monkeypatch.setattr(train, "start_computing", lambda joining: None)
    monkeypatch.setattr(train, "join", lambda: None)
    monkeypatch.setattr(loop, "new_state", lambda *_: pytest.fail("training has begun"))
    return train.main


TURNED = np.diag([1.0, -1.0, 1.0, 1.0])
OTHER_PLACE = "resample it to those"


@pytest.mark.parametrize(
    "broken, lines",
    [
        (lambda root: file(root, "-t2w").unlink(), ["(", "no file of t2"]),
        (given("-t2w", IMAGE[:, :, :-2]), ["-t2w.nii.gz", "lies on other voxels", OTHER_PLACE]),
        (given("-t2w", IMAGE, TURNED), ["-t2w.nii.gz", "lies on other voxels", OTHER_PLACE]),
        (given("-seg", LABEL, TURNED), ["-seg.nii.gz", "lies on other voxels", OTHER_PLACE]),
        (given("-seg", with_voxel(LABEL, 7, np.uint8)), ["-seg.nii.gz: label 7, which no region"]),
        (
            given("-seg", with_voxel(LABEL, 1.5, np.float32)),
            ["-seg.nii.gz: labels with fractions, as 1.5", "by nearest neighbour"],
        ),
        (
            given("-t1c", with_voxel(IMAGE, np.nan, np.float32)),
            ["-t1c.nii.gz: voxels that are no numbers", "set them to"],
        ),
        (given("-t2f", np.stack([IMAGE] * 3, -1)), ["-t2f.nii.gz: 4D", "split it"]),
        (given("-seg", np.stack([LABEL] * 2, -1)), ["-seg.nii.gz: 4D", "write one label"]),
        (given("-t2w", np.zeros(GLIOMA_SHAPE, np.int16)), ["-t2w.nii.gz: an empty volume"]),
    ],
    ids=["sequence missing", "two shapes", "other affine", "other affine of the label"]
    + ["unknown label", "fractions", "NaN", "4D", "4D label", "empty"],
)
def test_a_bad_file_is_told_before_any_training(tmp_path, program, broken, lines):
    write_gliomas(tmp_path / "set")
    broken(tmp_path / "set")
    with pytest.raises(UserError) as caught:
        program(arguments(tmp_path))
    head, first, *others = str(caught.value).splitlines()
    assert head.endswith("1 problem to mend first") or others, caught.value
    assert all(line in first for line in lines) and FIRST in first, caught.value
    assert len([line for line in others if FIRST in line]) == 0, caught.value
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--config.input.image_size=(8, 9, 8)"], "input.image_size=(8, 9, 8): "),
        (["--config.model.windows=((3, 2, 2),)"], "input.image_size=(8, 8, 8): "),
        (["--config.model.num_classes=1"], "num_classes=1: the data set has 3 regions"),
        (["--config.train.batch_size=6"], "batch_size=6: must be a multiple of the 8 devices"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_any_training(tmp_path, program, options, message):
    write_gliomas(tmp_path / "set")
    with pytest.raises(UserError) as caught:
        program(arguments(tmp_path, *options))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_program_ends_with_two_and_without_a_traceback(tmp_path):
    write_gliomas(tmp_path / "set")
    given("-t1c", with_voxel(IMAGE, np.nan, np.float32))(tmp_path / "set")
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "jaxseg.train", *arguments(tmp_path)],
        env=os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}"},
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr and "Traceback" not in done.stderr
    assert "-t1c.nii.gz: voxels that are no numbers" in done.stderr
    assert not (tmp_path / "run").exists()
