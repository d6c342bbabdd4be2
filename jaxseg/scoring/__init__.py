"""Two masks to numbers, words and pictures; without jax.

In: masks [D, H, W] and probabilities of patients. Out: scores per patient, their mean with an
interval, trivial baselines beside them, calibration; texts, figures as PNG, one HTML page. Begin
with `scorecard.py`; `metrics.py` and `surface.py` are the measures, `scoretext.py` the words.
"""
