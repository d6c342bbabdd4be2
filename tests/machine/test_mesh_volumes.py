"""Volumes split over devices, their first axis too, and batches in parts: the same numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_steps import on_host, sgd_steps

from jaxseg.config import Config, Input, Loss, Mesh, Model, Optimizer, Train
from jaxseg.machine.sharding import make_mesh
from jaxseg.models.unet import UNet

BATCH, SIZE = 4, (8, 8, 4)
POOL = Model(  # a thin first axis, pooled at the second level only
    widths=(2, 4, 4),
    windows=((1, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    num_classes=3,
    norm="instance",
    deep_supervision=1,
)
STRIDE = dataclasses.replace(POOL, downsample="stride", blocks=(1, 1, 1), activation="leaky_relu")
# Sums in another order, as in test_mesh.py.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def make_batch(seed):
    """Return noise with three nested boxes; the inner one is in one sample only."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(BATCH, *SIZE, 3)).astype(np.float32)
    mask = np.zeros((BATCH, *SIZE, 3), np.uint8)
    for i in range(BATCH):
        mask[i, 1 : 5 + i % 2, 2:, :, 0] = 1
        mask[i, 2:4, 3 : 5 + i, 1:, 1] = 1
    mask[2, 3, 4:6, 2:, 2] = 1
    stop = np.zeros(BATCH, np.int32)
    return {"image": image + 2 * mask, "mask": mask, "stop": stop}


@functools.cache
def after_steps(model, accumulate=1, num_devices=1, **mesh):
    """Return the parameters after two steps of gradient descent and the loss of each."""
    config = Config(
        model=model,
        input=Input(image_size=SIZE),
        loss=Loss(dice_over_batch=True),
        optimizer=Optimizer(learning_rate=0.1, warmup_steps=0, ema_decay=0.5),
        train=Train(batch_size=BATCH, accumulate=accumulate),
        mesh=Mesh(fsdp_min_size=64, **mesh),
    )
    devices = make_mesh(config.mesh, jax.devices()[:num_devices])
    state, logs = sgd_steps(config, devices, 2, make_batch=make_batch)
    return on_host(state, devices).weights, [jax.device_get(log["train_loss"]) for log in logs]


def mesh_case(model, accumulate, num_devices, *marks, **axes):
    name = f"{model.downsample}-{num_devices}-{axes}-{accumulate}"
    return pytest.param(model, accumulate, num_devices, axes, marks=marks, id=name)


@pytest.mark.parametrize(
    "model, accumulate, num_devices, axes",
    [
        mesh_case(POOL, 1, 2, spatial=2),
        mesh_case(STRIDE, 2, 1, pytest.mark.slow),
        # Parameters split too: XLA needs help, see `gather_before_use`.
        mesh_case(STRIDE, 1, 4, fsdp=2, spatial=2),
        mesh_case(POOL, 2, 1, pytest.mark.slow),
        mesh_case(STRIDE, 1, 2, pytest.mark.slow, spatial=2),
        mesh_case(POOL, 1, 8, pytest.mark.slow, data=2, fsdp=2, spatial=2),
        mesh_case(STRIDE, 2, 4, pytest.mark.slow, data=2, spatial=2),
        # Fewer slices than devices on the lowest level.
        mesh_case(POOL, 1, 8, pytest.mark.slow, spatial=8),
    ],
)
def test_volumes_train_the_same_on_every_mesh(model, accumulate, num_devices, axes):
    model = dataclasses.replace(model, remat=accumulate > 1)
    weights, losses = after_steps(model, accumulate, num_devices, **axes)
    expected, expected_losses = after_steps(dataclasses.replace(model, remat=False))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, right), left in zip(paths, jax.tree.leaves(weights), strict=True):
        np.testing.assert_allclose(left, right, **CLOSE, err_msg=str(path))


@pytest.mark.parametrize(
    "model", [POOL, pytest.param(STRIDE, marks=pytest.mark.slow)], ids=["pool", "stride"]
)
def test_the_halo_matters(model):
    """Halves that do not see each other's slices give something else, by far."""
    model = dataclasses.replace(model, norm="batch")  # in prediction: no sums over the volume
    image = jnp.asarray(make_batch(0)["image"])
    variables = UNet(model).init(jax.random.key(0), image, train=False)
    apply = jax.jit(lambda x: UNet(model).apply(variables, x, train=False)[0])
    whole = apply(image)
    halves = jnp.concatenate([apply(half) for half in jnp.split(image, 2, axis=1)], axis=1)
    differ = np.abs(whole - halves).max((0, 2, 3, 4))
    assert differ[3:5].min() > 100 * CLOSE["atol"]
