"""One head, written in many ways: the mask lies on the same places in space."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_run import write_run
from fake_volume_sets import GLIOMA_SEQUENCES, write_gliomas
from fake_volumes import oblique_affine, world, write_scan
from scipy.spatial.transform import Rotation

from jaxseg import predict
from jaxseg.datasets.prepare import prepare
from jaxseg.layouts.kinds import told_by_files
from jaxseg.prediction import predictor, trained
from jaxseg.prediction.inference import predict_patients
from jaxseg.prediction.operating import OperatingPoint, segment_regions
from jaxseg.scans.regions import to_labels
from jaxseg.scans.scan_files import read_scan_file
from jaxseg.scans.volume import axial_affine, axial_order, from_axial

nibabel = pytest.importorskip("nibabel")

SHAPE, ZOOMS = (15, 14, 10), (1.2, 1.0, 2.0)
# How the voxels are stored: order of the axes, and which of them are flipped.
STORAGES = [
    ((0, 1, 2), ()),
    ((0, 1, 2), (0, 1)),
    ((1, 2, 0), (2,)),
    ((2, 1, 0), (0, 1, 2)),
    ((0, 2, 1), (1,)),
]
LEFT, UP = np.array([-1.0, 0, 0]), np.array([0, 0, 1.0])


def frames() -> dict[str, np.ndarray]:
    """Return affines to RAS+ mm of a head with thick slices: straight, and turned by 20 degrees."""
    turned = Rotation.from_rotvec(np.deg2rad(20) * np.array([0.6, -0.48, 0.64])).as_matrix()
    affines = {"straight": np.diag([*ZOOMS, 1.0]), "oblique": np.eye(4)}
    affines["oblique"][:3, :3] = turned * ZOOMS
    for affine in affines.values():
        affine[:3, 3] = (12.5, -40.25, 7.0)
    return affines


def head() -> tuple[np.ndarray, np.ndarray]:
    """Return int16 [15, 14, 10], and where it is bright: a ball in the front on the right."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    inside = (((index - [7, 6.5, 4.5]) / [7, 6, 4.5]) ** 2).sum(-1) < 1
    ball = (((index - [9, 9, 5]) * ZOOMS) ** 2).sum(-1) < 3.3**2
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    return ((300 + 600 * ball + noise) * (inside | ball)).astype(np.int16), ball


def stored(voxels: np.ndarray, affine: np.ndarray, axes, flipped) -> tuple[np.ndarray, np.ndarray]:
    """Return the same voxels in another storage, and its affine."""
    change = np.eye(4)[:, [*axes, 3]]
    for axis in flipped:
        change[:, 3] += change[:, axis] * (SHAPE[axes[axis]] - 1)
        change[:, axis] *= -1
    return np.flip(voxels.transpose(axes), flipped), affine @ change


