"""The exceptions that a user sees as a line, without a traceback."""


class UserError(Exception):
    """Something the user can mend: a wrong setting, a missing file, a broken data set.

    The message says what is wrong and how to mend it. Programs exit with code 2.
    """


class TrainingFailed(Exception):  # noqa: N818 (reads as what happened)
    """Training cannot go on, by example after too many non-finite losses; exit code 1."""


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split())


def cause(error: BaseException) -> str:
    """Return why something failed, on one line of bounded length, whatever was raised."""
    said = one_line(error)
    if isinstance(error, UserError):
        return said
    if isinstance(error, MemoryError):
        return "not enough memory" + f" ({said})" * bool(said)
    return f"{type(error).__name__}: {said}"[:400] if said else type(error).__name__
