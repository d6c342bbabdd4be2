"""The jitted steps: learning, skipping, averaging, counting, on 1, 2 and 8 devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from jaxseg.config import Config, EarlyStop, Evaluation, Input, Loss, Model, Optimizer, Plateau
from jaxseg.machine.sharding import make_mesh, split_batch, to_global
from jaxseg.models import apply
from jaxseg.models.unet import UNet
from jaxseg.scoring import metrics
from jaxseg.training import losses, steps
from jaxseg.training.state import abstract_state, new_state

CONFIG = Config(
    model=Model(widths=(2, 4)),
    input=Input(image_size=(16, 16)),
    loss=Loss(dice_over_batch=True),
    optimizer=Optimizer(learning_rate=0.02, warmup_steps=0, ema_decay=0.9),
    plateau=Plateau(patience=1, cooldown=0),
    early_stop=EarlyStop(patience=3),
    evaluation=Evaluation(threshold=0.4),
)


@functools.cache
def compiled(num_devices=1):
    """Return the mesh, the training step and the validation step."""
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    train = steps.jit_train_step(CONFIG, abstract_state(CONFIG, 3, mesh), mesh)
    return mesh, train, steps.jit_validation_step(CONFIG, mesh)


@functools.cache
def initial_values():
    """Return the initial state on the host, so that donation cannot take it."""
    return to_host(new_state(CONFIG, 3, compiled()[0]))


def to_host(state):
    """Return a copy in host memory; the key as its numbers."""
    numbers = state._replace(key=jax.random.key_data(state.key))
    return jax.tree.map(lambda a: np.array(a, copy=True), numbers)


def on_devices(values):
    """Undo `to_host`; the step places the arrays itself."""
    state = jax.tree.map(jnp.array, values)
    return state._replace(key=jax.random.wrap_key_data(state.key))


def make_batch(seed=0):
    """Bright squares on noise; every sample has its own brightness, two have no tumour."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(8, 16, 16, 3)) + np.arange(8)[:, None, None, None]
    mask = np.zeros((8, 16, 16, 1), np.uint8)
    for i, (row, column) in enumerate(rng.integers(0, 8, (6, 2))):
        mask[i, row : row + 3 + i, column : column + 6] = 1
    stop = np.zeros(8, np.int32)
    return {"image": (image + 3 * mask).astype(np.float32), "mask": mask, "stop": stop}


def run(values, batches, num_devices=1):
    """Return the state on the host and the metrics of each step."""
    mesh, step, _ = compiled(num_devices)
    state, logs = on_devices(values), []
    for batch in batches:
        state, log = step(state, to_global(batch, mesh))
        logs.append(jax.tree.map(np.asarray, log))
    return to_host(state), logs


def assert_bitwise_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def with_head_times(values, factor):
    """Return the state with the last layer's kernel multiplied: large logits and gradients."""
    params = dict(values.weights.params)
    head = params["logits_0"]
    params["logits_0"] = {**head, "kernel": head["kernel"] * np.float32(factor)}
    return values._replace(weights=values.weights._replace(params=params))


def poisoned(batch, value):
    image = batch["image"].copy()
    image[3, 4, 5, 1] = value
    return {**batch, "image": image}


def test_learns_a_batch_in_one_compilation():
    """Through `new_state`, as training does: its buffers can be donated, and it traces once."""
    mesh = make_mesh(devices=jax.devices()[:1])
    state = new_state(CONFIG, 3, mesh)
    step = steps.jit_train_step(CONFIG, state, mesh)
    batch, logs = to_global(make_batch(), mesh), []
    for _ in range(60):
        state, log = step(state, batch)
        logs.append(log)
    assert int(state.step) == 60 and step._cache_size() == 1
    assert logs[-1]["train_loss"] < 0.5 * logs[0]["train_loss"]
    assert logs[-1]["train_dice"] > 0.8 > logs[0]["train_dice"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_update_is_skipped_and_counted(value):
    good, bad = make_batch(), poisoned(make_batch(), value)
    once, _ = run(initial_values(), [good])
    twice, _ = run(once, [good])
    skipped, (log, _) = run(once, [bad, bad])
    for name in ("weights", "average", "opt_state", "plateau", "early_stop", "key"):
        assert_bitwise_equal(getattr(skipped, name), getattr(once, name))
    assert not np.isfinite(log["train_loss"]) or not np.isfinite(log["gradient_norm"])
    assert (skipped.step, skipped.nonfinite_in_row, skipped.nonfinite_total) == (3, 2, 2)
    recovered, (log,) = run(skipped, [good])
    assert (recovered.nonfinite_in_row, recovered.nonfinite_total) == (0, 2)
    assert (log["nonfinite_in_row"], log["nonfinite_total"]) == (0, 2)
    # As if the bad batches had not been (no dropout here, so the step number is not used).
    assert_bitwise_equal(recovered.weights, twice.weights)
    assert_bitwise_equal(recovered.opt_state, twice.opt_state)


def test_finite_loss_with_infinite_gradient_is_skipped_too():
    start = with_head_times(initial_values(), 1e25)
    after, (log,) = run(start, [make_batch()])
    assert np.isfinite(log["train_loss"]) and not np.isfinite(log["gradient_norm"])
    assert_bitwise_equal(after.weights, start.weights)
    assert after.nonfinite_total == 1


def test_moving_average_is_that_of_numpy():
    """Decay (1 + step) / (10 + step) at first, at most 0.9; running statistics included."""
    state, average = initial_values(), initial_values().weights
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12]):
        state, _ = run(state, [make_batch(step)])
        average = jax.tree.map(
            lambda a, w, d=decay: d * np.float64(a) + (1 - d) * w, average, state.weights
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), state.average, average
        )
    late = initial_values()._replace(step=np.int32(1000))
    after, _ = run(late, [make_batch()])
    jax.tree.map(
        lambda a, old, new: np.testing.assert_allclose(a, 0.9 * old + 0.1 * new, 1e-4, 1e-6),
        *(after.average, late.average, after.weights),
    )


