"""Synthetic scans for the tests: oblique NIfTI files, DICOM series."""

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation


def oblique_affine(axes=(2, 0, 1), signs=(-1, 1, -1), zooms=(1.5, 0.8, 3.0)) -> np.ndarray:
    """Return a voxel-to-RAS affine: permuted, flipped, anisotropic and turned by 17 degrees."""
    frame = np.eye(3)[:, list(axes)] * signs
    turned = Rotation.from_rotvec(np.deg2rad(17) * np.array([0.6, -0.48, 0.64])).as_matrix() @ frame
    affine = np.eye(4)
    affine[:3, :3] = turned * zooms
    affine[:3, 3] = (12.5, -40.25, 7.0)
    return affine


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return [*shape, 3] float64: where each voxel lies, RAS+ mm."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    """Write a file with different qform and sform codes, scanner noise in the header, in mm."""
    import nibabel

    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    image.header["descrip"] = b"a scanner"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return path


def write_series(
    folder: Path,
    voxels: np.ndarray,
    places: list[float] | None = None,
    orientation: tuple[float, ...] | None = None,
    description: str = "FLAIR",
    seed: int = 0,
    **tags,
) -> np.ndarray:
    """Write int [D, H, W] as one DICOM file per slice, names shuffled; return the LPS frame.

    Args:
        folder: made when it is missing.
        voxels: stored values; slices of 0.5 x 0.75 mm pixels.
        places: of the slices along the normal, mm; None: every 4 mm.
        orientation: directions of columns and rows, LPS; None: axial, turned by 17 degrees.
        description: of the series.
        seed: of the names and of the series' identity.
        tags: further attributes of all slices.

    Returns:
        [3, 3] rows: directions of columns, rows and slices.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    oblique = Rotation.from_rotvec(np.deg2rad(17) * np.array([0.6, -0.48, 0.64])).as_matrix().T
    columns, rows = np.reshape(oblique[:2] if orientation is None else orientation, (2, 3))
    frame = np.stack([columns, rows, np.cross(columns, rows)])
    places = [4.0 * i for i in range(len(voxels))] if places is None else places
    names = np.random.default_rng(seed).permutation(len(voxels))
    folder.mkdir(parents=True, exist_ok=True)
    shared = {
        "PatientID": "p",
        "PatientName": "A^B",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyInstanceUID": "1.2.3",
        "StudyID": "1",
        "StudyDate": "20200101",
        "StudyTime": "0900",
        "SeriesInstanceUID": f"1.2.3.{seed}",
        "SeriesNumber": 3,
        "SeriesDescription": description,
        "FrameOfReferenceUID": "1.2.9",
        "Modality": "MR",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "PositionReferenceIndicator": "",
        "SliceThickness": 4.0,
        "Rows": voxels.shape[1],
        "Columns": voxels.shape[2],
        "PixelSpacing": [0.5, 0.75],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(voxels.dtype.kind == "i"),
        "ImageOrientationPatient": [float(f"{x:.9f}") for x in frame[:2].ravel()],
        **tags,
    }
    for i, (pixels, place) in enumerate(zip(voxels, places, strict=True)):
        slice_ = pydicom.Dataset()
        for name, value in shared.items():
            setattr(slice_, name, value)
        slice_.SOPClassUID, slice_.SOPInstanceUID = MRImageStorage, generate_uid()
        slice_.InstanceNumber = int(names[i]) + 1  # says nothing of the place
        origin = np.array([-60.0, -50.0, 20.0]) + place * frame[2]
        slice_.ImagePositionPatient = [float(f"{x:.6f}") for x in origin]
        slice_.PixelData = np.ascontiguousarray(pixels).astype("<u2").tobytes()
        slice_.file_meta = pydicom.dataset.FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.save_as(folder / f"IM{names[i]:04d}", enforce_file_format=True)
    return frame
