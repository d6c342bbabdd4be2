"""The same numbers on any mesh of devices; what is split, what fits, what is refused."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from fake_steps import make_batch, on_host, sgd_steps, step_config
from jax.sharding import PartitionSpec as P

from jaxseg.config import Mesh
from jaxseg.errors import UserError
from jaxseg.machine import sharding
from jaxseg.machine.sharding import check_fits, make_mesh, split_state, to_global, whole_arrays
from jaxseg.runs import checkpoint
from jaxseg.training import steps
from jaxseg.training.state import abstract_state, new_state

NUM_STEPS = 3
# Sums of 16 x 32 x 16 float32 terms in another order: about 1e-6 relative, more where a rounding
# moves a value over the kink of a ReLU. A missing reduction changes the first digits.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def on_devices(config, num_devices):
    return make_mesh(config.mesh, jax.devices()[:num_devices])


@functools.cache
def after_steps(norm="batch", accumulate=1, num_devices=1, **mesh):
    """Return the first gradients, the state after all steps and the metrics of each."""
    config = step_config(norm, accumulate, **mesh)
    devices = on_devices(config, num_devices)
    seen = {}

    def keep(step, state):
        if step < 2:
            seen[step] = on_host(state, devices).weights.params

    state, logs = sgd_steps(config, devices, NUM_STEPS, after=keep)
    gradients = jax.tree.map(
        lambda old, new: (old - new) / config.optimizer.learning_rate, seen[0], seen[1]
    )
    return gradients, on_host(state, devices), jax.device_get(logs)


def assert_close(left, right):
    paths = jax.tree_util.tree_leaves_with_path(left)
    for (path, a), b in zip(paths, jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE, err_msg=str(path))


def assert_same_training(left, right):
    for part, expected in zip(left[:2], right[:2], strict=True):
        assert_close(part, expected)
    for log, expected in zip(left[2], right[2], strict=True):
        for name in ("train_loss", "gradient_norm", "train_dice"):
            np.testing.assert_allclose(log[name], expected[name], rtol=1e-4)


@pytest.mark.parametrize(
    "norm, num_devices, axes",
    [
        ("batch", 2, {}),  # statistics over all samples of all devices
        ("batch", 4, {}),
        ("batch", 8, {}),
        ("batch", 8, {"fsdp": 8}),
        ("batch", 8, {"data": 2, "fsdp": 4}),
        ("batch", 2, {"spatial": 2}),
        ("batch", 8, {"data": 2, "fsdp": 2, "spatial": 2}),
        ("group", 8, {}),
        ("group", 8, {"data": 2, "fsdp": 2, "spatial": 2}),
    ],
)
def test_same_gradients_and_state_on_every_mesh(norm, num_devices, axes):
    assert_same_training(after_steps(norm, 1, num_devices, **axes), after_steps(norm))


@pytest.mark.parametrize(
    "accumulate, num_devices, axes", [(2, 1, {}), (4, 2, {}), (4, 4, {"fsdp": 2})]
)
def test_accumulation_equals_the_large_batch(accumulate, num_devices, axes):
    parts = after_steps("group", accumulate, num_devices, **axes)
    assert_same_training(parts, after_steps("group"))


def test_accumulation_with_batch_norm_normalises_each_part():
    """Documented: it is another computation, and the running statistics see every part."""
    means = []
    for accumulate in (2, 1):
        config = step_config("batch", accumulate)
        state, _ = sgd_steps(config, on_devices(config, 1), 1)
        means.append(state.weights.batch_stats["down_0"]["norm_1"]["batch"]["mean"])
    # Two updates and one of an average with momentum 0.9 that starts at 0.
    np.testing.assert_allclose(means[0] / means[1], (1 - 0.9**2) / (1 - 0.9), rtol=0.05)


def test_the_comparison_sees_one_sample_too_few():
    config = step_config("group")
    mesh = on_devices(config, 1)
    gradients, state, logs = after_steps("group")
    fewer, _ = sgd_steps(config, mesh, NUM_STEPS, make_batch=lambda s: halved(make_batch(s)))
    with pytest.raises(AssertionError):
        assert_same_training((gradients, on_host(fewer, mesh), logs), (gradients, state, logs))


def halved(batch):
    """One sample takes the place of its neighbour, as when two devices got the same."""
    return {k: np.concatenate([x[:-1], x[-2:-1]]) for k, x in batch.items()}


def test_what_is_split_over_fsdp():
    mesh = make_mesh(Mesh(fsdp=4))
    shape = {
        "kernel": (3, 3, 8, 16),  # the largest axis
        "other": (3, 3, 16, 8),
        "odd": (3, 3, 6, 8),  # 6 does not divide by 4, 8 does
        "none": (31, 33),  # large, and no axis divides
        "small": (16,),
        "step": (),
    }
    abstract = {name: jax.ShapeDtypeStruct(s, np.float32) for name, s in shape.items()}
    specs = {name: s.spec for name, s in split_state(abstract, mesh, 100).items()}
    assert specs == {
        "kernel": P(None, None, None, "fsdp"),
        "other": P(None, None, "fsdp", None),
        "odd": P(None, None, None, "fsdp"),
        "none": P(),
        "small": P(),
        "step": P(),
    }
    assert whole_arrays(abstract, mesh, 100) == ["none (31, 33)"]
    assert whole_arrays(abstract, make_mesh(), 100) == []  # nothing was asked for


def test_the_network_is_traced_once_for_its_shapes():
    config = step_config()
    assert abstract_state(config, 3, make_mesh()) is abstract_state(config, 3, make_mesh())


def test_the_state_is_made_in_parts():
    """Parameters, both moments of Adam and the average: a quarter on each device."""
    config = step_config(fsdp=4, data=2)
    mesh = on_devices(config, 8)
    state = new_state(config, 3, mesh)
    kernel = "bottleneck"
    parts = [
        *(x for p, x in jax.tree_util.tree_leaves_with_path(state) if kernel in str(p)),
    ]
    large = [x for x in parts if x.size >= 64]
    assert len(large) >= 4
    for x in large:
        assert x.addressable_shards[0].data.size == x.size // 4
    same = new_state(config, 3, on_devices(step_config(), 1))
    np.testing.assert_array_equal(
        np.asarray(state.weights.params["logits_0"]["kernel"]),
        np.asarray(same.weights.params["logits_0"]["kernel"]),
    )
    shapes = abstract_state(config, 3, mesh)
    assert jax.tree.map(lambda x: x.sharding, state) == sharding.shardings(shapes)


@pytest.mark.parametrize(
    "config, message",
    [
        (Mesh(fsdp=3), "data=-1 x fsdp=3 x spatial=1 does not fit 8 devices"),
        (Mesh(data=4), "data=4 x fsdp=1 x spatial=1 does not fit 8 devices"),
        (Mesh(fsdp=16), "does not fit 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        make_mesh(config)


def test_axis_sizes():
    assert make_mesh().shape == {"data": 8, "fsdp": 1, "spatial": 1}
    assert make_mesh(Mesh(fsdp=2, spatial=2)).shape == {"data": 2, "fsdp": 2, "spatial": 2}


@pytest.mark.parametrize(
    "axes, accumulate, message",
    [
        ({}, 4, "batch_size=16: must be a multiple of the 8 devices x config.train.accumulate=4"),
        ({"fsdp": 4, "spatial": 2}, 8, "must be a multiple of the 4 parts of config.mesh x"),
        ({}, 1, "evaluation.batch_size=12: must be a multiple of the 8 devices"),
    ],
)
def test_batches_that_do_not_divide_are_refused(axes, accumulate, message):
    config = step_config("batch", accumulate, **axes)
    evaluation = dataclasses.replace(config.evaluation, batch_size=12)
    config = dataclasses.replace(config, evaluation=evaluation)
    with pytest.raises(UserError, match=message):
        check_fits(config, make_mesh(config.mesh))


def test_rows_that_do_not_divide_are_refused():
    config = step_config(spatial=8)
    check_fits(config, make_mesh(config.mesh))
    with pytest.raises(UserError, match="spatial=8: must divide the 12 rows"):
        odd = dataclasses.replace(
            config, input=dataclasses.replace(config.input, image_size=(12, 16))
        )
        check_fits(odd, make_mesh(config.mesh))


def test_a_batch_lies_in_parts_on_the_devices():
    mesh = make_mesh(Mesh(fsdp=2, spatial=2))
    batch = make_batch(0)
    placed = to_global(batch, mesh)
    assert placed["image"].addressable_shards[0].data.shape == (4, 16, 16, 3)
    assert placed["stop"].addressable_shards[0].data.shape == (4,)
    for name, x in batch.items():
        np.testing.assert_array_equal(np.asarray(placed[name]), x)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two steps of Adam on eight devices in parts, saved: the folder, the state, the next loss."""
    folder = tmp_path_factory.mktemp("saved")
    config = step_config(fsdp=8)
    mesh = on_devices(config, 8)
    state = new_state(config, 3, mesh)
    step = steps.jit_train_step(config, state, mesh)
    for seed in range(2):
        state, _ = step(state, to_global(make_batch(seed), mesh))
    with checkpoint.open_checkpoints(folder) as checkpoints:
        checkpoint.save(checkpoints, 2, state, 0.5)
    expected = on_host(state, mesh)
    _, log = step(state, to_global(make_batch(7), mesh))
    return folder, expected, float(log["train_loss"])


@pytest.mark.parametrize(
    "num_devices, axes", [(1, {}), (2, {}), (4, {}), (4, {"fsdp": 4}), (8, {"data": 4, "fsdp": 2})]
)
def test_a_checkpoint_of_eight_devices_goes_on_upon_others(saved, num_devices, axes):
    folder, expected, next_loss = saved
    config = step_config(**axes)
    mesh = on_devices(config, num_devices)
    abstract = abstract_state(config, 3, mesh)
    with checkpoint.open_checkpoints(folder) as checkpoints:
        restored = checkpoint.restore_latest(checkpoints, abstract)
    assert sharding.shardings(restored) == sharding.shardings(abstract)
    jax.tree.map(np.testing.assert_array_equal, on_host(restored, mesh), expected)
    step = steps.jit_train_step(config, restored, mesh)
    state, log = step(restored, to_global(make_batch(7), mesh))
    assert int(state.step) == 3
    assert float(log["train_loss"]) == pytest.approx(next_loss, rel=1e-4)
