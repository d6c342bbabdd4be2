"""What a run keeps beside its checkpoints: config, versions, split, metrics."""

import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxseg.config import Config
from jaxseg.config.settings import from_dict, to_json
from jaxseg.datasets.index import Patient
from jaxseg.datasets.prepared import Prepared
from jaxseg.errors import UserError
from jaxseg.machine.files import read_json, replace_text, write_json

_LIBRARIES = (
    ("jaxseg", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy")
    + ("opencv-python-headless", "tensorflow-datasets")
)  # fmt: skip
# Settings that change how a run goes, not what is trained (but for the order of sums).
_FREE = (
    "profile",
    "dataset.source",
    "dataset.cache_dir",
    "input.num_workers",
    "input.num_threads",
    "evaluation.batch_size",
    "mesh.data",
    "mesh.fsdp",
    "mesh.spatial",
    "mesh.fsdp_min_size",
    "train.accumulate",
    "train.log_every_steps",
    "train.keep_every_steps",
    "train.max_minutes",
)


def versions() -> dict[str, str]:
    """Return the versions of Python, the libraries and the machine's kind."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def claim(
    workdir: Path, config: Config, prepared: Prepared, splits: Mapping[str, Sequence[Patient]]
):
    """Make the workdir this run's own, or check that it already is.

    Raises:
        UserError: it was made with another config, or its patients have changed since.
    """
    patients = {name: [p.id for p in members] for name, members in splits.items()}
    persons = {name: [p.person for p in members] for name, members in splits.items()}
    digests = {name: [list(p.digests) for p in members] for name, members in splits.items()}
    masks = {name: [list(p.mask_digests) for p in members] for name, members in splits.items()}
    data = {"num_channels": prepared.num_channels, "regions": list(prepared.regions)}
    data |= {"patients": patients, "persons": persons}
    data |= {"digests": digests, "mask_digests": masks}
    if (workdir / "config.json").exists():
        _check_same_config(workdir, config)
        _check_same_data(workdir, data)
        if "mask_digests" not in _read_data(workdir):  # of an older version
            write_json(workdir / "data.json", data)
        replace_text(workdir / "config.json", to_json(config))  # the scans may have moved
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir {workdir}: cannot be written ({error.strerror})") from error
    write_json(workdir / "data.json", data)
    write_json(workdir / "versions.json", versions())
    replace_text(workdir / "config.json", to_json(config))  # last: it marks the claim


def check_shared(lock: Path, holder: str, seconds: float = 10.0):
    """Raise UserError unless this process sees the lock that the first one holds.

    Args:
        lock: path in the workdir.
        holder: its content as the first process reads it.
        seconds: a file server may need so long to show a new file.
    """
    deadline = time.monotonic() + seconds
    while not lock.is_file() or lock.read_text() != holder:
        if time.monotonic() > deadline:
            raise UserError(
                f"--workdir {lock.parent}: not the folder that the first process sees; all hosts "
                "must share it"
            )
        time.sleep(0.1)


def load_config(workdir: Path) -> Config:
    """Return the config that the run in workdir was made with."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"--workdir {workdir}: no run here (no config.json)")
    return from_dict(read_json(path))


def region_names(workdir: Path) -> tuple[str, ...]:
    """Return the names of the regions that the run was trained on, in order of the class axis."""
    return tuple(_read_data(workdir)["regions"])


def _read_data(workdir: Path) -> dict[str, Any]:
    """Return data.json; runs from before there were regions have one."""
    return {"regions": ["tumour"]} | read_json(workdir / "data.json")


def num_channels(workdir: Path) -> int:
    """Return the number of channels of the images that the run was trained on."""
    return read_json(workdir / "data.json")["num_channels"]


def fingerprint(workdir: Path) -> str:
    """Return a text that changes when the run is trained on, or anew at the same place."""
    found = hashlib.sha256((workdir / "data.json").read_bytes())
    if metrics_path(workdir).is_file():
        found.update(metrics_path(workdir).read_bytes())
    return found.hexdigest()


def knows_volumes(workdir: Path) -> bool:
    """Return whether a patient of the training had several slices, normalised together."""
    digests = read_json(workdir / "data.json").get("digests", {})
    return any(len(slices) > 1 for members in digests.values() for slices in members)


def check_fits(workdir: Path, prepared: Prepared):
    """Raise UserError unless the run was trained on as many channels and on these regions."""
    trained, given = num_channels(workdir), prepared.num_channels
    if given != trained:
        raise UserError(
            f"the model was trained on images with {trained} channels; these have {given}"
        )
    if prepared.regions != region_names(workdir):
        raise UserError(
            f"the model was trained on the regions {', '.join(region_names(workdir))}; the data "
            f"set has {', '.join(prepared.regions)}"
        )


def check_unseen(workdir: Path, patients: Sequence[Patient]) -> list[str]:
    """Raise UserError when images for external validation took part in the training.

    Returns:
        Warnings: patients with the id, but not the images, of one in the training; other scans
        of its persons, as far as names tell.
    """
    data = read_json(workdir / "data.json")
    ids, persons, digests = set(), set(), set()
    for name in ("train", "validation"):
        ids |= set(data["patients"][name])
        persons |= set(data.get("persons", data["patients"])[name])  # older runs have ids only
        digests |= {digest for member in data["digests"][name] for digest in member if digest}
    seen = [p.id for p in patients if digests & set(p.digests)]
    if seen:
        raise UserError(
            f"not external: images of {len(seen)} of {len(patients)} patients took part in the "
            f"training, by example of {', '.join(seen[:3])}; give a folder without them"
        )
    same = [p.id for p in patients if p.id in ids]
    again = [p.id for p in patients if p.id not in ids and p.person in persons]
    return [
        f"{len(found)} of {len(patients)} patients {what} in the training "
        f"({', '.join(found[:3])}): make sure that they are other people"
        for found, what in (
            (same, "have the id, but not the images, of patients"),
            (again, "are, by their names, other time points of persons"),
        )
        if found
    ]


def mark_finished(workdir: Path, best_step: int):
    """Note that the run is trained and tested."""
    write_json(workdir / "finished.json", {"best_step": best_step})


def is_finished(workdir: Path) -> bool:
    """Return whether the run is trained and tested."""
    return (workdir / "finished.json").exists()


def _check_same_data(workdir: Path, data: dict[str, Any]):
    """Raise UserError when patients, images or masks have changed since the run began."""
    old = data | _read_data(workdir)
    if old == data:
        return
    changed = "the data set or its split has changed"
    if old | {"mask_digests": data["mask_digests"]} == data:
        redrawn = []
        for name, patients in data["patients"].items():
            both = old["mask_digests"][name], data["mask_digests"][name]
            redrawn += [p for p, was, now in zip(patients, *both, strict=True) if was != now]
        changed = f"the masks of {len(redrawn)} patients ({', '.join(redrawn[:3])}) have changed"
    raise UserError(
        f"{workdir}: {changed} since this run began; choose another --workdir or move this one away"
    )


def _check_same_config(workdir: Path, config: Config):
    changed = changed_settings(load_config(workdir), config)
    if changed:
        key, (old, new) = next(iter(changed.items()))
        more = f"; others differ: {len(changed) - 1}" if len(changed) > 1 else ""
        raise UserError(
            f"--workdir {workdir}: was made with another config "
            f"(config.{key} was {old!r}, is {new!r}{more}); "
            "choose another --workdir or give the old settings"
        )


def changed_settings(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return name -> (old, new) of the settings that differ and change what is trained."""
    olds, news = (_flat(json.loads(to_json(config))) for config in (old, new))
    return {k: (olds[k], news[k]) for k in news if olds[k] != news[k] and k not in _FREE}


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    made = {}
    for key, value in values.items():
        inner = _flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
        made |= inner
    return made


def metrics_path(workdir: Path) -> Path:
    """Return the path of the run's metrics: one JSON object a line, in order of `step`."""
    return workdir / "metrics.jsonl"


def read_metrics(workdir: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """Return the records up to last_step; a line cut off by a kill is dropped."""
    path = metrics_path(workdir)
    records = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if last_step is None or record["step"] <= last_step:
            records.append(record)
    return records


def truncate_metrics(workdir: Path, last_step: int):
    """Drop the records beyond last_step, which a resumed run will write again."""
    lines = [json.dumps(r) + "\n" for r in read_metrics(workdir, last_step)]
    replace_text(metrics_path(workdir), "".join(lines))