def test_plateau_scale_multiplies_the_update():
    start = initial_values()
    lowered = start._replace(plateau=start.plateau._replace(scale=np.float32(0.25)))
    full, (full_log,) = run(start, [make_batch()])
    quarter, (quarter_log,) = run(lowered, [make_batch()])
    jax.tree.map(
        lambda old, a, b: np.testing.assert_allclose(b - old, (a - old) / 4, 1e-3, 1e-6),
        *(s.weights.params for s in (start, full, quarter)),
    )
    np.testing.assert_allclose(full_log["learning_rate"], 0.02, rtol=1e-6)
    np.testing.assert_allclose(quarter_log["learning_rate"], 0.005, rtol=1e-6)


def test_logged_values_are_those_of_a_plain_computation():
    """Loss, pooled Dice and gradient norm (before clipping), without the step's own code."""
    start, batch = with_head_times(initial_values(), 20), make_batch()
    _, (log,) = run(start, [batch])

    @jax.jit
    def plain(params):
        variables = {"params": params, "batch_stats": start.weights.batch_stats}
        (logits,), _ = UNet(CONFIG.model).apply(
            variables, batch["image"], train=True, mutable=["batch_stats"]
        )
        mask = batch["mask"].astype(jnp.float32)
        return jnp.mean(
            losses.bce(logits, mask) + losses.soft_dice(logits, mask, 1.0, True)
        ), logits

    (loss, logits), gradient = jax.value_and_grad(plain, has_aux=True)(start.weights.params)
    both = np.sum((logits > 0) & (batch["mask"] > 0))
    dice = 2 * both / (np.sum(logits > 0) + np.sum(batch["mask"] > 0))
    squares = sum(float(np.sum(np.square(g))) for g in jax.tree.leaves(gradient))
    np.testing.assert_allclose(log["train_loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(log["train_dice"], dice, rtol=1e-5)
    np.testing.assert_allclose(log["gradient_norm"], np.sqrt(squares), rtol=1e-4)
    assert squares > CONFIG.optimizer.clip_norm**2


@pytest.mark.parametrize("num_devices", [2, 8])
def test_devices_share_statistics_and_dice(num_devices):
    """8 devices hold one sample each: statistics or Dice per device would be far off."""
    batches = [make_batch(), make_batch(1)]
    one, logs_one = run(initial_values(), batches)
    many, logs_many = run(initial_values(), batches, num_devices)
    np.testing.assert_allclose(logs_many[0]["train_loss"], logs_one[0]["train_loss"], rtol=1e-6)
    np.testing.assert_allclose(
        logs_many[0]["gradient_norm"], logs_one[0]["gradient_norm"], rtol=1e-5
    )
    np.testing.assert_allclose(logs_many[1]["train_loss"], logs_one[1]["train_loss"], rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-4), many.weights, one.weights
    )


def validation_batch():
    """Make 8 slices of 3 patients; the last two are padding full of rubbish."""
    batch = make_batch(5)
    batch["image"][6:], batch["mask"][6:] = np.nan, 1
    return {
        **batch,
        "patient": np.array([0, 0, 2, 2, 2, 0, 1, 0], np.int32),
        "weight": np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32),
    }


@pytest.mark.parametrize("num_devices", [1, 8])
def test_validation_sums_are_those_of_numpy(num_devices):
    mesh, _, validate = compiled(num_devices)
    weights, batch = initial_values().weights, validation_batch()
    sums = steps.empty_sums(3, 1)
    for _ in range(2):  # the same batch twice: sums go on
        sums = validate(weights, to_global(batch, mesh), sums)
    predict = jax.jit(functools.partial(apply.predict_logits, model=UNet(CONFIG.model)))
    logits = np.float64(predict(weights, batch["image"]))[:6, ..., 0]
    predicted, mask = expit(logits) >= 0.4, batch["mask"][:6, ..., 0] > 0
    for patient in range(3):
        mine = batch["patient"][:6] == patient
        expected = (predicted & mask)[mine].sum(), predicted[mine].sum(), mask[mine].sum()
        assert tuple(int(c[patient, 0]) for c in sums.counts) == tuple(2 * n for n in expected)
    bce = (np.logaddexp(0, logits) - logits * mask).mean((1, 2))
    p = expit(logits)
    overlap = (2 * (p * mask).sum((1, 2)) + 1) / (p.sum((1, 2)) + mask.sum((1, 2)) + 1)
    np.testing.assert_allclose(sums.loss, 2 * np.sum(bce + 1 - overlap), rtol=1e-5)
    assert sums.slices == 12
    assert metrics.dice(sums.counts)[1, 0] == 1  # no slices: both empty


