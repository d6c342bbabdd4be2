"""Weights on devices, and batches through them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from jaxseg.config import Config
from jaxseg.machine.sharding import make_mesh, replicated, split_images, to_global
from jaxseg.models.apply import Weights, jit_logits, jit_predict


class Predictor(NamedTuple):
    """All that a prediction needs; each process predicts on its own devices."""

    predict: Callable  # from `apply.jit_predict`
    logits: Callable  # from `apply.jit_logits`
    weights: Weights  # on the devices of the mesh
    temperatures: tuple[float, ...]  # of the operating points, one for each region
    config: Config
    mesh: Mesh
    batch_size: int  # slices or patches that this process's devices take at once


def make_predictor(
    config: Config,
    weights: Weights,
    temperatures: Sequence[float] = (1.0,),
    flip: bool = False,
    mesh: Mesh | None = None,
) -> Predictor:
    """Return what predicts with these weights.

    Args:
        config: of the run.
        weights: of the run, on the host.
        temperatures: logits are divided by them; one for each region, or one for all.
        flip: average with the prediction of the mirrored image.
        mesh: devices; None: all of this process.
    """
    mesh = make_mesh(devices=jax.local_devices()) if mesh is None else mesh
    per_device = -(-config.evaluation.batch_size // jax.device_count())
    weights = jax.device_put(weights, replicated(mesh))
    where, batch_size = split_images(mesh), per_device * mesh.size
    functions = jit_predict(config, where, flip), jit_logits(config.model, where)
    return Predictor(*functions, weights, tuple(temperatures), config, mesh, batch_size)


def predict_batch(model: Predictor, image: np.ndarray) -> jax.Array:
    """Return probabilities [b, *S, K] of a batch [b, *S, C] on the training grid."""
    temperatures = np.array(model.temperatures, np.float32)
    return model.predict(model.weights, to_global(image, model.mesh), temperatures)


def batch_logits(model: Predictor, image: np.ndarray) -> jax.Array:
    """Return logits [b, *S, K] of a batch [b, *S, C] on the training grid."""
    return model.logits(model.weights, to_global(image, model.mesh))


def predict_part(model: Predictor, images: Sequence[np.ndarray]) -> jax.Array:
    """Predict at most a batch of images, filled up to the one compiled shape.

    Args:
        model: from `make_predictor`.
        images: [*S, C] each, on the training grid; at least one.

    Returns:
        Probabilities [b, *S, K], b = the batch size; the first belong to the images.
    """
    batch = np.stack(images)
    missing = model.batch_size - len(batch)
    return predict_batch(model, np.pad(batch, ((0, missing), *[(0, 0)] * (batch.ndim - 1))))


def in_batches(items: Sequence[Any], batch_size: int) -> Iterator[Sequence[Any]]:
    """Yield the items in parts; after two seconds a terminal shows how far it is."""
    with tqdm(total=len(items), desc="this scan", leave=False, disable=None, delay=2) as progress:
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            yield part
            progress.update(len(part))
