"""Time the training step and the prediction on random images, without reading any data.

    python benchmarks/step.py --config configs/unet.py [--config.a.b=VALUE ...]

Prints images per second (median, lowest and highest of the timed steps) and the device.
Machines are noisy: compare two settings only in runs that alternate.
"""

import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import cli
from jaxseg.sharding import make_mesh, split_batch, to_global
from jaxseg.state import best_weights, new_state
from jaxseg.steps import jit_predict, jit_train_step

NUM_CHANNELS, WARM_UP, TIMED = 3, 3, 20


def timed(step: Callable[[], object], batch_size: int) -> str:
    """Return images per second of a step, as text."""
    seconds = []
    for i in range(WARM_UP + TIMED):
        start = time.perf_counter()
        jax.block_until_ready(step())
        if i >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    rates = batch_size / np.array(seconds)
    return f"{np.median(rates):.1f} images/s ({rates.min():.1f} to {rates.max():.1f})"


def main(argv: Sequence[str]):
    """Run the program; see the top of the file."""
    config, name = cli.parse_config(argv, __doc__)
    mesh, batch_size = make_mesh(config.mesh), config.train.batch_size
    rng = np.random.default_rng(0)
    size = (batch_size, *config.input.image_size)
    image = rng.normal(size=(*size, NUM_CHANNELS)).astype(np.float32)
    mask = (rng.random((*size, config.model.num_classes)) < 0.1).astype(np.uint8)
    stop = np.zeros(batch_size, np.int32)
    batch = to_global({"image": image, "mask": mask, "stop": stop}, mesh)
    state = new_state(config, NUM_CHANNELS, mesh)
    predict = jit_predict(config, split_batch(mesh))
    train_step = jit_train_step(config, state, mesh)
    weights = jax.tree.map(jnp.copy, best_weights(state))  # the state itself is donated

    def train() -> object:
        nonlocal state
        state, metrics = train_step(state, batch)
        return metrics

    devices = jax.devices()
    print(f"{name}: batch {batch_size}, {size[1:]}, {len(devices)} x {devices[0].device_kind}")
    print("training  ", timed(train, batch_size), flush=True)
    print("prediction", timed(lambda: predict(weights, batch["image"], np.float32(1)), batch_size))


if __name__ == "__main__":
    cli.run(main)
