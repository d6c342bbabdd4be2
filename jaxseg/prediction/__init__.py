"""A trained run to masks on the voxels of a scan.

In: a workdir and volumes. Out: calibrated probabilities and masks [D, H, W, K]. Begin with
`trained.py`, the one loader of a run, and `inference.py`; `operating.py` makes masks of
probabilities, `new_scans.py` is the library of `jaxseg.predict`, `places.py` says what is done.
"""
