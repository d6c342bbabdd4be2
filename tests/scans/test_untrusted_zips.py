"""Zips made to harm, or damaged at random, are refused by name and take no memory."""

import os
import re
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from fake_data import write_folders
from hypothesis import given, settings
from hypothesis import strategies as st
from test_untrusted import refusal

from jaxseg.errors import UserError
from jaxseg.scans.files import list_files

READ_ERRORS = (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)


def pack(tmp_path: Path, extra: dict | None = None, method=zipfile.ZIP_DEFLATED, bomb=None) -> Path:
    """Zip three patients and the extra members; p1/s1.png may be replaced and packed otherwise."""
    write_folders(tmp_path / "tree")
    with zipfile.ZipFile(tmp_path / "source.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((tmp_path / "tree").rglob("*.png")):
            name = file.relative_to(tmp_path / "tree").as_posix()
            special = name == "p1/s1.png"
            content = bomb if special and bomb is not None else file.read_bytes()
            archive.writestr(name, content, method if special else None)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return tmp_path / "source.zip"


def patch_member(source: Path, name: str, at: int, form: str, value: int):
    """Change a field of the member's entry in the directory at the end of the zip."""
    data = bytearray(source.read_bytes())
    entry = data.rfind(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\1\2"
    struct.pack_into(form, data, entry + at, value)
    source.write_bytes(data)


FLAGS, PACKED, SIZE, ATTRIBUTES, OFFSET = (8, "<H"), (20, "<I"), (24, "<I"), (38, "<I"), (42, "<I")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("\\tmp\\x.png", "outside"),
        ("..\\x.png", "outside"),
        ("p\\..\\..\\x.png", "outside"),
        ("C:\\x.png", "outside"),
        ("c:x.png", "outside"),
        ("p/..", "outside"),
        ("p0\\s9.png", "backslash"),
        ("p0/a\n\x1b[2J.png", "characters that are no text"),
    ],
)
def test_zip_member_names(tmp_path, name, expected):
    message = refusal(pack(tmp_path, {name: b""}))
    assert expected in message and repr(name) in message


def test_zip_member_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        source = pack(tmp_path, {"p1/s1.png": b""})
    assert "member 'p1/s1.png' is there twice" in refusal(source)


@pytest.mark.parametrize(
    "field, value, expected",
    [
        (FLAGS, 1, "encrypted; unpack"),
        (SIZE, 2**32 - 2, "4294967294 bytes; a slice has at most"),
        (SIZE, 10**7, "claims 10000000 bytes out of .* packed; a zip bomb"),
        (SIZE, 100, "Bad CRC-32"),
        (ATTRIBUTES, (stat.S_IFLNK | 0o777) << 16, "a symbolic link in a zip"),
        (OFFSET, 3, "Bad magic number for file header"),
    ],
)
def test_zip_member_that_lies(tmp_path, field, value, expected):
    source = pack(tmp_path)
    patch_member(source, "p1/s1.png", *field, value)
    line = refusal(source)
    assert line.startswith("p1/s1.png: ")
    assert re.search(expected, line)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_member_packed_better_than_deflate(tmp_path, method):
    source = pack(tmp_path, method=method, bomb=bytes(10**6))
    assert refusal(source) == f"p1/s1.png: packed by method {method}, not deflate; unpack " + (
        "the zip and give the folder"
    )


def test_zip_members_that_overlap(tmp_path):
    source = pack(tmp_path)
    size = source.stat().st_size
    patch_member(source, "p1/s1.png", *PACKED, size)
    assert refusal(source) == f"{source}: members that overlap, a zip bomb; do not trust it"
    source = pack(tmp_path, {"p9/notes.txt": os.urandom(10**5)})
    patch_member(source, "p2/s2_mask.png", *PACKED, 10**5)  # would read into what follows
    assert "overlap" in refusal(source)


def test_zip_member_beyond_the_end(tmp_path):
    source = tmp_path / "source.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("p.png", bytes(100))
    for field in (SIZE, PACKED):
        patch_member(source, "p.png", *field, source.stat().st_size)
    with pytest.raises(ValueError, match="truncated zip member"):
        list_files(source).read("p.png")


def test_zip_member_larger_than_it_says_is_not_unpacked(tmp_path):
    source = pack(tmp_path, bomb=bytes(10**8))
    patch_member(source, "p1/s1.png", *SIZE, 1000)
    tracemalloc.start()
    assert refusal(source).startswith("p1/s1.png: Bad CRC-32")
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_zip_member_without_a_name(tmp_path):
    source = pack(tmp_path, {"zz.png": b""})
    source.write_bytes(source.read_bytes().replace(b"zz.png", b"\0z.png"))
    assert "member '' lies outside of the zip" in refusal(source)


@pytest.mark.parametrize("damage", ["version", "name", "directory"])
def test_broken_zip_is_one_line(tmp_path, damage):
    source = pack(tmp_path, {"\N{OHM SIGN}.txt": b""})
    data = source.read_bytes()
    at = data.rfind(b"PK\1\2")
    changed = {
        "version": data[: at + 6] + b"\xff" + data[at + 7 :],
        "name": data[: at + 46] + b"\xff" + data[at + 47 :],
        "directory": data[:at] + b"PK\0\0" + data[at + 4 :],
    }
    source.write_bytes(changed[damage])
    assert re.match(f"{source}: broken zip .*if it is a download, repeat it", refusal(source))


def packed_twice(folder: Path) -> list[bytes]:
    """Return a zip of stored and one of deflated members."""
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(folder / "valid.zip", "w", method) as archive:
            for name in ("p0/a.png", "p0/a_mask.png", "p1/b.txt"):
                archive.writestr(name, 40 * name.encode())
        found.append((folder / "valid.zip").read_bytes())
    return found


@settings(deadline=None, max_examples=300)
@given(
    st.booleans(),
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 6), st.binary(max_size=6)),
        min_size=1,
        max_size=4,
    ),
)
def test_damaged_zip_is_read_or_refused(tmp_path_factory, deflate, changes):
    folder = tmp_path_factory.getbasetemp()
    data = packed_twice(folder)[deflate]
    for where, cut, put in changes:
        at = int(len(data) * (1 - where**2))  # more of the directory than of the members
        data = data[:at] + put + data[at + cut :]
    (folder / "damaged.zip").write_bytes(data)
    try:
        found = list_files(folder / "damaged.zip")
    except UserError as error:
        assert "damaged.zip: " in str(error) and "\n" not in str(error)
        return
    for name in found.stamps:
        try:
            found.read(name)
        except READ_ERRORS as error:
            assert str(error) and "\n" not in str(error)
