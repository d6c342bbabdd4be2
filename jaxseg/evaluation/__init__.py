"""Runs scored, tuned and compared.

In: trained runs and the patients to score them on. Out: scores.json, patients.csv, figures and a
report; the operating point, chosen on validation; two evaluations, paired by patient. Begin with
`score.py`.
"""
