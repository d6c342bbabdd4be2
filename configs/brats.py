"""BraTS on one GPU: four sequences, three nested regions, patches of 128^3 in bfloat16.

python -m jaxseg.train --config configs/brats.py --config.dataset.source=/path/to/BraTS

The recipe is nnU-Net's for this task (Isensee et al., 2021): its plain network of 31 M parameters,
batch 2, SGD with Nesterov's momentum and a polynomial rate, 250,000 steps. A GPU of 24 GB should
hold it; time and score have not been measured yet. For fewer steps of the same recipe:
--config.train.num_steps=50000. Other years' labels: --config.dataset.labels=brats2021.
"""

import dataclasses

from jaxseg import config as c


def get_config() -> c.Config:
    """Return the settings that differ from the defaults in jaxseg/config/."""
    network = c.nnunet_plain(num_classes=3)
    return c.Config(
        dataset=c.Dataset(name="brats"),
        input=c.Input(image_size=(128, 128, 128), tumour_fraction=0.5, num_workers=8),
        augment=c.Augment(
            flip_all_axes=True,
            rotation_probability=0.2,
            rotation_degrees=30.0,
            scale_probability=0.2,
            scale_range=(0.7, 1.4),
            elastic_probability=0.0,
            gamma_probability=0.3,
            blur_probability=0.2,
            low_resolution_probability=0.25,
        ),
        model=dataclasses.replace(network, compute_dtype="bfloat16"),
        loss=c.Loss(dice_smooth=1e-5),
        optimizer=c.nnunet_optimizer(),
        plateau=c.Plateau(factor=1.0),
        early_stop=c.EarlyStop(patience=0),
        train=c.Train(num_steps=250_000, batch_size=2, eval_every_steps=5_000),
        evaluation=c.Evaluation(batch_size=2, brats_definition="lesionwise_2023"),
    )
