"""Brain-tumour segmentation on MRI with a U-Net in JAX."""

from jaxseg.cpu_setup import set_up_cpu

set_up_cpu()  # before jax is first imported
