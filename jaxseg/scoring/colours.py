"""The colours of regions, the same in figures, report and viewer.

From the palette of Okabe and Ito, told apart with any colour vision. The regions of BraTS have
theirs wherever they stand; others take the rest in order.
"""

from collections.abc import Sequence

WHOLE_TUMOUR, TUMOUR_CORE, ENHANCING = (0, 158, 115), (0, 114, 178), (230, 159, 0)
# For regions of other names, in order; after the last one from the beginning.
PALETTE = (
    WHOLE_TUMOUR,
    TUMOUR_CORE,
    ENHANCING,
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (153, 153, 153),
)
_NAMED = {
    WHOLE_TUMOUR: ("wt", "whole_tumour", "whole_tumor"),
    TUMOUR_CORE: ("tc", "tumour_core", "tumor_core"),
    ENHANCING: ("et", "enhancing_tumour", "enhancing_tumor"),
}


def of_regions(names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return the colour of each region, (red, green, blue) in 0..255.

    Args:
        names: of all regions of a data set, in its order; capitals, blanks and hyphens do not
            matter.
    """
    known = {name: colour for colour, group in _NAMED.items() for name in group}
    found = {n: known.get(n.lower().replace(" ", "_").replace("-", "_")) for n in names}
    free = [c for c in PALETTE if c not in found.values()] or list(PALETTE)
    others = [n for n in names if found[n] is None]
    return found | {name: free[i % len(free)] for i, name in enumerate(others)}


def as_hex(colour: tuple[int, int, int]) -> str:
    """Return a colour as CSS and matplotlib write it, by example #009e73."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
