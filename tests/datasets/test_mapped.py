"""Copies of volumes: the crop and back, boxes, integers as they are, damage that is named."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from fake_volumes import oblique_affine, world

from jaxseg.config import Dataset
from jaxseg.datasets import mapped
from jaxseg.datasets.checks import copy_warnings
from jaxseg.datasets.index import read_index
from jaxseg.datasets.patches import Box, read_padded
from jaxseg.datasets.prepare import _write_volumes, prepare
from jaxseg.datasets.prepared import Prepared
from jaxseg.errors import TrainingFailed
from jaxseg.imaging.intensity import volume_statistics
from jaxseg.imaging.volumes import MARGIN
from jaxseg.layouts.kinds import PHANTOM_VOLUMES
from jaxseg.scans.regions import Region
from jaxseg.scans.volume import Volume

SHAPE, HEAD = (20, 32, 28), (slice(4, 15), slice(8, 26), slice(6, 24))
REGIONS = PHANTOM_VOLUMES.region_names


def scan(patient="a", dtype=np.int16, channels=4, regions=3, seed=0) -> Volume:
    """A head of 200..1000 below an offset of -300, truth in it and in the frame's last corner."""
    rng = np.random.default_rng(seed)
    image = np.full((*SHAPE, channels), -300)
    image[HEAD] = rng.integers(-100, 700, image[HEAD].shape)
    if np.dtype(dtype).kind == "u":
        image = (image + 300) // 4
    mask = np.zeros((*SHAPE, regions), np.uint8)
    mask[HEAD] = rng.integers(0, 2, mask[HEAD].shape)
    mask[-1, -1, -1, 0] = 1
    return Volume(
        image.astype(dtype),
        (3.0, 1.5, 0.8),
        oblique_affine(),
        patient=patient,
        mask=mask,
        files=tuple(f"{patient}_{c}.nii.gz" for c in range(channels)),
        group=f"person of {patient}",
    )


def copy_of(folder, *volumes: Volume) -> Prepared:
    named = [Region(f"region {k}") for k in range(volumes[0].mask.shape[-1])]
    kind = replace(PHANTOM_VOLUMES, regions=tuple(named))
    made, _ = _write_volumes(kind, iter(volumes), [], folder)
    return Prepared(made, **read_index(made / "index.json"))


def test_the_crop_is_the_box_of_head_and_truth_and_leads_back(tmp_path):
    volume = scan()
    prepared = copy_of(tmp_path, volume)
    (patient,) = prepared.patients
    assert patient.offset == tuple(s.start - MARGIN for s in HEAD)
    assert np.add(patient.offset, patient.shape).tolist() == list(SHAPE)  # the voxel in the corner
    assert patient.native_shape == SHAPE and patient.slice_numbers == tuple(range(2, 20))
    assert patient.region_voxels == tuple(volume.mask.sum((0, 1, 2)))
    assert patient.person == "person of a" and patient.files == volume.files
    crop = prepared.volume(patient)
    part = tuple(slice(o, o + n) for o, n in zip(patient.offset, patient.shape, strict=True))
    assert crop.image.dtype == np.int16 and crop.group == volume.group
    np.testing.assert_array_equal(crop.image, volume.image[part])
    native = np.zeros_like(volume.mask)
    native[part] = crop.mask
    np.testing.assert_array_equal(native, volume.mask)
    np.testing.assert_array_equal(crop.stats, volume_statistics(volume.image))
    np.testing.assert_array_equal(crop.head_box, [2, 2, 20, 20])  # of the crop
    places = world(crop.affine, patient.shape)
    np.testing.assert_allclose(places, world(volume.affine, SHAPE)[part], atol=1e-9)


def test_a_head_at_the_borders_and_no_head_are_not_cropped(tmp_path):
    volume = scan()
    full = volume._replace(image=np.arange(volume.image.size, dtype=np.int32).reshape(*SHAPE, 4))
    prepared = copy_of(tmp_path, full, volume._replace(image=np.full_like(volume.image, 7)))
    for patient in prepared.patients:
        assert (patient.offset, patient.shape) == ((0, 0, 0), SHAPE)
    assert prepared.patients[1].digests == ("",) * 4  # constant channels are no copies


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("regions", [1, 3, 9])
def test_boxes_of_every_type_and_number_of_regions(tmp_path, dtype, regions):
    volumes = [scan(p, dtype, channels=2, regions=regions, seed=n) for n, p in enumerate("ab")]
    prepared = copy_of(tmp_path, *volumes)
    source = pickle.loads(pickle.dumps(prepared.source()))
    for patient in prepared.patients:
        whole = prepared.volume(patient)
        assert whole.image.dtype == dtype and whole.image.flags.owndata
        assert whole.image.flags.c_contiguous and whole.image.flags.writeable
        for low, high in (((0, 0, 0), (1, 1, 1)), ((3, 5, 2), (9, 16, 17)), ((0,) * 3, None)):
            high = high or patient.shape
            part = tuple(map(slice, low, high))
            record = source.box(patient, low, high)
            np.testing.assert_array_equal(record["image"], whole.image[part])
            np.testing.assert_array_equal(record["mask"], whole.mask[part])
            np.testing.assert_array_equal(record["stats"], whole.stats)
            assert not record["image"].flags.writeable  # a view of the file
    for bad in (((-1, 0, 0), (3, 3, 3)), ((0, 0, 0), (19, 3, 3)), ((2, 2, 2), (2, 3, 3))):
        with pytest.raises(IndexError, match="no box"):
            source.box(patient, *bad)


