"""The exceptions that a user sees as a line, without a traceback."""

from typing import Any


class UserError(Exception):
    """Something the user can mend: a wrong setting, a missing file, a broken data set.

    The message says what is wrong and how to mend it. Programs exit with code 2.
    """


class TrainingFailed(Exception):  # noqa: N818 (reads as what happened)
    """Training cannot go on, by example after too many non-finite losses; exit code 1."""


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(error).split())


class Check:
    """Checks a section of the config; raises UserError with name, value and the broken rule."""

    def __init__(self, section: str, config: Any):
        self.section, self.config = section, config

    def __call__(self, name: str, holds: bool, rule: str):
        """Require that the rule about one value holds."""
        if not holds:
            value = getattr(self.config, name)
            raise UserError(f"config.{self.section}.{name}={value!r}: {rule}")

    def at_least(self, least: float, *names: str):
        """Require each value to be at least so much."""
        for name in names:
            self(name, getattr(self.config, name) >= least, f"must be at least {least}")

    def fractions(self, *names: str):
        """Require each value to lie in 0..1."""
        for name in names:
            self(name, 0 <= getattr(self.config, name) <= 1, "must lie between 0 and 1")

    def choice(self, name: str, *choices: str):
        """Require the value to be one of the choices."""
        self(name, getattr(self.config, name) in choices, f"choose one of {choices}")
