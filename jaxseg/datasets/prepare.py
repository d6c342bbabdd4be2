"""Data sets: from scans on disk to checked records, split by patient.

prepared = prepare(config.dataset, config.split)
parts = split_patients(prepared.patients, config.split)
source = prepared.source()
source[parts["train"][0].first]["image"]  # first slice of the first training patient
"""

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from jaxseg import config as config_lib
from jaxseg.datasets import decoded, phantom
from jaxseg.datasets.checks import copy_warnings, raise_problems, read_volumes
from jaxseg.datasets.index import (
    Patient,
    Volume,
    describe,
    fingerprint,
    read_index,
    scan_digest,
    write_index,
)
from jaxseg.datasets.prepared import Prepared, load_builder
from jaxseg.datasets.splits import check_split, split_patients
from jaxseg.errors import UserError
from jaxseg.layouts import image_folder, lgg
from jaxseg.layouts.slices import Slice
from jaxseg.machine import locks
from jaxseg.scans.files import IMAGE_SUFFIXES, Files, list_files

__all__ = [
    "Patient",
    "Prepared",
    "channel_names",
    "find_slices",
    "fingerprint",
    "list_source",
    "prepare",
    "scan_digest",
    "split_patients",
]

_INDEX = "index.json"
# Other code may make other records, so a copy belongs to the code that made it.
_MAKERS = ("datasets/*.py", "layouts/*.py", "scans/*.py", "imaging/intensity.py")


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
    package = Path(__file__).parents[1]
    code = [path.read_text() for name in _MAKERS for path in sorted(package.glob(name))]
    parts = json.dumps([config.name, settings, content, code])
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
    patients = []
    volumes = _indexed(volumes, patients)
    first = next(volumes, None)
    if first is None:
        return None, patients
    num_channels, dtype = first.image.shape[-1], first.image.dtype
    all_volumes = itertools.chain([first], volumes)
    builder = load_builder()
    made = builder.build(builder.BUILDERS[name](folder, all_volumes, num_channels, dtype))
    write_index(made / _INDEX, num_channels, patients, warnings + copy_warnings(patients))
    records = builder.open_source(made)
    decoded.write(made, (records[i] for i in range(len(records))))
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
