"""Which file is whose: the data sets that are known, and how people keep theirs.

In: the names of the files of a source. Out: patients with their slices and masks, the files of
each volume (`cases.py`), or scans to predict. Begin with `kinds.py`: a data set is one object
there, with channels, regions, licence and finder. A new data set or folder layout goes here.
"""
