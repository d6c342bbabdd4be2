"""What XLA is told for a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.config import Config, Model, Train
from jaxseg.machine import compiler
from jaxseg.machine.sharding import make_mesh
from jaxseg.training import steps
from jaxseg.training.state import abstract_state

DETERMINISTIC = "xla_gpu_exclude_nondeterministic_ops"


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_other_devices_are_told_nothing():
    assert compiler.network_options() is compiler.small_options() is None


@pytest.mark.parametrize("make", [compiler.network_options, compiler.small_options])
def test_xla_knows_every_option(on_gpu, make):
    """It refuses what it does not know, on a CPU too."""
    options = [make()] + ([make(deterministic=True)] if make is compiler.network_options else [])
    for option in options:
        twice = jax.jit(lambda x: 2 * x, compiler_options=option)
        np.testing.assert_array_equal(twice(jnp.arange(3)), [0, 2, 4])
    with pytest.raises(Exception, match="xla_gpu_no_such"):
        jax.jit(lambda x: x, compiler_options=options[0] | {"xla_gpu_no_such": True})(1)


@pytest.mark.parametrize("deterministic", (False, True))
def test_the_step_is_compiled_as_the_settings_ask(on_gpu, monkeypatch, deterministic):
    config = Config(model=Model(widths=(4, 8)), train=Train(deterministic=deterministic))
    mesh, given = make_mesh(config.mesh), []
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda *a, **k: given.append(k["compiler_options"]) or jit(*a))
    steps.jit_train_step(config, abstract_state(config, 3, mesh), mesh)
    assert given == [compiler.network_options(deterministic)]
    assert (DETERMINISTIC in given[0]) == deterministic
