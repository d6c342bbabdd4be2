"""Brain-tumour segmentation on MRI with a U-Net in JAX."""

from jaxseg.xla_flags import set_cpu_flags

set_cpu_flags()  # jax reads them when it is first imported
