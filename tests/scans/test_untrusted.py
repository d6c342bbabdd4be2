"""Folders made to harm, or linked in a circle, are refused by name; nothing hangs."""

import os
import re
from pathlib import Path

import pytest
from fake_data import write_folders

from jaxseg.config import Dataset
from jaxseg.datasets import checks
from jaxseg.datasets import prepare as prepare_module
from jaxseg.errors import UserError
from jaxseg.scans.files import MAX_FILE_BYTES, list_files

# Turns a hang (a pipe that is opened, links in a circle) into a failure.
pytestmark = pytest.mark.time_limit(60)


def prepare(source: Path):
    cache = str(source.parent / "cache")
    return prepare_module.prepare(Dataset(name="image_folder", source=str(source), cache_dir=cache))


def refusal(source: Path) -> str:
    """Prepare and return the one line that says why not."""
    with pytest.raises(UserError) as caught:
        prepare(source)
    title, *lines = str(caught.value).splitlines()
    assert len(lines) <= 1
    return lines[0].strip() if lines else title


def test_a_patient_of_many_large_blank_slices(tmp_path, monkeypatch):
    write_folders(tmp_path / "source")
    monkeypatch.setattr(checks, "MAX_PATIENT_BYTES", 2 * 12 * 16 * 4 - 1)
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "source")
    found = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert found == [
        f"patient p{n}: more than 1535 bytes of pixels up to p{n}/s1.png" for n in range(3)
    ]
    monkeypatch.setattr(checks, "MAX_PATIENT_BYTES", 3 * 12 * 16 * 4)
    assert len(prepare(tmp_path / "source").patients) == 3


def test_links_that_stay_inside_are_followed(tmp_path):
    real, source = tmp_path / "real", tmp_path / "source"
    write_folders(real)
    (real / "p0").rename(real / ".store")
    (real / "p0").symlink_to(".store")
    (real / "p1/s1.png").rename(real / "p2/.kept")
    (real / "p1/s1.png").symlink_to("../p2/.kept")
    source.symlink_to(real)
    assert [p.num_slices for p in prepare(source).patients] == [3, 3, 3]


def link(path: Path, target: Path | str):
    if path.exists():
        path.rename(path.with_name(".old"))
    path.symlink_to(target)


FOLDER_FAULTS = {  # name: (what is done to the folder, the one line)
    "file of the system": (
        lambda root: link(root / "p1/s1.png", "/etc/passwd"),
        r"p1/s1\.png: no PNG, TIFF or JPEG file",
    ),
    "link to nowhere": (
        lambda root: link(root / "p1/s1.png", "../../annex/s1.png"),
        r"p1/s1\.png: No such file: a symbolic link to '../../annex/s1\.png', where there is none; "
        r"fetch it \(dvc pull, datalad get, git annex get\) or remove the link",
    ),
    "loop": (
        lambda root: [link(root / f"p1/l{n}", "..") for n in range(9)],
        r"'.*/p1/l0': the same folder as '.*/source' by a symbolic link",
    ),
    "the same patient twice": (
        lambda root: link(root / "p9", "p1"),
        r"'.*/p9': the same folder as '.*/p1' by a symbolic link, so its scans would count twice",
    ),
    "link to itself": (
        lambda root: link(root / "p1/s1.png", "s1.png"),
        r"p1/s1\.png: .*Too many levels of symbolic links",
    ),
    "pipe": (
        lambda root: ((root / "p1/s1.png").unlink(), os.mkfifo(root / "p1/s1.png")),
        r"p1/s1\.png: no regular file but a pipe, a socket or a device; remove it",
    ),
    "huge file": (
        lambda root: os.truncate(root / "p1/s1.png", MAX_FILE_BYTES + 1),
        rf"p1/s1\.png: {MAX_FILE_BYTES + 1} bytes; a slice has at most {MAX_FILE_BYTES}",
    ),
    "name with a line end": (
        lambda root: (root / "p1/s1.png").rename(root / "p1/a\n\x1b[2Jb.png"),
        r".*/source: 'p1/a\\n\\x1b\[2Jb\.png' has characters that are no text; rename it",
    ),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_folder_fault(tmp_path, fault):
    damage, expected = FOLDER_FAULTS[fault]
    write_folders(tmp_path / "source")
    damage(tmp_path / "source")
    line = refusal(tmp_path / "source")
    assert re.match(expected, line), line


def test_what_is_no_image_may_have_any_name(tmp_path):
    write_folders(tmp_path / "source")
    (tmp_path / "source/p1/Icon\r").write_bytes(b"")
    link(tmp_path / "source/p1/notes.txt", "/etc/hostname")
    assert len(prepare(tmp_path / "source").patients) == 3
    assert all(name.isprintable() for name in list_files(tmp_path / "source").stamps)


def test_links_that_lead_out_are_followed(tmp_path):
    """Whole data sets of DVC, datalad and nnU-Net are links."""
    write_folders(tmp_path / "store")
    source = tmp_path / "source"
    (source / "p0").mkdir(parents=True)
    for file in (tmp_path / "store/p0").iterdir():
        (source / "p0" / file.name).symlink_to(f"../../store/p0/{file.name}")
    for patient in ("p1", "p2"):
        (source / patient).symlink_to(tmp_path / "store" / patient)
    assert [p.num_slices for p in prepare(source).patients] == [3, 3, 3]
    (tmp_path / "lgg").mkdir()
    link(tmp_path / "lgg/kaggle_3m", "../store")
    assert len(list_files(tmp_path / "lgg", ["kaggle_3m"]).stamps) == 18


def test_a_patient_behind_a_dead_link_is_missed(tmp_path):
    write_folders(tmp_path / "source")
    (tmp_path / "source/p7").symlink_to("/nowhere/p7")
    assert refusal(tmp_path / "source").startswith("p7: a symbolic link to nowhere")


def test_source_that_is_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "source.zip")
    assert "neither a folder nor a complete zip file" in refusal(tmp_path / "source.zip")
