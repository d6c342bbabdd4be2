"""The exceptions that a user sees as a line, without a traceback."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """Something the user can mend: a wrong setting, a missing file, a broken data set.

    The message says what is wrong and how to mend it. Programs exit with code 2.
    """


class TrainingFailed(Exception):  # noqa: N818 (reads as what happened)
    """Training cannot go on, by example after too many non-finite losses; exit code 1."""


def one_line(error: BaseException | str) -> str:
    """Return what an error or a file says, on one line; an error that says nothing is named."""
    return " ".join(str(error).split()) or type(error).__name__


def cause(error: BaseException) -> str:
    """Return why something failed, on one line of bounded length, whatever was raised."""
    said = " ".join(str(error).split())
    if isinstance(error, UserError):
        return said
    if isinstance(error, MemoryError):
        return "not enough memory" + f" ({said})" * bool(said)
    return f"{type(error).__name__}: {said}"[:400] if said else type(error).__name__


@contextlib.contextmanager
def named(what: str, path: str = "", but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn whatever goes wrong in a library that reads a user's file into a UserError.

    Files of the field break their readers in every way, with a KeyError as with a ValueError:
    one net, not a list of them. A UserError passes as it is.

    Args:
        what: cannot be done with which file; the cause follows in brackets.
        path: of the file, which the cause need not say again.
        but: pass as they are too, as a full disk's OSError does where something is written.
    """
    try:
        yield
    except (UserError, *but):
        raise
    except Exception as error:
        cause = one_line(error).removeprefix(f"{path}: ") if path else one_line(error)
        raise UserError(f"{what} ({cause})") from error
