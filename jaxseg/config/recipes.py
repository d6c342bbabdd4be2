"""Recipes: Python files whose get_config() returns a `Config`; some come with jaxseg."""

import runpy
from pathlib import Path

from jaxseg.config.run import Config
from jaxseg.errors import UserError, one_line


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with jaxseg by name: `configs/` of the checkout or package."""
    package = Path(__file__).parents[1]
    folders = [f for f in (package / "configs", package.parent / "configs") if f.is_dir()]
    return {path.stem: path for path in sorted(folders[0].glob("[a-z]*.py"))} if folders else {}


def load_recipe(name: str) -> Config:
    """Return what `get_config()` of a recipe returns.

    Args:
        name: path of a Python file, or the name of a recipe that comes with jaxseg.

    Raises:
        UserError: no such recipe, or a broken one.
    """
    path = Path(name).expanduser()
    shipped = shipped_recipes()
    path = shipped.get(name, path) if not path.is_file() else path
    if not path.is_file():
        raise UserError(
            f"--config {name}: no such file, nor one of the recipes that come with jaxseg: "
            f"{', '.join(shipped)}"
        )
    try:
        config = runpy.run_path(str(path))["get_config"]()
    except UserError:
        raise
    except Exception as error:  # whatever a user's Python file may raise
        raise UserError(f"--config {name}: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(config, Config):
        raise UserError(f"--config {name}: get_config() must return a jaxseg.config.Config")
    return config
