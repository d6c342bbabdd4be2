"""Lower-grade glioma as volumes on two CPU cores: the LGG stacks, whose slices are thick.

python -m jaxseg.train --config configs/lgg_volumes.py --config.dataset.source=/path/to/kaggle_3m

The distance of the slices is unknown, and they are thick: patches are turned in the plane alone,
and slices are pooled late. The split is that of configs/lgg_cpu.py.
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
