"""On a volume set the doctor suggests what fits the scans and the machine, and it trains."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_data import patient
from fake_volumes import write_nifti

from jaxseg.config import Config, Dataset, Split, fit_levels, fit_patch, nnunet_plain
from jaxseg.config.recipes import load_recipe
from jaxseg.datasets.splits import check_contents, place
from jaxseg.diagnosis import noise, step_time, suggest_volumes
from jaxseg.diagnosis.examine import examine
from jaxseg.diagnosis.findings import shown
from jaxseg.diagnosis.suggest import suggest_folds, suggest_split, to_python
from jaxseg.diagnosis.volume_facts import VolumeFacts

ROOT = Path(__file__).parents[2]


def facts(shape=(140, 171, 137), spacing=(1.0, 1.0, 1.0), name="p") -> VolumeFacts:
    """Return facts of a scan of four sequences and three regions, cropped to such a shape."""
    who = dataclasses.replace(patient(name), spacing_mm=spacing, region_voxels=(9, 5, 2))
    stats = np.float32([(0, 900, 300, 100)] * 4)
    stored = np.array([(0, 1000)] * 4)
    orientation, share = "LPS", tuple(n + 10 for n in shape)
    region_ml, lesions = np.float64([0.9, 0.5, 0.2]), np.array([1, 1, 1])
    given = (who, name, share, spacing, orientation, "int16", stored, stats, shape, ())
    return VolumeFacts(*given, (1, 2, 4), region_ml, lesions)


def suggest(scans, accelerator=False, num_devices=1) -> Config:
    dataset = Dataset("brats", "/scans")
    return suggest_volumes.suggest_config(dataset, scans, Split(), accelerator, num_devices)


def test_the_spacing_is_that_of_the_scans_where_they_share_one():
    target = suggest_volumes.target_spacing
    assert target([(1.0, 1.0, 1.0)] * 3) == target([(1.0, 1.0, 1.0), (1.05, 1.0, 0.97)]) == ()
    assert target([(1.0, 1.0, 1.0), ()]) == ()
    assert target([(1.0, 1.0, 1.0), (1.0, 0.5, 0.5), (1.5, 0.8, 0.8)]) == (1.0, 0.8, 0.8)
    # Slices of 2, 5, 5, 5, 5 mm: the median is thick, so the 10th percentile, 2 + 0.4 x 3, counts.
    thick = [(2.0, 0.5, 0.5), *[(5.0, 0.5, 0.5)] * 4]
    assert target(thick) == (3.2, 0.5, 0.5)
    # But no finer than the other axes.
    some = [(0.5, 2.0, 1.0)] + [(9.0, 2.0, 1.0)] * 9
    assert target(some) == pytest.approx((8.15, 2.0, 1.0))
    assert target([(0.5, 2.0, 1.0)] * 4 + [(9.0, 2.0, 1.0)] * 6) == (2.0, 2.0, 1.0)


def test_brats_gets_the_patch_of_nnunet():
    """A plan of nnU-Net's for the same median scan, 140 x 171 x 137: 128^3, six levels."""
    config = suggest_volumes.with_patch(
        Config(model=nnunet_plain(3)), [facts()], suggest_volumes._VOXELS
    )
    assert config.input.image_size == (128, 128, 128)
    assert config.model.windows == ((2, 2, 2),) * 5 and len(config.model.widths) == 6


@pytest.mark.parametrize("accelerator, name", [(False, "volumes"), (True, "brats")])
def test_the_recipe_is_that_of_the_config_file(accelerator, name):
    recipe, config = load_recipe(name), suggest([facts()], accelerator, 3)
    for section in ("augment", "loss", "optimizer", "plateau", "early_stop"):
        assert getattr(config, section) == getattr(recipe, section), section
    widths = config.model.widths
    assert widths == recipe.model.widths[: len(widths)]
    assert config.model.num_classes == 3 and config.input.spacing_mm == ()
    assert config.train.batch_size == config.evaluation.batch_size == 3  # 2, on three devices


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize(
    "shape, spacing",
    [
        ((140, 171, 137), (1.0, 1.0, 1.0)),
        ((22, 230, 190), (6.0, 0.8, 0.8)),
        ((30, 38, 34), (1.0, 1.0, 1.0)),
        ((6, 7, 8), (1.0, 1.0, 1.0)),
        ((5, 300, 300), (5.0, 0.5, 0.5)),
        ((3, 3, 3), ()),
    ],
)
def test_the_patch_fits_scan_and_network(accelerator, shape, spacing):
    config = suggest([facts(shape, spacing)], accelerator)  # which checks windows against sizes
    size = config.input.image_size
    most = suggest_volumes._VOXELS if accelerator else suggest_volumes._VOXELS_ON_CPU
    assert math.prod(size) <= most
    assert all(n <= max(8, 1.34 * whole) for n, whole in zip(size, shape, strict=True))
    # It has the proportions of the scan, up to what the windows divide.
    shares = np.array(size) / np.maximum(shape, 8 if max(shape) < 8 else 1)
    steps = np.array(config.model.multiple(3)) / shape
    assert shares.max() - shares.min() <= steps.max() + 0.34 or min(size) <= 8
    if spacing and spacing[0] > 2:
        assert config.model.windows[0] == (1, 2, 2) and config.model.kernels[0] == (1, 3, 3)


