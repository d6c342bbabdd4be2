"""The loop, and the folder of a run.

In: a config and a prepared data set. Out: a workdir with checkpoints, metrics and settings, from
which the same command goes on. Begin with `loop.py`, one page; its order is an invariant, stated
there. `workdir.py` says which files a run leaves.
"""
