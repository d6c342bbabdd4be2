"""From scans on disk to a checked copy that is read at speed."""

import dataclasses
import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jaxseg.config import Dataset, Split
from jaxseg.datasets import decoded, mapped, phantom, phantom_volume
from jaxseg.datasets.cache import INDEX
from jaxseg.datasets.checks import copy_warnings, raise_problems, read_volumes
from jaxseg.datasets.index import Patient, make_patient, read_index, write_index
from jaxseg.datasets.prepared import Prepared, load_builder
from jaxseg.datasets.splits import check_split, split_patients
from jaxseg.datasets.volume_checks import read_cases
from jaxseg.errors import UserError
from jaxseg.imaging.volumes import head_and_truth, with_statistics
from jaxseg.layouts.kinds import DataSet, kind_of, list_source, told_by_files
from jaxseg.machine import locks
from jaxseg.machine.files import cache_folder
from jaxseg.scans.files import IMAGE_SUFFIXES, Files
from jaxseg.scans.scan_files import SUFFIXES, VOXELS
from jaxseg.scans.volume import Volume, cut

# Other code may make other records, so a copy belongs to the code that made it.
_MAKERS = ("datasets/*.py", "layouts/*.py", "scans/*.py", "imaging/intensity.py")
_MAKERS += ("imaging/volumes.py",)


def prepare(config: Dataset, split: Split | None = None) -> Prepared:
    """Check the scans and prepare them, or find the copy prepared before.

    The copy is kept under `cache_dir` by a key of the settings and of name, size and time of
    every source file, so that a changed source is prepared anew. Processes that need the same
    copy at once wait for the one that prepares it.

    Args:
        config: which scans.
        split: when given, its problems are raised here too, together with those of the files.

    Raises:
        UserError: the source is missing or of another layout; all problems of its files; the
            split's problems; names of other channels; the cache cannot be written.
    """
    config = told_by_files(config)
    files = list_source(config)
    path = _path(config, files)
    with locks.wait_for(path.parent / f"{path.name}.lock", f"prepares {config.name}"):
        prepared = _open(path)
        if prepared is None:
            _prepare(config, files, path, split)
            prepared = Prepared(path, **read_index(path / INDEX))
    kind_of(config).channel_names(prepared.num_channels)  # as many as there are, or refused
    # What the files do not state, the settings may.
    known = (
        dataclasses.replace(p, spacing_mm=p.spacing_mm or config.spacing_mm)
        for p in prepared.patients
    )
    prepared = dataclasses.replace(prepared, patients=tuple(known))
    if split is not None:
        split_patients(prepared.patients, split)
    return prepared


def _open(path: Path) -> Prepared | None:
    """Return the copy prepared before; None when there is none or parts of it are gone."""
    if not path.exists():
        return None
    try:
        prepared = Prepared(path, **read_index(path / INDEX))
        prepared.source()[0]
    except Exception:  # whatever TFDS raises over missing files: make it anew
        shutil.rmtree(path, ignore_errors=True)
        return None
    return prepared


def _path(config: Dataset, files: Files | None) -> Path:
    """Return the folder of the prepared copy; its name is the key."""
    kind = kind_of(config)
    settings = [getattr(config, name) for name in kind.settings]
    stamps = files.stamps.items() if files else ()
    suffixes = (*SUFFIXES, *VOXELS) if kind.volumes else IMAGE_SUFFIXES
    content = [s for s in stamps if s[0].lower().endswith(suffixes)]
    package = Path(__file__).parents[1]
    code = [path.read_text() for name in _MAKERS for path in sorted(package.glob(name))]
    parts = json.dumps([config.name, settings, content, code])
    key = hashlib.sha256(parts.encode()).hexdigest()[:16]
    return copies_folder(config.cache_dir) / config.name / key


def copies_folder(cache_dir: str | None) -> Path:
    """Return where the prepared copies are, by config.dataset.cache_dir."""
    if cache_dir is None:
        return cache_folder()
    return Path(cache_dir).expanduser().absolute() / "jaxseg"