def test_coarser_outputs_weigh_half_each_level():
    """Logits constant per level, mask 1 in one voxel in four at the corner of its window."""
    mask = np.zeros((1, 4, 4, 1), np.float32)
    mask[:, ::2, ::2] = 1  # thinned out it is 1 everywhere
    config = Loss(bce=1, dice=0)
    logits = tuple(jnp.full((1, n, n, 1), x) for n, x in ((4, 1.0), (2, 2.0), (1, -3.0)))
    softplus = lambda x: np.logaddexp(0, x)  # noqa: E731
    fine = (4 * softplus(-1) + 12 * softplus(1)) / 16
    expected = (fine + softplus(-2) / 2 + softplus(3) / 4) / 1.75
    np.testing.assert_allclose(steps.supervised_loss(logits, mask, config), expected, rtol=1e-6)
    only = steps.supervised_loss(logits[:1], mask, config)
    np.testing.assert_allclose(only, fine, rtol=1e-6)


def test_masks_of_coarser_outputs_follow_the_windows():
    """Windows (1, 2, 2), then (2, 2, 2): the mask is 1 where the first output's voxels begin."""
    mask = np.zeros((1, 2, 4, 4, 1), np.float32)
    mask[:, :, ::2, ::2] = 1
    shapes = ((2, 4, 4), 1.0), ((2, 2, 2), 2.0), ((1, 1, 1), -3.0)
    logits = tuple(jnp.full((1, *size, 1), x) for size, x in shapes)
    softplus = lambda x: np.logaddexp(0, x)  # noqa: E731
    fine = (softplus(-1) + 3 * softplus(1)) / 4
    expected = (fine + softplus(-2) / 2 + softplus(3) / 4) / 1.75
    loss = steps.supervised_loss(logits, mask, Loss(bce=1, dice=0))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_observe_moves_the_controls_only():
    """Patience 1: the second value gains nothing, the scale halves; early stop counts 1."""
    state = new_state(CONFIG, 3, compiled()[0])
    observe = steps.jit_observe(CONFIG, state)
    for value in (0.5, 0.4):
        state = observe(state, np.float32(value))
    after = to_host(state)
    assert after.plateau.scale == 0.5 and after.plateau.best == 0.5
    assert after.early_stop.bad == 1 and after.early_stop.best == 0.5
    before = initial_values()
    untouched = {"plateau": before.plateau, "early_stop": before.early_stop}
    assert_bitwise_equal(after._replace(**untouched), before)


def test_probabilities_are_sigmoids_of_the_weights_given():
    mesh, _, _ = compiled()
    predict = apply.jit_predict(CONFIG, split_batch(mesh))
    where = split_batch(mesh)
    functions = apply.jit_logits(CONFIG.model, where), apply._jit_last(False, where)
    image, weights = make_batch()["image"], initial_values().weights
    logits = apply.predict_logits(weights, image, model=UNet(CONFIG.model))
    predict(weights, image, np.float32(2))
    programs = [f._cache_size() for f in functions]
    for temperature in (1, 3):
        probability = predict(weights, image, np.float32(temperature))
        np.testing.assert_allclose(probability, expit(logits / temperature), rtol=1e-5)
    assert [f._cache_size() for f in functions] == programs  # for any temperature


def test_flipping_averages_with_the_mirrored_image():
    """An image that is its own mirror image gets a prediction that is, too."""
    mesh, _, _ = compiled()
    plain, both = (apply.jit_predict(CONFIG, split_batch(mesh), flip) for flip in (False, True))
    image, weights, t = make_batch()["image"], initial_values().weights, np.float32(2)
    mirrored = np.asarray(plain(weights, image[:, :, ::-1], t))[:, :, ::-1]
    expected = (np.asarray(plain(weights, image, t)) + mirrored) / 2
    assert np.abs(mirrored - expected).max() > 1e-3  # the network itself is not symmetric
    np.testing.assert_allclose(both(weights, image, t), expected, rtol=1e-5)


def test_without_average_clipping_and_decay():
    """Adam's first update is then the learning rate times the sign of the gradient."""
    plain = dataclasses.replace(CONFIG.optimizer, weight_decay=0.0, clip_norm=0.0, ema_decay=0.0)
    config = dataclasses.replace(CONFIG, optimizer=plain)
    mesh = make_mesh(devices=jax.devices()[:1])
    state = new_state(config, 3, mesh)
    before = to_host(state)
    after, _ = steps.jit_train_step(config, state, mesh)(state, to_global(make_batch(), mesh))
    assert before.average is None and after.average is None
    old, new = (s.weights.params["logits_0"]["kernel"] for s in (before, after))
    np.testing.assert_allclose(np.abs(new - old), 0.02, rtol=1e-3)
