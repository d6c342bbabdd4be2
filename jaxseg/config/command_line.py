"""Command lines: `--config FILE --config.a.b=VALUE`, help, and errors as one line."""

import dataclasses
import difflib
import errno
import inspect
import os
import re
import runpy
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

from jaxseg.config import Config
from jaxseg.config.settings import from_dict
from jaxseg.errors import TrainingFailed, UserError, one_line

# Other names of settings on the command line: people look for the folds beside the data set.
_ALIASES = {"dataset.folds": "split.num_folds", "dataset.fold": "split.fold"}
_FLAG_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError)


def run(program: Callable[[Sequence[str]], None]):
    """Run a program and exit: 0, 1 when training failed, 2 for what the user can mend.

    Args:
        program: takes the command line without the program's name.
    """
    try:
        program(sys.argv[1:])
    except (UserError, TrainingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "the disk is full"
        print(f"error: {where}: {error.strerror}; make room and start again", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # no clean-up: the threads of jax and grain may crash in it


def parse(argv: Sequence[str], help_text: str, **flag_kinds: Any) -> tuple[Any, list[str]]:
    """Parse a program's flags; each call has its own, none is left behind in the process.

    Prints help_text and exits with 0 on --help. Words of a flag may be parted by `-` or `_`.

    Args:
        argv: without the program's name.
        help_text: for --help.
        flag_kinds: name=kind. None: a text; False: a switch; a number: a whole number with this
            default; a tuple: one of these texts, None where it is not given; a list: a text that
            may be given several times.

    Returns:
        An object with the values as attributes, and the arguments that are no flags, in order.

    Raises:
        UserError: an unknown flag or a wrong value.
    """
    if _asks_for_help(argv):
        print(help_text.strip())
        sys.exit(0)
    values = flags.FlagValues()
    for name, kind in flag_kinds.items():
        _define(values, name, kind)
    try:
        rest = values(["jaxseg", *map(_with_underscores, argv)])[1:]
    except _FLAG_ERRORS as error:
        raise UserError(one_line(error)) from error
    return types.SimpleNamespace(**values.flag_values_dict()), rest


def _define(values: flags.FlagValues, name: str, kind: Any):
    if isinstance(kind, bool):
        flags.DEFINE_bool(name, kind, "", flag_values=values)
    elif isinstance(kind, int):
        flags.DEFINE_integer(name, kind, "", flag_values=values)
    elif isinstance(kind, tuple):
        flags.DEFINE_enum(name, None, kind, "", flag_values=values)
    elif isinstance(kind, list):
        flags.DEFINE_multi_string(name, kind, "", flag_values=values)
    elif isinstance(kind, config_dict.ConfigDict):
        config_flags.DEFINE_config_dict(name, kind, flag_values=values)
    else:
        flags.DEFINE_string(name, kind, "", flag_values=values)


def _asks_for_help(argv: Sequence[str]) -> bool:
    return any(a in ("-h", "--help", "-help", "--helpfull") for a in argv)


def _with_underscores(argument: str) -> str:
    name, equals, value = argument.partition("=")
    is_flag = re.fullmatch(r"--[a-z][a-z_-]*", name)
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if is_flag else argument


def refuse_arguments(rest: Sequence[str]):
    """Raise UserError for an argument that is no flag, where a program takes none."""
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; settings are --config.name=VALUE")


def parse_config(argv: Sequence[str], help_text: str, **flag_kinds: Any) -> tuple[Any, Config, str]:
    """Load the recipe of `--config`, apply the `--config.a.b=VALUE` overrides, parse the rest.

    Returns:
        The values as from `parse`, the checked config and the recipe's stem.

    Raises:
        UserError: no or a broken recipe, an unknown setting, a wrong type or range.
    """
    if _asks_for_help(argv):
        parse(argv, "\n\n".join([help_text, settings_help(), _aliases_help()]))
    path, argv = _take_config_path([_without_alias(a) for a in argv])
    if path is None:
        raise UserError("which config? By example --config configs/unet.py (see --help)")
    config = load_config(path)
    _check_names(argv)
    options, rest = parse(argv, help_text, config=as_config_dict(config), **flag_kinds)
    refuse_arguments(rest)
    return options, from_dict(options.config.to_dict()), Path(path).stem


def _take_config_path(argv: list[str]) -> tuple[str | None, list[str]]:
    for i, argument in enumerate(argv):
        if argument in ("--config", "-config"):
            if i + 1 == len(argv):
                raise UserError("--config needs the path of a config file")
            return argv[i + 1], argv[:i] + argv[i + 2 :]
        if argument.startswith(("--config=", "-config=")):
            return argument.split("=", 1)[1], argv[:i] + argv[i + 1 :]
    return None, argv


def load_config(path: str) -> Config:
    """Return what `get_config()` of the Python file at path returns."""
    if not Path(path).is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        config = runpy.run_path(path)["get_config"]()
    except UserError:
        raise
    except Exception as error:  # whatever a user's Python file may raise
        raise UserError(f"--config {path}: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(config, Config):
        raise UserError(f"--config {path}: get_config() must return a jaxseg.config.Config")
    return config


def as_config_dict(config: typing.Any) -> config_dict.ConfigDict:
    """Return the dataclass as a locked ConfigDict, which types the overrides."""
    hints = typing.get_type_hints(type(config))
    made = config_dict.ConfigDict()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = as_config_dict(value)
        elif value is None:
            value = config_dict.placeholder(typing.get_args(hints[field.name])[0])
        made[field.name] = value
    return made.lock()


def settings_help(kind: type = Config, path: str = "config") -> str:
    """Return one line per setting: name, default and the comment beside it in config.py."""
    lines = [] if path != "config" else ["Settings (--config.NAME=VALUE) and their defaults:"]
    hints = typing.get_type_hints(kind)
    comments = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(kind), re.MULTILINE))
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], f"{path}.{field.name}"
        if dataclasses.is_dataclass(hint):
            lines.append(settings_help(hint, name))
        else:
            setting = f"  --{name}={field.default!r}"
            lines.append(f"{setting:<46}  {comments.get(field.name, '')}".rstrip())
    return "\n".join(lines)


def _aliases_help() -> str:
    lines = (f"  --config.{a:<15}  same as --config.{name}" for a, name in _ALIASES.items())
    return "\n".join(["Other names:", *lines])


def _without_alias(argument: str) -> str:
    name, equals, value = argument.partition("=")
    dashes, _, setting = name.partition("config.")
    if dashes in ("-", "--") and setting in _ALIASES:
        return f"{dashes}config.{_ALIASES[setting]}{equals}{value}"
    return argument


def _check_names(argv: Sequence[str]):
    """Raise UserError for an override of an unknown setting, with a guess where there is one."""
    known = list(_setting_names(Config))
    for argument in argv:
        name = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if name and name[1] not in known:
            last = name[1].rpartition(".")[2]
            guesses = [k for k in known if k.rpartition(".")[2] == last]
            guesses += difflib.get_close_matches(name[1], known, n=1)
            hint = f"; did you mean config.{guesses[0]}?" if guesses else "; --help lists them"
            raise UserError(f"config.{name[1]}: no such setting{hint}")


def _setting_names(kind: type, path: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from _setting_names(hint, f"{path}{name}.")
        else:
            yield path + name
