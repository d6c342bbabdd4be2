"""Lines of the doctor's page: at most 100 columns, ASCII."""

import sys
import textwrap

WIDTH, LABEL = 100, 20


def row(label: str, text: str) -> list[str]:
    """Return a labelled text, wrapped."""
    start = f"  {label:<{LABEL}} "
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=True,
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [start]


def spread(values: dict[str, float]) -> str:
    """Return a range and its median in words."""
    return f"{values['low']:,} to {values['high']:,}, median {values['median']:,.0f}"


def counts(found: dict[str, int], unit: str) -> str:
    """Return kinds and how many there are of each; the kind alone where all are alike."""
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{kind} ({n:,} {unit})" for kind, n in found.items())


def say(text: str):
    """Show what is being done, until the next such line ("": nothing), where somebody watches."""
    if sys.stderr.isatty():
        print((text and f"{text} ...").ljust(WIDTH - 1), end="\r", file=sys.stderr, flush=True)