def test_slices_of_volumes_are_records_too(tmp_path):
    prepared = copy_of(tmp_path, scan("a"), scan("b", seed=1))
    source, (a, b) = prepared.source(), prepared.patients
    assert (a.first, b.first, len(source)) == (0, 18, 36) and len(list(source)) == 36
    record, volume = source[18 + 5], prepared.volume(b)
    np.testing.assert_array_equal(record["image"], volume.image[5])
    np.testing.assert_array_equal(record["mask"], volume.mask[5])
    np.testing.assert_array_equal(record["head_box"], volume.head_box)
    assert (record["patient"], record["slice"]) == (b"b", 7)


def test_foreground_is_spread_over_each_region(tmp_path, monkeypatch):
    volume = scan()
    volume.mask[..., 2] = 0
    volume.mask[5, 12, 10:13, 2] = 1
    volume.mask[..., 1] = 0
    prepared = copy_of(tmp_path, volume)
    (patient,) = prepared.patients
    crop, source = prepared.volume(patient), prepared.source()
    whole, none, line = source.foreground(patient)
    np.testing.assert_array_equal(whole, np.argwhere(crop.mask[..., 0]))
    np.testing.assert_array_equal(line + patient.offset, [[5, 12, x] for x in (10, 11, 12)])
    assert none.shape == (0, 3) and none.dtype == line.dtype == np.int32
    monkeypatch.setattr(mapped, "MOST_POINTS", 100)
    few = mapped.some_voxels(crop.mask[..., 0])
    places = {tuple(p) for p in whole.tolist()}
    assert len({tuple(p) for p in few.tolist()} & places) == 100  # none twice
    assert few[0].tolist() == whole[0].tolist() and few[-1].tolist() == whole[-1].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_a_background_amid_the_tissue_is_dark_in_the_copy(tmp_path, dtype):
    """Brought to mean 0 over the brain and left at 0 around it, as BRATS 2015."""
    volume, rng = scan(), np.random.default_rng(1)
    image = np.zeros((*SHAPE, 4))
    image[HEAD] = 100 * rng.standard_normal(image[HEAD].shape)
    volume.mask[-1, -1, -1] = 0
    prepared = copy_of(tmp_path, volume._replace(image=image.astype(dtype)))
    (patient,) = prepared.patients
    crop = prepared.volume(patient)
    assert crop.image.dtype == dtype and patient.offset == (2, 6, 4)
    inside = (slice(MARGIN, -MARGIN),) * 3
    assert (crop.image[inside] != image.astype(dtype)[HEAD]).mean() < 0.01  # those of exactly 0
    assert crop.image[0, 0, 0, 0] < -250  # the dark end of the tissue


def test_a_copy_takes_a_byte_for_the_masks_of_a_voxel(tmp_path):
    prepared = copy_of(tmp_path, *(scan(p, seed=n) for n, p in enumerate("abc")))
    files = {f.name: f.stat().st_size for f in prepared.path.iterdir()}
    voxels = sum(np.prod(p.shape) for p in prepared.patients)
    sizes = [n for p in prepared.patients for n in p.region_voxels]
    points = 12 * sum(min(n, mapped.MOST_POINTS) for n in sizes)
    assert set(files) == {"volumes.bin", "volumes.npy", "index.json"}  # and no records beside
    assert 0 <= files["volumes.bin"] - (voxels * (4 * 2 + 1) + points) < 3 * 64


