"""What pip installs: every wing, the recipes by name, the page, the sources of the C++."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxseg

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_the_package_is_listed():
    folders = {p.parent.relative_to(ROOT) for p in (ROOT / "jaxseg").rglob("__init__.py")}
    found = {".".join(folder.parts) for folder in folders} | {"jaxseg.configs"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_the_command_is_the_package_itself():
    assert PROJECT["project"]["scripts"] == {"jaxseg": "jaxseg.__main__:main"}


@pytest.fixture
def installed() -> Path:
    """The folder that pip installed jaxseg into, as CI and the README do."""
    folder = Path(jaxseg.__file__).parents[1]
    if folder == ROOT:
        pytest.skip("jaxseg is used from the checkout; pip install . to test what is installed")
    return folder


def test_all_files_are_there(installed):
    for path in (ROOT / "jaxseg").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (installed / path.relative_to(ROOT)).is_file(), path
    for path in (ROOT / "configs").glob("*.py"):
        assert (installed / "jaxseg/configs" / path.name).read_text() == path.read_text()


def test_recipes_are_found_by_name_from_an_empty_folder(installed, tmp_path):
    code = """
from jaxseg.config.recipes import load_recipe, shipped_recipes
for name, path in shipped_recipes().items():
    load_recipe(name)
    print(name, path)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": ""},
        capture_output=True,
        text=True,
    )
    folder = installed / "jaxseg/configs"
    names = ("brats", "lgg", "lgg_cpu", "lgg_volumes", "unet", "volumes")
    assert done.stdout.splitlines() == [f"{n} {folder / n}.py" for n in names], done.stderr
