"""One colour for each region, the same in figures, report and viewer.

The palette of Okabe and Ito, told apart with any colour vision; without black, which is not seen
on a scan.

References:
    Okabe and Ito, "Color universal design", 2008: https://jfly.uni-koeln.de/color/
"""

COLOURS: tuple[tuple[int, int, int], ...] = (  # 0..255
    (0, 158, 115),  # bluish green: whole tumour
    (0, 114, 178),  # blue: tumour core
    (230, 159, 0),  # orange: enhancing tumour
    (86, 180, 233),  # sky blue
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermillion
    (204, 121, 167),  # reddish purple
)
_NAMES = {
    "wt": 0,
    "whole_tumour": 0,
    "tc": 1,
    "tumour_core": 1,
    "et": 2,
    "enhancing_tumour": 2,
}


def of_region(index: int, name: str) -> tuple[int, int, int]:
    """Return (red, green, blue), 0..255, of a region.

    Whole tumour, tumour core and enhancing tumour have theirs by name, wherever they stand; any
    other that of its place, over again from the eighth on.

    Args:
        index: place in the data set's regions, from 0.
        name: of the region.
    """
    return COLOURS[_NAMES.get(name.lower(), index) % len(COLOURS)]
