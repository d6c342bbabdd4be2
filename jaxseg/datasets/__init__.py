"""Data sets: from scans on disk to checked records, split by patient.

prepared = prepare(config.dataset, config.split)
parts = split_patients(prepared.patients, config.split)
source = prepared.source()
source[parts["train"][0].first]["image"]  # first slice of the first training patient
"""

import dataclasses
import hashlib
import inspect
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxseg import config as config_lib
from jaxseg import intensity, locks
from jaxseg.datasets import image_folder, lgg, phantom
from jaxseg.datasets.checks import copy_warnings, raise_problems, read_volumes
from jaxseg.datasets.files import IMAGE_SUFFIXES, Files, Slice, list_files
from jaxseg.datasets.index import (
    Patient,
    Volume,
    describe,
    fingerprint,
    read_index,
    write_index,
)
from jaxseg.datasets.splits import check_split, split_patients
from jaxseg.errors import TrainingFailed, UserError

__all__ = [
    "Patient",
    "Prepared",
    "channel_names",
    "find_slices",
    "fingerprint",
    "list_source",
    "prepare",
    "split_patients",
]

_INDEX = "index.json"
_MAX_CAUSE = 200  # characters of a library's message


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A checked data set on disk, ready to be read."""

    path: Path
    num_channels: int
    patients: tuple[Patient, ...]  # in order of the ids, as are the records
    warnings: tuple[str, ...]

    def file_of(self, index: int) -> str:
        """Return the image file, relative to the source, that record `index` was made from."""
        patient = next(p for p in self.patients if index < p.first + p.num_slices)
        return patient.files[index - patient.first]

    def source(self) -> Any:
        """Return a random-access source of the records; it can be pickled.

        The copy is opened here, its file of records at the first read. Both raise
        TrainingFailed when something is gone or damaged; damage is found by the file's own
        checksums.

        Records come patient by patient in ascending slice number: `image` [H, W, C] uint8 or
        uint16, `mask` [H, W, 1] uint8 of {0, 1}, `patient` bytes, `slice` int, `stats` [C, 4]
        float32 (`intensity.volume_statistics`), `head_box` [4] int32 (`intensity.head_box`).
        """
        return _Records(self)


class _Records:
    """The records of a prepared copy; what cannot be read is named."""

    def __init__(self, prepared: Prepared):
        from jaxseg.datasets import builder  # loads TFDS, which takes half a second

        self._prepared = prepared
        try:
            self._source = builder.open_source(prepared.path)
        except Exception as error:  # whatever TFDS raises over missing or broken files
            where = f"{prepared.path}: the prepared copy cannot be opened"
            raise TrainingFailed(_unreadable(where, error)) from error

    def __reduce__(self) -> tuple:
        return _Records, (self._prepared,)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a loop over the records
        try:
            return self._source[index]
        except Exception as error:  # array_record: RuntimeError; TFDS, given too little: any
            path = self._prepared.path
            where = f"{self._prepared.file_of(index)}: cannot be read from the prepared copy {path}"
            raise TrainingFailed(_unreadable(where, error)) from error


def _unreadable(what: str, error: Exception) -> str:
    cause = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_CAUSE]
    remedy = "delete the folder of the prepared copy, it is made again at the next start"
    return f"{what} ({cause}); {remedy}"


def prepare(config: config_lib.Dataset, split: config_lib.Split | None = None) -> Prepared:
    """Check the scans and prepare them, or find the copy prepared before.

    The copy is kept under `cache_dir` by a key of the settings and of name, size and time of
    every source file, so that a changed source is prepared anew. Processes that need the same
    copy at once wait for the one that prepares it.

    Args:
        config: which scans.
        split: when given, its problems are raised here too, together with those of the files.

    Raises:
        UserError: the source is missing or of another layout; all problems of its files; the
            split's problems; the cache cannot be written.
    """
    if not config.source and config.name != "brain_phantom":
        raise UserError(f"{config.name} needs the path of your scans: --config.dataset.source=PATH")
    if config.source and config.name == "brain_phantom":
        raise UserError(
            f"brain_phantom takes no source ({config.source}); set config.dataset.name to "
            "lgg_mri or image_folder"
        )
    files = None if config.name == "brain_phantom" else list_source(config)
    path = _path(config, files)
    with locks.wait_for(path.parent / f"{path.name}.lock", f"prepares {config.name}"):
        prepared = _open(path)
        if prepared is None:
            _prepare(config, files, path, split)
            prepared = Prepared(path, *read_index(path / _INDEX))
    if split is not None:
        split_patients(prepared.patients, split)
    return prepared


def channel_names(config: config_lib.Dataset, num_channels: int) -> tuple[str, ...]:
    """Return the names of the channels in order; those of a user's own slices are numbered."""
    known = {"brain_phantom": lgg.CHANNELS, "lgg_mri": lgg.CHANNELS}
    numbered = tuple(f"channel_{i + 1}" for i in range(num_channels))
    return known.get(config.name, numbered)