def _prepare(config: Dataset, files: Files | None, path: Path, split: Split | None):
    """Write the copy beside its place and move it there at the end, whole or not at all."""
    problems, warnings = [], []
    num_patients, volumes = _volumes(config, files, problems, warnings)
    progress = tqdm(
        volumes, f"preparing {config.name}", num_patients, unit="patient", leave=False, disable=None
    )
    unsound = []  # patients that are not in the copy
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
            kind = kind_of(config)
            sound = _sound(iter(progress), kind, unsound)
            write = _write_volumes if kind.volumes else _write_slices
            made, patients = write(kind, sound, warnings, Path(scratch))
            if problems and split is not None:
                everyone = sorted([*patients, *unsound], key=lambda p: p.id)
                problems += check_split(everyone, split)[1]
            raise_problems(str(config.source), problems)
            _move(made, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write the prepared copy ({error}); set config.dataset.cache_dir to "
            "a folder with room that you may write to"
        ) from None
    finally:
        progress.close()


def _sound(
    volumes: Iterator[tuple[Volume, bool]], kind: DataSet, unsound: list[Patient]
) -> Iterator[Volume]:
    """Pass the sound volumes on, and append what is known of the others to unsound."""
    for volume, is_sound in volumes:
        if is_sound:
            yield volume
        else:
            whole = np.array([(0, 0, 0), volume.mask.shape[:3]]) if kind.volumes else None
            unsound.append(make_patient(volume, 0, whole))


def _write_volumes(
    kind: DataSet, volumes: Iterator[Volume], warnings: list[str], folder: Path
) -> tuple[Path | None, list[Patient]]:
    """Write the volumes' file and the index as `_write_slices` does."""
    patients = []
    volumes = _cropped(volumes, patients)
    first = next(volumes, None)
    if first is None:
        return None, patients
    made = folder / "volumes"
    made.mkdir()
    mapped.write(made, itertools.chain([first], volumes))
    _write_index(made, kind, first, patients, warnings)
    return made, patients


def _cropped(volumes: Iterator[Volume], patients: list[Patient]) -> Iterator[Volume]:
    """Yield the box of head and truth of each volume and append its index entry to patients."""
    first = 0
    for volume in volumes:
        dark = with_statistics(volume)
        box = head_and_truth(dark.image, dark.mask)
        patients.append(make_patient(volume, first, box))
        first += patients[-1].num_slices
        yield cut(dark, *box)


def _write_index(
    made: Path, kind: DataSet, like: Volume, patients: list[Patient], warnings: list[str]
):
    write_index(
        made / INDEX,
        num_channels=like.image.shape[-1],
        regions=kind.region_names,
        patients=patients,
        warnings=warnings + copy_warnings(patients),
    )


def _write_slices(
    kind: DataSet, volumes: Iterator[Volume], warnings: list[str], folder: Path
) -> tuple[Path | None, list[Patient]]:
    """Write records and index under folder; return where, None without volumes, and the index."""
    patients = []
    volumes = _indexed(volumes, patients)
    first = next(volumes, None)
    if first is None:
        return None, patients
    builder = load_builder()
    made = builder.build(
        builder.Scans(folder, kind.about, itertools.chain([first], volumes), first)
    )
    _write_index(made, kind, first, patients, warnings)
    records = builder.open_source(made)
    decoded.write(made, (records[i] for i in range(len(records))))
    return made, patients


def _move(made: Path, path: Path):
    try:
        made.rename(path)
    except OSError:  # another process was first
        if not (path / INDEX).is_file():
            raise


def _volumes(
    config: Dataset, files: Files | None, problems: list[str], warnings: list[str]
) -> tuple[int, Iterator[tuple[Volume, bool]]]:
    """Return the number of patients and `read_volumes`, read as they are asked for."""
    kind = kind_of(config)
    if files is None:
        maker = phantom_volume if kind.volumes else phantom
        made = maker.make_volumes(config.phantom_seed, config.phantom_patients, kind.regions)
        return config.phantom_patients, ((volume, True) for volume in made)
    patients = kind.find(list(files.stamps), config, problems)
    read = read_cases if kind.volumes else read_volumes
    return len(patients), read(files, patients, kind.regions, problems, warnings)


def _indexed(volumes: Iterator[Volume], patients: list[Patient]) -> Iterator[Volume]:
    """Pass the volumes on and append the index entry of each to patients."""
    first = 0
    for volume in volumes:
        patients.append(make_patient(volume, first))
        first += len(volume.image)
        yield volume
