"""Networks, and their application to images.

In: images [B, *S, C]; nothing here knows how many axes S has. Out: logits [B, *S, K], or
probabilities. Begin with `unet.py`; `layers.py` and `resampling.py` have the operations that XLA
is slow at, `native/` their C++ for one CPU, `gpu/` what a GPU may take instead, `initial.py` the
first weights, `apply.py` what every prediction goes through. A new network goes here.
"""
