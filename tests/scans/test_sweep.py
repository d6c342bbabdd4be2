"""The files that other libraries test themselves with: a result or one line, never a traceback."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.scans.dicom import is_dicom, read_series
from jaxseg.scans.dicom_seg import read_segmentation
from jaxseg.scans.nifti import read_nifti
from jaxseg.scans.slices import read_slices

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
