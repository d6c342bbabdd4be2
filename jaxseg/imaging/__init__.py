"""Arrays as scanned to arrays as the network sees them, and back; NumPy and OpenCV only.

In: slices or volumes with raw intensities. Out: normalised, fitted into the training grid,
randomly changed; predictions brought back to the native grid. Begin with `geometry.py`, which
defines the two grids, and `intensity.py`; `augment.py` composes the random changes.
"""