def neighbour(mask: np.ndarray, affine: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return the mask moved by one voxel along the axis that lies nearest to a direction."""
    along = direction @ affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axis = int(np.abs(along).argmax())
    return np.roll(mask, int(np.sign(along[axis])), axis)


def labels_of(ball: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return what `bright` finds in a file: oedema 2, core 1, enhancing 3."""
    core = ball & neighbour(ball, affine, LEFT)
    return np.where(core & neighbour(ball, affine, UP), 3, np.where(core, 1, 2 * ball))


def bright(weights, image, temperature):
    """Return [B, D, H, W, 3]: bright; and so is the next voxel to the right; and the one below."""
    whole = image[..., 0] > 1.3  # standard deviations: between 300 and 900
    core = whole & jnp.roll(whole, 1, 3)
    return jnp.stack([whole, core, core & jnp.roll(whole, 1, 1)], -1).astype(jnp.float32)


@pytest.fixture
def run(volume_config, tmp_path, monkeypatch):
    """Return a function that writes a run at a spacing, with `bright` for its network."""
    monkeypatch.setattr(predict, "start_computing", lambda: None)

    def made(spacing=(), network=bright):
        where = dataclasses.replace(volume_config.input, spacing_mm=spacing)
        if network:
            monkeypatch.setattr(predictor, "jit_predict", lambda *_: jax.jit(network))
        dataset = told_by_files(volume_config.dataset)
        config = dataclasses.replace(volume_config, input=where, dataset=dataset)
        return write_run(tmp_path / "run", config, OperatingPoint())

    return made


def predicted(run, folder, affine, kind=".nii.gz") -> list[tuple[np.ndarray, np.ndarray]]:
    """Write the head in all storages, predict, and return the labels and their affines."""
    image, _ = head()
    names = [f"BraTS-GLI-{100 + n:05d}-000" for n in range(len(STORAGES))]
    for name, storage in zip(names, STORAGES, strict=True):
        voxels, place = stored(image, affine, *storage)
        for suffix in GLIOMA_SEQUENCES:
            write_scan(folder / "new" / name / f"{name}{suffix}{kind}", voxels, place)
    predict.main(["--workdir", str(run), "--output", str(folder / "out"), str(folder / "new")])
    if kind != ".nii.gz":
        return [
            in_storage(folder / "out" / name / f"mask{kind}", affine, storage)
            for name, storage in zip(names, STORAGES, strict=True)
        ]
    found = [nibabel.load(folder / "out" / name / "mask.nii.gz") for name in names]
    for name, mask in zip(names, found, strict=True):
        scan = nibabel.load(folder / "new" / name / f"{name}-t1c.nii.gz")
        assert mask.shape == scan.shape
        np.testing.assert_array_equal(mask.affine, scan.affine)
    return [(np.asanyarray(mask.dataobj), mask.affine) for mask in found]


def in_storage(path, affine, storage) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask on the voxels of the file it was made of, and where they should be."""
    voxels, place = stored(np.zeros(SHAPE), affine, *storage)
    volume, order = read_scan_file(path), axial_order(place)
    np.testing.assert_allclose(volume.affine, axial_affine(place, voxels.shape, order), atol=1e-5)
    return from_axial(volume.image[..., 0], order), place


def places(labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return [n, 4], the voxels that have a label: where they lie in mm, sorted, and which."""
    rows = np.column_stack([world(affine, labels.shape)[labels > 0].round(3), labels[labels > 0]])
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize(
    "frame, kind", [(f, ".nii.gz") for f in frames()] + [("oblique", ".nrrd"), ("oblique", ".mha")]
)
def test_however_a_head_is_stored_its_mask_lies_on_the_same_voxels(run, tmp_path, frame, kind):
    pytest.importorskip("nrrd")
    affine, (_, ball) = frames()[frame], head()
    expected = places(labels_of(ball, affine), affine)
    assert min(np.unique(expected[:, 3], return_counts=True)[1]) > 10
    found = predicted(run(), tmp_path, affine, kind)
    for storage, (labels, place) in zip(STORAGES, found, strict=True):
        here, place_here = stored(ball, affine, *storage)
        np.testing.assert_allclose(place, place_here, atol=1e-5)
        np.testing.assert_array_equal(labels, labels_of(here, place_here))
        np.testing.assert_allclose(places(labels, place), expected, atol=2e-3)


@pytest.mark.parametrize("frame", frames())
def test_another_spacing_of_training_changes_no_place(run, tmp_path, frame):
    """A grid of other voxels than the file: the same from all storages, near the truth."""
    affine, (_, ball) = frames()[frame], head()
    found = predicted(run((1.0, 1.1, 1.1)), tmp_path, affine)
    first = places(*found[0])
    for labels, place in found[1:]:
        np.testing.assert_allclose(places(labels, place), first, atol=2e-3)
    labels, _ = found[0]
    both = ((labels > 0) & ball).sum()
    assert 2 * both / ((labels > 0).sum() + ball.sum()) > 0.9
    off = world(affine, SHAPE)[labels > 0].mean(0) - world(affine, SHAPE)[ball].mean(0)
    assert np.abs(off).max() < 0.3


def test_a_prepared_copy_put_back_in_place_has_the_mask_of_the_file(
    run, volume_config, tmp_path, monkeypatch
):
    """The copy is a box of the scan: by a network, what it predicts there is what the file gets."""
    affine = oblique_affine()
    write_gliomas(tmp_path / "set", affine=affine, air=((9, 1), (3, 8), (6, 7)))
    dataset = dataclasses.replace(volume_config.dataset, source=str(tmp_path / "set"))
    prepared = prepare(dataclasses.replace(dataset, cache_dir=str(tmp_path / "cache")))
    folder = run(network=None)
    loaded = trained.load(folder)
    patients = prepared.patients[4:6]
    sources = [str(tmp_path / "set" / patient.id) for patient in patients]
    predict.main(["--workdir", str(folder), "--output", str(tmp_path / "out"), *sources])
    cases = list(predict_patients(trained.predictor(loaded), prepared, patients))
    for case, patient in zip(cases, patients, strict=True):
        assert case.volume.cropped
        masks = segment_regions(case.probability, loaded.points, loaded.kind.regions)
        whole = np.zeros((*patient.native_shape, 3), bool)
        box = zip(patient.offset, patient.shape, strict=True)
        whole[tuple(slice(low, low + size) for low, size in box)] = masks
        assert np.prod(patient.shape) < 0.8 * np.prod(patient.native_shape)
        file = nibabel.load(tmp_path / "out" / patient.id / "mask.nii.gz")
        labels = from_axial(to_labels(whole, loaded.kind.regions), axial_order(affine))
        assert len(np.unique(labels)) > 1
        np.testing.assert_array_equal(np.asanyarray(file.dataobj), labels)
        np.testing.assert_allclose(file.affine, affine, atol=1e-5)
