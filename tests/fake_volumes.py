"""Synthetic scans for the tests: oblique NIfTI, NRRD and MetaImage files, DICOM series."""

import bz2
import gzip
import zlib
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


_LPI = ("left", "posterior", "inferior")


def write_nrrd(
    path: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    space: str = "left-posterior-superior",
    encoding: str = "raw",
    voxels_in: str = "",
    extra: str = "",
) -> Path:
    """Write [X, Y, Z] by hand, without pynrrd.

    Args:
        path: of the file.
        voxels: of a type of NumPy.
        affine: [4, 4], to RAS+ mm.
        space: of its directions: right-anterior-superior, or RAS, and so on.
        encoding: raw, gzip, bzip2 or ascii.
        voxels_in: a file beside it; '': behind the header.
        extra: further lines of the header.
    """
    signs = [1, 1, 1] if space == "RAS" else [-1 if s in space else 1 for s in _LPI]
    place = np.diag([*signs, 1.0]) @ affine
    vectors = ["(" + ",".join(f"{x:.17g}" for x in place[:3, axis]) + ")" for axis in range(4)]
    header = (
        f"NRRD0004\n# by hand\ntype: {voxels.dtype.name}\ndimension: {voxels.ndim}\n"
        f"space: {space}\nsizes: {' '.join(map(str, voxels.shape))}\n"
        f"space directions: {' '.join(vectors[:3])}\nkinds: domain domain domain\n"
        f"endian: little\nencoding: {encoding}\nspace origin: {vectors[3]}\n{extra}"
    )
    stored = voxels.astype(voxels.dtype.newbyteorder("<")).tobytes(order="F")
    text = " ".join(map(str, voxels.ravel(order="F"))).encode()
    pack = {"gzip": gzip.compress, "bzip2": bz2.compress}.get(encoding, bytes)
    data = text if encoding == "ascii" else pack(stored)
    path.parent.mkdir(parents=True, exist_ok=True)
    if voxels_in:
        path.with_name(voxels_in).write_bytes(data)
        path.write_text(f"{header}data file: {voxels_in}\n")
    else:
        path.write_bytes(f"{header}\n".encode() + data)
    return path


def write_metaimage(
    path: Path, voxels: np.ndarray, affine: np.ndarray, packed: bool = False, **tags: str
) -> Path:
    """Write [X, Y, Z] by hand; an .mhd has its voxels in a .raw beside it.

    Args:
        path: of the file.
        voxels: int16 or uint8.
        affine: [4, 4], to RAS+ mm.
        packed: by zlib.
        tags: set otherwise.
    """
    place = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    in_raw = path.suffix == ".mhd"
    tags = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(packed),
        "TransformMatrix": " ".join(f"{x:.17g}" for x in (place[:3, :3] / spacing).T.ravel()),
        "Offset": " ".join(f"{x:.17g}" for x in place[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": " ".join(f"{x:.17g}" for x in spacing),
        "DimSize": " ".join(map(str, voxels.shape)),
        "ElementType": {"i2": "MET_SHORT", "u1": "MET_UCHAR"}[voxels.dtype.str[1:]],
        "ElementDataFile": path.with_suffix(".raw").name if in_raw else "LOCAL",
    } | tags
    tags["ElementDataFile"] = tags.pop("ElementDataFile")  # the last
    order = ">" if tags["BinaryDataByteOrderMSB"] == "True" else "<"
    data = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F")
    if packed:
        data = zlib.compress(data)
        tags = {"CompressedDataSize": str(len(data))} | tags
    header = "".join(f"{key} = {value}\n" for key, value in tags.items()).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + (b"" if in_raw else data))
    if in_raw:
        path.with_suffix(".raw").write_bytes(data)
    return path


def write_scan(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    """Write [X, Y, Z] in the format that the name tells; packed where that may be."""
    if path.suffix == ".nrrd":
        return write_nrrd(path, voxels, affine, encoding="gzip")
    if path.suffix == ".nhdr":
        return write_nrrd(path, voxels, affine, "RAS", voxels_in=f"{path.stem}.raw")
    if path.suffix in (".mha", ".mhd"):
        return write_metaimage(path, voxels, affine, packed=path.suffix == ".mha")
    return write_nifti(path, voxels, affine)
