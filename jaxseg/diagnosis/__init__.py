"""What a data set is, what is wrong with it, what training on it would cost.

In: a folder or zip. Out: facts, findings, a suggested config, a page for the terminal. Begin with
`examine.py`, the library of `jaxseg.doctor`.
"""
