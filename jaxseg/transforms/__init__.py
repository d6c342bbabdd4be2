"""What `imaging` does on the host, once more on the device: normalise, warp, change intensities.

In: batches of raw slices or patches with the numbers that the host drew for each, from
`datasets.raw_slices` and `datasets.patches`. Out: image and mask on the training grid, made by one
jitted program for any rank. Begin with `augment.py`; `warp.py` samples, `contrast.py` changes
intensities, `smoothing.py` makes matrices that blur.
"""
