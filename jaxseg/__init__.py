"""Brain-tumour segmentation on MRI with a U-Net in JAX."""

RESEARCH_ONLY = (
    "For research use only. Not a medical device; do not base a diagnosis or a treatment on its "
    "output."
)
