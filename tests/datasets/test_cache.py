"""Prepared copies are listed with their sizes, and go when they are told to."""

import pytest
from fake_data import write_folders

from jaxseg import doctor
from jaxseg.config import Dataset
from jaxseg.datasets import cache
from jaxseg.datasets.prepare import copies_folder, prepare
from jaxseg.errors import UserError


def test_copies_are_listed_and_removed(tmp_path, capsys):
    where = str(tmp_path / "cache")
    for name, patients in (("a", 3), ("b", 4)):
        write_folders(tmp_path / name, patients)
        prepare(Dataset("image_folder", str(tmp_path / name), where))
    large, small = cache.find_copies(copies_folder(where))
    assert large.patients == ("p0", "p1", "p2", "p3") and len(small.patients) == 3
    assert large.num_bytes > small.num_bytes > 3 * 3 * 12 * 16 * 4
    doctor.main(["--cache", "--cache_dir", where])
    told = capsys.readouterr().out.splitlines()
    assert large.name in told[1] and "4 patients (p0, p1, ...)" in told[1] and len(told) == 4
    with pytest.raises(UserError, match="--remove b/c: no such copy"):
        doctor.main(["--cache-dir", where, "--remove", "b/c", "--remove", small.name])
    doctor.main(["--cache-dir", where, "--remove", small.name])
    assert f"removed {small.name}" in capsys.readouterr().out
    assert cache.find_copies(copies_folder(where)) == [large]
    doctor.main(["--cache-dir", where, "--remove", "all"])
    assert not any(p.is_file() for p in (tmp_path / "cache").rglob("*"))
    assert len(prepare(Dataset("image_folder", str(tmp_path / "a"), where)).patients) == 3
    with pytest.raises(UserError, match="unexpected argument"):
        doctor.main(["--cache", where])
