"""Checkpoints: what is kept, what is read when files are damaged."""

import math
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from fake_config import tiny_config

from jaxseg.errors import UserError
from jaxseg.machine.sharding import make_mesh
from jaxseg.runs import checkpoint
from jaxseg.runs.checkpoint_files import why_not_written
from jaxseg.training.state import TrainState, best_weights, new_state


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> TrainState:
    return new_state(tiny_config(tmp_path_factory.mktemp("cache")), 3, make_mesh())


def abstract(state: TrainState) -> TrainState:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, state)


def at_step(state: TrainState, step: int) -> TrainState:
    """The state with its step and an average that tells the steps apart."""
    average = jax.tree.map(lambda x: jnp.full_like(x, step), state.average)
    return state._replace(step=jnp.int32(step), average=average)


def save_all(folder: Path, state: TrainState, values: dict[int, float | None]):
    with checkpoint.open_checkpoints(folder) as checkpoints:
        for step, value in values.items():
            checkpoint.save(checkpoints, step, at_step(state, step), value)


def read(folder: Path, state: TrainState) -> tuple[int, int]:
    """Return the steps of the latest and the best checkpoint, as their contents tell."""
    with checkpoint.open_checkpoints(folder) as checkpoints:
        latest = checkpoint.restore_latest(checkpoints, abstract(state))
    with checkpoint.read_checkpoints(folder) as checkpoints:
        step = checkpoint.best_usable(checkpoints, abstract(state))
        weights = checkpoint.restore_weights(checkpoints, abstract(state), step)
    assert {float(leaf.ravel()[0]) for leaf in jax.tree.leaves(weights)} == {float(step)}
    assert jax.tree.structure(best_weights(latest)) == jax.tree.structure(weights)
    return int(latest.step), step


@pytest.mark.parametrize(
    "values, latest, best",
    [
        ({1: 0.5, 2: 0.9, 3: 0.1, 4: 0.2}, 4, 2),
        ({1: 0.5, 2: 0.4, 3: math.nan, 4: math.nan}, 4, 1),  # NaN is never the best
        ({1: 0.5, 2: None, 3: None, 4: None}, 4, 1),  # nor what was not evaluated
        ({1: -2.0, 2: -1.0, 3: -math.inf}, 3, 2),
        ({1: 0.1, 2: 0.2, 3: 0.3}, 3, 3),
    ],
)
def test_latest_and_best_are_kept(tmp_path, state, values, latest, best):
    save_all(tmp_path, state, values)
    assert read(tmp_path, state) == (latest, best)


def test_a_folder_without_checkpoints(tmp_path, state):
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        assert checkpoint.restore_latest(checkpoints, abstract(state)) is None
    with (
        checkpoint.read_checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="no evaluated checkpoint here that can be read; train"),
    ):
        checkpoint.best_usable(checkpoints, abstract(state))


def damage(folder: Path, step: int, how: str):
    for file in (folder / "checkpoints" / str(step)).rglob("*"):
        if not file.is_file():
            continue
        if how == "emptied":
            file.write_bytes(b"")
        elif how == "truncated" and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif how == "missing item" and "train" in file.parts:
            file.unlink()


@pytest.mark.parametrize("how", ["emptied", "truncated", "missing item"])
@pytest.mark.filterwarnings("ignore")  # tensorstore and asyncio complain on their own
def test_a_damaged_newest_checkpoint_gives_way_to_the_older(tmp_path, state, capsys, how):
    save_all(tmp_path, state, {1: 0.5, 2: 0.4})
    damage(tmp_path, 2, how)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        latest = checkpoint.restore_latest(checkpoints, abstract(state))
    assert int(latest.step) == 1
    assert "warning: checkpoint 2 cannot be read" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_no_usable_checkpoint_is_an_error_and_nothing_is_deleted(tmp_path, state):
    save_all(tmp_path, state, {1: 0.5, 2: 0.4})
    for step in (1, 2):
        damage(tmp_path, step, "truncated")
    with (
        checkpoint.open_checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="none of the checkpoints .* can be read"),
    ):
        checkpoint.restore_latest(checkpoints, abstract(state))
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_the_whole_state_comes_back(tmp_path, state):
    changed = state._replace(
        plateau=state.plateau._replace(scale=jnp.float32(0.25), bad=jnp.int32(3)),
        early_stop=state.early_stop._replace(bad=jnp.int32(5)),
        nonfinite_total=jnp.int32(7),
        key=jax.random.key(99),
    )
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        checkpoint.save(checkpoints, 1, changed, 0.5)
        checkpoint.finish(checkpoints)
        restored = checkpoint.restore_latest(checkpoints, abstract(state))
    assert jax.tree.structure(restored) == jax.tree.structure(changed)
    plain = [
        jax.tree.map(np.asarray, s._replace(key=jax.random.key_data(s.key)))
        for s in (restored, changed)
    ]
    chex.assert_trees_all_equal(*plain)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_best_checkpoint_gives_way_to_the_next_best(tmp_path, state, capsys):
    save_all(tmp_path, state, {1: 0.9, 2: 0.2, 3: 0.4})
    damage(tmp_path, 1, "truncated")
    with checkpoint.read_checkpoints(tmp_path) as checkpoints:
        step = checkpoint.best_usable(checkpoints, abstract(state))
        weights = checkpoint.restore_weights(checkpoints, abstract(state), step)
    assert step == 3
    assert {float(leaf.ravel()[0]) for leaf in jax.tree.leaves(weights)} == {3.0}
    assert "warning: checkpoint 1 cannot be read" in capsys.readouterr().err


def test_what_a_kill_or_a_full_disk_has_left_is_removed(tmp_path, state):
    left = [tmp_path / "checkpoints" / f"{step}.orbax-checkpoint-tmp" for step in (7, 8)]
    left[0].mkdir(parents=True)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        assert not left[0].exists()
        left[1].mkdir()
        checkpoint.save(checkpoints, 1, at_step(state, 1), 0.5)
        assert not left[1].exists()


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("RESOURCE_EXHAUSTED: a/b: No space left on device [x]"), "No space left on"),
        (ValueError("UNKNOWN: the network is gone\nmore"), "UNKNOWN: the network is gone"),
        (TimeoutError("waiting for the others"), "waiting for the others"),
    ],
)
def test_why_a_file_was_not_written(error, reason):
    assert why_not_written(error).startswith(reason)


def test_an_error_of_another_kind_is_raised():
    with pytest.raises(ValueError, match="shapes differ"):
        why_not_written(ValueError("shapes differ"))
