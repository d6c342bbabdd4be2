"""U-Net on the embedded brain phantom."""

from jaxseg.config import Config, Evaluation, Input, Model, Optimizer, Train


def get_config() -> Config:
    """Return the settings that differ from the defaults in jaxseg/config.py."""
    return Config(
        input=Input(image_size=(128, 128)),
        model=Model(widths=(12, 24, 48, 96)),
        optimizer=Optimizer(learning_rate=2e-3, cosine=True, ema_decay=0.99),
        train=Train(num_steps=450, batch_size=16, eval_every_steps=90, log_every_steps=15),
        evaluation=Evaluation(batch_size=32),
    )