def _open(path: Path) -> Prepared | None:
    """Return the copy prepared before; None when there is none or parts of it are gone."""
    if not path.exists():
        return None
    try:
        prepared = Prepared(path, *read_index(path / _INDEX))
        prepared.source()[0]
    except Exception:  # whatever TFDS raises over missing files: make it anew
        shutil.rmtree(path, ignore_errors=True)
        return None
    return prepared


def list_source(config: config_lib.Dataset) -> Files:
    """List the files of `config.source`; see `files.list_files`."""
    return list_files(config.source, lgg.ROOTS if config.name == "lgg_mri" else ())


def _path(config: config_lib.Dataset, files: Files | None) -> Path:
    """Return the folder of the prepared copy; its name is the key."""
    settings = {
        "brain_phantom": (config.phantom_seed, config.phantom_patients),
        "lgg_mri": (),
        "image_folder": (config.patient_regex, config.every_image_is_a_patient),
    }[config.name]
    stamps = files.stamps.items() if files else ()
    content = [s for s in stamps if s[0].lower().endswith(IMAGE_SUFFIXES)]
    # Other code may make other records, so a copy belongs to the code that made it.
    code = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    parts = json.dumps([config.name, settings, content, code, inspect.getsource(intensity)])
    key = hashlib.sha256(parts.encode()).hexdigest()[:16]
    cache = config.cache_dir or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "jaxseg" / config.name / key


def _prepare(
    config: config_lib.Dataset, files: Files | None, path: Path, split: config_lib.Split | None
):
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
            sound = _sound(iter(progress), unsound)
            made, patients = _write(config.name, sound, warnings, Path(scratch))
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


def _sound(volumes: Iterator[tuple[Volume, bool]], unsound: list[Patient]) -> Iterator[Volume]:
    """Pass the sound volumes on, and append what is known of the others to unsound."""
    for volume, is_sound in volumes:
        if is_sound:
            yield volume
        else:
            unsound.append(describe(volume, 0))


def _write(
    name: str, volumes: Iterator[Volume], warnings: list[str], folder: Path
) -> tuple[Path | None, list[Patient]]:
    """Write records and index under folder; return where, None without volumes, and the index."""
    from jaxseg.datasets import builder  # loads TFDS

    patients = []
    volumes = _indexed(volumes, patients)
    first = next(volumes, None)
    if first is None:
        return None, patients
    num_channels, dtype = first.image.shape[-1], first.image.dtype
    all_volumes = itertools.chain([first], volumes)
    made = builder.build(builder.BUILDERS[name](folder, all_volumes, num_channels, dtype))
    write_index(made / _INDEX, num_channels, patients, warnings + copy_warnings(patients))
    return made, patients


def _move(made: Path, path: Path):
    try:
        made.rename(path)
    except OSError:  # another process was first
        if not (path / _INDEX).is_file():
            raise


def find_slices(
    config: config_lib.Dataset, files: Files, problems: list[str]
) -> dict[str, list[Slice]]:
    """Return the slices of each patient, as the layout `config.name` has them.

    Problems with names are appended. Raises UserError when the files are of another layout.
    """
    names = list(files.stamps)
    if config.name == "lgg_mri":
        return lgg.find_slices(names, problems)
    return image_folder.find_slices(names, config, problems)


def _volumes(
    config: config_lib.Dataset, files: Files | None, problems: list[str], warnings: list[str]
) -> tuple[int, Iterator[tuple[Volume, bool]]]:
    """Return the number of patients and `read_volumes`, read as they are asked for."""
    if files is None:
        indices = range(config.phantom_patients)
        return len(indices), ((_phantom(config.phantom_seed, i), True) for i in indices)
    patients = find_slices(config, files, problems)
    return len(patients), read_volumes(files, patients, problems, warnings)


def _phantom(seed: int, index: int) -> Volume:
    patient = phantom.patient_id(index)
    image, mask = phantom.generate_patient(seed, index)
    numbers = tuple(range(len(image)))
    files = tuple(f"{patient}/{n}" for n in numbers)
    return Volume(patient, image, mask, numbers, files, tuple(mask.max((1, 2, 3)).tolist()))


def _indexed(volumes: Iterator[Volume], patients: list[Patient]) -> Iterator[Volume]:
    """Pass the volumes on and append the index entry of each to patients."""
    first = 0
    for volume in volumes:
        patients.append(describe(volume, first))
        first += len(volume.image)
        yield volume
