"""The local page to look at scans, truth and predictions.

In: a run, or scans with what `jaxseg.predict` wrote. Out: a page that only this machine can see.
Begin with `pictures.py`, which defines what is shown; `serve.py` answers the page in `page/`.
"""
