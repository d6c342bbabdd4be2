"""Who was scored, in words: patients, or scans where a person has several time points."""

from typing import Any


def unit(scans: int, persons: int) -> str:
    """Return what is counted one by one: patient, or scan where a person has several."""
    return "scan" if persons < scans else "patient"


def cohort(scans: int, persons: int, which: str = "") -> str:
    """Return how many, as in '12 patients' or '12 scans of 10 persons'.

    Args:
        scans: how many.
        persons: whose they are.
        which: a word before what is counted, as in '12 validation patients'.
    """
    word = f"{which} {unit(scans, persons)}".strip()
    text = f"{scans:,} {word}" if scans == 1 else f"{scans:,} {word}s"
    if persons == scans:
        return text
    return f"{text} of {persons:,} person" + "s" * (persons != 1)


def counted(patients: dict[str, Any]) -> tuple[int, int]:
    """Return scans and persons of the `patients` of a summary; older ones count scans only."""
    return patients["n"], patients.get("n_persons", patients["n"])