def test_thick_slices_are_rounded_to_what_their_windows_divide():
    model = nnunet_plain(1)
    size, fitted = fit_patch(model, (22, 128, 130), (6.0, 1.0, 1.0))
    assert size == (24, 128, 128) and fitted == fit_levels(model, size, (6.0, 1.0, 1.0))
    assert fitted.multiple(3) == (4, 32, 32)
    assert fit_patch(model, (3, 4, 5))[0] == (8, 8, 8)


def test_scans_of_other_spacing_are_resampled_and_the_grid_counts():
    scans = [facts((100, 200, 200), (2.0, 1.0, 1.0)), facts((200, 100, 100), (1.0, 2.0, 2.0))]
    config = suggest(scans)
    assert config.input.spacing_mm == (1.5, 1.5, 1.5)
    assert suggest_volumes.median_grid(scans, config)[0] == (133, 133, 133)


def test_the_patch_shrinks_until_the_compiled_step_fits(monkeypatch):
    """A step that keeps 1,000 bytes and takes 10 a voxel; the largest axis goes first."""
    compiled = []

    def compile_step(config, num_channels):
        voxels = math.prod(config.input.image_size)
        compiled.append(config.input.image_size)
        return step_time.CompiledStep(None, 0.0, 1000 + 10 * voxels, 1000)

    monkeypatch.setattr(suggest_volumes, "compile_step", compile_step)
    scans = [facts((33, 60, 33))]
    config = suggest(scans)
    first = config.input.image_size
    plenty = 1000 + 10 * math.prod(first)
    same, tried = suggest_volumes.fit_memory(config, scans, plenty)
    assert same == config and tried == [{"image_size": first, "bytes": plenty}]
    smaller, tried = suggest_volumes.fit_memory(config, scans, plenty - 1)
    size = smaller.input.image_size
    assert tried[-1] == {"image_size": size, "bytes": 1000 + 10 * math.prod(size)}
    assert len(tried) == 2 and size[1] < first[1] and (size[0], size[2]) == (first[0], first[2])
    half, _ = suggest_volumes.fit_memory(config, scans, plenty // 4)
    assert 0.1 * plenty < 10 * math.prod(half.input.image_size) <= plenty // 4
    compiled.clear()
    suggest_volumes.fit_memory(config, scans, 500)  # less than is kept: as small as it gets
    assert len(compiled) <= 3 and compiled[-1] == (8, 8, 8)

    def never_less(config, num_channels):
        compiled.append(config.input.image_size)
        return step_time.CompiledStep(None, 0.0, 1000, 0)

    compiled.clear()
    monkeypatch.setattr(suggest_volumes, "compile_step", never_less)
    last, tried = suggest_volumes.fit_memory(config, scans, 900)
    assert len(compiled) == len(tried) == 3 and compiled[-1] == last.input.image_size


def test_a_step_of_patches_is_measured():
    """On each of eight devices: a patch of 16 x 8 x 8, four channels, and the parameters."""
    scans = [facts((16, 8, 8))]
    config = suggest(scans, num_devices=8)
    model = dataclasses.replace(config.model, widths=(2, 4), windows=(), kernels=())
    config = suggest_volumes.with_patch(dataclasses.replace(config, model=model), scans, 1024)
    assert config.input.image_size == (16, 8, 8)
    step = step_time.compile_step(config, 4)
    assert 4 * 4 * 1024 < step.kept_bytes < step.num_bytes < 1 << 24
    times = step_time.measure_step(config, noise.patches(config, scans), 4)
    assert times.memory_bytes > step.num_bytes + 4 * 4 * 1024  # the raw patch besides
    assert 1 <= times.num_steps <= 5 and 0 < times.sample_seconds < 10
    assert step_time.compile_step(config, 4) is step  # once for all


def test_persons_fill_the_parts_not_their_scans():
    """Two scans of each person: every part has people of its own."""
    people = [dataclasses.replace(patient(f"p{n}"), group=f"g{n // 2}") for n in range(12)]
    made = place(people, suggest_split(people))
    assert not check_contents(made)
    persons = [{p.person for p in part} for part in made.values()]
    assert not set.intersection(*persons) and sum(map(len, persons)) == 6
    many = [dataclasses.replace(patient(f"p{n}"), group=f"g{n // 2}") for n in range(40)]
    assert suggest_split(many).fractions == (0.6, 0.2, 0.2)  # 20 persons are few
    assert suggest_folds(many).num_folds == 5 and suggest_folds(many[:28]).num_folds == 3


def test_patches_of_noise_are_as_those_of_a_set():
    scans = [facts((20, 24, 28), (2.0, 1.0, 1.0)), facts((24, 24, 24), (1.0, 1.0, 1.0))]
    config = suggest(scans)
    raw = noise.patches(config, scans)()
    shape = raw["image"].shape
    assert shape[-1] == 4 and raw["mask"].shape == (*shape[:3], 3)
    assert raw["image"].dtype == np.int16 and raw["matrix"].shape == (3, 4)
    assert suggest_volumes.num_patches(config, scans) == sum(
        math.prod(-(-n // m) for n, m in zip(grid, config.input.image_size, strict=True))
        for grid in ((27, 24, 28), (16, 24, 24))
    )


@pytest.mark.parametrize("number", [1, 2])
def test_too_few_persons_are_one_error(tmp_path, number):
    write_phantoms(tmp_path, number)
    found = examine(str(tmp_path), Dataset(), None)
    (error,) = [shown(f) for f in found.findings if f.severity == "error"]
    assert error.startswith(f"scans of {number} person") and "needs three" in error


def write_phantoms(root: Path, number: int):
    """Write heads of 32 x 40 x 36 mm with nested tumours, named as BraTS does since 2023."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    grid = np.moveaxis(np.indices((40, 36, 32)), 0, -1)
    for n in range(number):
        rng = np.random.default_rng(n)
        head = (((grid - (20, 18, 16)) / (17, 15, 14)) ** 2).sum(-1) < 1
        radius = np.sqrt(((grid - rng.integers((15, 14, 12), (26, 23, 21))) ** 2).sum(-1))
        label = np.select([radius < 2, radius < 4, radius < 6], [1, 3, 2], 0) * head
        case = f"BraTS-GLI-{n:05d}-000"
        for suffix, gain in zip(("-t1n", "-t1c", "-t2w", "-t2f"), (-20, 60, 80, 90), strict=True):
            image = head * (300 + gain * (label > 0) + rng.normal(0, 20, head.shape))
            path = root / case / f"{case}{suffix}.nii.gz"
            write_nifti(path, np.rint(image).clip(0).astype(np.int16), affine)
        write_nifti(root / case / f"{case}-seg.nii.gz", label.astype(np.uint8), affine)


def run(program: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"jaxseg.{program}", *map(str, arguments)]
    flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1"
    environment = os.environ | {"XLA_FLAGS": flags}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_the_suggestion_survives_its_file(tmp_path):
    write_phantoms(tmp_path / "set", 6)
    found = examine(str(tmp_path / "set"), Dataset(), None)
    assert not found.fails
    file = tmp_path / "mine.py"
    file.write_text(to_python(found.config))
    assert load_recipe(str(file)) == found.config
    parts = found.report["split"].values()
    assert sum(part["persons"] for part in parts) == 6
    assert all(part["regions"]["enhancing_tumour"] == part["scans"] >= 1 for part in parts)
    assert found.report["folds"].startswith("tests on every patient: --config.split.num_folds=3")


@pytest.mark.slow
def test_the_doctors_config_trains_as_it_is(tmp_path):
    write_phantoms(tmp_path / "set", 6)
    file, report = tmp_path / "mine.py", tmp_path / "report.json"
    done = run("doctor", tmp_path / "set", "--write-config", file, "--json", report)
    assert done.returncode == 0 and done.stderr == "", done.stderr + done.stdout
    lines = [line for line in done.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 100 and done.stdout.isascii()
    assert done.stdout.endswith(f"  python -m jaxseg.train --config {file}\n")
    content = json.loads(report.read_text())
    (tried,) = content["tried"]
    assert tried["image_size"] == content["suggested"]["input"]["image_size"]
    # At least the batch of float32, far less than the machine has.
    assert 2 * 4 * 4 * math.prod(tried["image_size"]) < tried["bytes"] < content["budget_bytes"]
    assert content["cost"]["memory_bytes"] > tried["bytes"] and content["cost"]["step_seconds"] > 0
    steps = ("--config.train.num_steps=2", "--config.train.eval_every_steps=1")
    done = run("train", "--config", file, *steps, "--workdir", tmp_path / "run")
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "run/evaluation/test/report.html").is_file()
