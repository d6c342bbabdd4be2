"""The pure step: (state, batch) to (state, metrics), and all that it is made of.

Losses, optimiser, learning-rate plateau and early stop are functions over arrays, and all that a
run goes on from is in one `TrainState`. Begin with `steps.py`. A new loss goes to `losses.py`.
"""
