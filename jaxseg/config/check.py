"""Checks of one section of the config."""

import dataclasses
from typing import Any

from jaxseg.errors import UserError


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
        said = ", ".join(choice or "''" for choice in choices)
        self(name, getattr(self.config, name) in choices, f"choose one of {said}")


def names(config: Any) -> list[str]:
    """Return the names of a section's settings."""
    return [f.name for f in dataclasses.fields(config)]
