"""Two masks to numbers, words and pictures; without jax.

In: masks [D, H, W] and probabilities of patients. Out: scores per patient, their mean with an
interval, trivial baselines beside them, calibration; texts, figures as PNG, one HTML page. Begin
with `patient_score.py` and `scorecard.py`; `metrics.py`, `surface.py`, `surfels.py`, `lesions.py`
and `brats.py` are the measures, `scoretext.py` and `regiontext.py` the words.
"""