def damaged(prepared: Prepared, at: int):
    file = prepared.path / "volumes.bin"
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_damage_is_named_at_the_first_use_of_the_scan(tmp_path):
    prepared = copy_of(tmp_path, scan("a"), scan("b", seed=1))
    damaged(prepared, -5)
    source, (a, b) = prepared.source(), prepared.patients
    source.box(a, (0, 0, 0), (2, 2, 2))
    words = r"^b_0.nii.gz: cannot be read from the prepared copy .*checksum mismatch.*delete"
    for read in (lambda: source.box(b, (0, 0, 0), (2, 2, 2)), lambda: source.foreground(b)):
        with pytest.raises(TrainingFailed, match=words):
            read()
    with pytest.raises(TrainingFailed, match=words):
        source[20]


@pytest.mark.parametrize("file", ["volumes.bin", "volumes.npy"])
def test_cut_off_files_are_named_and_kill_nothing(tmp_path, file):
    prepared = copy_of(tmp_path, scan())
    source, (a,) = prepared.source(), prepared.patients
    content = (prepared.path / file).read_bytes()
    with (prepared.path / file).open("r+b") as opened:
        opened.truncate(len(content) // 2)
    with pytest.raises(TrainingFailed, match="cannot be opened"):
        prepared.source()
    if file == "volumes.bin":  # while it is open: reading on would be SIGBUS
        with pytest.raises(TrainingFailed, match=r"a_0.nii.gz: cannot be read .*cut off"):
            source.box(a, (0, 0, 0), a.shape)


def test_many_read_at_once(tmp_path):
    prepared = copy_of(tmp_path, *(scan(p, seed=n) for n, p in enumerate("abcd")))
    source, whole = prepared.source(), [prepared.volume(p) for p in prepared.patients]

    def read(n: int) -> dict:
        return source.box(prepared.patients[n % 4], (1, 2, 3), (9, 9, 9))

    with ThreadPoolExecutor(4) as pool:
        for n, record in enumerate(pool.map(read, range(64))):
            np.testing.assert_array_equal(record["image"], whole[n % 4].image[1:9, 2:9, 3:9])


def test_one_sequence_under_two_names_is_found_whatever_the_truth(tmp_path):
    """A digest for each channel, of all of the scan: another mask makes another crop."""
    a, b = scan("a"), scan("b", seed=1)
    b.image[..., 3] = a.image[..., 1]
    c = a._replace(patient="c", files=("c.nii.gz",), mask=np.zeros_like(a.mask))
    prepared = copy_of(tmp_path, a, b, c)
    first, second = copy_warnings(prepared.patients)  # each with the first of its kind
    assert first.startswith("patients a and b: 1 identical image: a_1.nii.gz = b_3.nii.gz")
    assert second.startswith("patients a and c: 4 identical images: a_0.nii.gz = c.nii.gz, a_1")
    empty = prepared.patients[2]
    assert empty.region_voxels == (0, 0, 0) and empty.mask_digests == ("",)
    assert [len(points) for points in prepared.source().foreground(empty)] == [0, 0, 0]
    assert prepared.patients[0].shape != prepared.patients[2].shape


def test_slice_sets_have_boxes_and_foreground_as_well(tmp_path):
    """The stacks of slices of LGG are trained on as volumes."""
    prepared = prepare(Dataset(phantom_patients=3, cache_dir=str(tmp_path)))
    patient, source = prepared.patients[1], prepared.source()
    volume = prepared.volume(patient)
    assert patient.shape == patient.native_shape == volume.image.shape[:3]
    record = source.box(patient, (2, 30, 40), (9, 90, 100))
    np.testing.assert_array_equal(record["image"], volume.image[2:9, 30:90, 40:100])
    np.testing.assert_array_equal(record["mask"], volume.mask[2:9, 30:90, 40:100])
    (points,) = source.foreground(patient)
    assert 0 < len(points) <= mapped.MOST_POINTS and volume.mask[tuple(points.T)].all()


@pytest.mark.parametrize(
    ("dtypes", "common"),
    [
        ((np.int16, np.int16), np.int16),
        ((np.int16, np.uint16), np.int32),
        ((np.uint8, np.float32), np.float32),
        ((np.int32, np.uint32), np.float32),  # 8 bytes would be needed
    ],
)
def test_scans_of_several_dtypes_make_patches_of_one(tmp_path, dtypes, common):
    scans = [scan(name, dtype) for name, dtype in zip("ab", dtypes, strict=True)]
    prepared = copy_of(tmp_path, *scans)
    source, size = prepared.source(), (4, 8, 8)
    assert source.dtype == common
    for patient, dtype in zip(prepared.patients, dtypes, strict=True):
        low = np.array([3, 4, 5])
        patch = read_padded(source, Box(patient, low, low + size), size)["image"]
        box = source.box(patient, low, low + size)["image"]
        assert patch.dtype == common and box.dtype == dtype
        np.testing.assert_array_equal(patch, box)
