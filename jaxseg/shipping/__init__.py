"""A trained run as one file that runs without jaxseg.

In: a trained run. Out: StableHLO with all from raw intensities to the mask inside, or ONNX, held
against jaxseg's own prediction before it is written. Begin with `make.py`, the library of
`jaxseg.export`; `portable.py` is the host's code of `imaging` once more, as one JAX function.
"""
