"""Command lines: `--config FILE --config.a.b=VALUE`, help, and errors as one line."""

import dataclasses
import difflib
import errno
import inspect
import os
import re
import runpy
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_dict, config_flags

from jaxseg.config import Config
from jaxseg.errors import TrainingFailed, UserError, one_line
from jaxseg.settings import from_dict

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


def parse_arguments(argv: Sequence[str], help_text: str) -> list[str]:
    """Parse absl flags defined by the program; return the arguments that are no flags, in order.

    Prints help_text and exits with 0 on --help.

    Raises:
        UserError: an unknown flag or a wrong value.
    """
    if any(a in ("-h", "--help", "-help", "--helpfull") for a in argv):
        print(help_text.strip())
        sys.exit(0)
    try:
        return flags.FLAGS(["jaxseg", *argv])[1:]
    except _FLAG_ERRORS as error:
        raise UserError(one_line(error)) from error


def parse_flags(argv: Sequence[str], help_text: str) -> None:
    """Parse as `parse_arguments` does; UserError where there is an argument that is no flag."""
    stray = parse_arguments(argv, help_text)
    if stray:
        raise UserError(f"unexpected argument {stray[0]!r}; settings are --config.name=VALUE")


def parse_config(argv: Sequence[str], help_text: str) -> tuple[Config, str]:
    """Load the file of `--config`, apply the `--config.a.b=VALUE` overrides, parse the rest.

    Returns:
        The checked config and the config file's stem.

    Raises:
        UserError: no or a broken file, an unknown setting, a wrong type or range.
    """
    path, argv = _take_config_path([_without_alias(a) for a in argv])
    if any(a in ("-h", "--help", "-help", "--helpfull") for a in argv):
        parse_flags(argv, "\n\n".join([help_text, settings_help(), _aliases_help()]))
    if path is None:
        raise UserError("which config? By example --config configs/unet.py (see --help)")
    config = load_config(path)
    _check_names(argv)
    try:
        holder = config_flags.DEFINE_config_dict(
            "config", as_config_dict(config), sys_argv=["jaxseg", *argv]
        )
    except _FLAG_ERRORS as error:
        raise UserError(one_line(error)) from error
    parse_flags(argv, help_text)
    return from_dict(holder.value.to_dict()), Path(path).stem


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
