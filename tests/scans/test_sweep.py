"""The files that other libraries test themselves with: a result or one line, never a traceback."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from fake_volumes import oblique_affine, write_nifti, write_series

from jaxseg.errors import UserError
from jaxseg.scans.dicom import is_dicom, read_series
from jaxseg.scans.dicom_seg import read_segmentation
from jaxseg.scans.nifti import read_nifti
from jaxseg.scans.slices import read_slices

for _library in ("nibabel", "pydicom", "highdicom"):
    pytest.importorskip(_library)

LIBRARIES = ("pydicom", "nibabel", "highdicom", "PIL", "matplotlib", "cv2")
FOLDERS = ("data", "tests", "test_files", "Tests", "images", "sample_data", "mpl-data")
LARGEST = 2 << 20  # bytes
CODE = (".py", ".pyc", ".so", ".ttf", ".afm", ".pyi", ".json", ".svg", ".html", ".js")


def files_of(library: str) -> list[Path]:
    """Return the data files that an installed library ships, none where it is not installed."""
    found = importlib.util.find_spec(library)
    root = Path(found.origin).parent if found and found.origin else None
    listed = sorted(p for p in root.rglob("*") if p.is_file()) if root else []
    inside = (p for p in listed if set(p.relative_to(root).parts[:-1]) & set(FOLDERS))
    return [p for p in inside if p.suffix not in CODE and p.stat().st_size <= LARGEST]


def read_one_slice(path: Path):
    return read_slices(lambda name: Path(name).read_bytes(), [str(path)])


READERS = {
    "slices": read_one_slice,
    "NIfTI": read_nifti,
    "DICOM": lambda path: read_series([path]),
    "DICOM-SEG": read_segmentation,
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore")  # of nibabel, on headers that are odd
def test_every_file_is_a_result_or_one_line(library, reader, tmp_path):
    files = files_of(library)
    if not files:
        pytest.skip(f"{library} is not installed or ships no files")
    read = 0
    for number, path in enumerate(files):
        try:
            result = READERS[reader](path)
        except UserError as error:
            assert str(error) and "\n" not in str(error), path
            assert "force=True" not in str(error)  # pydicom's remedy, which nobody here can take
            continue
        read += 1
        is_dicom(path)
        if reader == "DICOM-SEG":
            continue
        assert result.image.ndim == 4 and np.isfinite(result.image).all(), path
        try:  # what can be read can be written
            result.write(tmp_path / f"mask{number}", np.ones(result.image.shape[:3], bool))
        except UserError as error:
            assert str(error) and "\n" not in str(error), path
    known = {("pydicom", "DICOM"): 20, ("nibabel", "NIfTI"): 7, ("nibabel", "DICOM"): 2}
    assert read >= known.get((library, reader), 0), f"{read} of {len(files)} read"


@pytest.mark.parametrize("kind", ["nii", "dcm", "seg"])
@pytest.mark.filterwarnings("ignore")
def test_headers_changed_at_random_are_a_result_or_one_line(kind, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 1000, (2, 6, 7)).astype(np.uint16)
    write_nifti(tmp_path / "sound.nii", voxels, oblique_affine())
    write_series(tmp_path / "series", voxels)
    first, second = sorted((tmp_path / "series").iterdir())
    read_series([first, second]).write(tmp_path / "seg", voxels > 500)
    sound = {"nii": tmp_path / "sound.nii", "dcm": first, "seg": tmp_path / "seg.dcm"}[
        kind
    ].read_bytes()
    read = {"nii": read_nifti, "seg": read_segmentation}
    read["dcm"] = lambda path: read_series([path, second])
    rng, odd = np.random.default_rng(1), tmp_path / ("odd.nii" if kind == "nii" else "odd.dcm")
    for _ in range(150):
        data = bytearray(sound)
        for at in rng.integers(0, 352 if kind == "nii" else len(data) - 9, rng.integers(1, 4)):
            put = rng.integers(0, 256, rng.integers(0, 5), np.uint8).tobytes()
            data[at : at + rng.integers(0, 5)] = put
        odd.write_bytes(data)
        try:
            result = read[kind](odd)
            if kind != "seg":
                result.write(tmp_path / "mask", np.ones(result.image.shape[:3], bool))
        except UserError as error:
            assert str(error) and "\n" not in str(error)
