"""Brain-tumour segmentation on MRI with a U-Net in JAX."""
