"""Checked, split by patient, prepared, batched.

In: the slices of each patient, from `layouts`. Out: a checked copy on disk that is read at speed,
patients in train, validation and test, and batches of training samples. Begin with `prepare.py`,
then `samples.py`. No jax: loader processes import this.
"""
