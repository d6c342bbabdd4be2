"""Command lines: `--config RECIPE --config.a.b=VALUE`, help, and errors as one line."""

import argparse
import dataclasses
import difflib
import errno
import inspect
import io
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxseg.config.recipes import load_recipe
from jaxseg.config.run import Config
from jaxseg.config.settings import from_dict, parse_text, setting_types
from jaxseg.errors import TrainingFailed, UserError

# Other names of settings on the command line: people look for the folds beside the data set.
_ALIASES = {"dataset.folds": "split.num_folds", "dataset.fold": "split.fold"}
_OVERRIDE = re.compile(
    r"--?(?P<no>no)?config\.(?P<name>[^=]*)(?P<equals>=?)(?P<value>.*)", re.DOTALL
)
_HELP = ("-h", "--help", "-help", "--helpfull")


def run(program: Callable[[Sequence[str]], None]):
    """Run a program and exit: 0, 1 when training failed, 2 for what the user can mend.

    Args:
        program: takes the command line without the program's name.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see jaxseg/__init__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _mend_streams()
    try:
        program(sys.argv[1:])
    except (UserError, TrainingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would say so at its exit
        sys.exit(1)
    except RuntimeError as error:
        if "home directory" not in str(error):  # pathlib's, where neither HOME nor passwd has one
            raise
        print("error: ~ is not known here: set HOME or give whole paths", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "the disk is full"
        print(f"error: {where}: {error.strerror}; make room and start again", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # no clean-up: the threads of jax and grain may crash in it


def _mend_streams():
    """Let what is printed never end a program: streams that are closed, or know ASCII alone."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process)
            setattr(sys, name, nowhere)
            try:
                os.fstat(number)  # another file has this number by now
            except OSError:  # or the next file to be opened would get what libraries print
                os.dup2(nowhere.fileno(), number)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        # argparse: 'argument --name: expected one argument'
        message = message.removeprefix("argument ").replace(
            ": expected one argument", " needs a value"
        )
        raise UserError(message)


def parse(
    argv: Sequence[str],
    help_text: str,
    *,
    text: Sequence[str] = (),
    several: Sequence[str] = (),
    switch: Sequence[str] = (),
    **others: int | tuple[str, ...],
) -> tuple[argparse.Namespace, list[str]]:
    """Parse a program's flags; print help_text and exit with 0 on --help.

    Args:
        argv: without the program's name; flags are spelled with dashes or underscores.
        help_text: for --help.
        text: names of flags that take a text; None where they are not given.
        several: names of flags that take a text and may be given several times; a list.
        switch: names of flags that are given or not.
        others: name=kind. A number: a whole number at least 0, with this default; a tuple: one
            of these texts, None where it is not given.

    Returns:
        An object with the values as attributes, and the arguments that are no flags, in order.

    Raises:
        UserError: an unknown flag or a wrong value.
    """
    if any(a in _HELP for a in argv):
        print(help_text.strip())
        sys.exit(0)
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name in text:
        parser.add_argument(_dashed(f"--{name}"))
    for name in several:
        parser.add_argument(_dashed(f"--{name}"), action="append", default=[])
    for name in switch:
        parser.add_argument(_dashed(f"--{name}"), action="store_true")
    for name, kind in others.items():
        flag = _dashed(f"--{name}")
        if isinstance(kind, tuple):
            parser.add_argument(flag, choices=kind)
        else:
            parser.add_argument(flag, type=_whole_number, default=kind)
    options, rest = parser.parse_known_args([_dashed(argument) for argument in argv])
    for argument in rest:
        if argument.startswith("--"):
            known = [action.option_strings[0] for action in parser._actions]
            close = difflib.get_close_matches(argument.partition("=")[0], known, n=1)
            raise UserError(
                f"{argument}: no such flag" + "".join(f"; did you mean {c}?" for c in close)
            )
    return options, rest


def _dashed(argument: str) -> str:
    """Return `--a_b=V` as `--a-b=V`, all other arguments as they are; settings keep their names."""
    if not argument.startswith("--") or argument.startswith("--config."):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def refuse_arguments(rest: Sequence[str]):
    """Raise UserError for an argument that is no flag, where a program takes none."""
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}; settings are --config.name=VALUE")


def parse_config(
    argv: Sequence[str], help_text: str, text: Sequence[str] = ()
) -> tuple[argparse.Namespace, Config, str]:
    """Load the recipe of `--config`, apply the `--config.a.b=VALUE` overrides, parse the rest.

    Returns:
        The values as from `parse`, the checked config and the recipe's name.

    Raises:
        UserError: no or a broken recipe, an unknown setting, a wrong type or range.
    """
    overrides, others = _take_overrides(argv)
    whole_help = "\n\n".join([help_text, settings_help(), _aliases_help()])
    options, rest = parse(others, whole_help, text=("config", *text))
    if options.config is None:
        raise UserError("which config? By example --config configs/unet.py (see --help)")
    values = dataclasses.asdict(load_recipe(options.config))
    refuse_arguments(rest)
    for name, value in overrides.items():
        *sections, last = name.split(".")
        group = values
        for section in sections:
            group = group[section]
        group[last] = value
    return options, from_dict(values), Path(options.config).stem


def help_first(module: str, help_text: str):
    """Print the help of a program with a config and exit, where it is run for that.

    Args:
        module: its `__name__`.
        help_text: its docstring.
    """
    if module == "__main__" and any(a in _HELP for a in sys.argv[1:]):
        parse_config(sys.argv[1:], help_text)


def _take_overrides(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings given as `--config.a.b=V` or `--config.a.b V`, and what is left."""
    types, found, others = setting_types(Config), {}, []
    remaining = iter(argv)
    for argument in remaining:
        match = _OVERRIDE.fullmatch(argument)
        if not match:
            others.append(argument)
            continue
        name, value = match["name"], match["value"]
        name = name.replace("-", "_")
        name = _ALIASES.get(name, name)
        if name not in types:
            raise UserError(f"config.{name}: no such setting{_guess(name, types)}")
        if not match["equals"]:
            switch = types[name] is bool
            value = str(not match["no"]) if switch else next(remaining, None)
            if value is None:
                raise UserError(f"--config.{name} needs a value")
        found[name] = parse_text(value, types[name])
    return found, others


def _guess(name: str, known: typing.Iterable[str]) -> str:
    last = name.rpartition(".")[2]
    guesses = [k for k in known if k.rpartition(".")[2] == last]
    guesses += difflib.get_close_matches(name, known, n=1)
    return f"; did you mean config.{guesses[0]}?" if guesses else "; --help lists them"


def settings_help(kind: type = Config, path: str = "config") -> str:
    """Return one line per setting: name, default and the comment beside it in the source."""
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
    return "\n".join(["Older names:", *lines])
