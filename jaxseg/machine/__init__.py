"""Processes, devices and files: what a run needs of the machine, whatever it computes.

Joining several processes and failing together, the mesh and how arrays lie on it, locks,
signals, files that are written whole or not at all, compiled programs that are kept. Begin with
`distributed.py` and `sharding.py`; a program calls `start.start_computing` before it computes.
"""
