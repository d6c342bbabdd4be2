"""BraTS on one GPU: four sequences, three nested regions, patches of 128^3 in bfloat16.

python -m jaxseg.train --config configs/brats.py --config.dataset.source=/path/to/BraTS

For 24 GB or more. The recipe is nnU-Net's for this task (Isensee et al., 2021 and 2024): its plain
network of 31 M parameters, patches of 128^3, batch 2, SGD with Nesterov momentum and a polynomial
rate. Time and score on a GPU have not been measured yet.
"""

from jaxseg import config as c


def get_config() -> c.Config:
    """Return the settings that differ from the defaults in jaxseg/config/."""
    return c.Config(
        dataset=c.Dataset(name="brats"),
        input=c.Input(image_size=(128, 128, 128), tumour_fraction=0.33, num_workers=8),
        augment=c.Augment(rotation_degrees=30.0, scale_range=(0.7, 1.4), flip_all_axes=True),
        model=c.Model(),
    )
