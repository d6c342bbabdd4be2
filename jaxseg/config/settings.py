"""Settings from and to text: JSON beside the checkpoints, a summary for the terminal."""

import ast
import contextlib
import dataclasses
import json
import textwrap
import types
import typing
from typing import Any

from jaxseg.config import Config
from jaxseg.errors import UserError

_DEFAULTS = Config()


def to_json(config: Config) -> str:
    """Return the config as indented JSON; `from_dict(json.loads(...))` gives it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def differences(config: Config) -> str:
    """Return the settings that differ from the defaults, in wrapped lines."""
    found = []
    for section in dataclasses.fields(config):
        value, default = getattr(config, section.name), getattr(_DEFAULTS, section.name)
        if not dataclasses.is_dataclass(value):
            found += [f"{section.name}={value!r}"] * (value != default)
            continue
        for field in dataclasses.fields(value):
            one, usual = (getattr(group, field.name) for group in (value, default))
            found += [f"{section.name}.{field.name}={one!r}"] * (one != usual)
    text = ", ".join(found) or "the defaults"
    return textwrap.fill(text, 98, initial_indent="  ", subsequent_indent="  ")


def from_dict(values: dict[str, Any], kind: type = Config, path: str = "config") -> Any:
    """Build a `Config` from nested dicts and check every value.

    Args:
        values: nested dict as from `dataclasses.asdict` or JSON; lists become tuples.
        kind: dataclass to build (used by the recursion).
        path: name of this level in error messages.

    Raises:
        UserError: an unknown key, a value of the wrong type or out of range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{path}={values!r}: must be a group of settings")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"{path}.{unknown[0]}: no such setting; {path} has {', '.join(hints)}")
    made = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            made[name] = from_dict(value, hint, f"{path}.{name}")
        else:
            made[name] = _coerce(value, hint, f"{path}.{name}")
    return kind(**made)


def _coerce(value: Any, hint: Any, path: str) -> Any:
    """Return value as the annotated type; int is taken for float, list for tuple."""
    if isinstance(hint, types.UnionType):  # only `X | None` is used
        return None if value is None else _coerce(value, typing.get_args(hint)[0], path)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{path}={value!r}: must be a tuple, as in '(1, 2)'")
        return tuple(_coerce(v, typing.get_args(hint)[0], path) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UserError(f"{path}={value!r}: must be of type {hint.__name__}")
    return value


def setting_types(kind: type, path: str = "") -> dict[str, Any]:
    """Return the annotated type of every setting by its name, as in `train.batch_size`."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        is_group = dataclasses.is_dataclass(hint)
        found |= setting_types(hint, f"{path}{name}.") if is_group else {path + name: hint}
    return found


def parse_text(text: str, hint: Any) -> Any:
    """Return the value that a text on the command line stands for; `from_dict` checks it."""
    if isinstance(hint, types.UnionType):
        return None if text == "None" else parse_text(text, typing.get_args(hint)[0])
    if hint is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    value: Any = text
    if hint is not str:
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(text)
    is_tuple = typing.get_origin(hint) is tuple
    return (value,) if is_tuple and not isinstance(value, (tuple, list)) else value
