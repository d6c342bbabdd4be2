"""Brain-tumour segmentation on MRI with a U-Net in JAX."""

from jaxseg.machine.cpu import set_up_cpu

set_up_cpu()  # before jax is first imported
