"""The training step, compiled in a thread of its own before it is called."""

import threading
import time

import jax
import numpy as np
import pytest

from jaxseg.config import Config, Input, Model, Train
from jaxseg.machine.sharding import make_mesh, to_global
from jaxseg.training import ahead, steps
from jaxseg.training.state import abstract_state, new_state

CONFIG = Config(
    model=Model(widths=(2, 2)), input=Input(image_size=(8, 8)), train=Train(batch_size=2)
)


@pytest.fixture
def call_ahead(monkeypatch):
    """Return what calls a step that was compiled ahead, given what takes the place of the step."""

    def call(step):
        monkeypatch.setattr(steps, "train_step", step)
        mesh = make_mesh(devices=jax.devices()[:1])
        train = ahead.compiled_ahead(CONFIG, abstract_state(CONFIG, 3, mesh), 3, mesh)
        image, mask = np.ones((2, 8, 8, 3), np.float32), np.ones((2, 8, 8, 1), np.uint8)
        batch = to_global({"image": image, "mask": mask, "stop": np.zeros(2, np.int32)}, mesh)
        for _ in range(2):
            state, metrics = train(new_state(CONFIG, 3, mesh), batch)
        return state, metrics

    return call


def test_a_program_compiled_ahead_is_not_compiled_again(call_ahead):
    traced, compiled = [], []

    def counting(state, batch, **_):
        traced.append(threading.get_ident())
        time.sleep(0.5)  # the call comes meanwhile
        return state._replace(step=state.step + 2), {"sum": batch["image"].sum()}

    def count(event, _, **about):
        if event.endswith("backend_compile_duration") and "counting" in about["fun_name"]:
            compiled.append(threading.get_ident())

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        state, metrics = call_ahead(counting)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert int(state.step) == 2 and float(metrics["sum"]) == 2 * 8 * 8 * 3
    assert len(compiled) == len(traced) == 1
    assert compiled == traced != [threading.get_ident()]


def test_what_cannot_be_compiled_ahead_is_an_error_of_the_call(call_ahead):
    def fails(state, batch, **_):
        raise ValueError("no such network")

    with pytest.raises(ValueError, match="no such network"):
        call_ahead(fails)
